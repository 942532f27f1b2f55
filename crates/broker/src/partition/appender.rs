//! Gives batches their offsets and writes them: one writer thread has a partition at a time.
//!
//! What is refused before the queue stands in the queue all the same, so that refusals keep their
//! place in the order of their stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taffrail_log::{AppendError, Appended, NewBatch};
use taffrail_model::batch::HEADER_BYTES;
use taffrail_model::{Offset, limits};

use super::committer::Waiting;
use super::{OpenLog, Partition};
use crate::catalog::Durability;
use crate::clock::Stopwatch;
use crate::memory::Charge;
use crate::metrics::add;
use crate::produce::{Lane, ProduceError, Reply};

/// A batch on its way into a partition.
#[derive(Debug)]
pub(crate) struct AppendRequest {
    /// The batch, or why it was refused on its way here.
    pub(crate) batch: Result<NewBatch, ProduceError>,
    /// The offset that its first record must get, if that matters.
    pub(crate) expected: Option<Offset>,
    /// Its place in its stream.
    pub(crate) order: Order,
    /// Who wants to know.
    pub(crate) reply: Reply,
    /// The memory that it holds.
    pub(crate) charge: Option<Charge>,
    /// Since when it is on its way.
    pub(crate) arrived: Stopwatch,
}

/// A request's place in its stream.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) lane: Arc<Lane>,
    pub(crate) number: u64,
    pub(crate) resumes_after: u64,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<AppendRequest>,
    turn: Turn,
}

/// Where a partition stands in the writers' queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// It has nothing to write.
    #[default]
    Idle,
    /// It waits for a writer, or has one.
    Scheduled,
    /// Too much is written and not synced: the committer schedules it again.
    Stalled,
}

/// What a writer thread took to write in one go.
#[derive(Default)]
struct Group {
    batches: Vec<NewBatch>,
    /// What was asked for, in order, those that are refused included.
    requests: Vec<Admitted>,
    /// The memory of the batches, until they are written.
    charges: Vec<Charge>,
}

/// A request whose turn has come.
struct Admitted {
    verdict: Result<(), ProduceError>,
    order: Order,
    reply: Reply,
    arrived: Stopwatch,
}

impl Partition {
    /// Puts a batch into the partition's queue. The reply comes once it is committed or refused.
    pub(crate) fn submit(self: &Arc<Self>, request: AppendRequest) {
        let schedule = {
            let mut state = self.appends.state();
            state.requests.push_back(request);
            let is_idle = state.turn == Turn::Idle;
            if is_idle {
                state.turn = Turn::Scheduled;
            }
            is_idle
        };
        if schedule {
            self.push_to_writers();
        }
    }

    /// Gives the partition to a writer; when there are none any more, nothing is written.
    fn push_to_writers(self: &Arc<Self>) {
        if !self.threads.writers.push(Arc::clone(self)) {
            self.appends.state().turn = Turn::Idle;
            self.refuse_all(&ProduceError::Stopping);
        }
    }

    /// Gives the partition to a writer if something waits.
    pub(super) fn schedule_append(self: &Arc<Self>) {
        let schedule = {
            let mut state = self.appends.state();
            let waits = !state.requests.is_empty() && state.turn != Turn::Scheduled;
            if waits {
                state.turn = Turn::Scheduled;
            }
            waits
        };
        if schedule {
            self.push_to_writers();
        }
    }

    /// Writes what waits, up to a bound; called by a writer thread.
    pub(super) fn write_pending(self: &Arc<Self>) {
        match self.log.get() {
            Some(Ok(open)) if self.must_wait_for_sync(open) => {
                self.appends.state().turn = Turn::Stalled;
                // It may have been synced in between: then this sync has nothing to do, and the
                // writer's turn comes again.
                self.schedule_commit();
                return;
            }
            Some(Ok(open)) => self.write_some(open),
            Some(Err(cause)) => self.refuse_all(&ProduceError::Offline { cause: cause.clone() }),
            None => self.refuse_all(&ProduceError::Recovering),
        }
        let again = {
            let mut state = self.appends.state();
            let again = !state.requests.is_empty();
            state.turn = if again { Turn::Scheduled } else { Turn::Idle };
            again
        };
        if again {
            self.push_to_writers();
        }
    }

    fn write_some(self: &Arc<Self>, open: &OpenLog) {
        let mut log = open.lock();
        let Some(log) = log.as_mut() else { return self.refuse_all(&self.gone()) };
        let start = log.end();
        let mut group = self.take_group(start);
        let stopwatch = Stopwatch::start();
        let (appended, error) = log.append(&group.batches, self.threads.clock.now());
        self.threads.metrics.write_seconds.record(stopwatch.elapsed());
        self.count(&group, appended.len());
        group.charges.clear();
        self.commits.wait(self.settle(group.requests, start, &appended, error.as_ref()));
        match self.settings.load().durability {
            Durability::Fsync => self.schedule_commit(),
            // What a failed sync leaves behind is not committed by being written.
            Durability::PageCache if open.syncer.is_poisoned() => self.schedule_commit(),
            Durability::PageCache => {
                self.commit_written(log.end());
                // Early enough that writers seldom have to wait for it.
                if open.syncer.unsynced_bytes() >= limits::UNSYNCED_BYTES_PAGE_CACHE_MAX / 4 {
                    self.schedule_commit();
                } else {
                    self.schedule_lazy_commit();
                }
            }
        }
    }

