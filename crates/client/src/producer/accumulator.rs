//! Collects records into batches, and passes full ones on.
//!
//! Lives under the producer's one lock; does no I/O and never waits. Times come in as arguments.
//! Invariant: a partition has at most one open batch, which is younger than all its others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use taffrail_model::batch::{RecordFields, RecordSetBuilder};
use taffrail_model::{Offset, PartitionIndex, partition_for_key};

use super::delivery::{BatchOutcome, Delivery};
use super::identity::Identity;
use super::lane::Fresh;
use super::settings::{Acks, Settings, TopicFacts};
use super::state::{Outgoing, Pipeline};
use super::tally::Tally;
use super::{ProduceError, ProducerStats, Record};
use crate::retry::{self, Backoff};
use crate::{CallError, ServerError};

/// Batches waiting in a partition from which on new ones grow larger.
const BUSY_BATCHES: usize = 4;

/// How often what is unsettled is looked through for what is late.
const LATE_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A batch that takes no more records.
#[derive(Clone, Debug)]
pub(super) struct SealedBatch {
    pub(super) payload: Bytes,
    pub(super) record_count: u32,
    pub(super) outcome: Arc<BatchOutcome>,
    pub(super) partition: PartitionIndex,
}

struct OpenBatch {
    id: u64,
    builder: RecordSetBuilder,
    outcome: Arc<BatchOutcome>,
    bytes_max: usize,
    deadline: Instant,
}

/// All that a producer holds.
pub(super) struct Accumulator {
    facts: TopicFacts,
    settings: Settings,
    open: Vec<Option<OpenBatch>>,
    pipeline: Pipeline<SealedBatch>,
    /// Partitions whose open batch may go because nothing of them is in flight.
    eager: VecDeque<usize>,
    /// Whether who sends has not heard of the last of them.
    has_new_eager: bool,
    /// Open batches and when they must go, the earliest first.
    lingering: VecDeque<(Instant, usize, u64)>,
    next_batch_id: u64,
    /// Where records without a key go, until that batch is sealed.
    sticky: usize,
    /// Number of the stream that takes requests; one that broke before gets no more.
    stream: u64,
    /// Who sends, while it has nothing to send.
    sender: Option<Waker>,
    /// When the driver looks again.
    armed: Option<Instant>,
    /// When what is late is looked for again.
    late_check_at: Option<Instant>,
    tally: Tally,
    is_closed: bool,
}

/// A record that was taken.
pub(super) struct Accepted {
    pub(super) delivery: Delivery,
    /// A batch became full.
    pub(super) has_sealed: bool,
    /// Who has something to send now.
    pub(super) sender: Option<Waker>,
    /// Whether the driver must look sooner than it would.
    pub(super) rearm: bool,
}

/// Why a record was not taken.
pub(super) enum NotAccepted {
    /// There is no room now.
    Full,
    /// It cannot be sent.
    Failed(ProduceError),
}

impl Accumulator {
    /// Of an idempotent producer if there is an identity.
    pub(super) fn new(facts: TopicFacts, settings: Settings, identity: Option<Identity>) -> Self {
        let lanes = facts.partitions as usize;
        let pipeline = Pipeline::new(lanes, settings.delivery_timeout, Backoff::REQUEST, identity);
        Self {
            open: std::iter::repeat_with(|| None).take(lanes).collect(),
            pipeline,
            eager: VecDeque::new(),
            has_new_eager: false,
            lingering: VecDeque::new(),
            next_batch_id: 0,
            sticky: (retry::random() % lanes as u64) as usize,
            stream: 0,
            sender: None,
            armed: None,
            late_check_at: None,
            tally: Tally::default(),
            is_closed: false,
            facts,
            settings,
        }
    }

