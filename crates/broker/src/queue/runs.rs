//! What each offset of a stretch is, kept as runs of equals.
//!
//! Invariants: the runs lie behind one another without a hole, from `start` to `end`; neighbours differ.
//! So it takes as much memory as there are changes along the stretch, however long it is.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::offset_map::OffsetMap;

/// What each offset from `start` to `end` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Clone + Deserialize<'de>"))]
pub(super) struct Runs<T> {
    end: u64,
    /// By where each begins; it ends where the next one begins, or at `end`.
    runs: OffsetMap<T>,
}

impl<T: Clone + PartialEq> Runs<T> {
    /// Nothing yet, from there on.
    pub(super) const fn new(start: u64) -> Self {
        Self { end: start, runs: OffsetMap::new() }
    }

    /// Where the first run begins.
    pub(super) fn start(&self) -> u64 {
        self.runs.first().map_or(self.end, |(start, _)| start)
    }

    /// Where the last run ends.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// How many runs there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// What an offset is; `None` outside of the stretch.
    pub(super) fn get(&self, offset: u64) -> Option<&T> {
        if offset >= self.end {
            return None;
        }
        self.runs.last_before(offset + 1).map(|(_, value)| value)
    }

    /// All runs in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<u64>, &T)> {
        self.from(0)
    }

    /// The runs of a range, cut off at its ends.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &T)> {
        let first = self.runs.last_before(range.start + 1).map_or(range.start, |(start, _)| start);
        let runs = self.from(first).take_while(move |(run, _)| run.start < range.end);
        let parts = runs
            .map(move |(run, value)| (run.start.max(range.start)..run.end.min(range.end), value));
        parts.filter(|(part, _)| !part.is_empty())
    }

    /// The runs that begin at an offset or behind it.
    fn from(&self, offset: u64) -> impl Iterator<Item = (Range<u64>, &T)> {
        let ends = self.runs.from(offset).skip(1).map(|(start, _)| start);
        let ends = ends.chain(std::iter::once(self.end));
        self.runs.from(offset).zip(ends).map(|((start, value), end)| (start..end, value))
    }

    /// Makes each offset of a range this, which may begin anywhere up to the end and go beyond it, or end
    /// where the stretch begins.
    pub(super) fn set(&mut self, range: Range<u64>, value: T) {
        if range.is_empty() {
            return;
        }
        assert!(range.start <= self.end, "{} lies behind {}", range.start, self.end);
        assert!(self.start() <= range.end, "{} lies before {}", range.end, self.start());
        self.split(range.start);
        self.split(range.end);
        let covered = self.runs.from(range.start).map(|(start, _)| start);
        let covered: Vec<_> = covered.take_while(|start| *start < range.end).collect();
        for start in covered {
            self.runs.remove(start);
        }
        self.end = self.end.max(range.end);
        if self.runs.get(range.end) == Some(&value) {
            self.runs.remove(range.end);
        }
        let before = self.runs.last_before(range.start);
        if before.is_none_or(|(_, before)| *before != value) {
            self.runs.insert(range.start, value);
        }
    }

    /// Takes away the first runs that are this.
    pub(super) fn trim(&mut self, value: &T) {
        while let Some((start, first)) = self.runs.first()
            && first == value
        {
            self.runs.remove(start);
        }
    }

    /// Has a run begin at an offset, if it is within one.
    fn split(&mut self, offset: u64) {
        if offset < self.end
            && let Some((start, value)) = self.runs.last_before(offset + 1)
            && start < offset
        {
            let value = value.clone();
            self.runs.insert(offset, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compares with a list of what each offset is.
    fn check(runs: &Runs<u8>, start: u64, expected: &[u8]) {
        let mut found = Vec::new();
        let mut before = None;
        for (range, value) in runs.iter() {
            assert_eq!(range.start, start + found.len() as u64, "a hole in {runs:?}");
            assert!(!range.is_empty() && before != Some(*value), "not as few as can be: {runs:?}");
            found.extend(range.map(|_| *value));
            before = Some(*value);
        }
        assert_eq!(found, expected);
        assert_eq!(runs.end(), start + expected.len() as u64);
        for (offset, value) in (start..).zip(expected) {
            assert_eq!(runs.get(offset), Some(value));
        }
        assert_eq!(runs.get(runs.end()), None);
        let (from, to) = (start + 3, start + 9);
        let within: Vec<_> =
            runs.within(from..to).flat_map(|(part, it)| part.map(|_| *it)).collect();
        assert_eq!(within, expected.iter().skip(3).take(6).copied().collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn runs_are_what_a_list_would_be(
            steps in prop::collection::vec((0_u64..40, 0_u64..12, 0_u8..3, any::<bool>()), 1..60)
        ) {
            let mut runs = Runs::new(100);
            let (mut start, mut list) = (100, Vec::new());
            for (at, length, value, is_trim) in steps {
                if is_trim {
                    runs.trim(&value);
                    let gone = list.iter().take_while(|it| **it == value).count();
                    list.drain(..gone);
                    start += gone as u64;
                } else {
                    let from = start + at.min(list.len() as u64);
                    runs.set(from..from + length, value);
                    let from = (from - start) as usize;
                    let to = from + length as usize;
                    list.resize(list.len().max(to), value);
                    list[from..to].fill(value);
                }
                check(&runs, start, &list);
            }
        }
    }

    #[test]
    fn a_stretch_grows_at_its_start_too() {
        let mut runs = Runs::new(10);
        runs.set(10..12, 1);
        runs.set(5..10, 2);
        check(&runs, 5, &[2, 2, 2, 2, 2, 1, 1]);
    }
}
