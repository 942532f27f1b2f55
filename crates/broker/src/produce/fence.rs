//! Keeps out a producer whose name somebody else has taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stands between one producer and all logs. Clones are the same fence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence {
    is_closed: Arc<AtomicBool>,
}

impl Fence {
    /// Whether nothing of the producer may be appended any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Closes it for good.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}
