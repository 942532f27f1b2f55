//! A queue at work: one task that reads, stores leases, hands records out, and minds the time.
//!
//! What comes next is `dispatch`'s to decide, what is true is the state machine's. Here is only the I/O
//! around them, none of which holds up the rest: reads, leases and their ends are under way side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use taffrail_log::Read;
use taffrail_model::Offset;
use taffrail_model::batch::Compressions;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::command::{Command, CommandKind, Leased, SettleRefusal, Settled, Settlement};
use super::dead_letters::Desk;
use super::describe::Crowd;
use super::dispatch::{Choice, Delivery, Dispatch, Wanted, WorkerId};
use super::event::Span;
use super::policy::Policy;
use super::record::{QueueRecord, records_of};
use super::state::Registry;
use super::tally::Tally;
use super::{QueueError, Running};
use crate::clock::{self, Clock};
use crate::coordinator::Coordinator;
use crate::partition::{Partition, PartitionReadError};

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// How long to wait after something could not be read or stored.
const RETRY: Duration = Duration::from_secs(1);

/// What somebody tells a queue at work.
#[derive(Debug)]
pub(super) enum Told {
    /// Somebody is there to work.
    Joined { worker: WorkerId, deliveries: mpsc::UnboundedSender<Vec<Delivery>> },
    /// It may be sent more.
    Granted { worker: WorkerId, records: u64, bytes: u64 },
    /// It has taken records of so many bytes off its stream.
    Taken { worker: WorkerId, bytes: u64 },
    /// It is gone.
    Left { worker: WorkerId },
    /// It wants more time for a record.
    Extend { lease: Held, time: Option<Duration>, answer: oneshot::Sender<Option<Instant>> },
    /// What became of records, which is stored.
    Settled { settlements: Vec<Settlement>, results: Vec<Result<Settled, SettleRefusal>> },
    /// Parked records are to be tried again, which is stored.
    Redriven { partition: u32, spans: Vec<Span> },
    /// What nobody had up to there is not tried any more, which is stored.
    GivenUp { partition: u32, end: u64, spans: Vec<Span> },
    /// It works differently from now on, which is stored.
    Altered { policy: Policy },
    /// Somebody wants to know who works.
    Look { answer: oneshot::Sender<Crowd> },
    /// The topic has another partition, which is stored.
    Grown { index: u32, partition: Arc<Partition> },
    /// The queue is gone.
    Deleted,
}

/// A record that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) lease: u64,
}

/// Why nothing was read.
enum Unread {
    /// The topic was deleted.
    Deleted,
    Failed(String),
}

/// What has been done.
enum Done {
    Read {
        wanted: Wanted,
        result: Result<(Span, Vec<QueueRecord>), Unread>,
    },
    Moved {
        partition: u32,
        is_deleted: bool,
    },
    /// It was left alone for a moment.
    Paused {
        partition: u32,
    },
    Settled {
        settlements: Vec<Settlement>,
        result: Result<Vec<Result<Settled, SettleRefusal>>, QueueError>,
    },
}

/// What was chosen, and what came of leasing it.
type Lent = (Choice, Result<Leased, QueueError>);

/// A queue at work.
pub(super) struct Service {
    name: String,
    number: u64,
    registry: Arc<Coordinator<Registry>>,
    clock: Arc<dyn Clock>,
    partitions: BTreeMap<u32, Arc<Partition>>,
    dispatch: Dispatch,
    inbox: mpsc::UnboundedReceiver<Told>,
    workers: BTreeMap<WorkerId, mpsc::UnboundedSender<Vec<Delivery>>>,
    /// Partitions that are being read, and those at whose end nothing is yet.
    reading: BTreeSet<u32>,
    waiting: BTreeSet<u32>,
    /// Why partitions are left alone for a moment.
    trouble: BTreeMap<u32, String>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Handed out in the order in which it was chosen, whichever is heard of first.
    leasing: FuturesOrdered<BoxFuture<'static, Lent>>,
    dead_letters: Arc<Desk>,
    tally: Arc<Tally>,
    settled: Arc<Notify>,
}

impl Service {
    /// A queue that is to work from where it stands.
    pub(super) fn new(
        name: String,
        dispatch: Dispatch,
        partitions: BTreeMap<u32, Arc<Partition>>,
        registry: Arc<Coordinator<Registry>>,
        clock: Arc<dyn Clock>,
        inbox: mpsc::UnboundedReceiver<Told>,
        running: &Running,
    ) -> Self {
        Self {
            name,
            number: running.number,
            registry,
            clock,
            partitions,
            dispatch,
            inbox,
            workers: BTreeMap::new(),
            reading: BTreeSet::new(),
            waiting: BTreeSet::new(),
            trouble: BTreeMap::new(),
            work: FuturesUnordered::new(),
            leasing: FuturesOrdered::new(),
            dead_letters: Arc::clone(&running.dead_letters),
            tally: Arc::clone(&running.tally),
            settled: Arc::clone(&running.settled),
        }
    }

