//! Which bytes of a sealed segment this process has read from disk and found sound.

use std::ops::Range;

/// Ranges, ascending and apart; those that touch become one.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    ranges: Vec<Range<u64>>,
}

impl Verified {
    pub(crate) fn contains(&self, range: &Range<u64>) -> bool {
        let behind = self.ranges.partition_point(|known| known.end < range.end);
        self.ranges.get(behind).is_some_and(|known| known.start <= range.start)
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
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
