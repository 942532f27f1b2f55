//! Counts what all logs of a directory remember of idempotent producers, so that it has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use taffrail_model::limits;

/// Batches that all logs together remember. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd {
    batches: Arc<AtomicUsize>,
}

/// What one log adds, until it is dropped.
#[derive(Debug)]
pub(crate) struct CrowdShare {
    crowd: Crowd,
    batches: usize,
}

impl Crowd {
    /// A share of nothing yet.
    pub(crate) fn share(&self) -> CrowdShare {
        CrowdShare { crowd: self.clone(), batches: 0 }
    }
}

impl CrowdShare {
    /// Whether all logs remember so much that each should remember less of every producer.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowd.batches.load(Ordering::Relaxed) > limits::REMEMBERED_BATCHES_MAX
    }

    /// Takes note of how many batches this log remembers now.
    pub(crate) fn count(&mut self, batches: usize) {
        self.crowd.batches.fetch_add(batches, Ordering::Relaxed);
        self.crowd.batches.fetch_sub(self.batches, Ordering::Relaxed);
        self.batches = batches;
    }
}

impl Drop for CrowdShare {
    fn drop(&mut self) {
        self.count(0);
    }
}
