//! Gives batches their offsets and writes them: one writer thread has a partition at a time.
//!
//! What is refused before the queue stands in the queue all the same, so that refusals keep their
//! place in the order of their stream.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taffrail_log::{Append, AppendError, Appended, Known, Log, NewBatch};
use taffrail_model::{Offset, limits};

use super::committer::{Settled, Waiting};
use super::{LogState, OpenLog, Partition, Unopened};
use crate::catalog::Durability;
use crate::clock::Stopwatch;
use crate::memory::Charge;
use crate::metrics::add;
use crate::produce::{Fence, Lane, Place, ProduceError, Reply};

/// A batch on its way into a partition.
#[derive(Debug)]
pub(crate) struct AppendRequest {
    /// The batch, or why it was refused on its way here.
    pub(crate) batch: Result<NewBatch, ProduceError>,
    /// The offset that its first record must get, if that matters.
    pub(crate) expected: Option<Offset>,
    /// What stands between its producer and the log.
    pub(crate) fence: Option<Fence>,
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
    /// Too much is written and not synced, or a segment is full: the committer schedules it again.
    Stalled,
}

/// What a writer thread took to write in one go, beside the batches.
#[derive(Default)]
struct Group {
    /// What was asked for, in order, those that are refused included.
    requests: Vec<Admitted>,
    /// Bytes of each payload that is written.
    payload_bytes: Vec<u64>,
    /// The memory of the batches, until they are written.
    charges: Vec<Charge>,
    /// Whether the next batch goes into the next segment.
    must_roll: bool,
}

/// A request whose turn has come.
struct Admitted {
    verdict: Result<Verdict, ProduceError>,
    order: Order,
    reply: Reply,
    arrived: Stopwatch,
}

/// What becomes of a batch that is not refused.
enum Verdict {
    /// It is written.
    Append,
    /// It is there already, if all below an offset is.
    Duplicate { place: Option<Place>, below: Offset },
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

    /// Gives the partition to a writer if something waits: the end of every stall.
    pub(super) fn schedule_append(self: &Arc<Self>) {
        let schedule = {
            let mut state = self.appends.state();
            let waits = !state.requests.is_empty();
            let is_free = state.turn != Turn::Scheduled;
            if is_free {
                state.turn = if waits { Turn::Scheduled } else { Turn::Idle };
            }
            waits && is_free
        };
        if schedule {
            self.push_to_writers();
        }
    }

