//! One producer's stream of requests: finds partitions, checks batches, keeps lanes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use taffrail_log::NewBatch;
use taffrail_model::{LogId, PartitionIndex, TopicName, limits, partition_for_key};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::reply::{Flight, InFlight, Outcome, Reply};
use super::{Acks, BatchRules, Fence, Lane, Placement, ProduceBatch, ProduceError, check};
use crate::clock::Stopwatch;
use crate::memory::Charge;
use crate::partition::{AppendRequest, Order, Partition};
use crate::shared::Shared;

/// Requests of a stream that are taken and not told of, at the most: enough that every request over
/// the limit of those in flight can still be refused.
const SLOTS: usize = 2 * limits::IN_FLIGHT_REQUESTS_MAX as usize;

/// One producer's stream of requests.
///
/// Requests are appended in the order of [`Self::submit`]. Outcomes come through the channel that
/// the session was made with, in order for each partition. When the session is dropped the channel
/// ends behind the last outcome.
#[derive(Debug)]
pub struct ProduceSession {
    shared: Arc<Shared>,
    outcomes: mpsc::UnboundedSender<Outcome>,
    lanes: HashMap<LogId, Arc<Lane>>,
    flight: Arc<Flight>,
    spread: u32,
    last_number: u64,
    /// Bounds what is taken and not told of, answers that nobody takes included.
    slots: Arc<Semaphore>,
}

/// One request of a stream.
#[derive(Debug)]
pub struct StreamRequest {
    /// The producer's number for it.
    pub number: u64,
    /// The batch.
    pub batch: ProduceBatch,
    /// Whether the producer waits for good news.
    pub acks: Acks,
    /// The refusal that the producer knows of.
    pub resumes_after: u64,
}

impl ProduceSession {
    pub(crate) fn new(shared: Arc<Shared>, outcomes: mpsc::UnboundedSender<Outcome>) -> Self {
        shared.metrics.produce_streams.fetch_add(1, Ordering::Relaxed);
        let (lanes, flight) = (HashMap::new(), Arc::default());
        // Sessions begin at different partitions, so that many short ones spread too.
        let spread = shared.metrics.sessions.fetch_add(1, Ordering::Relaxed) as u32;
        let slots = Arc::new(Semaphore::new(SLOTS));
        Self { shared, outcomes, lanes, flight, spread, last_number: 0, slots }
    }

    /// Takes a request. What is too much is refused; but a producer that does not take its answers,
    /// or wants none, is not read any further until there is room: then this waits.
    pub async fn submit(&mut self, request: StreamRequest) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
        if request.acks == Acks::None {
            self.flight.room().await;
        }
        self.take(request, slot);
    }

    fn take(&mut self, request: StreamRequest, slot: Option<OwnedSemaphorePermit>) {
        let StreamRequest { number, batch, acks, resumes_after } = request;
        let arrived = Stopwatch::start();
        let bytes = batch.batch.payload.len();
        let in_flight = InFlight::count(&self.flight, bytes as u64);
        let (in_flight, overload) = match in_flight {
            Ok(in_flight) => (Some(in_flight), None),
            Err(error) => (None, Some(error)),
        };
        let to = self.outcomes.clone();
        let mut reply = Reply { number, partition: None, acks, to, in_flight, slot };
        let last = self.last_number;
        self.last_number = number.max(last);
        if number <= last {
            return reply.send(Err(ProduceError::NumberOrder { number, last }));
        }
        let partition = match self.place(&batch) {
            Ok(partition) => partition,
            Err(error) => return reply.send(Err(error)),
        };
        reply.partition = Some(partition.index);
        let order = Order { lane: self.lane(&partition), number, resumes_after };
        let expected = batch.expected_next_offset;
        let checked = match overload {
            Some(error) => Err(error),
            None => self.admit(&partition, &batch),
        };
        let (batch, fence, charge) = match checked {
            Ok((batch, fence, charge)) => (Ok(batch), fence, Some(charge)),
            Err(error) => (Err(error), None, None),
        };
        partition.submit(AppendRequest { batch, expected, fence, order, reply, charge, arrived });
    }

    /// Checks a batch and takes its memory from the budget.
    fn admit(
        &self,
        partition: &Partition,
        batch: &ProduceBatch,
    ) -> Result<(NewBatch, Option<Fence>, Charge), ProduceError> {
        if self.shared.is_stopping() {
            return Err(ProduceError::Stopping);
        }
        let fence = match &batch.batch.producer {
            Some(_) if !matches!(batch.placement, Placement::Partition(_)) => {
                return Err(ProduceError::Unplaced);
            }
            Some(stamp) => self.shared.producers.fence(stamp.id)?,
            None => None,
        };
        let settings = **partition.settings.load();
        let rules = BatchRules {
            bytes_max: settings.batch_bytes_max,
            needs_keys: settings.cleanup.compacts(),
            timestamp_ahead: self.shared.config.timestamp_ahead,
            now: self.shared.now(),
        };
        let checked = check(&batch.batch, &rules)?;
        let budget = &self.shared.produce_memory;
        let overloaded = || {
            let what = "bytes of all requests";
            ProduceError::Overloaded { what, limit: budget.bytes_max() }
        };
        let charge = budget.try_charge(batch.batch.payload.len()).ok_or_else(overloaded)?;
        Ok((checked, fence, charge))
    }

    /// The partition that a batch goes to.
    fn place(&mut self, batch: &ProduceBatch) -> Result<Arc<Partition>, ProduceError> {
        let name = TopicName::parse(&batch.topic)?;
        if name.is_internal() {
            return Err(ProduceError::InternalTopic { topic: batch.topic.clone() });
        }
        let topics = self.shared.topics.load();
        let topic = topics.get(&name).ok_or_else(|| ProduceError::UnknownTopic {
            topic: batch.topic.clone(),
            nearest: topics.nearest(&name),
        })?;
        let partitions = topic.partitions.len() as u32;
        let index = match &batch.placement {
            Placement::Partition(index) => *index,
            Placement::Key(key) => partition_for_key(key, partitions),
            Placement::Spread => {
                self.spread = self.spread.wrapping_add(1);
                PartitionIndex::new(self.spread.checked_rem(partitions).unwrap_or(0))
            }
        };
        let partition = topic.partitions.get(index.get() as usize);
        partition.cloned().ok_or_else(|| ProduceError::UnknownPartition {
            topic: batch.topic.clone(),
            partition: index,
            partitions,
        })
    }

    fn lane(&mut self, partition: &Partition) -> Arc<Lane> {
        Arc::clone(self.lanes.entry(partition.log_id).or_default())
    }
}

impl Drop for ProduceSession {
    fn drop(&mut self) {
        self.shared.metrics.produce_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every request of a unary call, in order; what has no answer when the channel ends has an unknown
/// fate.
pub(crate) async fn produce_all(
    shared: &Arc<Shared>,
    batches: Vec<ProduceBatch>,
    acks: Acks,
) -> Vec<Outcome> {
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let mut session = ProduceSession::new(Arc::clone(shared), sender);
    let mut results: Vec<_> = (0..batches.len()).map(|_| None).collect();
    for (number, batch) in (1..).zip(batches) {
        session.submit(StreamRequest { number, batch, acks, resumes_after: 0 }).await;
    }
    drop(session);
    while let Some(outcome) = outcomes.recv().await {
        if let Some(slot) = results.get_mut(outcome.number as usize - 1) {
            *slot = Some(outcome);
        }
    }
    let unknown = |number| Outcome::unknown(number, acks);
    (1..).zip(results).map(|(number, outcome)| outcome.unwrap_or_else(|| unknown(number))).collect()
}
