//! What the broker counts. Plain atomics: counting costs the hot path next to nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a histogram: the last one has no upper bound.
const BUCKETS: usize = 28;

/// What the broker counts, from its start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Batches that were appended.
    pub produced_batches: AtomicU64,
    /// Records that were appended.
    pub produced_records: AtomicU64,
    /// Bytes of batches that were appended.
    pub produced_bytes: AtomicU64,
    /// Batches that were refused.
    pub refused_batches: AtomicU64,
    /// Batches of idempotent producers that were there already.
    pub duplicate_batches: AtomicU64,
    /// Answers with records.
    pub fetches: AtomicU64,
    /// Bytes of batches that were handed out.
    pub fetched_bytes: AtomicU64,
    /// Reads that were served from memory.
    pub tail_reads: AtomicU64,
    /// Reads that went to the disk or the page cache.
    pub disk_reads: AtomicU64,
    /// From the arrival of a batch to its commit.
    pub produce_seconds: Histogram,
    /// How long syncs take.
    pub sync_seconds: Histogram,
    /// How long writes take.
    pub write_seconds: Histogram,
    /// Segments that were deleted: by retention, on request, or because the broker needs them no more.
    pub deleted_segments: AtomicU64,
    /// Bytes of these.
    pub deleted_bytes: AtomicU64,
    /// 1 while nothing is deleted for its age, because the clock leapt ahead.
    pub retention_paused: AtomicU64,
    /// Compactions that came to their end.
    pub compactions: AtomicU64,
    /// Compactions that did not.
    pub failed_compactions: AtomicU64,
    /// Bytes that compactions have read.
    pub compaction_read_bytes: AtomicU64,
    /// Bytes of segments that compactions have written.
    pub compaction_written_bytes: AtomicU64,
    /// Records that compactions have removed.
    pub compacted_records: AtomicU64,
    /// Partitions that are being compacted, or wait for that.
    pub compactions_waiting: AtomicU64,
    /// Bytes of sealed segments that were looked at again, and are sound.
    pub scrubbed_bytes: AtomicU64,
    /// Places that the scrub that is going on, or else the last one, has found damaged.
    pub scrub_damaged: AtomicU64,
    /// When the last scrub ended, in Unix seconds; 0 before that.
    pub scrub_ended_seconds: AtomicU64,
    /// Consumers' streams that are open.
    pub consume_streams: AtomicU64,
    /// Producers' streams and unary requests since the start.
    pub sessions: AtomicU64,
    /// Producers' streams that are open.
    pub produce_streams: AtomicU64,
}

/// Counts durations in buckets of powers of two of a microsecond.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get(bucket.min(BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The upper bound of each bucket in seconds, with how many fell into it.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bound = |index: usize| {
            if index + 1 == BUCKETS { f64::INFINITY } else { (1u64 << index) as f64 / 1e6 }
        };
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        counts.enumerate().map(|(index, count)| (bound(index), count)).collect()
    }

    /// The sum of all durations, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_below_their_bucket_s_bound() {
        let histogram = Histogram::default();
        for micros in [0, 1, 3, 1_000, 10_000_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let buckets = histogram.buckets();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert_eq!(buckets[0], (1e-6, 1));
        assert_eq!(buckets[2], (4e-6, 1));
        assert_eq!(buckets[BUCKETS - 1].1, 1);
    }
}
