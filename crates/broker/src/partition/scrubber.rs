//! Looks at all sealed segments now and then, slowly, so that rot is found before somebody reads it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use taffrail_log::{Directory, Scrub, ScrubPass, ScrubState, ScrubStep};
use taffrail_model::{LogId, limits};
use tokio::time::Instant;

use super::{LogThreads, OpenLog, Partition};
use crate::clock;
use crate::metrics::add;

/// One look at everything, a log after another.
pub(crate) struct ScrubWork {
    directory: Arc<Directory>,
    /// What is left to look at, ascending by log.
    partitions: VecDeque<(LogId, Weak<Partition>)>,
    going_on: Option<GoingOn>,
    pass: ScrubPass,
    last: Option<ScrubPass>,
    /// When it was last written down how far it has come.
    noted: Instant,
}

struct GoingOn {
    partition: Arc<Partition>,
    open: Arc<OpenLog>,
    scrub: Scrub,
}

impl ScrubWork {
    /// Goes on where the last process has stopped, or begins anew.
    pub(crate) fn new(
        directory: Arc<Directory>,
        mut partitions: Vec<Arc<Partition>>,
        threads: &LogThreads,
    ) -> Self {
        let ScrubState { current, last } = directory.scrub_state();
        let (pass, next) = current.map_or_else(
            || (ScrubPass { began: threads.clock.now(), ..ScrubPass::default() }, None),
            |(pass, next)| (pass, Some(next)),
        );
        partitions.sort_by_key(|partition| partition.log_id);
        let left = partitions.iter().filter(|it| next.is_none_or(|next| next <= it.log_id));
        let partitions = left.map(|it| (it.log_id, Arc::downgrade(it))).collect();
        let noted = clock::instant();
        Self { directory, partitions, going_on: None, pass, last, noted }
    }

    /// Does all of it, or a step where somebody else takes the turns.
    pub(super) fn run(mut self, threads: &LogThreads) {
        loop {
            if threads.is_stopping() {
                self.note();
                return;
            }
            let Some(bytes) = self.step(threads) else {
                return self.conclude(threads);
            };
            if threads.crew.takes_turns() {
                threads.scrubbers.push(self);
                return;
            }
            threads.pace(bytes, threads.scrub_bytes_per_second);
        }
    }

    /// Looks at a little; `None` if that was all.
    fn step(&mut self, threads: &LogThreads) -> Option<u64> {
        let Some(GoingOn { partition, open, scrub }) = &mut self.going_on else {
            let (_, partition) = self.partitions.pop_front()?;
            // One that is gone, or not open, is not looked at this time.
            let partition = partition.upgrade().filter(|partition| !partition.is_deleted());
            self.going_on = partition.and_then(|partition| {
                let open = partition.open_log()?;
                let scrub = open.reader.begin_scrub();
                Some(GoingOn { partition, open, scrub })
            });
            return Some(0);
        };
        if !partition.has(open) {
            self.going_on = None;
            return Some(0);
        }
        let (topic, index) = (&partition.topic, partition.index);
        let read = match scrub.step() {
            ScrubStep::Sound { bytes, segments } => {
                self.pass.bytes += bytes;
                self.pass.segments += segments;
                add(&threads.metrics.scrubbed_bytes, bytes);
                bytes
            }
            ScrubStep::Damaged(damage) => {
                self.pass.damaged += 1;
                let (from, to, position) = (damage.from, damage.to, damage.position);
                let path = damage.path.display();
                tracing::error!(%topic, partition = %index, %from, %to, %path, position, cause = damage.cause, "records have rotted on disk: restore the file from a backup, or give them up with `taffrail repair`");
                0
            }
            ScrubStep::Unreadable { path, source } => {
                self.pass.damaged += 1;
                let path = path.display();
                tracing::error!(%topic, partition = %index, %path, error = %source, "a segment cannot be read: look at the disk");
                0
            }
            ScrubStep::Done => {
                self.going_on = None;
                if self.noted.elapsed() >= limits::SCRUB_NOTE_INTERVAL {
                    self.note();
                }
                0
            }
        };
        threads.metrics.scrub_damaged.store(self.pass.damaged, Ordering::Relaxed);
        Some(read)
    }

    /// Writes down how far it has come. The log that is being looked at is looked at once more.
    fn note(&mut self) {
        self.noted = clock::instant();
        let going_on = self.going_on.as_ref().map(|going_on| going_on.partition.log_id);
        let next = going_on.or(self.partitions.front().map(|(log, _)| *log));
        let current = next.map(|next| (self.pass, next));
        self.store(&ScrubState { current, last: self.last });
    }

    fn conclude(mut self, threads: &LogThreads) {
        self.pass.ended = threads.clock.now();
        self.store(&ScrubState { current: None, last: Some(self.pass) });
        let ScrubPass { segments, bytes, damaged, .. } = self.pass;
        tracing::info!(segments, bytes, damaged, "looked at all sealed segments");
        threads.scrub_is_over(self.pass.ended);
    }

    fn store(&self, state: &ScrubState) {
        if let Err(error) = self.directory.store_scrub_state(state) {
            tracing::warn!(%error, "how far the scrub has come could not be written down");
        }
    }
}
