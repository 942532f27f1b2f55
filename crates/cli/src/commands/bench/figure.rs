//! One figure of a run, and what several runs make of it.

use serde_json::{Value, json};

use crate::figures;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    PerSecond,
    BytesPerSecond,
    Bytes,
    Seconds,
    Micros,
    CpuSecondsPerMillion,
    Ratio,
}

impl Unit {
    pub(super) fn text(self, value: f64) -> String {
        match self {
            Self::Count => figures::count(value.round() as u64),
            Self::PerSecond => figures::rate(value),
            Self::BytesPerSecond | Self::Bytes => figures::bytes(value),
            Self::Seconds => figures::micros((value * 1e6).round() as u64),
            Self::Micros => figures::micros(value.round() as u64),
            Self::CpuSecondsPerMillion => format!("{value:.2} s"),
            Self::Ratio => format!("{value:.2}"),
        }
    }
}

/// One figure of one run. Its name ends with its unit, so that JSON needs no other word for it.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) value: f64,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }

    pub(super) fn count(name: &str, value: u64) -> Self {
        Self::new(name, Unit::Count, value as f64)
    }
}

/// A figure over several runs.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) unit: Unit,
    /// One a run, at least one.
    runs: Vec<f64>,
}

impl Series {
    pub(super) fn new(Figure { name, unit, value }: Figure) -> Self {
        Self { name, unit, runs: vec![value] }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.runs.push(value);
    }

    pub(super) fn count(&self) -> usize {
        self.runs.len()
    }

    /// Of an even count, what lies between the middle two.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        let (count, middle) = (sorted.len(), sorted.len() / 2);
        f64::midpoint(sorted[middle], sorted[(count - 1) / 2])
    }

    pub(super) fn min(&self) -> f64 {
        self.runs.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn max(&self) -> f64 {
        self.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "median": self.median(),
            "min": self.min(),
            "max": self.max(),
            "runs": self.runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        let mut series = Series::new(Figure::count("x", 3));
        let tenths = |value: f64| (value * 10.0).round() as u64;
        let summary = |it: &Series| [it.median(), it.min(), it.max()].map(tenths);
        assert_eq!(summary(&series), [30; 3]);
        series.add(1.0);
        assert_eq!(summary(&series), [20, 10, 30]);
        series.add(2.5);
        assert_eq!(summary(&series), [25, 10, 30]);
    }
}
