//! The counts that are committed, and what to say of others.
//!
//! A file for people: a line for each case, in the order of names. Deliberately absent: running
//! anything.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

const FILE: &str = "baseline.txt";

const INTRODUCTION: &str = "\
# Instructions that each case of `cargo xtask counts` takes under callgrind, in a release build.
# Not to be edited: `cargo xtask counts --accept` writes it. docs/performance.md says what is counted.
";

/// How far a count may be from the baseline, in percent.
const TOLERANCE_PERCENT: u64 = 5;

/// What is committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// On what it was counted.
    pub(crate) machine: String,
    /// With what.
    pub(crate) tools: String,
    /// Instructions of each case, by name.
    pub(crate) cases: BTreeMap<String, u64>,
}

/// What a count is beside the baseline; the value is the difference in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Within the tolerance.
    Same(i64),
    /// Clearly fewer.
    Fewer(i64),
    /// Clearly more.
    More(i64),
    /// The baseline does not have the case.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |difference: i64| difference as f64 / 100.0;
        match *self {
            Self::Same(difference) => write!(f, "{:+.2} %", percent(difference)),
            Self::Fewer(difference) => write!(f, "{:+.2} %, fewer", percent(difference)),
            Self::More(difference) => {
                write!(
                    f,
                    "{:+.2} %, MORE than the {TOLERANCE_PERCENT} % that are allowed",
                    percent(difference)
                )
            }
            Self::Unknown => write!(f, "not in the baseline"),
        }
    }
}

impl Baseline {
    /// What is committed.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Replaces what is committed.
    pub(crate) fn store(&self) -> anyhow::Result<()> {
        fs::write(path(), self.text()).with_context(|| path().display().to_string())
    }

    /// What to say of a case that took so many.
    pub(crate) fn judge(&self, name: &str, instructions: u64) -> Verdict {
        let Some(&expected) = self.cases.get(name) else { return Verdict::Unknown };
        let more = i128::from(instructions) - i128::from(expected);
        let difference = (more * 10_000 / i128::from(expected.max(1))) as i64;
        let (count, expected) = (u128::from(instructions) * 100, u128::from(expected));
        if expected * u128::from(100 + TOLERANCE_PERCENT) < count {
            Verdict::More(difference)
        } else if count < expected * u128::from(100 - TOLERANCE_PERCENT) {
            Verdict::Fewer(difference)
        } else {
            Verdict::Same(difference)
        }
    }

    fn text(&self) -> String {
        let Self { machine, tools, cases } = self;
        let mut text = format!("{INTRODUCTION}machine: {machine}\ntools: {tools}\n\n");
        for (name, instructions) in cases {
            writeln!(text, "{name:<18}{:>12}", thousands(*instructions)).expect("a string grows");
        }
        text
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut baseline = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(machine) = line.strip_prefix("machine: ") {
                machine.clone_into(&mut baseline.machine);
            } else if let Some(tools) = line.strip_prefix("tools: ") {
                tools.clone_into(&mut baseline.tools);
            } else {
                let (name, count) = line.split_once(' ').with_context(|| line.to_owned())?;
                let count = count.trim().replace(',', "");
                let count = count.parse().with_context(|| line.to_owned())?;
                baseline.cases.insert(name.to_owned(), count);
            }
        }
        Ok(baseline)
    }
}

/// A number with a comma between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;

    fn given(cases: &[(&str, u64)]) -> Baseline {
        let cases = cases.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Baseline { machine: "a 1".into(), tools: "rustc 1".into(), cases }
    }

    #[test]
    fn what_is_written_is_read() {
        let baseline = given(&[("scan", 999), ("append-small", 1_234_567)]);
        assert_eq!(Baseline::parse(&baseline.text()).unwrap(), baseline);
        assert!(Baseline::parse("scan\n").is_err());
        assert!(Baseline::parse("scan many\n").is_err());
    }

    #[test]
    fn only_what_is_clearly_more_or_fewer_is_told() {
        let baseline = given(&[("scan", 10_000)]);
        let cases = [
            (10_000, Verdict::Same(0)),
            (10_500, Verdict::Same(500)),
            (10_501, Verdict::More(501)),
            (9_500, Verdict::Same(-500)),
            (9_499, Verdict::Fewer(-501)),
            (20_000, Verdict::More(10_000)),
        ];
        for (count, expected) in cases {
            assert_eq!(baseline.judge("scan", count), expected, "{count}");
        }
        assert_eq!(baseline.judge("walk", 1), Verdict::Unknown);
    }

    #[test]
    fn the_committed_baseline_has_each_case_and_no_other() {
        let (baseline, cases) = (Baseline::load().unwrap(), CASES.map(|case| case.name));
        let found: Vec<_> = baseline.cases.keys().map(String::as_str).collect();
        assert_eq!(found, cases, "`cargo xtask counts --accept`");
    }

    #[test]
    fn the_committed_baseline_is_as_this_program_writes_it() {
        let text = fs::read_to_string(path()).unwrap();
        assert_eq!(Baseline::load().unwrap().text(), text);
    }

    #[test]
    fn thousands_are_apart() {
        let texts = [0, 999, 1_000, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
