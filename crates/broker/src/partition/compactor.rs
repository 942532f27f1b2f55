//! Compacts partitions, one at a time and no faster than it may: everybody else needs the same disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use taffrail_log::{
    Compaction, CompactionConfig, CompactionError, CompactionReport, CompactionStep, Dirt,
};
use taffrail_model::{Offset, Timestamp, limits};
use tokio::time::Instant;

use super::{LogThreads, OpenLog, Partition};
use crate::clock::{self, Stopwatch};
use crate::metrics::add;

/// A compaction that waits for its turn, or is going on.
pub(super) struct CompactionWork {
    partition: Arc<Partition>,
    going_on: Option<GoingOn>,
}

struct GoingOn {
    open: Arc<OpenLog>,
    compaction: Compaction,
    /// What it leaves alone begins there.
    before: Offset,
    began: Stopwatch,
}

/// What has become of a compaction.
enum Progress {
    /// It read and wrote so many bytes, and goes on.
    Worked { bytes: u64 },
    /// It is over.
    Over,
}

impl Partition {
    /// Lets the log be compacted if that is due, and says when to look again.
    pub(super) fn compact_if_due(
        self: &Arc<Self>,
        open: &OpenLog,
        now: Timestamp,
        is_believed: bool,
    ) -> Option<Instant> {
        let settings = self.settings.load();
        if !settings.cleanup.compacts() {
            return None;
        }
        let instant = clock::instant();
        let Dirt { dirty_bytes, sealed_bytes, due } = open.reader.dirt_before(self.needed.first());
        let is_dirty = dirty_bytes > 0
            && dirty_bytes as f64 >= sealed_bytes as f64 * settings.dirty_ratio_min.get();
        let is_over = is_believed && due.is_some_and(|due| due <= now);
        if !is_dirty && !is_over {
            let wait = due.map(|due| due.since(now).min(limits::UPKEEP_INTERVAL));
            return wait.map(|wait| instant + wait.max(Duration::from_secs(1)));
        }
        let blocked = *self.compaction_blocked();
        if let Some(until) = blocked.filter(|until| instant < *until) {
            return Some(until);
        }
        if !self.is_compacting.swap(true, Ordering::AcqRel) {
            add(&self.threads.metrics.compactions_waiting, 1);
            let work = CompactionWork { partition: Arc::clone(self), going_on: None };
            self.threads.compactors.push(work);
        }
        None
    }
}

impl CompactionWork {
    /// Does all of it, or a step where somebody else takes the turns.
    pub(super) fn run(mut self, threads: &LogThreads) {
        loop {
            match self.step(threads) {
                Progress::Worked { .. } if threads.crew.takes_turns() => {
                    threads.compactors.push(self);
                    return;
                }
                Progress::Worked { bytes } => {
                    threads.pace(bytes, threads.compaction_bytes_per_second);
                }
                Progress::Over => {
                    threads.metrics.compactions_waiting.fetch_sub(1, Ordering::Relaxed);
                    self.partition.is_compacting.store(false, Ordering::Release);
                    self.partition.schedule_upkeep();
                    return;
                }
            }
        }
    }

    fn step(&mut self, threads: &LogThreads) -> Progress {
        if threads.is_stopping() {
            return Progress::Over;
        }
        let Some(going_on) = &mut self.going_on else {
            self.going_on = self.begin(threads);
            return match self.going_on {
                Some(_) => Progress::Worked { bytes: 0 },
                None => Progress::Over,
            };
        };
        // Nobody lets go of the log meanwhile.
        let _one = going_on.open.keeping();
        let is_wanted = self.partition.settings.load().cleanup.compacts();
        // Somebody may need since what it takes away.
        let is_free = going_on.before <= self.partition.needed.first();
        if !is_wanted || !is_free || going_on.open.lock().is_none() {
            return Progress::Over;
        }
        match going_on.compaction.step() {
            Ok(CompactionStep::Worked { bytes }) => return Progress::Worked { bytes },
            Ok(CompactionStep::Done(report)) => {
                self.partition.note_compaction(&report, going_on.began.elapsed());
            }
            Err(error) => self.partition.note_failed_compaction(&error),
        }
        Progress::Over
    }

    fn begin(&self, threads: &LogThreads) -> Option<GoingOn> {
        let open = self.partition.open_log()?;
        let settings = self.partition.settings.load();
        if !settings.cleanup.compacts() {
            return None;
        }
        let now = threads.clock.now();
        let is_believed = threads.doubt(now, clock::instant()).is_none();
        let before = self.partition.needed.first();
        let config = CompactionConfig {
            segment_bytes: settings.segment_bytes,
            tombstone_age: settings.tombstone_age,
            before,
            ..CompactionConfig::default()
        };
        let log = open.lock();
        let compaction = log.as_ref()?.begin_compaction(config, now, is_believed);
        drop(log);
        Some(GoingOn { open, compaction, before, began: Stopwatch::start() })
    }
}

impl Partition {
    fn note_compaction(&self, report: &CompactionReport, took: Duration) {
        let left_out = report.segments_left_out;
        let wait = (left_out > 0).then(|| clock::instant() + limits::UPKEEP_INTERVAL);
        *self.compaction_blocked() = wait;
        if left_out > 0 {
            let (topic, partition) = (&self.topic, self.index);
            tracing::warn!(%topic, %partition, left_out, "the partition has more records than compaction looks at: the last segments are not compacted; use more partitions");
        }
        let metrics = &self.threads.metrics;
        add(&metrics.compactions, 1);
        add(&metrics.compaction_read_bytes, report.read_bytes);
        add(&metrics.compaction_written_bytes, report.written_bytes);
        add(&metrics.compacted_records, report.removed_records);
        let (topic, partition, took) = (&self.topic, self.index, took.as_secs_f64());
        let CompactionReport { read_bytes, written_bytes, removed_records, .. } = report;
        tracing::info!(%topic, %partition, took, read_bytes, written_bytes, removed_records, "compacted");
    }

    fn note_failed_compaction(&self, error: &CompactionError) {
        let (topic, partition) = (&self.topic, self.index);
        let wait = match error {
            CompactionError::Outrun => {
                tracing::debug!(%topic, %partition, %error, "not compacted");
                limits::UPKEEP_RETRY
            }
            CompactionError::Damaged { .. } => {
                tracing::error!(%topic, %partition, %error, "not compacted");
                limits::UPKEEP_INTERVAL
            }
            CompactionError::StorageFull { .. } | CompactionError::Io { .. } => {
                tracing::warn!(%topic, %partition, %error, "not compacted; this is tried again");
                limits::UPKEEP_RETRY
            }
        };
        add(&self.threads.metrics.failed_compactions, 1);
        *self.compaction_blocked() = Some(clock::instant() + wait);
    }
}
