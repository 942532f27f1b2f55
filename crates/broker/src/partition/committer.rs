//! Makes what was written committed: one sync for everybody who waits, and the next group gathers
//! meanwhile. That is the group commit; there is no timer.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use taffrail_log::{SyncError, sync_together};
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

/// How long committers wait for one that syncs many partitions: meanwhile more of them come together.
/// One that takes longer is waiting for somebody else's writes; nobody waits with it.
const GATHER_MAX: Duration = Duration::from_millis(50);

/// Whether a committer syncs many partitions at once: one at a time does.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    state: Mutex<GatheringState>,
    ended: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GatheringState {
    #[default]
    Idle,
    Syncing,
    /// Somebody has waited for it long enough.
    Late,
}

/// A sync of many partitions, until this is dropped.
pub(super) struct Gathered<'a>(&'a Gathering);

impl Gathering {
    /// Waits for a while until nobody syncs many partitions, and then may; `None` if somebody still does.
    fn begin(&self) -> Option<Gathered<'_>> {
        let is_awaited = |state: &mut GatheringState| *state == GatheringState::Syncing;
        let waited = self.ended.wait_timeout_while(self.state(), GATHER_MAX, is_awaited);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *state != GatheringState::Idle {
            *state = GatheringState::Late;
            return None;
        }
        *state = GatheringState::Syncing;
        Some(Gathered(self))
    }

    fn state(&self) -> MutexGuard<'_, GatheringState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Gathered<'_> {
    fn drop(&mut self) {
        *self.0.state() = GatheringState::Idle;
        self.0.ended.notify_all();
    }
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

/// A partition that is being synced.
struct Commit {
    partition: Arc<Partition>,
    open: Arc<OpenLog>,
    was_poisoned: bool,
}

impl Commit {
    /// The sync came to its end.
    fn answer(&self, result: Result<Offset, SyncError>) {
        let Self { partition, open, was_poisoned } = self;
        match result {
            // What was let go of since ends where the log that is opened anew says.
            Ok(end) if partition.has(open) => partition.commit_written(end),
            Ok(_) => {}
            Err(SyncError::Poisoned { cause }) => {
                if !was_poisoned {
                    let (topic, partition) = (&partition.topic, partition.index);
                    tracing::error!(%topic, %partition, cause, "sync failed: the partition is read-only");
                }
                // Where it was let go of, what waits may be of the log that was opened since.
                let log = open.lock();
                if log.is_some() {
                    partition.give_up(&cause);
                }
            }
        }
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

    /// Syncs what was written and answers who waits; called by a committer thread. Where many partitions
    /// wait, one call syncs them all.
    pub(super) fn commit(self: Arc<Self>) {
        let threads = Arc::clone(&self.threads);
        let can_gather = self.open_log().is_some_and(|open| open.syncer.can_sync_together());
        let gathered = if can_gather { threads.gathering.begin() } else { None };
        let mut partitions = vec![self];
        if gathered.is_some() {
            partitions.extend(threads.committers.drain_many(threads.sync_together_min - 1));
        }
        // The others need not wait for one that syncs a single partition.
        let gathered = gathered.filter(|_| partitions.len() > 1);
        let commits: Vec<_> = partitions.iter().filter_map(Self::begin_commit).collect();
        let syncers: Vec<_> = commits.iter().map(|commit| commit.open.syncer.clone()).collect();
        let stopwatch = Stopwatch::start();
        let synced = match syncers.as_slice() {
            [syncer] => vec![syncer.sync()],
            syncers => sync_together(syncers),
        };
        // The next ones may be synced while these are answered.
        drop(gathered);
        if !synced.is_empty() {
            threads.metrics.sync_seconds.record(stopwatch.elapsed());
        }
        for (commit, result) in commits.iter().zip(synced) {
            commit.answer(result);
        }
        // Nobody waits for a segment that another one begins.
        let (later, now): (Vec<_>, Vec<_>) =
            partitions.into_iter().partition(|it| it.must_roll.load(Ordering::Acquire));
        now.iter().for_each(Self::end_commit);
        for partition in &later {
            if let Some(open) = partition.open_log() {
                partition.roll_if_due(&open);
            }
            partition.end_commit();
        }
    }

    /// A committer has the partition from here on; `None` if it has no log.
    fn begin_commit(self: &Arc<Self>) -> Option<Commit> {
        self.commits.state().turn = Turn::Running;
        let open = self.open_log()?;
        let was_poisoned = open.syncer.is_poisoned();
        Some(Commit { partition: Arc::clone(self), open, was_poisoned })
    }

    fn end_commit(self: &Arc<Self>) {
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
