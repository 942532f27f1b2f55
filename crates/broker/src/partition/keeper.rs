//! Keeps a partition's log in order: what is too old goes, and what is deleted on request.
//!
//! One at a time for each partition, on a thread of its own: whoever appends or reads does not wait,
//! but for the moment in which a deletion is prepared.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use taffrail_log::{Backup, BackupError, DeleteError, Deleted, Deletion, Expired, Log, Retention};
use taffrail_model::{Offset, Timestamp, limits};

use super::{LogState, OpenLog, Partition, Unopened};
use crate::catalog::{CatalogError, Durability};
use crate::clock;
use crate::metrics::add;
use crate::produce::ProduceError;

/// Why records were not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteRecordsError {
    /// There is no such partition, or it is one of the broker's own.
    #[error(transparent)]
    Topic(#[from] CatalogError),
    /// There is no such offset.
    #[error("offset {before} is out of range: the partition has {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        before: Offset,
        /// Offset of the first record.
        start: Offset,
        /// End of what readers may see.
        end: Offset,
    },
    /// The partition takes no changes.
    #[error(transparent)]
    Partition(ProduceError),
    /// The disk refused. The log may begin further on already; what is left is removed later.
    #[error("{cause}")]
    Storage {
        /// What happened.
        cause: String,
    },
}

impl Partition {
    /// Lets somebody look soon whether there is something to keep in order.
    pub(crate) fn schedule_upkeep(self: &Arc<Self>) {
        if !self.upkeep_is_due.swap(true, Ordering::AcqRel) {
            self.threads.keepers.push(Arc::clone(self));
        }
    }

    /// Seals what is old enough, deletes what is too old, and says when to look again; called by a keeper
    /// thread. Where the time is not believed, nothing is too old.
    pub(super) fn keep(self: &Arc<Self>) {
        self.upkeep_is_due.store(false, Ordering::Release);
        let Some(open) = self.open_log().filter(|open| open.read_only.is_none()) else { return };
        if open.lock().is_none() {
            // It has ended, and nothing becomes due.
            return self.threads.agenda.set(self, None);
        }
        let instant = clock::instant();
        let now = self.threads.clock.now();
        let doubt = if self.has_ages() { self.threads.doubt(now, instant) } else { None };
        // What is deleted makes room where no segment could be begun: one does not wait for the other.
        let rolled = open.lock().as_mut().map(|log| log.roll_if_old(now));
        let rolled = rolled.transpose().map(Option::flatten).map_err(|error| error.to_string());
        let expired = self.expire(&open, doubt.is_none().then_some(now));
        let due = [rolled, expired].into_iter().filter_map(|done| match done {
            Ok(due) => due.map(|due| instant + due.since(now).min(limits::UPKEEP_INTERVAL)),
            // Nothing is to be kept in order any more.
            Err(_) if open.syncer.is_poisoned() => None,
            Err(error) => {
                let (topic, partition) = (&self.topic, self.index);
                tracing::warn!(%topic, %partition, error, "the log could not be kept in order; this is tried again");
                Some(instant + limits::UPKEEP_RETRY)
            }
        });
        let compaction = self.compact_if_due(&open, now, doubt.is_none());
        let due = due.chain(doubt).chain(compaction).min();
        self.threads.agenda.set(self, due);
    }