    /// Takes what goes into one write; `next` is the log's end.
    fn take_group(&self, mut next: Offset) -> Group {
        let mut group = Group::default();
        let mut bytes = 0;
        while bytes < limits::WRITE_BYTES_MAX {
            let Some(request) = self.appends.state().requests.pop_front() else { break };
            let AppendRequest { batch, expected, order, reply, charge, arrived } = request;
            let verdict = match admit(batch, expected, &order, next) {
                Ok(batch) => {
                    next = next.advance(u64::from(batch.record_count));
                    bytes += HEADER_BYTES + batch.payload.len();
                    group.batches.push(batch);
                    group.charges.extend(charge);
                    Ok(())
                }
                Err(error) => Err(self.refused(&order, error)),
            };
            group.requests.push(Admitted { verdict, order, reply, arrived });
        }
        group
    }

    /// What the requests of a group wait for: their own commit, or, where they were refused, that
    /// of what came before them, so that answers keep the order of requests.
    fn settle(
        &self,
        requests: Vec<Admitted>,
        start: Offset,
        appended: &[Appended],
        error: Option<&AppendError>,
    ) -> Vec<Waiting> {
        let mut written = appended.iter();
        let mut end = start;
        let settle = |Admitted { verdict, order, reply, arrived }| {
            let outcome = verdict.and_then(|()| {
                if let Some(appended) = written.next() {
                    end = appended.end_offset;
                    return Ok(*appended);
                }
                // The first one of its stream failed by itself, those behind it by being behind it.
                Err(match (order.lane.refuse(order.number), error) {
                    (None, Some(error)) => self.count_refusal(append_error(error)),
                    (refused, _) => {
                        let refused = refused.unwrap_or(order.number);
                        self.count_refusal(ProduceError::PrecedingFailed { refused })
                    }
                })
            });
            Waiting { end, outcome, reply, arrived }
        };
        requests.into_iter().map(settle).collect()
    }

    /// Why a partition without a log takes nothing.
    pub(super) fn gone(&self) -> ProduceError {
        if self.is_deleted() {
            let topic = self.topic.to_string();
            return ProduceError::UnknownTopic { topic, nearest: None };
        }
        ProduceError::Stopping
    }

    pub(super) fn refuse_all(&self, error: &ProduceError) {
        loop {
            let Some(request) = self.appends.state().requests.pop_front() else { return };
            let admitted = request.order.lane.admit(request.order.resumes_after);
            let error = admitted.err().unwrap_or_else(|| error.clone());
            let error = self.refused(&request.order, error);
            request.reply.send(Err(error));
        }
    }

    /// Takes note of a refusal.
    fn refused(&self, order: &Order, error: ProduceError) -> ProduceError {
        if !matches!(error, ProduceError::PrecedingFailed { .. }) {
            order.lane.refuse(order.number);
        }
        self.count_refusal(error)
    }

    fn count_refusal(&self, error: ProduceError) -> ProduceError {
        add(&self.threads.metrics.refused_batches, 1);
        error
    }

    fn count(&self, group: &Group, appended: usize) {
        let batches = group.batches.get(..appended).unwrap_or_default();
        let metrics = &self.threads.metrics;
        add(&metrics.produced_batches, batches.len() as u64);
        add(&metrics.produced_records, batches.iter().map(|b| u64::from(b.record_count)).sum());
        add(&metrics.produced_bytes, batches.iter().map(|b| b.payload.len() as u64).sum());
    }

    /// Whether so much is written and not synced that a sync would take long. Nothing is worth
    /// waiting for once syncs fail.
    fn must_wait_for_sync(&self, open: &OpenLog) -> bool {
        let bytes_max = match self.settings.load().durability {
            Durability::Fsync => limits::UNSYNCED_BYTES_MAX,
            Durability::PageCache => limits::UNSYNCED_BYTES_PAGE_CACHE_MAX,
        };
        open.syncer.unsynced_bytes() >= bytes_max && !open.syncer.is_poisoned()
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a batch may be written as the next one, at offset `next`.
fn admit(
    batch: Result<NewBatch, ProduceError>,
    expected: Option<Offset>,
    order: &Order,
    next: Offset,
) -> Result<NewBatch, ProduceError> {
    order.lane.admit(order.resumes_after)?;
    let batch = batch?;
    match expected {
        Some(expected) if expected != next => {
            Err(ProduceError::OffsetMismatch { expected, actual: next })
        }
        _ => Ok(batch),
    }
}

fn append_error(error: &AppendError) -> ProduceError {
    match error {
        AppendError::Poisoned { cause } | AppendError::ReadOnly { cause } => {
            ProduceError::ReadOnly { cause: cause.clone() }
        }
        AppendError::StorageFull { path } => ProduceError::StorageFull { path: path.clone() },
        AppendError::Io { path, source } => {
            ProduceError::Io { path: path.clone(), source: Arc::clone(source) }
        }
    }
}
