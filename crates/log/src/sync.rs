//! Makes what was written durable.
//!
//! Invariants: one sync of a log runs at a time, rolls included. What it publishes was written
//! before it began. After a failed sync nothing is published any more: the operating system marks
//! the pages clean, so a later sync would succeed without writing them.

use std::sync::{Arc, PoisonError};

use taffrail_model::Offset;

use crate::shared::Shared;

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

/// Syncs the active segment. The caller holds `shared.sync`.
pub(crate) fn sync_active(shared: &Shared) -> Result<Offset, SyncError> {
    let poisoned = |cause: &str| SyncError::Poisoned { cause: cause.to_owned() };
    if let Some(cause) = shared.poisoned() {
        return Err(poisoned(cause));
    }
    let active = Arc::clone(&shared.segments.load().active);
    let written = shared.progress.written_bytes();
    let end = active.written().end;
    if end > shared.durable_end()
        && let Err(error) = active.file.sync_data()
    {
        shared.poison(format!("syncing {} failed: {error}", active.path.display()));
    }
    // A writer may have poisoned the log meanwhile: then this sync proves nothing either.
    if let Some(cause) = shared.poisoned() {
        return Err(poisoned(cause));
    }
    shared.progress.synced(written, end);
    shared.points.reached(shared.id, end);
    Ok(end)
}