    /// Deletes what retention does not keep; without a time, ages are not looked at. When the next
    /// segment is old enough.
    fn expire(&self, open: &OpenLog, now: Option<Timestamp>) -> Result<Option<Timestamp>, String> {
        if let Some(before) = open.reader.unfinished_deletion() {
            let cut = self.cut_start(open, |log| log.delete_records_before(before));
            cut.transpose().map_err(|error| error.to_string())?;
        }
        let retention = self.settings.load().retention;
        if retention == Retention::default() {
            self.needed.press(Offset::ZERO);
            return Ok(None);
        }
        let Expired { before, next } = open.reader.expired(&retention, now);
        // What is not committed yet is not old, whatever a clock says; what a queue needs is kept.
        let before = before.min(self.high_watermark());
        let needed = self.needed.from(before);
        if self.needed.press(before) {
            self.threads.pressed.notify_one();
        }
        let before = before.min(needed);
        if open.reader.start() < before {
            let cut = self.cut_start(open, |log| log.delete_records_before(before));
            if let Some(cut) = cut {
                let Deleted { start, segments, bytes } = cut.map_err(|error| error.to_string())?;
                let (topic, partition) = (&self.topic, self.index);
                tracing::debug!(%topic, %partition, %start, segments, bytes, "retention has deleted records");
            }
        }
        Ok(next)
    }

    /// Keeps records from an offset on, however old they are. Before it is said for the first time, all are
    /// kept.
    pub(crate) fn keep_from(self: &Arc<Self>, offset: Offset) {
        if self.needed.move_to(offset) {
            self.schedule_upkeep();
        }
    }

    /// Says again that retention would delete what is needed, if so.
    pub(crate) fn say_pressed(&self) {
        if self.pressed_to().is_some() {
            self.threads.pressed.notify_one();
        }
    }

    /// Before where retention would delete records, if some of them are needed.
    pub(crate) fn pressed_to(&self) -> Option<Offset> {
        let to = Offset::new(self.needed.pressed_to.load(Ordering::SeqCst));
        let from = Offset::new(self.needed.from.load(Ordering::SeqCst));
        (from < to && self.log_start() < to).then_some(to)
    }

    /// Whether anything becomes old here.
    fn has_ages(&self) -> bool {
        let settings = self.settings.load();
        settings.retention.age.is_some() || settings.cleanup.compacts()
    }

    /// Deletes the segments whose records all lie before an offset.
    pub(crate) async fn delete_before(self: &Arc<Self>, before: Offset) {
        let partition = Arc::clone(self);
        let delete = move || {
            let open = partition.open_log()?;
            partition.cut_start(&open, |log| log.delete_segments_before(before))
        };
        if let Some(Some(Err(error))) = self.threads.on_admin_thread(delete).await {
            let (topic, index) = (&self.topic, self.index);
            tracing::warn!(%topic, partition = %index, %error, "what nobody needs any more was not deleted");
        }
    }

    /// Deletes the records before an offset, or all that are committed. Called on a log thread.
    pub(crate) fn delete_records(
        self: &Arc<Self>,
        before: Option<Offset>,
    ) -> Result<(), DeleteRecordsError> {
        let open = match &**self.log.load() {
            LogState::Open(open) => Ok(Arc::clone(open)),
            LogState::Opening(_) => Err(ProduceError::Recovering),
            LogState::Unopened(Unopened { cause, .. }, None) => {
                Err(ProduceError::Offline { cause: cause.clone() })
            }
            LogState::Unopened(Unopened { cause, .. }, Some(_)) => {
                Err(ProduceError::ReadOnly { cause: cause.clone() })
            }
        };
        let open = open.map_err(DeleteRecordsError::Partition)?;
        let (start, end) = (open.reader.start(), self.high_watermark());
        let before = before.unwrap_or(end);
        if end < before {
            return Err(DeleteRecordsError::OutOfRange { before, start, end });
        }
        match self.cut_start(&open, |log| log.delete_records_before(before)) {
            Some(Ok(Deleted { start, segments, bytes })) => {
                let (topic, partition) = (&self.topic, self.index);
                tracing::info!(%topic, %partition, %start, segments, bytes, "records were deleted on request");
                Ok(())
            }
            Some(Err(DeleteError::Poisoned { cause } | DeleteError::ReadOnly { cause })) => {
                Err(DeleteRecordsError::Partition(ProduceError::ReadOnly { cause }))
            }
            Some(Err(error @ DeleteError::Io { .. })) => {
                // It may have been said durably: then it is brought to its end.
                self.threads.agenda.set(self, Some(clock::instant() + limits::UPKEEP_RETRY));
                Err(DeleteRecordsError::Storage { cause: error.to_string() })
            }
            None => Err(DeleteRecordsError::Partition(self.gone())),
        }
    }

