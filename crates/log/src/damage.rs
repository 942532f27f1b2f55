//! What a log has lost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use taffrail_model::Offset;

/// Ranges of one log that are remembered, at the most: whoever wants all of them inspects it.
const RANGES_MAX: usize = 1_000;

/// What is known of a log's damage, by the first offset of each range: found when it was opened, or
/// by somebody who read it.
#[derive(Debug, Default)]
pub(crate) struct KnownDamage {
    ranges: Mutex<BTreeMap<Offset, Offset>>,
}

impl KnownDamage {
    /// Takes note of offsets that cannot be read.
    pub(crate) fn note(&self, from: Offset, to: Offset) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut from, mut to) = (from, to);
        // Those that overlap it become one with it.
        while let Some((start, end)) = ranges.range(..=to).next_back().map(|(s, e)| (*s, *e))
            && from <= end
        {
            ranges.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        if ranges.len() < RANGES_MAX {
            ranges.insert(from, to);
        }
    }

    /// Forgets what lies below `start`: the log does not have it any more.
    pub(crate) fn forget_below(&self, start: Offset) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = ranges.iter().filter(|(_, to)| start < **to);
        *ranges = kept.map(|(from, to)| ((*from).max(start), *to)).collect();
    }

    pub(crate) fn ranges(&self) -> Vec<Range<Offset>> {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.iter().map(|(from, to)| *from..*to).collect()
    }
}

/// Records that should be there and are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first offset.
    pub from: Offset,
    /// The first one behind that is sound again.
    pub to: Offset,
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub position: u64,
    /// What is wrong.
    pub cause: String,
}
