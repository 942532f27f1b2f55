//! Numbers for producers without a name: which are left, and which were given out.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use taffrail_model::ProducerId;

use super::state::unnamed;

/// Numbers that were reserved, in blocks that ascend.
#[derive(Debug)]
pub(super) struct Numbers {
    left: Mutex<Range<u64>>,
    /// The first block of this run, and then all that was given out, in terms of ids: what lies between
    /// two blocks are named producers, whose ids are others.
    first_id: ProducerId,
    given_out_end: AtomicU64,
}

impl Numbers {
    /// None are left; whatever is given out will have ids from `first_id` on.
    pub(super) const fn new(first_id: ProducerId) -> Self {
        Self { left: Mutex::new(0..0), first_id, given_out_end: AtomicU64::new(0) }
    }

    /// The next one that is left.
    pub(super) fn next(&self) -> Option<u64> {
        self.take(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next one, out of these if none of those before is left.
    pub(super) fn next_of(&self, more: Range<u64>) -> u64 {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() {
            *left = more;
        }
        self.take(&mut left).expect("a block has numbers")
    }

    /// Gives none of those any more that are left.
    pub(super) fn abandon(&self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
    }

    /// Whether the producer without a name that has this id was made since the start.
    pub(super) fn are_given_out(&self, id: ProducerId) -> bool {
        self.first_id <= id && id.get() < self.given_out_end.load(Ordering::Acquire)
    }

    fn take(&self, left: &mut Range<u64>) -> Option<u64> {
        let number = left.next()?;
        self.given_out_end.fetch_max(unnamed(number + 1).get(), Ordering::AcqRel);
        Some(number)
    }
}