    /// Works until nobody can tell it anything any more; what is done beside that ends with it.
    pub(super) async fn run(self, beside: impl Future) {
        let beside = async {
            beside.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.hand_out() => {}
            () = beside => {}
        }
    }

    async fn hand_out(mut self) {
        loop {
            // However much there is to hear.
            let expired = self.dispatch.expire(clock::instant());
            self.settle(expired);
            self.begin_all();
            let due = self.dispatch.next_due();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                told = self.inbox.recv() => match told {
                    Some(Told::Deleted) | None => return,
                    Some(told) => self.hear(told),
                },
                Some((choice, result)) = self.leasing.next() => self.lend(choice, result),
                Some(done) = self.work.next() => self.take(done),
                () = sleep => {}
            }
        }
    }

    /// Begins all that can be begun.
    fn begin_all(&mut self) {
        let partitions = &self.partitions;
        let end = |index| partitions.get(&index).map_or(0, |it| it.high_watermark().get());
        for wanted in self.dispatch.wanted(end) {
            if let Some(partition) = self.partitions.get(&wanted.partition)
                && self.reading.insert(wanted.partition)
            {
                self.work.push(Box::pin(read(Arc::clone(partition), wanted)));
            }
        }
        for (index, end) in self.dispatch.ends() {
            if let Some(partition) = self.partitions.get(&index)
                && partition.high_watermark().get() <= end
                && self.waiting.insert(index)
            {
                let (partition, mut watermark) = (Arc::clone(partition), partition.watch());
                self.work.push(Box::pin(async move {
                    let is_more = |now: &Offset| end < now.get() || partition.is_deleted();
                    // It cannot be dropped: the partition, which it belongs to, is held.
                    drop(watermark.wait_for(is_more).await);
                    Done::Moved { partition: index, is_deleted: partition.is_deleted() }
                }));
            }
        }
        for choice in self.dispatch.choose() {
            let kind = CommandKind::Lease(choice.lease.clone());
            let command = Command { queue: self.name.clone(), number: Some(self.number), kind };
            let (registry, now) = (Arc::clone(&self.registry), self.clock.now());
            self.leasing.push_back(Box::pin(async move {
                let submitted = registry.submit(command, now, |_| ()).await;
                let result = submitted.map(|(reply, ())| reply.leased).map_err(QueueError::from);
                (choice, result)
            }));
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Joined { worker, deliveries } => {
                self.workers.insert(worker, deliveries);
                self.dispatch.join(worker);
            }
            Told::Granted { worker, records, bytes } => self.dispatch.grant(worker, records, bytes),
            Told::Taken { worker, bytes } => self.dispatch.taken(worker, bytes),
            Told::Left { worker } => {
                self.workers.remove(&worker);
                self.dispatch.leave(worker);
            }
            Told::Extend { lease: Held { partition, offset, lease }, time, answer } => {
                let now = clock::instant();
                // Whoever asked may be gone.
                let _ = answer.send(self.dispatch.extend(partition, offset, lease, now, time));
            }
            Told::Settled { settlements, results } => self.note(&settlements, results),
            Told::Redriven { partition, spans } => self.dispatch.redriven(partition, &spans),
            Told::GivenUp { partition, end, spans } => {
                self.tally.note_given_up(spans.iter().map(|span| span.1 - span.0).sum());
                self.dispatch.given_up(partition, end, &spans);
            }
            Told::Altered { policy } => self.dispatch.alter(policy),
            // Whoever asked may be gone.
            Told::Look { answer } => {
                let trouble = self.trouble.values().next().cloned();
                let _ = answer.send(Crowd { trouble, ..self.dispatch.crowd() });
            }
            Told::Grown { index, partition } => {
                self.partitions.insert(index, partition);
                self.dispatch.grow(index);
            }
            Told::Deleted => {}
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            // Nothing comes of one that was deleted any more: it is waited for no more.
            Done::Moved { is_deleted: true, .. } => {}
            Done::Moved { partition, is_deleted: false } => drop(self.waiting.remove(&partition)),
            Done::Paused { partition } => self.dispatch.go_on(partition),
            Done::Read { wanted, result } => {
                self.reading.remove(&wanted.partition);
                match result {
                    Ok((span, records)) => {
                        self.trouble.remove(&wanted.partition);
                        self.dispatch.read(wanted.partition, span, records);
                    }
                    // It stays among those that are being read: nothing comes of it any more.
                    Err(Unread::Deleted) => drop(self.reading.insert(wanted.partition)),
                    Err(Unread::Failed(cause)) => {
                        let (queue, partition) = (&self.name, wanted.partition);
                        tracing::warn!(queue, partition, cause, "a queue cannot read");
                        self.trouble.insert(partition, format!("partition {partition}: {cause}"));
                        self.pause(partition);
                    }
                }
            }
            Done::Settled { settlements, result } => match result {
                Ok(results) => self.note(&settlements, results),
                Err(error) => {
                    tracing::warn!(queue = self.name, %error, "the end of leases could not be stored");
                    self.dispatch.not_expired(&settlements, clock::instant() + RETRY);
                }
            },
        }
    }

    /// Hands out what is leased.
    fn lend(&mut self, choice: Choice, result: Result<Leased, QueueError>) {
        let partition = choice.lease.partition;
        match result {
            Ok(leased) if leased.is_full => {
                self.trouble.remove(&partition);
                self.dispatch.not_leased(choice);
                self.pause(partition);
            }
            Ok(leased) => {
                self.trouble.remove(&partition);
                if !choice.lease.missing.is_empty() {
                    self.settled.notify_one();
                }
                let worker = choice.worker;
                let (deliveries, released) =
                    self.dispatch.leased(choice, &leased, clock::instant());
                if let Some(worker) = self.workers.get(&worker)
                    && !deliveries.is_empty()
                {
                    for delivery in &deliveries {
                        self.tally.note_delivery(delivery.attempt);
                    }
                    // Whoever is gone has not said so yet: the leases end by themselves.
                    drop(worker.send(deliveries));
                }
                self.settle(released);
            }
            Err(error) => {
                tracing::warn!(queue = self.name, %error, "a lease could not be stored");
                self.dispatch.not_leased(choice);
                self.trouble.insert(partition, error.to_string());
                self.pause(partition);
            }
        }
    }

    fn note(&mut self, settlements: &[Settlement], results: Vec<Result<Settled, SettleRefusal>>) {
        let now = clock::instant();
        if results.contains(&Ok(Settled::Parked)) {
            self.dead_letters.wake.notify_one();
        }
        self.settled.notify_one();
        let ends = self.partitions.values().map(|partition| partition.high_watermark().get());
        self.tally.note(settlements.iter().zip(&results), ends.sum());
        for (settlement, result) in settlements.iter().zip(results) {
            self.dispatch.settled(settlement, result, now);
        }
    }

    /// Stores what the queue itself has to say of records.
    fn settle(&mut self, settlements: Vec<Settlement>) {
        if settlements.is_empty() {
            return;
        }
        let kind = CommandKind::Settle(settlements.clone());
        let command = Command { queue: self.name.clone(), number: Some(self.number), kind };
        let (registry, now) = (Arc::clone(&self.registry), self.clock.now());
        self.work.push(Box::pin(async move {
            let submitted = registry.submit(command, now, |_| ()).await;
            let result = submitted.map(|(reply, ())| reply.settled).map_err(QueueError::from);
            Done::Settled { settlements, result }
        }));
    }

    /// Leaves a partition alone for a moment, if it is not already.
    fn pause(&mut self, partition: u32) {
        if !self.dispatch.pause(partition) {
            return;
        }
        self.work.push(Box::pin(async move {
            tokio::time::sleep(RETRY).await;
            Done::Paused { partition }
        }));
    }
}

/// Reads some records of a partition.
async fn read(partition: Arc<Partition>, wanted: Wanted) -> Done {
    let from = Offset::new(wanted.from);
    let result = match partition.read(from, READ_BYTES, Compressions::ALL).await {
        Ok(Read::Batches { bytes, next }) => {
            let span = Span(wanted.from, next.get());
            records_of(bytes, |offset| span.offsets().contains(&offset))
                .map(|records| (span, records))
                .map_err(Unread::Failed)
        }
        Ok(Read::Gap(gap)) => Ok((Span(wanted.from, gap.to.get()), Vec::new())),
        Ok(Read::End) if wanted.is_again => {
            Err(Unread::Failed(format!("offset {from} is not there any more, or not yet")))
        }
        Ok(Read::End) => Ok((Span(wanted.from, wanted.from), Vec::new())),
        // It was deleted: by request, since what is needed is kept.
        Err(PartitionReadError::Log(_)) if from < partition.log_start() => {
            Ok((Span(wanted.from, partition.log_start().get()), Vec::new()))
        }
        Err(PartitionReadError::Deleted) => Err(Unread::Deleted),
        Err(error) => Err(Unread::Failed(error.to_string())),
    };
    Done::Read { wanted, result }
}
