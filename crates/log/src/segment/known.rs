//! What reading a sealed segment has found out.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::index::Index;

/// What reading a sealed segment has found out.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) index: Index,
    verified: Mutex<Verified>,
}

impl Known {
    pub(super) fn new(index: Index) -> Self {
        Self { index, verified: Mutex::default() }
    }

    /// Whether all of a range was read from disk and found sound, since this is known.
    pub(crate) fn is_verified(&self, range: &Range<u64>) -> bool {
        self.verified().contains(range)
    }

    /// Takes note that a range was read from disk and found sound.
    pub(crate) fn mark_verified(&self, range: Range<u64>) {
        self.verified().insert(range);
    }

    fn verified(&self) -> MutexGuard<'_, Verified> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ranges, ascending and apart; those that touch become one.
#[derive(Debug, Default)]
struct Verified {
    ranges: Vec<Range<u64>>,
}

impl Verified {
    fn contains(&self, range: &Range<u64>) -> bool {
        let behind = self.ranges.partition_point(|known| known.end < range.end);
        self.ranges.get(behind).is_some_and(|known| known.start <= range.start)
    }

    fn insert(&mut self, range: Range<u64>) {
        let first = self.ranges.partition_point(|known| known.end < range.start);
        let last = self.ranges.partition_point(|known| known.start <= range.end);
        let merged = self
            .ranges
            .get(first..last)
            .into_iter()
            .flatten()
            .fold(range, |a, b| a.start.min(b.start)..a.end.max(b.end));
        self.ranges.splice(first..last.max(first), [merged]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_ranges_become_one() {
        let mut verified = Verified::default();
        for range in [10..20, 40..50, 20..30, 0..5] {
            verified.insert(range);
        }
        assert_eq!(verified.ranges, [0..5, 10..30, 40..50]);
        assert!(verified.contains(&(12..30)));
        assert!(!verified.contains(&(12..31)));
        assert!(!verified.contains(&(5..10)));
        verified.insert(3..45);
        assert!(verified.ranges.len() == 1 && verified.contains(&(0..50)));
    }
}
