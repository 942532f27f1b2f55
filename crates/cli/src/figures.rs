//! Numbers for people.

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units: `1.2 GB`.
pub(crate) fn bytes(number: f64) -> String {
    scaled(number, &[(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")], "B")
}

/// A rate of records: `1.2 M`.
pub(crate) fn rate(number: f64) -> String {
    scaled(number, &[(1e6, "M"), (1e3, "k")], "").trim_end().to_owned()
}

/// Microseconds: `1.2 ms`.
pub(crate) fn micros(number: u64) -> String {
    scaled(number as f64, &[(1e6, "s"), (1e3, "ms")], "us")
}

fn scaled(number: f64, units: &[(f64, &str)], smallest: &str) -> String {
    match units.iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) if number / size >= 100.0 => format!("{:.0} {unit}", number / size),
        Some((size, unit)) => format!("{:.1} {unit}", number / size),
        None => format!("{number:.0} {smallest}"),
    }
}

/// A moment in Unix milliseconds.
pub(crate) fn moment(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .map_or(millis.to_string(), |moment| moment.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 999.0, 1e3, 2.56e8].map(bytes), ["0 B", "999 B", "1.0 kB", "256 MB"]);
        assert_eq!([12.0, 3_400_000.0].map(rate), ["12", "3.4 M"]);
        assert_eq!([80, 1_250, 2_000_000].map(micros), ["80 us", "1.2 ms", "2.0 s"]);
    }
}
