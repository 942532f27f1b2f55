//! What a queue has done since the broker was started: counted in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::command::{SettleRefusal, Settled, Settlement, Verdict};
use crate::pace::{Pace, PaceRates};

/// What a queue does, as it is counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    delivered: AtomicU64,
    redelivered: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    expired: AtomicU64,
    parked: AtomicU64,
    copied: AtomicU64,
    pace: Mutex<Pace>,
}

/// What a queue has done since the broker was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueueTally {
    /// Attempts that were handed out.
    pub delivered: u64,
    /// Those of them that were not the first of their record.
    pub redelivered: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Attempts that failed, as a worker said.
    pub failed: u64,
    /// Attempts whose lease ended before anybody said anything.
    pub expired: u64,
    /// Records that were parked.
    pub parked: u64,
    /// Records that were copied to the dead-letter topic.
    pub copied: u64,
    /// Records that were appended and acknowledged per second, over about the last minute; `None` where too
    /// little was seen.
    pub rates: Option<(f64, f64)>,
}

impl Tally {
    /// An attempt was handed out: the so-many-eth of its record.
    pub(super) fn note_delivery(&self, attempt: u32) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if attempt > 1 {
            self.redelivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something was settled, where partitions end at `end` altogether.
    pub(super) fn note<'a>(
        &self,
        settled: impl Iterator<Item = (&'a Settlement, &'a Result<Settled, SettleRefusal>)>,
        end: u64,
    ) {
        for (settlement, result) in settled {
            let Ok(result) = result else { continue };
            let what = match settlement.verdict {
                Verdict::Acknowledge => Some(&self.acknowledged),
                Verdict::Retry { .. } => Some(&self.failed),
                Verdict::Expire => Some(&self.expired),
                Verdict::Release | Verdict::Reject { .. } => None,
            };
            let parked = (*result == Settled::Parked).then_some(&self.parked);
            for counter in what.into_iter().chain(parked) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.pace().note(self.acknowledged.load(Ordering::Relaxed), end);
    }

    /// Records were given up, whoever works on the queue.
    pub(super) fn note_given_up(&self, count: u64) {
        self.parked.fetch_add(count, Ordering::Relaxed);
    }

    /// Records were copied to the dead-letter topic.
    pub(super) fn note_copies(&self, count: u64) {
        self.copied.fetch_add(count, Ordering::Relaxed);
    }

    /// What was counted, where partitions end at `end` altogether.
    pub(super) fn get(&self, end: u64) -> QueueTally {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let acknowledged = count(&self.acknowledged);
        let PaceRates { in_and_out, .. } = self.pace().rates(acknowledged, end);
        QueueTally {
            delivered: count(&self.delivered),
            redelivered: count(&self.redelivered),
            acknowledged,
            failed: count(&self.failed),
            expired: count(&self.expired),
            parked: count(&self.parked),
            copied: count(&self.copied),
            rates: in_and_out,
        }
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
