//! What was measured, as a table or JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Run;
use crate::figures;
use crate::output::table;

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

    fn figures(&self) -> [(&'static str, u64); 4] {
        [
            ("p50", self.0.value_at_quantile(0.5)),
            ("p99", self.0.value_at_quantile(0.99)),
            ("p999", self.0.value_at_quantile(0.999)),
            ("max", self.0.max()),
        ]
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn text(&self) -> String {
        let part = |(name, micros): (&str, u64)| format!("{name} {}", figures::micros(micros));
        self.figures().map(part).join("  ")
    }

    pub(super) fn json(&self) -> Value {
        self.figures().into_iter().collect()
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) workload: &'static str,
    pub(super) run: Run,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) failed_records: u64,
    /// Of producers that wait for nothing, how many records they had is not known.
    pub(super) refused_batches: u64,
    pub(super) elapsed: Duration,
    /// From when a record was to be sent until it was acknowledged.
    pub(super) latencies: Option<Latencies>,
    /// From when a record was to be sent until a consumer had it.
    pub(super) end_to_end: Option<Latencies>,
}

impl Report {
    fn per_second(&self, amount: u64) -> f64 {
        amount as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(super) fn text(&self) -> String {
        let mut rows = vec![
            ("workload", self.workload.to_owned()),
            ("records", figures::count(self.records)),
            ("seconds", format!("{:.3}", self.elapsed.as_secs_f64())),
            ("records/s", figures::rate(self.per_second(self.records))),
            ("bytes/s", figures::bytes(self.per_second(self.bytes))),
        ];
        if self.failed_records > 0 {
            rows.push(("failed records", figures::count(self.failed_records)));
        }
        if self.refused_batches > 0 {
            rows.push(("refused batches", figures::count(self.refused_batches)));
        }
        let latencies = [("latency", &self.latencies), ("end to end", &self.end_to_end)];
        for (name, latencies) in latencies {
            if let Some(latencies) = latencies {
                rows.push((name, latencies.text()));
            }
        }
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        table(&["", ""], &[], rows).trim_start_matches('\n').to_owned()
    }

    pub(super) fn json(&self) -> Value {
        let options = &self.run.options;
        json!({
            "workload": self.workload,
            "records": self.records,
            "bytes": self.bytes,
            "failed_records": self.failed_records,
            "refused_batches": self.refused_batches,
            "seconds": self.elapsed.as_secs_f64(),
            "records_per_second": self.per_second(self.records),
            "bytes_per_second": self.per_second(self.bytes),
            "latency_us": self.latencies.as_ref().map(Latencies::json),
            "end_to_end_us": self.end_to_end.as_ref().map(Latencies::json),
            "options": {
                "record_bytes": options.record_bytes,
                "keys": options.keys,
                "batch_bytes": options.batch_bytes,
                "producers": options.producers,
                "consumers": options.consumers,
                "partitions": self.run.partitions,
                "rate": options.rate,
                "durability": options.topic.is_none().then(|| options.durability.name()),
            },
        })
    }
}
