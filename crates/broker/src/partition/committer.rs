//! Makes what was written committed: one sync for everybody who waits, and the next group gathers
//! meanwhile. That is the group commit; there is no timer.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taffrail_log::SyncError;
use taffrail_model::Offset;

use super::appender::Order;
use super::{OpenLog, Partition};
use crate::clock::Stopwatch;
use crate::produce::{Place, ProduceError, Produced, Reply};

/// A request that is decided and not answered.
#[derive(Debug)]
pub(super) struct Waiting {
    /// It is answered once everything below this is committed.
    pub(super) end: Offset,
    /// Where its batch is, or why it was refused.
    pub(super) outcome: Result<Settled, ProduceError>,
    pub(super) order: Order,
    pub(super) reply: Reply,
    pub(super) arrived: Stopwatch,
}

/// Where a batch is that is not refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) place: Option<Place>,
    pub(super) is_duplicate: bool,
}

/// What waits to be committed, ascending by offset.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    turn: Turn,
}

/// Where a partition stands in the committers' queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Idle,
    /// It waits for a committer.
    Scheduled,
    /// A committer has it.
    Running,
    /// A committer has it, and more was written since.
    RunningAgain,
}

impl Queue {
    pub(super) fn wait(&self, waiting: Vec<Waiting>) {
        self.state().waiting.extend(waiting);
    }

    /// Answers what waits for nothing above `end`. Under the lock, since two threads may be here:
    /// answers keep their order.
    fn answer_below(&self, end: Offset, answer: impl Fn(Waiting)) {
        let mut state = self.state();
        let covered = state.waiting.iter().take_while(|waiting| waiting.end <= end).count();
        state.waiting.drain(..covered).for_each(answer);
    }

    fn take_all(&self) -> VecDeque<Waiting> {
        std::mem::take(&mut self.state().waiting)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partition {
    /// Gives the partition to a committer, if none has it that will see what was written.
    pub(super) fn schedule_commit(self: &Arc<Self>) {
        let schedule = {
            let mut state = self.commits.state();
            let idle = state.turn == Turn::Idle;
            match state.turn {
                Turn::Idle => state.turn = Turn::Scheduled,
                Turn::Running => state.turn = Turn::RunningAgain,
                Turn::Scheduled | Turn::RunningAgain => {}
            }
            idle
        };
        if schedule {
            self.threads.committers.push(Arc::clone(self));
        }
    }

    /// Lets a committer have the partition within the interval of lazy syncs.
    pub(super) fn schedule_lazy_commit(self: &Arc<Self>) {
        if !self.lazy_sync.swap(true, Ordering::AcqRel) {
            self.threads.lazy.push(Arc::clone(self));
        }
    }

    /// The interval has passed.
    pub(super) fn lazy_commit(self: &Arc<Self>) {
        self.lazy_sync.store(false, Ordering::Release);
        self.schedule_commit();
    }

    /// Syncs what was written and answers who waits; called by a committer thread.
    pub(super) fn commit(self: &Arc<Self>) {
        self.commits.state().turn = Turn::Running;
        if let Some(open) = self.open_log() {
            self.sync(&open);
        }
        let again = {
            let mut state = self.commits.state();
            let again = state.turn == Turn::RunningAgain;
            state.turn = if again { Turn::Scheduled } else { Turn::Idle };
            again
        };
        if again {
            self.threads.committers.push(Arc::clone(self));
        }
        // A writer that waited for this sync goes on.
        self.schedule_append();
    }

    fn sync(self: &Arc<Self>, open: &Arc<OpenLog>) {
        let was_poisoned = open.syncer.is_poisoned();
        let stopwatch = Stopwatch::start();
        let result = open.syncer.sync();
        self.threads.metrics.sync_seconds.record(stopwatch.elapsed());
        match result {
            // What was let go of since ends where the log that is opened anew says.
            Ok(end) if self.has(open) => {
                self.commit_written(end);
                self.roll_if_due(open);
            }
            Ok(_) => {}
            Err(SyncError::Poisoned { cause }) => {
                if !was_poisoned {
                    let (topic, partition) = (&self.topic, self.index);
                    tracing::error!(%topic, %partition, cause, "sync failed: the partition is read-only");
                }
                // Where it was let go of, what waits may be of the log that was opened since.
                let log = open.lock();
                if log.is_some() {
                    self.give_up(&cause);
                }
            }
        }
    }

    /// Everything below `end` is committed: readers see it, and who waits is answered.
    pub(super) fn commit_written(&self, end: Offset) {
        self.watermark.send_if_modified(|watermark| {
            let moved = *watermark < end;
            *watermark = end.max(*watermark);
            moved
        });
        self.commits.answer_below(end, |Waiting { outcome, reply, arrived, .. }| {
            reply.send(outcome.map(|Settled { place, is_duplicate }| {
                self.threads.metrics.produce_seconds.record(arrived.elapsed());
                Produced { place, high_watermark: end, is_duplicate }
            }));
        });
    }

    /// What waits has an unknown fate: the sync that it waits for failed, or will not come. Whatever
    /// its stream sent behind it is not to go in front of it.
    pub(super) fn give_up(&self, cause: &str) {
        for Waiting { outcome, order, reply, .. } in self.commits.take_all() {
            if outcome.is_ok() {
                order.lane.refuse(order.number);
            }
            let unknown = || ProduceError::ResultUnknown { cause: cause.to_owned() };
            reply.send(Err(outcome.err().unwrap_or_else(unknown)));
        }
    }
}