    /// Writes what waits, up to a bound; called by a writer thread.
    pub(super) fn write_pending(self: &Arc<Self>) {
        match &*self.log.load_full() {
            LogState::Open(open) if self.must_wait_for_sync(open) => return self.stall(),
            LogState::Open(open) => {
                if self.write_some(open) {
                    self.must_roll.store(true, Ordering::Release);
                    return self.stall();
                }
            }
            LogState::Unopened(Unopened { cause, .. }, None) => {
                self.refuse_all(&ProduceError::Offline { cause: cause.clone() });
            }
            LogState::Unopened(Unopened { cause, .. }, Some(_)) => {
                self.refuse_all(&ProduceError::ReadOnly { cause: cause.clone() });
            }
            LogState::Opening(_) => self.refuse_all(&ProduceError::Recovering),
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

    /// Lets a committer go first, who schedules the partition again. It may have been synced in
    /// between: then the committer has nothing to do.
    fn stall(self: &Arc<Self>) {
        self.appends.state().turn = Turn::Stalled;
        self.schedule_commit();
    }

    /// Writes up to a bound; says whether what is next goes into the next segment.
    fn write_some(self: &Arc<Self>, open: &Arc<OpenLog>) -> bool {
        let mut log = open.lock();
        let Some(log) = log.as_mut() else {
            // Let go of, it is opened anew.
            if self.has(open) {
                self.refuse_all(&self.gone());
            }
            return false;
        };
        let start = log.end();
        let mut append = log.begin(self.threads.clock.now());
        let mut group = self.take_group(&mut append);
        let stopwatch = Stopwatch::start();
        let (appended, error) = append.write();
        self.threads.metrics.write_seconds.record(stopwatch.elapsed());
        self.count(&group, &appended);
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
        group.must_roll
    }

    /// Begins the next segment, if a writer has found that it must; called by a committer thread. If
    /// that fails, the writer, whose turn comes next, refuses what should have gone there.
    pub(super) fn roll_if_due(self: &Arc<Self>, open: &OpenLog) {
        if !self.must_roll.swap(false, Ordering::AcqRel) {
            return;
        }
        match open.lock().as_mut().map(Log::roll) {
            Some(Err(error)) => {
                let (topic, partition) = (&self.topic, self.index);
                tracing::warn!(%topic, %partition, %error, "the next segment could not be begun");
                self.roll_failure.store(Some(Arc::new(append_error(&error))));
            }
            // There is one more now.
            Some(Ok(())) => self.schedule_upkeep(),
            None => {}
        }
    }

    /// Takes what goes into one write.
    fn take_group(&self, append: &mut Append<'_>) -> Group {
        let mut group = Group::default();
        let roll_failure = self.roll_failure.swap(None);
        while append.bytes() < limits::WRITE_BYTES_MAX {
            let Some(request) = self.appends.state().requests.pop_front() else { break };
            let AppendRequest { batch, expected, fence, order, reply, charge, arrived } = request;
            let batch = order.lane.admit(order.resumes_after).and(batch);
            let verdict = match batch.and_then(|batch| {
                let verdict = self.judge(&batch, expected, fence.as_ref(), append)?;
                Ok((batch, verdict))
            }) {
                Ok((batch, Verdict::Append)) if append.must_roll(&batch) => {
                    if let Some(error) = &roll_failure {
                        let verdict = Err(self.refused(&order, ProduceError::clone(error)));
                        group.requests.push(Admitted { verdict, order, reply, arrived });
                        continue;
                    }
                    let batch = Ok(batch);
                    let request =
                        AppendRequest { batch, expected, fence, order, reply, charge, arrived };
                    self.appends.state().requests.push_front(request);
                    group.must_roll = true;
                    break;
                }
                Ok((batch, Verdict::Append)) => {
                    group.payload_bytes.push(batch.payload.len() as u64);
                    group.charges.extend(charge);
                    append.push(batch);
                    Ok(Verdict::Append)
                }
                Ok((_, duplicate @ Verdict::Duplicate { .. })) => Ok(duplicate),
                Err(error) => Err(self.refused(&order, error)),
            };
            group.requests.push(Admitted { verdict, order, reply, arrived });
        }
        group
    }

    /// Whether a batch may be written as the next one, or is there already.
    fn judge(
        &self,
        batch: &NewBatch,
        expected: Option<Offset>,
        fence: Option<&Fence>,
        append: &mut Append<'_>,
    ) -> Result<Verdict, ProduceError> {
        if let Some(stamp) = batch.producer.filter(|_| fence.is_some_and(Fence::is_closed)) {
            return Err(ProduceError::NameLost { id: stamp.id });
        }
        match append.find(batch)? {
            Known::Duplicate { place, below } => self.answer_duplicate(place, below),
            Known::New => match expected.filter(|expected| *expected != append.next()) {
                None => Ok(Verdict::Append),
                Some(expected) => {
                    Err(ProduceError::OffsetMismatch { expected, actual: append.next() })
                }
            },
        }
    }

    /// A batch that is there already is as good as the one that was sent first: whose fate nobody
    /// knows once a sync has failed.
    fn answer_duplicate(
        &self,
        place: Option<Appended>,
        below: Offset,
    ) -> Result<Verdict, ProduceError> {
        let poisoned = self.open_log().and_then(|open| open.syncer.poisoned());
        if let Some(cause) = poisoned.filter(|_| self.high_watermark() < below) {
            return Err(ProduceError::ResultUnknown { cause });
        }
        add(&self.threads.metrics.duplicate_batches, 1);
        Ok(Verdict::Duplicate { place: place.map(place_of), below })
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
            let outcome = verdict.and_then(|verdict| {
                match verdict {
                    Verdict::Duplicate { place, below } if below <= end => {
                        return Ok(Settled { place, is_duplicate: true });
                    }
                    // Of one that came just before it, and could not be written.
                    Verdict::Duplicate { .. } => {}
                    Verdict::Append => {
                        if let Some(appended) = written.next() {
                            end = appended.end_offset;
                            let place = Some(place_of(*appended));
                            return Ok(Settled { place, is_duplicate: false });
                        }
                    }
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
            Waiting { end, outcome, order, reply, arrived }
        };
        requests.into_iter().map(settle).collect()
    }

    /// Why a partition whose log was closed takes nothing.
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

    fn count(&self, group: &Group, appended: &[Appended]) {
        let metrics = &self.threads.metrics;
        let records = appended.iter().map(|it| it.end_offset.since(it.base_offset));
        add(&metrics.produced_batches, appended.len() as u64);
        add(&metrics.produced_records, records.sum());
        add(&metrics.produced_bytes, group.payload_bytes.iter().take(appended.len()).sum());
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

fn place_of(appended: Appended) -> Place {
    Place { base_offset: appended.base_offset, append_time: appended.append_time }
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
