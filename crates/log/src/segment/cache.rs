//! What is kept in memory of sealed segments that were read, over all logs of a directory.
//!
//! Capped: what was used least recently goes first, and is made again when it is wanted. Whoever
//! still holds it keeps it alive until then; a map is unmapped when its last slice is dropped.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taffrail_model::batch::Salt;
use taffrail_model::{LogId, Offset};

use super::Known;
use crate::vfs::Map;

/// Maps that are open at once.
const MAPS_MAX: u64 = 256;

/// Bytes of all indexes.
const KNOWN_BYTES_MAX: u64 = 32 << 20;
/// What even the smallest index counts for, so that there are not too many to search.
const KNOWN_BYTES_FLOOR: u64 = 32 << 10;

/// What is kept of sealed segments.
#[derive(Debug)]
pub(crate) struct SegmentCache {
    maps: Recent<dyn Map>,
    known: Recent<Known>,
}

impl Default for SegmentCache {
    fn default() -> Self {
        Self { maps: Recent::new(MAPS_MAX), known: Recent::new(KNOWN_BYTES_MAX) }
    }
}

/// A segment: its log, its base offset, its length, which a log that is opened anew may have cut, and its
/// salt, which compaction makes anew.
pub(crate) type SegmentKey = (LogId, Offset, u64, Salt);

impl SegmentCache {
    /// The map of a segment, made if it is not open.
    pub(crate) fn map(
        &self,
        segment: SegmentKey,
        make: impl FnOnce() -> io::Result<Arc<dyn Map>>,
    ) -> io::Result<Arc<dyn Map>> {
        self.maps.get(segment, |_| 1, make)
    }

    /// What is known of a segment, found out if it is not.
    pub(crate) fn known(
        &self,
        segment: SegmentKey,
        make: impl FnOnce() -> io::Result<Arc<Known>>,
    ) -> io::Result<Arc<Known>> {
        self.known.get(segment, |known| known.index.bytes().max(KNOWN_BYTES_FLOOR), make)
    }

    /// Forgets the segments of a log.
    pub(crate) fn forget(&self, log: LogId) {
        self.maps.forget(|segment| segment.0 == log);
        self.known.forget(|segment| segment.0 == log);
    }

    /// Forgets a segment of a log.
    pub(crate) fn forget_segment(&self, log: LogId, base: Offset) {
        self.maps.forget(|segment| segment.0 == log && segment.1 == base);
        self.known.forget(|segment| segment.0 == log && segment.1 == base);
    }

    /// Forgets the segments of a log that begin below an offset.
    pub(crate) fn forget_below(&self, log: LogId, offset: Offset) {
        self.maps.forget(|segment| segment.0 == log && segment.1 < offset);
        self.known.forget(|segment| segment.0 == log && segment.1 < offset);
    }
}

/// What was used last, up to a weight; the least recently used first.
#[derive(Debug)]
struct Recent<T: ?Sized> {
    state: Mutex<State<T>>,
    weight_max: u64,
}

#[derive(Debug)]
struct State<T: ?Sized> {
    entries: VecDeque<Entry<T>>,
    weight: u64,
}

#[derive(Debug)]
struct Entry<T: ?Sized> {
    segment: SegmentKey,
    weight: u64,
    value: Arc<T>,
}

impl<T: ?Sized> Recent<T> {
    fn new(weight_max: u64) -> Self {
        let state = State { entries: VecDeque::new(), weight: 0 };
        Self { state: Mutex::new(state), weight_max }
    }

    /// The value, made without the lock if it is not there.
    fn get(
        &self,
        segment: SegmentKey,
        weight: impl FnOnce(&T) -> u64,
        make: impl FnOnce() -> io::Result<Arc<T>>,
    ) -> io::Result<Arc<T>> {
        if let Some(value) = self.state().touch(segment) {
            return Ok(value);
        }
        let value = make()?;
        let mut state = self.state();
        // Somebody else may have made it meanwhile.
        if let Some(value) = state.touch(segment) {
            return Ok(value);
        }
        let weight = weight(&value);
        state.weight += weight;
        state.entries.push_back(Entry { segment, weight, value: Arc::clone(&value) });
        while state.weight > self.weight_max {
            let Some(oldest) = state.entries.pop_front() else { break };
            state.weight -= oldest.weight;
        }
        Ok(value)
    }

    fn forget(&self, is_gone: impl Fn(&SegmentKey) -> bool) {
        let mut state = self.state();
        state.entries.retain(|entry| !is_gone(&entry.segment));
        state.weight = state.entries.iter().map(|entry| entry.weight).sum();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> State<T> {
    /// The value, if it is there; it goes last from now on.
    fn touch(&mut self, segment: SegmentKey) -> Option<Arc<T>> {
        let at = self.entries.iter().rposition(|entry| entry.segment == segment)?;
        let entry = self.entries.remove(at)?;
        let value = Arc::clone(&entry.value);
        self.entries.push_back(entry);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let recent = Recent::<u64>::new(10);
        let get = |base: u64, weight: u64| {
            let mut was_made = false;
            let segment = (LogId::new([1; 16]), Offset::new(base), 1, Salt::new(1));
            let value = recent.get(
                segment,
                |weight| *weight,
                || {
                    was_made = true;
                    Ok(Arc::new(weight))
                },
            );
            assert_eq!(*value.expect("it can be made"), weight);
            was_made
        };
        assert!(get(1, 4) && get(2, 4));
        assert!(!get(1, 4), "it is there, and used last from now on");
        assert!(get(3, 4), "this takes the place of the second");
        assert!(!get(1, 4) && !get(3, 4) && get(2, 4));
        assert!(get(4, 11), "more than there is room for is made each time");
        assert!(get(4, 11));
        recent.forget(|segment| segment.0 == LogId::new([1; 16]));
        assert!(get(1, 4) && recent.state().weight == 4);
    }
}