    /// Adds a record to its partition's open batch.
    pub(super) fn accept(&mut self, record: &Record<'_>) -> Result<Accepted, NotAccepted> {
        if self.is_closed {
            return Err(NotAccepted::Failed(ProduceError::Closed));
        }
        if self.pipeline.is_fenced() {
            return Err(NotAccepted::Failed(ProduceError::Fenced));
        }
        let record_bytes = record.fields.encoded_bytes();
        let record_bytes_max = self.facts.payload_bytes_max;
        if record_bytes > record_bytes_max {
            let error = ProduceError::RecordTooLarge { record_bytes, record_bytes_max };
            return Err(NotAccepted::Failed(error));
        }
        let buffered = self.tally.stats().buffered_bytes;
        if buffered > 0 && buffered + record_bytes > self.settings.buffer_bytes {
            return Err(NotAccepted::Full);
        }
        let lane = self.place(record).map_err(NotAccepted::Failed)?;
        let mut has_sealed = false;
        if let Some(open) = &self.open[lane]
            && open.builder.payload_bytes() + record_bytes > open.bytes_max
        {
            self.seal(lane);
            has_sealed = true;
        }
        let (delivery, rearm) = self.push(lane, &record.fields, record_bytes);
        let is_full = |open: &OpenBatch| open.builder.payload_bytes() >= open.bytes_max;
        if self.open[lane].as_ref().is_some_and(is_full) {
            self.seal(lane);
            has_sealed = true;
        }
        let may_send = has_sealed || std::mem::take(&mut self.has_new_eager);
        let sender = if may_send { self.sender.take() } else { None };
        Ok(Accepted { delivery, has_sealed, sender, rearm })
    }

    fn place(&self, record: &Record<'_>) -> Result<usize, ProduceError> {
        let partitions = self.facts.partitions;
        match (record.partition, record.fields.key) {
            (Some(partition), _) if partition.get() >= partitions => {
                Err(ProduceError::NoSuchPartition { partition, partitions })
            }
            (Some(partition), _) => Ok(partition.get() as usize),
            (None, Some(key)) => Ok(partition_for_key(key, partitions).get() as usize),
            (None, None) => Ok(self.sticky),
        }
    }

    fn push(
        &mut self,
        lane: usize,
        fields: &RecordFields<'_>,
        record_bytes: usize,
    ) -> (Delivery, bool) {
        let mut rearm = false;
        if self.open[lane].is_none() {
            rearm = self.open_batch(lane, record_bytes);
        }
        let open = self.open[lane].as_mut().expect("opened above");
        let index = open.builder.record_count();
        open.builder.push(fields);
        self.tally.accepted(record_bytes);
        (Delivery::new(Arc::clone(&open.outcome), index), rearm)
    }

    fn open_batch(&mut self, lane: usize, record_bytes: usize) -> bool {
        let now = Instant::now();
        let is_busy = self.pipeline.queued(lane) >= BUSY_BATCHES;
        let bytes_max =
            if is_busy { self.settings.batch_bytes_busy } else { self.settings.batch_bytes };
        let bytes_max = bytes_max.min(self.facts.payload_bytes_max);
        let id = self.next_batch_id;
        self.next_batch_id += 1;
        self.open[lane] = Some(OpenBatch {
            id,
            // Partitions with little traffic should not hold a full batch's memory each.
            builder: RecordSetBuilder::with_capacity(if self.open.len() > 64 {
                record_bytes
            } else {
                bytes_max.max(record_bytes)
            }),
            outcome: Arc::default(),
            bytes_max,
            deadline: now + self.settings.delivery_timeout,
        });
        if self.pipeline.is_idle(lane) {
            self.eager.push_back(lane);
            self.has_new_eager = true;
            self.must_look_by(now + LATE_CHECK_INTERVAL)
        } else {
            let due = now + self.settings.linger;
            self.lingering.push_back((due, lane, id));
            self.must_look_by(due)
        }
    }

    /// Whether the driver has to be told that it must look by `when`.
    fn must_look_by(&mut self, when: Instant) -> bool {
        let is_later = self.armed.is_none_or(|armed| armed > when);
        if is_later {
            self.armed = Some(when);
        }
        is_later
    }

