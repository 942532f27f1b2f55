//! Makes what was written durable.
//!
//! Invariants: one sync of a log runs at a time, rolls included. What it publishes was written
//! before it began. After a failed sync nothing is published any more: the operating system marks
//! the pages clean, so a later sync would succeed without writing them.

use std::io;
use std::sync::{Arc, PoisonError, TryLockError};

use taffrail_model::Offset;

use crate::progress::WrittenBytes;
use crate::segment::ActiveSegment;
use crate::shared::Shared;
use crate::vfs::sync_files;

/// Syncs a log, on whatever thread it is called. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogSyncer {
    shared: Arc<Shared>,
}

/// Why what was written is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// This sync or an earlier one failed. What was not durable before is of unknown fate, and the
    /// log takes nothing until it is opened anew.
    #[error("the log is poisoned: {cause}; open it anew to find out what is on disk")]
    Poisoned {
        /// What happened first.
        cause: String,
    },
}

impl LogSyncer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Syncs everything written so far and returns the offset below which all is on disk.
    ///
    /// # Errors
    /// If the sync fails, or one before it did: the log is poisoned.
    pub fn sync(&self) -> Result<Offset, SyncError> {
        let _one = self.shared.sync.lock().unwrap_or_else(PoisonError::into_inner);
        sync_active(&self.shared)
    }

    /// Whether [`sync_together`] is better than syncing it by itself.
    pub fn can_sync_together(&self) -> bool {
        self.shared.segments.load().active.file.file_system().is_some()
    }

    /// The offset below which everything is on disk.
    pub fn durable_end(&self) -> Offset {
        self.shared.durable_end()
    }

    /// Whether a sync failed, so that no other will be believed.
    pub fn is_poisoned(&self) -> bool {
        self.shared.poisoned().is_some()
    }

    /// Why no sync will be believed, if that is so.
    pub fn poisoned(&self) -> Option<String> {
        self.shared.poisoned().map(str::to_owned)
    }

    /// Bytes written and not yet on disk.
    pub fn unsynced_bytes(&self) -> u64 {
        self.shared.progress.unsynced_bytes()
    }
}

/// Syncs several logs, each as [`LogSyncer::sync`] does, with one call where their file system can.
/// Each log stands there once; what became of it stands in its place.
pub fn sync_together(syncers: &[LogSyncer]) -> Vec<Result<Offset, SyncError>> {
    // One that is being rolled or synced already does not hold up the others.
    let locks: Vec<_> = syncers
        .iter()
        .map(|syncer| match syncer.shared.sync.try_lock() {
            Ok(lock) => Some(lock),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
        .collect();
    let begin = |(syncer, lock): (&LogSyncer, &Option<_>)| {
        lock.as_ref().map(|_| Unsynced::of(&syncer.shared))
    };
    let begun: Vec<_> = syncers.iter().zip(&locks).map(begin).collect();
    let needs_sync = |unsynced: &&Unsynced| unsynced.needs_sync;
    let unsynced = begun.iter().flatten().flatten().filter(needs_sync);
    let files: Vec<_> = unsynced.map(|it| Arc::clone(&it.active.file)).collect();
    let mut synced = sync_files(&files).into_iter();
    let end = |(syncer, begun): (&LogSyncer, Option<Result<Unsynced, SyncError>>)| {
        let unsynced = match begun? {
            Ok(unsynced) => unsynced,
            Err(error) => return Some(Err(error)),
        };
        let result = if unsynced.needs_sync {
            synced.next().expect("each file has a result")
        } else {
            Ok(())
        };
        Some(unsynced.end(&syncer.shared, result))
    };
    let ended: Vec<_> = syncers.iter().zip(begun).map(end).collect();
    drop(locks);
    let busy = |(syncer, ended): (&LogSyncer, Option<_>)| ended.unwrap_or_else(|| syncer.sync());
    syncers.iter().zip(ended).map(busy).collect()
}

/// Syncs the active segment. The caller holds `shared.sync`.
pub(crate) fn sync_active(shared: &Shared) -> Result<Offset, SyncError> {
    let unsynced = Unsynced::of(shared)?;
    let result = if unsynced.needs_sync { unsynced.active.file.sync_data() } else { Ok(()) };
    unsynced.end(shared, result)
}

/// What a sync that begins now makes durable.
struct Unsynced {
    active: Arc<ActiveSegment>,
    written: WrittenBytes,
    end: Offset,
    needs_sync: bool,
}

impl Unsynced {
    fn of(shared: &Shared) -> Result<Self, SyncError> {
        check(shared)?;
        let active = Arc::clone(&shared.segments.load().active);
        let written = shared.progress.written_bytes();
        let end = active.written().end;
        Ok(Self { active, written, end, needs_sync: end > shared.durable_end() })
    }

    /// The sync came to its end.
    fn end(self, shared: &Shared, result: io::Result<()>) -> Result<Offset, SyncError> {
        if let Err(error) = result {
            shared.poison(format!("syncing {} failed: {error}", self.active.path.display()));
        }
        // A writer may have poisoned the log meanwhile: then this sync proves nothing either.
        check(shared)?;
        shared.progress.synced(self.written, self.end);
        shared.points.reached(shared.id, self.end);
        Ok(self.end)
    }
}

fn check(shared: &Shared) -> Result<(), SyncError> {
    match shared.poisoned() {
        Some(cause) => Err(SyncError::Poisoned { cause: cause.to_owned() }),
        None => Ok(()),
    }
}
