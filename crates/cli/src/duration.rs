//! Reads a duration as people write it: `500ms`, `30s`, `5m`, `2h`.

use std::time::Duration;

/// Reads a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is no duration: write it like 500ms, 30s, 5m or 2h");
    let span: jiff::SignedDuration = text.parse().map_err(|_| error())?;
    Duration::try_from(span).map_err(|_| error())
}

/// Milliseconds, short: `850 ms`, `12 s`, `3 min`, `5 h`, `4 d`.
pub(crate) fn text(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis} ms"),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_people_do() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("2h"), Ok(Duration::from_secs(7_200)));
        assert!(parse("soon").is_err() && parse("-1s").is_err());
        let texts = [0, 999, 1_000, 119_000, 180_000, 86_400_000, 259_200_000].map(text);
        assert_eq!(texts, ["0 ms", "999 ms", "1 s", "119 s", "3 min", "24 h", "3 d"]);
    }
}
