//! Reads POS: a place in a partition, as people write it.
//!
//! `earliest`, `latest`, an offset, `-N` (the last N), or a time: `2018-02-05T00:00Z`,
//! `2018-02-05`, `10m ago`. A time without a zone is UTC. Digits alone are always an offset.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use taffrail_client::{Offset, Position, Timestamp};

/// Reads a place; times are relative to now.
pub(crate) fn parse(text: &str) -> Result<Position, PlaceError> {
    parse_at(text, &Zoned::now().with_time_zone(TimeZone::UTC))
}

/// Why a text is not a place.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no place: use earliest, latest, an offset, -N for the last N, or a time such as \
     2018-02-05T00:00Z or \"10m ago\""
)]
pub(crate) struct PlaceError {
    text: String,
}

fn parse_at(text: &str, now: &Zoned) -> Result<Position, PlaceError> {
    let error = || PlaceError { text: text.to_owned() };
    let trimmed = text.trim();
    match trimmed {
        "earliest" => return Ok(Position::Earliest),
        "latest" => return Ok(Position::Latest),
        _ => {}
    }
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_number(trimmed) {
        let offset = trimmed.parse().map_err(|_| error())?;
        return Ok(Position::Offset(Offset::new(offset)));
    }
    if let Some(last) = trimmed.strip_prefix('-')
        && is_number(last)
    {
        return last.parse().map(Position::Last).map_err(|_| error());
    }
    let moment = absolute(trimmed).or_else(|| ago(trimmed, now)).ok_or_else(error)?;
    Ok(Position::Timestamp(Timestamp::from_millis(moment.as_millisecond())))
}

fn absolute(text: &str) -> Option<jiff::Timestamp> {
    let utc = |moment: DateTime| moment.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    text.parse::<jiff::Timestamp>()
        .ok()
        .or_else(|| text.parse::<DateTime>().ok().and_then(utc))
        .or_else(|| text.parse::<Date>().ok().and_then(|date| utc(date.at(0, 0, 0, 0))))
}

fn ago(text: &str, now: &Zoned) -> Option<jiff::Timestamp> {
    let span: Span = text.strip_suffix("ago").and_then(|_| text.parse().ok())?;
    now.checked_add(span).ok().map(|moment| moment.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<Position>) {
        let now = "2026-11-21T12:00:00Z".parse::<jiff::Timestamp>().expect("a time");
        let place = parse_at(text, &now.to_zoned(TimeZone::UTC));
        assert_eq!(place.ok(), expected, "{text:?}");
    }

    fn at(text: &str) -> Position {
        let moment = text.parse::<jiff::Timestamp>().expect("a time");
        Position::Timestamp(Timestamp::from_millis(moment.as_millisecond()))
    }

    #[test]
    fn places_are_words_offsets_counts_from_the_end_and_times() {
        check("earliest", Some(Position::Earliest));
        check(" latest", Some(Position::Latest));
        check("0", Some(Position::Offset(Offset::ZERO)));
        check("20180205", Some(Position::Offset(Offset::new(20_180_205))));
        check("-10", Some(Position::Last(10)));
        check("2018-02-05T00:00Z", Some(at("2018-02-05T00:00:00Z")));
        check("2018-02-05T01:30:00.250+01:00", Some(at("2018-02-05T00:30:00.250Z")));
        check("2018-02-05T07:15", Some(at("2018-02-05T07:15:00Z")));
        check("2018-02-05 07:15:30", Some(at("2018-02-05T07:15:30Z")));
        check("2018-02-05", Some(at("2018-02-05T00:00:00Z")));
        check("10m ago", Some(at("2026-11-21T11:50:00Z")));
        check("1h 30m ago", Some(at("2026-11-21T10:30:00Z")));
        check("2 days ago", Some(at("2026-11-19T12:00:00Z")));
        for bad in ["", "-", "10m", "+5", "soon", "-5x", "99999999999999999999", "2018-13-05"] {
            check(bad, None);
        }
    }
}
