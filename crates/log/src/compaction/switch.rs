//! Puts a new segment in the place of those that it was made of.
//!
//! One rename does it: the new file takes the name of the first of them, and says where it ends. Whoever
//! opens the log then passes over the others, which it covers, and removes them. They go only once the
//! rename is durable. Who reads meanwhile reads on in the old files, which are held open for that.

use std::sync::{Arc, PoisonError};

use super::rewrite::Rewrite;
use super::{CompactionError, failed};
use crate::index::{IndexFile, index_path};
use crate::segment::{SealedSegment, write_index};
use crate::shared::Shared;

/// What putting a new segment in place has changed.
pub(super) struct Switched {
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) segments_before: usize,
    pub(super) removed_records: u64,
}

impl Rewrite {
    /// Puts the segment, all of which is on disk, in the place of its group.
    pub(super) fn finish(self, shared: &Shared) -> Result<Switched, CompactionError> {
        let _one = shared.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let old: Vec<_> = self.group.segments.iter().map(|(segment, _)| segment).collect();
        let first_segment = shared.points.known(shared.id).unwrap_or_default().first_segment;
        let is_in = self.group.is_in(&shared.segments.load().sealed);
        // One that a deletion has said to be gone is not to take the place of others.
        if self.header.base_offset < first_segment || !is_in {
            return Err(CompactionError::Outrun);
        }
        for segment in &old {
            segment.hold_open().map_err(|source| failed(&segment.path, source))?;
        }
        let vfs = shared.vfs.as_ref();
        vfs.rename(&self.beside, &self.path).map_err(|source| failed(&self.path, source))?;
        let new = Arc::new(SealedSegment::new(
            self.header.clone(),
            self.header_bytes,
            self.path.clone(),
            self.position,
            self.group.end_offset(),
            Arc::clone(&shared.vfs),
            Arc::clone(&shared.cache),
        ));
        shared.segments.rcu(|now| now.with_in_place(&old, &new));
        for segment in &old {
            shared.cache.forget_segment(shared.id, segment.header.base_offset);
        }
        let index = IndexFile {
            salt: self.header.salt,
            segment_bytes: self.position,
            base_offset: self.header.base_offset,
            end_offset: self.group.end_offset(),
            compacted: self.header.compacted,
            index: self.index.clone(),
        };
        // A cache: if it cannot be written, it is rebuilt when it is wanted.
        let _ = write_index(vfs, &self.path, &index);
        // What is covered stays until the new name is durable. If that cannot be said, or it cannot be
        // removed, the next opening of the log does it.
        let failed = |source| failed(&shared.path, source);
        if let Err(error) = vfs.sync_directory(&shared.path) {
            // What is done next must not rest on it: no later sync proves that it is on disk.
            shared.poison(format!("syncing {} failed: {error}", shared.path.display()));
            return Err(failed(error));
        }
        for segment in old.iter().skip(1) {
            let _ = vfs.remove_file(&index_path(&segment.path));
            vfs.remove_file(&segment.path).map_err(failed)?;
        }
        if old.len() > 1 {
            vfs.sync_directory(&shared.path).map_err(failed)?;
        }
        Ok(Switched {
            read_bytes: self.read_bytes,
            written_bytes: self.position,
            segments_before: old.len(),
            removed_records: self.removed_records,
        })
    }
}
