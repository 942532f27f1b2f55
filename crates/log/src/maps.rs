//! The maps of sealed segments that are open, over all logs of a directory.
//!
//! Capped: the one that was used least recently goes first. A map that goes is unmapped when the
//! last slice of it is dropped.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use taffrail_model::{LogId, Offset};

use crate::vfs::Map;

/// Maps that are open at once.
const MAPS_MAX: usize = 256;

/// The open maps, the least recently used first.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    open: Mutex<VecDeque<OpenMap>>,
}

#[derive(Debug)]
struct OpenMap {
    log: LogId,
    base_offset: Offset,
    map: Arc<dyn Map>,
}

impl Maps {
    /// The map of the segment that begins at `base_offset`, made if it is not open.
    pub(crate) fn get(
        &self,
        log: LogId,
        base_offset: Offset,
        make: impl FnOnce() -> io::Result<Arc<dyn Map>>,
    ) -> io::Result<Arc<dyn Map>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().position(|o| (o.log, o.base_offset) == (log, base_offset));
        let used = match at.and_then(|at| open.remove(at)) {
            Some(used) => used,
            None => OpenMap { log, base_offset, map: make()? },
        };
        let map = Arc::clone(&used.map);
        open.push_back(used);
        if open.len() > MAPS_MAX {
            open.pop_front();
        }
        Ok(map)
    }

    /// Closes the maps of a log.
    pub(crate) fn forget(&self, log: LogId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|open| open.log != log);
    }
}