    /// Runs something that makes a snapshot of the broker's own state; `None` if the threads ended before it
    /// ran.
    pub(crate) async fn on_snapshot_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.threads.on_snapshot_thread(work).await
    }

    /// Bytes of events after which that is stored whole, at the least.
    pub(crate) fn snapshot_bytes_min(&self) -> u64 {
        self.threads.snapshot_bytes_min
    }

    /// Has what is written on disk, where it can be committed before it is.
    pub(crate) async fn sync(self: &Arc<Self>) -> Result<(), String> {
        if self.settings.load().durability == Durability::Fsync {
            return Ok(());
        }
        let partition = Arc::clone(self);
        let synced = self.threads.on_admin_thread(move || {
            let open = partition.open_log().ok_or("the log is not open")?;
            open.syncer.sync().map(drop).map_err(|error| error.to_string())
        });
        synced.await.unwrap_or_else(|| Err("the broker is stopping".into()))
    }

    /// Copies the log into a backup; false if there is none to be read. What was acknowledged by now is in
    /// it.
    pub(crate) fn back_up(
        &self,
        backup: &mut Backup,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, BackupError> {
        let Some(open) = self.view() else { return Ok(false) };
        if self.settings.load().durability == Durability::PageCache {
            // If it fails, what is durable is copied all the same.
            let _ = open.syncer.sync();
        }
        backup.add(&open.reader, pace).map(|()| true)
    }

    /// Lets the log begin further on; `None` if there is none any more. Nobody lets go of it meanwhile.
    fn cut_start(
        &self,
        open: &OpenLog,
        prepare: impl FnOnce(&mut Log) -> Result<Deletion, DeleteError>,
    ) -> Option<Result<Deleted, DeleteError>> {
        let _one = open.keeping();
        let deletion = open.lock().as_mut().map(prepare)?;
        let deleted = deletion.and_then(Deletion::finish);
        if let Ok(Deleted { segments, bytes, .. }) = &deleted {
            add(&self.threads.metrics.deleted_segments, *segments as u64);
            add(&self.threads.metrics.deleted_bytes, *bytes);
        }
        Some(deleted)
    }
}

/// The first record that somebody needs, however old it is, or whichever has its key; at first, all are needed.
#[derive(Debug, Default)]
pub(super) struct Needed {
    from: AtomicU64,
    /// Whether something would have been deleted but for this.
    holds: AtomicBool,
    /// Before where retention would have deleted.
    pressed_to: AtomicU64,
}

impl Needed {
    /// From where on records are needed, where those before an offset are too old.
    fn from(&self, before: Offset) -> Offset {
        let from = Offset::new(self.from.load(Ordering::SeqCst));
        if from < before {
            self.holds.store(true, Ordering::SeqCst);
            // It may have moved in between.
            return Offset::new(self.from.load(Ordering::SeqCst));
        }
        from
    }

    /// Retention would delete what lies before this; whether that is needed.
    fn press(&self, before: Offset) -> bool {
        self.pressed_to.store(before.get(), Ordering::SeqCst);
        self.from.load(Ordering::SeqCst) < before.get()
    }

    /// From where on records are needed, whatever else becomes of them.
    pub(super) fn first(&self) -> Offset {
        self.from(Offset::new(u64::MAX))
    }

    /// Whether something can be deleted now that could not be.
    fn move_to(&self, from: Offset) -> bool {
        let before = self.from.swap(from.get(), Ordering::SeqCst);
        before < from.get() && self.holds.swap(false, Ordering::SeqCst)
    }
}

impl OpenLog {
    /// Held by whoever takes segments of the log away, and by whoever lets go of it.
    pub(super) fn keeping(&self) -> MutexGuard<'_, ()> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
