//! What is known around the logs of a directory: its recovery points, and who uses it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use taffrail_model::LogId;

use super::{PointsCopy, PointsState, Usage};
use crate::directory::{IDENTITY, LOCK, LOGS};
use crate::points::{self, Point};
use crate::vfs::{Entry, Vfs, parent, read_file};

/// The recovery points of a directory, as far as they are known.
#[derive(Default)]
pub(super) struct PointsFound {
    pub(super) copies: Vec<PointsCopy>,
    pub(super) entries: BTreeMap<LogId, Point>,
}

impl PointsFound {
    pub(super) fn point(&self, id: LogId) -> Option<Point> {
        self.entries.get(&id).copied()
    }
}

/// Whether a directory with these entries is a data directory, or was one.
pub(super) fn is_one(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.name == IDENTITY || entry.name == LOGS)
}

/// What is known around a log that lies in its place in a data directory; nothing if it does not.
pub(super) fn around_log(vfs: &dyn Vfs, log: &Path) -> (PointsFound, Usage) {
    let directory = parent(parent(log));
    match vfs.list(directory) {
        Ok(entries) if is_one(&entries) => (find_points(vfs, directory), usage(vfs, directory)),
        _ => (PointsFound::default(), Usage::Unknown),
    }
}

pub(super) fn find_points(vfs: &dyn Vfs, path: &Path) -> PointsFound {
    let mut found = PointsFound::default();
    for name in points::COPIES {
        let path = path.join(name);
        let state = match points::read(vfs, &path) {
            Ok(bytes) => points::decode(&bytes).map_or(PointsState::Damaged, |copy| {
                let generation = copy.generation;
                let state = PointsState::Sound { generation, logs: copy.entries.len() };
                let is_newer = |copy: &PointsCopy| match copy.state {
                    PointsState::Sound { generation: other, .. } => other > generation,
                    PointsState::Damaged | PointsState::Missing => false,
                };
                if !found.copies.iter().any(is_newer) {
                    found.entries = copy.entries;
                }
                state
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => PointsState::Missing,
            Err(_) => PointsState::Damaged,
        };
        found.copies.push(PointsCopy { path, state });
    }
    found
}

pub(crate) fn usage(vfs: &dyn Vfs, path: &Path) -> Usage {
    let lock = path.join(LOCK);
    match vfs.is_locked(&lock) {
        Ok(Some(true)) => {
            let note = read_file(vfs, &lock, 4096).unwrap_or_default();
            Usage::InUse { holder: String::from_utf8_lossy(&note).trim().to_owned() }
        }
        Ok(Some(false)) => Usage::Free,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Usage::Free,
        Ok(None) | Err(_) => Usage::Unknown,
    }
}
