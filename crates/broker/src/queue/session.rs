//! A worker's stream: what it is sent, and what it says of that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use taffrail_model::{PartitionIndex, limits};
use tokio::sync::{mpsc, oneshot};

use super::ack_id::AckId;
use super::command::{self, CommandKind, SettleRefusal, Settlement};
use super::dispatch::Delivery;
use super::record::QueueRecord;
use super::service::{Held, Told};
use super::state::Queue;
use super::{QueueError, Running};
use crate::clock;
use crate::shared::Shared;

/// Requests that are being stored at once; what comes meanwhile goes into the next one.
const STORING_MAX: usize = 2;

/// What a worker asks for.
#[derive(Debug)]
pub enum QueueCommand {
    /// To work on a queue: first, and once.
    Open {
        /// The queue.
        queue: String,
    },
    /// To be sent so much more.
    Grant {
        /// Records.
        records: u64,
        /// Bytes.
        bytes: u64,
    },
    /// To take note of what became of records.
    Settle(Vec<Settle>),
}

/// What became of a record.
#[derive(Clone, Debug)]
pub struct Settle {
    /// The record and the lease.
    pub ack_id: Bytes,
    /// What is said of it.
    pub verdict: Verdict,
}

/// What a worker says of a record that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Acknowledge,
    /// It failed: to be tried again, after this time or the one that the queue has.
    Retry {
        /// After which time.
        delay: Option<Duration>,
    },
    /// It was not tried: somebody else may have it at once, and it counts as no attempt.
    Release,
    /// It takes longer.
    Extend {
        /// How long from now on; `None`: as long as a lease is.
        time: Option<Duration>,
    },
    /// There is no use in trying it again: it is parked.
    Reject {
        /// Why.
        reason: String,
    },
}

/// What a worker is told.
#[derive(Debug)]
pub enum QueueEvent {
    /// It works on the queue now.
    Opened {
        /// The topic that it is on.
        topic: String,
    },
    /// Records to work on.
    Deliveries(Vec<QueueDelivery>),
    /// What was said of records is durable, or does not count.
    Settled(Vec<(Bytes, Result<(), SettleRefusal>)>),
    /// The stream ends.
    Failed(QueueError),
}

/// A record to work on.
#[derive(Clone, Debug)]
pub struct QueueDelivery {
    /// What to name it by.
    pub ack_id: Bytes,
    /// Where it comes from.
    pub partition: PartitionIndex,
    /// What it is.
    pub record: Arc<QueueRecord>,
    /// The how-many-eth attempt this is, from 1.
    pub attempt: u32,
    /// How long the worker has it.
    pub lease: Duration,
}

impl QueueEvent {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Deliveries(deliveries) if deliveries.is_empty())
    }

    /// Bytes of records in it.
    fn bytes(&self) -> u64 {
        match self {
            Self::Deliveries(deliveries) => {
                deliveries.iter().map(|delivery| delivery.record.bytes() as u64).sum()
            }
            Self::Opened { .. } | Self::Settled(_) | Self::Failed(_) => 0,
        }
    }
}

type Stored = Result<Vec<(Bytes, Result<(), SettleRefusal>)>, QueueError>;

/// A worker's stream.
pub struct QueueSession {
    shared: Arc<Shared>,
    events: mpsc::Sender<QueueEvent>,
    /// What became of records and is not being stored yet.
    unsaid: VecDeque<Settle>,
    storing: FuturesUnordered<BoxFuture<'static, Stored>>,
}

/// A worker of a queue.
struct Worker {
    queue: String,
    running: Running,
    number: u64,
    deliveries: mpsc::UnboundedReceiver<Vec<Delivery>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // What it has, it may still settle on another stream.
        let _ = self.running.told.send(Told::Left { worker: self.number });
    }
}

impl QueueSession {
    pub(crate) fn new(shared: Arc<Shared>, events: mpsc::Sender<QueueEvent>) -> Self {
        Self { shared, events, unsaid: VecDeque::new(), storing: FuturesUnordered::new() }
    }

    /// Serves the stream until the client closes it, goes away, or the broker stops.
    pub async fn run(mut self, mut commands: mpsc::Receiver<QueueCommand>) {
        let shared = Arc::clone(&self.shared);
        let failed = tokio::select! {
            biased;
            () = shared.stopping() => Some(QueueError::Stopping),
            failed = self.serve(&mut commands) => failed.err(),
        };
        if let Some(error) = failed {
            // Nobody may be there to hear it.
            let _ = self.events.send(QueueEvent::Failed(error)).await;
        }
    }

