//! A backup of everything while it is used.
//!
//! What depends on something else is copied before it: what groups have committed before the records that
//! they have read, and these before who their producers are. Topics do not change meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use taffrail_log::{BackupError, BackupReport};
use taffrail_model::Timestamp;

use crate::broker::Broker;
use crate::internal::{CATALOG, GROUPS, PRODUCERS, QUEUES};
use crate::partition::{Partition, PartitionStatus};

/// How far a backup has come, and whether anybody wants it. Shared with whoever asked for it.
#[derive(Debug, Default)]
pub struct BackupProgress {
    bytes: AtomicU64,
    is_given_up: AtomicBool,
}

/// A backup that is in its place.
#[derive(Clone, Debug)]
pub struct BackupSummary {
    /// What it holds.
    pub report: BackupReport,
    /// As of when.
    pub taken: Timestamp,
    /// Partitions that are not in it, because their logs cannot be opened: topic and number.
    pub skipped: Vec<String>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupFailure {
    /// It could not be made.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A partition is being checked.
    #[error("{topic}/{partition} is being checked: retry when it is online")]
    Recovering {
        /// Its topic.
        topic: String,
        /// Its number.
        partition: u32,
    },
    /// The broker is going away.
    #[error("the broker is stopping; nothing is left of the backup")]
    Stopping,
}

impl BackupProgress {
    /// Bytes that were read or written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nobody wants it any more.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}

impl Broker {
    pub(crate) async fn backup_now(
        self: Arc<Self>,
        path: PathBuf,
        progress: Arc<BackupProgress>,
    ) -> Result<BackupSummary, BackupFailure> {
        // Held to its end: topics, their settings and their partitions stay as they are.
        let _changing = self.changing.lock().await;
        let taken = self.now();
        let logs = self.logs_in_order()?;
        let (directory, threads) = (Arc::clone(&self.directory), Arc::clone(&self.threads));
        let copy = move || {
            let mut backup = directory.begin_backup(&path, taken)?;
            let mut skipped = Vec::new();
            let mut pace = |bytes: u64| {
                progress.bytes.fetch_add(bytes, Ordering::Relaxed);
                threads.pace_backup(bytes);
                !threads.is_stopping() && !progress.is_given_up.load(Ordering::Relaxed)
            };
            for partition in logs {
                if !partition.back_up(&mut backup, &mut pace)? {
                    skipped.push(format!("{}/{}", partition.topic, partition.index));
                }
            }
            let report = backup.finish(taken)?;
            Ok(BackupSummary { report, taken, skipped })
        };
        self.threads.on_opener_thread(copy).await.unwrap_or(Err(BackupFailure::Stopping))
    }

    /// All logs, each behind those that tell of it.
    fn logs_in_order(&self) -> Result<Vec<Arc<Partition>>, BackupFailure> {
        let topics = self.shared.topics.load();
        let place = |partition: &Arc<Partition>| match partition.log_id {
            // What they say of other logs is in the backup too.
            log if log == GROUPS.log() || log == QUEUES.log() => 0,
            log if log == CATALOG.log() => 2,
            log if log == PRODUCERS.log() => 3,
            _ => 1,
        };
        let mut logs: Vec<_> =
            topics.all().flat_map(|served| served.partitions.iter().cloned()).collect();
        logs.sort_by_key(place);
        let recovering = logs.iter().find(|it| it.status() == PartitionStatus::Recovering);
        match recovering {
            None => Ok(logs),
            Some(partition) => Err(BackupFailure::Recovering {
                topic: partition.topic.to_string(),
                partition: partition.index.get(),
            }),
        }
    }
}