    /// Closes the partition's open batch and queues it.
    fn seal(&mut self, lane: usize) {
        let Some(open) = self.open[lane].take() else { return };
        if lane == self.sticky {
            self.sticky = (lane + 1) % self.open.len();
        }
        let batch = SealedBatch {
            record_count: open.builder.record_count(),
            payload: open.builder.finish(),
            outcome: open.outcome,
            partition: PartitionIndex::new(lane as u32),
        };
        let (bytes, records) = (self.request_bytes(&batch), batch.record_count);
        self.pipeline.push(lane, Fresh { batch, bytes, records, deadline: open.deadline });
    }

    /// Closes all open batches and queues them.
    pub(super) fn seal_all(&mut self) {
        (0..self.open.len()).for_each(|lane| self.seal(lane));
    }

    /// Bytes of the request that carries the batch, at the most.
    fn request_bytes(&self, batch: &SealedBatch) -> u64 {
        /// Numbers, tags and lengths around name and payload.
        const AROUND: usize = 64;
        (batch.payload.len() + self.facts.topic.as_str().len() + AROUND) as u64
    }

    /// The next request to send; leaves `waker` to be woken if there is none.
    pub(super) fn next(&mut self, now: Instant, waker: &Waker) -> Option<Outgoing<SealedBatch>> {
        let outgoing = self.pipeline.next(now).or_else(|| self.next_eager(now));
        if outgoing.is_none() && !self.sender.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.sender = Some(waker.clone());
        }
        outgoing
    }

    fn next_eager(&mut self, now: Instant) -> Option<Outgoing<SealedBatch>> {
        while self.pipeline.has_room() {
            let lane = self.eager.pop_front()?;
            if self.open[lane].is_some() && self.pipeline.is_idle(lane) {
                self.seal(lane);
                let outgoing = self.pipeline.next(now);
                if outgoing.is_some() {
                    return outgoing;
                }
            }
        }
        None
    }

    /// A request without acknowledgement was handed over: its batch is done with.
    pub(super) fn handed_over(&mut self, number: u64, now: Instant) {
        self.pipeline.answered(number, Ok(None), now);
        self.settle_all();
    }

    /// A stream was opened.
    pub(super) fn opened(&mut self, bytes_max: u64, requests_max: u32) -> Option<Waker> {
        self.pipeline.opened(bytes_max, requests_max);
        self.sender.take()
    }

    /// Takes the answer to request `number`; `partition` as the answer says it.
    pub(super) fn answered(
        &mut self,
        number: u64,
        answer: Result<Option<Offset>, ServerError>,
        partition: Option<PartitionIndex>,
        now: Instant,
    ) -> Option<Waker> {
        if self.settings.acks == Acks::None {
            let lane = partition.map_or(usize::MAX, |partition| partition.get() as usize);
            if let Err(error) = answer {
                self.pipeline.refused_unasked(lane, number, &error);
                self.tally.refused_unasked(error);
            }
            return None;
        }
        self.pipeline.answered(number, answer, now);
        if self.pipeline.is_fenced() {
            self.seal_all();
        }
        while let Some(settled) = self.pipeline.next_settled() {
            let lane = settled.batch.partition.get() as usize;
            self.tally.settle(settled);
            if self.open[lane].is_some() && self.pipeline.is_idle(lane) {
                self.eager.push_back(lane);
            }
        }
        self.sender.take()
    }

    fn settle_all(&mut self) {
        while let Some(settled) = self.pipeline.next_settled() {
            self.tally.settle(settled);
        }
    }

    /// Number of the stream that takes requests.
    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    /// The stream broke because of `cause`.
    ///
    /// Returns who sent on it: it gets no more requests, and ends once woken.
    pub(super) fn broken(&mut self, cause: &str) -> Option<Waker> {
        self.stream += 1;
        self.pipeline.broken(cause);
        self.settle_all();
        // Whatever is open may go at once over the next stream.
        let is_eager = |lane: &usize| self.open[*lane].is_some() && self.pipeline.is_idle(*lane);
        let eager: Vec<usize> = (0..self.open.len()).filter(is_eager).collect();
        self.eager = eager.into();
        self.sender.take()
    }

    /// Does what is due: what lingered goes, what paused goes on, what is late fails with `cause`.
    ///
    /// Returns who has something to send, and when to look again.
    pub(super) fn tick(&mut self, now: Instant, cause: &str) -> (Option<Waker>, Option<Instant>) {
        while let Some((due, lane, id)) = self.lingering.front().copied() {
            let is_open = self.open[lane].as_ref().is_some_and(|open| open.id == id);
            if is_open && due > now {
                break;
            }
            self.lingering.pop_front();
            if is_open {
                self.seal(lane);
            }
        }
        self.pipeline.wake(now);
        if self.late_check_at.is_none_or(|at| at <= now) {
            self.late_check_at = Some(now + LATE_CHECK_INTERVAL);
            self.expire(now, cause);
        }
        let lingering = self.lingering.front().map(|(due, ..)| *due);
        let late = self.late_check_at.filter(|_| !self.is_empty());
        self.armed = [lingering, self.pipeline.next_wake(), late].into_iter().flatten().min();
        (self.sender.take(), self.armed)
    }

    /// Fails with `cause` what was not sent in time.
    fn expire(&mut self, now: Instant, cause: &str) {
        let is_late = |open: &OpenBatch| open.deadline <= now;
        for index in 0..self.eager.len() {
            let lane = self.eager[index];
            if self.open[lane].as_ref().is_some_and(is_late) {
                self.seal(lane);
            }
        }
        self.pipeline.expire(now, cause);
        self.settle_all();
    }

    /// Whether a request stays unanswered for too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.pipeline.is_overdue(now)
    }

    /// Fails all there is because of `refusal`, while there is no stream or nothing goes over it.
    pub(super) fn fail_all(&mut self, refusal: &ServerError) {
        self.seal_all();
        self.pipeline.fail_queued(refusal);
        self.settle_all();
    }

    /// The identity to replace, once nothing depends on it any more.
    pub(super) fn to_renew(&self) -> Option<Identity> {
        self.pipeline.to_renew()
    }

    /// Takes a new identity. Returns who has something to send.
    pub(super) fn renewed(&mut self, identity: Identity) -> Option<Waker> {
        self.pipeline.renewed(identity);
        self.sender.take()
    }

    /// There is no new identity because of `error`.
    pub(super) fn not_renewed(&mut self, error: &CallError) {
        self.pipeline.not_renewed(error);
        if self.pipeline.is_fenced() {
            self.seal_all();
        }
        self.settle_all();
    }

    /// Everything that is not settled, to wait for.
    pub(super) fn unsettled(&self) -> Vec<Delivery> {
        let outcomes = self.pipeline.batches().map(|batch| &batch.outcome);
        outcomes.map(|outcome| Delivery::new(Arc::clone(outcome), 0)).collect()
    }

    /// Whether nothing is open or unsettled.
    pub(super) fn is_empty(&self) -> bool {
        self.tally.stats().buffered_bytes == 0 && self.pipeline.unsettled() == 0
    }

    pub(super) fn has_room(&self) -> bool {
        self.tally.stats().buffered_bytes < self.settings.buffer_bytes
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether it was closed and nothing is left to deliver.
    pub(super) fn is_finished(&self) -> bool {
        self.is_closed && self.is_empty()
    }

    pub(super) fn take_sender(&mut self) -> Option<Waker> {
        self.sender.take()
    }

    pub(super) fn stats(&self) -> ProducerStats {
        self.tally.stats()
    }

    pub(super) fn take_failure(&mut self) -> Option<ProduceError> {
        self.tally.take_failure()
    }
}