    async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<QueueCommand>,
    ) -> Result<(), QueueError> {
        let mut worker = match commands.recv().await {
            Some(QueueCommand::Open { queue }) => self.open(queue).await?,
            Some(QueueCommand::Grant { .. } | QueueCommand::Settle(_)) => {
                return Err(QueueError::Request("say first which queue it is: `open`".into()));
            }
            None => return Ok(()),
        };
        let mut is_open = true;
        while is_open || !self.storing.is_empty() {
            self.store(&worker);
            let event = tokio::select! {
                biased;
                Some(stored) = self.storing.next() => Some(QueueEvent::Settled(stored?)),
                command = commands.recv(), if is_open && self.unsaid.len() < limits::SETTLES_MAX => {
                    match command {
                        Some(command) => self.obey(&worker, command)?,
                        // What was said is stored and answered before the stream ends.
                        None => is_open = false,
                    }
                    None
                }
                deliveries = worker.deliveries.recv(), if is_open => match deliveries {
                    Some(deliveries) => Some(worker.event(deliveries)),
                    None => return Err(worker.gone()),
                },
            };
            let Some(event) = event else { continue };
            if event.is_empty() {
                continue;
            }
            let bytes = event.bytes();
            if self.events.send(event).await.is_err() {
                return Ok(());
            }
            if bytes > 0 {
                let _ = worker.running.told.send(Told::Taken { worker: worker.number, bytes });
            }
        }
        Ok(())
    }

    async fn open(&mut self, queue: String) -> Result<Worker, QueueError> {
        super::check_name(&queue)?;
        let running = self.shared.queues.at_work(&self.shared, &queue).await?;
        let number = running.last_worker.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, deliveries) = mpsc::unbounded_channel();
        let worker = Worker { queue, running, number, deliveries };
        let joined = Told::Joined { worker: number, deliveries: sender };
        worker.running.told.send(joined).map_err(|_| worker.gone())?;
        let topic = |queue: &Queue| queue.topic().name.clone();
        let topic = self.shared.queues.look(&worker.queue, topic).await?;
        let _ = self.events.send(QueueEvent::Opened { topic }).await;
        Ok(worker)
    }

    fn obey(&mut self, worker: &Worker, command: QueueCommand) -> Result<(), QueueError> {
        match command {
            QueueCommand::Open { .. } => {
                Err(QueueError::Request("the stream is open already: use another one".into()))
            }
            QueueCommand::Grant { records, bytes } => {
                let granted = Told::Granted { worker: worker.number, records, bytes };
                worker.running.told.send(granted).map_err(|_| worker.gone())
            }
            QueueCommand::Settle(settles) => {
                self.unsaid.extend(settles);
                Ok(())
            }
        }
    }

    /// Has what was said stored, unless enough is under way.
    fn store(&mut self, worker: &Worker) {
        if self.unsaid.is_empty() || self.storing.len() >= STORING_MAX {
            return;
        }
        let count = self.unsaid.len().min(limits::SETTLES_MAX);
        let settles: Vec<_> = self.unsaid.drain(..count).collect();
        let (shared, running) = (Arc::clone(&self.shared), worker.running.clone());
        let queue = worker.queue.clone();
        // To its end, even if the stream is gone: what is stored must be told.
        let stored = tokio::spawn(async move { settle(&shared, queue, &running, settles).await });
        self.storing
            .push(Box::pin(async move { stored.await.unwrap_or(Err(QueueError::Stopping)) }));
    }
}

impl Worker {
    /// What is still its to work on; of the rest, which was not taken in time, it may be sent others.
    fn event(&self, deliveries: Vec<Delivery>) -> QueueEvent {
        let now = clock::instant();
        let (deliveries, over): (Vec<_>, Vec<_>) =
            deliveries.into_iter().partition(|delivery| now < delivery.until);
        if !over.is_empty() {
            let bytes = over.iter().map(|delivery| delivery.record.bytes() as u64).sum();
            let (worker, records) = (self.number, over.len() as u64);
            let _ = self.running.told.send(Told::Granted { worker, records, bytes });
            let _ = self.running.told.send(Told::Taken { worker, bytes });
        }
        let deliveries = deliveries.into_iter().map(|delivery| {
            let Delivery { partition, lease, attempt, until, record } = delivery;
            let held = Held { partition, offset: record.offset.get(), lease };
            let ack_id = AckId { queue: self.running.number, held };
            QueueDelivery {
                ack_id: Bytes::copy_from_slice(&ack_id.encode()),
                partition: PartitionIndex::new(partition),
                record,
                attempt,
                lease: until.saturating_duration_since(now),
            }
        });
        QueueEvent::Deliveries(deliveries.collect())
    }

    fn gone(&self) -> QueueError {
        command::QueueRefusal::UnknownQueue { queue: self.queue.clone() }.into()
    }
}

/// Stores what became of records: a result for each.
async fn settle(shared: &Shared, queue: String, running: &Running, settles: Vec<Settle>) -> Stored {
    let mut results: Vec<(Bytes, Result<(), SettleRefusal>)> = Vec::with_capacity(settles.len());
    let (mut settlements, mut places) = (Vec::new(), Vec::new());
    for Settle { ack_id, verdict } in settles {
        let own = AckId::decode(&ack_id).filter(|id| id.queue == running.number);
        let Some(AckId { held, .. }) = own else {
            results.push((ack_id, Err(SettleRefusal::Unknown)));
            continue;
        };
        let Held { partition, offset, lease } = held;
        let verdict = match verdict {
            Verdict::Acknowledge => command::Verdict::Acknowledge,
            Verdict::Retry { delay } => command::Verdict::Retry { delay },
            Verdict::Release => command::Verdict::Release,
            Verdict::Reject { reason } => command::Verdict::Reject { reason: reason.into() },
            Verdict::Extend { time } => {
                let extended = extend(running, held, time).await;
                results.push((ack_id, extended));
                continue;
            }
        };
        settlements.push(Settlement { partition, offset, lease, verdict });
        places.push(results.len());
        results.push((ack_id, Ok(())));
    }
    if settlements.is_empty() {
        return Ok(results);
    }
    let kind = CommandKind::Settle(settlements.clone());
    let settled = shared.queues.submit_to(&queue, running.number, kind, shared).await?.settled;
    for (place, result) in places.into_iter().zip(&settled) {
        if let (Some((_, slot)), Err(refusal)) = (results.get_mut(place), result) {
            *slot = Err(*refusal);
        }
    }
    // A queue that is gone has nothing to note.
    let _ = running.told.send(Told::Settled { settlements, results: settled });
    Ok(results)
}

async fn extend(
    running: &Running,
    lease: Held,
    time: Option<Duration>,
) -> Result<(), SettleRefusal> {
    let (answer, extended) = oneshot::channel();
    let _ = running.told.send(Told::Extend { lease, time, answer });
    let until = extended.await.ok().flatten();
    until.map(drop).ok_or(SettleRefusal::LeaseExpired)
}
