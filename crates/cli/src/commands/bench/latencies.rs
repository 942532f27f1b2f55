//! Latencies in an HdrHistogram: every sample counts, the largest too.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::figure::{Figure, Unit};

/// Longer ones count as this long: ten minutes.
const LATENCY_MICROS_MAX: u64 = 600_000_000;

/// Latencies in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are in order"))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    pub(super) fn add(&mut self, others: &Self) {
        self.0 += &others.0;
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// What a report says of them, with `name` in front; nothing if there are none.
    pub(super) fn figures(&self, name: &str) -> Vec<Figure> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];
        let quantiles = quantiles.map(|(quantile, at)| (quantile, self.0.value_at_quantile(at)));
        let figure = |(quantile, micros): (&str, u64)| {
            Figure::new(format!("{name}_{quantile}_us"), Unit::Micros, micros as f64)
        };
        quantiles.into_iter().chain([("max", self.0.max())]).map(figure).collect()
    }
}
