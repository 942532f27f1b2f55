//! Works on a queue: a handler is called for each record, several at once, and what it says is told.
//!
//! While a handler runs its lease is extended. A stream that broke is opened again, and what was said and
//! not answered is said again there: ids hold on any stream. Whoever stops gets nothing more, finishes what it
//! has, and hears that all it said is durable.

mod job;

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use taffrail_proto::v1;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::{Status, Streaming};
use v1::receive_request::Command;
use v1::receive_response::Event;

pub use job::{Job, Verdict};

use crate::connections::{Place, Traffic};
use crate::retry::{self, Backoff};
use crate::{CallError, Client};

/// How often leases are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Settlements of one message, at the most.
const SETTLEMENTS_MAX: usize = 500;

/// Settings of a worker.
#[derive(Debug)]
pub struct QueueWorkerBuilder {
    client: Client,
    queue: String,
    concurrency: u32,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Records that it was given.
    pub received: u64,
    /// What was said of them and counts.
    pub settled: u64,
    /// What was said of them and came too late: somebody else has, or gets, these records.
    pub late: u64,
}

impl QueueWorkerBuilder {
    pub(crate) fn new(client: Client, queue: &str) -> Self {
        Self { client, queue: queue.to_owned(), concurrency: 8 }
    }

    /// Sets how many records are worked on at once; default 8, at least 1.
    pub fn concurrency(mut self, concurrency: u32) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// Works until `stop`, then finishes what it has. `handle` is called for each record.
    ///
    /// The futures of the handler run on this task: what computes for long belongs on a thread of its own.
    ///
    /// # Errors
    /// If the broker refuses, such as when there is no such queue. It waits for a broker that cannot be
    /// reached.
    pub async fn run<H, F>(
        self,
        handle: H,
        stop: impl Future<Output = ()>,
    ) -> Result<QueueStats, CallError>
    where
        H: Fn(Job) -> F,
        F: Future<Output = Verdict> + Send + 'static,
    {
        let mut worker = Worker {
            client: self.client,
            queue: self.queue,
            concurrency: self.concurrency,
            running: FuturesUnordered::new(),
            held: HashMap::new(),
            awaited: HashMap::new(),
            unanswered: HashMap::new(),
            stats: QueueStats::default(),
        };
        worker.run(handle, stop).await?;
        Ok(worker.stats)
    }
}

/// Somebody who works.
struct Worker {
    client: Client,
    queue: String,
    concurrency: u32,
    running: FuturesUnordered<BoxFuture<'static, (Bytes, Verdict)>>,
    /// Records that handlers have: since when, or since it was extended, and how long the lease is.
    held: HashMap<Bytes, (Instant, Duration)>,
    /// How many answers are to come on this stream for each record.
    awaited: HashMap<Bytes, u32>,
    /// What was said of records.
    unanswered: HashMap<Bytes, Said>,
    stats: QueueStats,
}

/// What was said of a record.
#[derive(Clone, Debug)]
struct Said {
    verdict: Verdict,
    /// Whether it was said on another stream too, and may have been heard there.
    is_again: bool,
}

/// The stream to the broker.
struct Link {
    commands: UnboundedSender<v1::ReceiveRequest>,
    events: Streaming<v1::ReceiveResponse>,
    _place: Place,
}

impl Worker {
    async fn run<H, F>(
        &mut self,
        handle: H,
        stop: impl Future<Output = ()>,
    ) -> Result<(), CallError>
    where
        H: Fn(Job) -> F,
        F: Future<Output = Verdict> + Send + 'static,
    {
        let mut stop = std::pin::pin!(stop);
        let (mut is_stopping, mut attempts) = (false, 0);
        let mut look = tokio::time::interval(LOOK);
        'link: loop {
            let idle = self.running.is_empty() && self.unanswered.is_empty();
            if is_stopping && idle {
                return Ok(());
            }
            let opening = open(self.client.clone(), self.queue.clone(), attempts);
            let opened = tokio::select! {
                opened = self.meanwhile(opening) => opened,
                () = &mut stop, if !is_stopping => {
                    is_stopping = true;
                    continue;
                }
            };
            let mut link = match opened {
                Ok(link) => link,
                Err(status) => {
                    self.broke(&status, &mut attempts).await?;
                    continue;
                }
            };
            self.resume(&link, is_stopping);
            while !is_stopping || !self.running.is_empty() || !self.unanswered.is_empty() {
                tokio::select! {
                    event = link.events.message() => match event {
                        Ok(Some(event)) => {
                            attempts = 0;
                            let room = self.take(&link, event, &handle, is_stopping);
                            if room > 0 && !is_stopping {
                                link.grant(room);
                            }
                        }
                        Ok(None) => {
                            let ended = Status::unavailable("the broker ended the stream");
                            self.broke(&ended, &mut attempts).await?;
                            continue 'link;
                        }
                        Err(status) => {
                            self.broke(&status, &mut attempts).await?;
                            continue 'link;
                        }
                    },
                    Some((ack_id, verdict)) = self.running.next(), if !self.running.is_empty() => {
                        self.finish(ack_id.clone(), verdict.clone());
                        self.settle(&link, vec![(ack_id, verdict.into())]);
                    }
                    _ = look.tick() => self.extend(&link),
                    () = &mut stop, if !is_stopping => is_stopping = true,
                }
            }
            return Ok(());
        }
    }

    /// Says again what is not answered, and asks for as much as there is room for.
    fn resume(&mut self, link: &Link, is_stopping: bool) {
        self.awaited.clear();
        let said = self.unanswered.iter();
        let said = said.map(|(ack_id, said)| (ack_id.clone(), said.verdict.clone().into()));
        let said = said.collect();
        self.settle(link, said);
        self.unanswered.values_mut().for_each(|said| said.is_again = true);
        let busy = (self.running.len() + self.unanswered.len()) as u32;
        if !is_stopping && busy < self.concurrency {
            link.grant(self.concurrency - busy);
        }
    }

    /// What a handler says of a record.
    fn finish(&mut self, ack_id: Bytes, verdict: Verdict) {
        self.held.remove(&ack_id);
        self.unanswered.insert(ack_id, Said { verdict, is_again: false });
    }

    /// Lets handlers go on while something else is waited for.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                Some((ack_id, verdict)) = self.running.next(), if !self.running.is_empty() => {
                    self.finish(ack_id, verdict);
                }
            }
        }
    }

    fn settle(&mut self, link: &Link, verdicts: Vec<(Bytes, v1::settlement::Verdict)>) {
        for (ack_id, _) in &verdicts {
            *self.awaited.entry(ack_id.clone()).or_default() += 1;
        }
        link.settle(verdicts);
    }

    /// Takes what the broker says; how many more records there is room for.
    fn take<H, F>(
        &mut self,
        link: &Link,
        event: v1::ReceiveResponse,
        handle: &H,
        is_stopping: bool,
    ) -> u32
    where
        H: Fn(Job) -> F,
        F: Future<Output = Verdict> + Send + 'static,
    {
        match event.event {
            Some(Event::Deliveries(deliveries)) => {
                for delivery in deliveries.deliveries {
                    let (ack_id, lease) = (delivery.ack_id.clone(), delivery.lease_ms);
                    if is_stopping {
                        self.finish(ack_id.clone(), Verdict::Release);
                        self.settle(link, vec![(ack_id, Verdict::Release.into())]);
                        continue;
                    }
                    self.stats.received += 1;
                    let lease = Duration::from_millis(lease.into());
                    self.held.insert(ack_id.clone(), (Instant::now(), lease));
                    let handled = handle(Job::new(delivery));
                    self.running.push(Box::pin(async move { (ack_id, handled.await) }));
                }
                0
            }
            Some(Event::Settled(settled)) => {
                let mut room = 0;
                for v1::SettleResult { ack_id, error } in settled.results {
                    if !self.is_last_answer(&ack_id) {
                        continue;
                    }
                    let Some(said) = self.unanswered.remove(&ack_id) else { continue };
                    room += 1;
                    match error {
                        _ if said.verdict == Verdict::Release => {}
                        None => self.stats.settled += 1,
                        // It was heard on the stream before.
                        Some(error) if said.is_again && error.reason == "ALREADY_SETTLED" => {
                            self.stats.settled += 1;
                        }
                        Some(error) => {
                            self.stats.late += 1;
                            tracing::warn!(
                                reason = error.reason,
                                "what was done of a record does not count"
                            );
                        }
                    }
                }
                room
            }
            Some(Event::Opened(_)) | None => 0,
        }
    }

    /// Whether nothing more is to be answered of a record: what asked for more time is answered too.
    fn is_last_answer(&mut self, ack_id: &Bytes) -> bool {
        match self.awaited.get_mut(ack_id) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                self.awaited.remove(ack_id);
                true
            }
        }
    }

    /// Asks for more time where half of it is over.
    fn extend(&mut self, link: &Link) {
        let now = Instant::now();
        let mut extended = Vec::new();
        for (ack_id, (since, lease)) in &mut self.held {
            if *since + *lease / 2 <= now {
                *since = now;
                let lease_ms = Some(lease.as_millis() as u32);
                let extend = v1::settlement::Verdict::Extend(v1::Extend { lease_ms });
                extended.push((ack_id.clone(), extend));
            }
        }
        self.settle(link, extended);
    }

    async fn broke(&mut self, status: &Status, attempts: &mut u32) -> Result<(), CallError> {
        let error = CallError::from_status(self.client.server(), status);
        *attempts += 1;
        if *attempts == 1 {
            tracing::warn!(queue = self.queue, %error, "the stream of a queue broke");
        }
        if let CallError::Refused(refusal) = &error
            && retry::is_final_for_call(refusal)
        {
            return Err(error);
        }
        let pause = Backoff::CONNECTION.delay(*attempts, retry::dice());
        self.meanwhile(tokio::time::sleep(pause)).await;
        Ok(())
    }
}

async fn open(client: Client, queue: String, attempts: u32) -> Result<Link, Status> {
    let (commands, mut receiver) = unbounded_channel();
    let open = Command::Open(v1::OpenQueue { queue });
    drop(commands.send(v1::ReceiveRequest { command: Some(open) }));
    let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let place = client.place(Traffic::Records, attempts);
    let events = place.connection().queue_service().receive(requests).await?.into_inner();
    Ok(Link { commands, events, _place: place })
}

impl Link {
    fn grant(&self, records: u32) {
        self.say(Command::Grant(v1::QueueGrant { records, bytes: 0 }));
    }

    fn settle(&self, verdicts: Vec<(Bytes, v1::settlement::Verdict)>) {
        let settlements = verdicts.into_iter();
        let settlements =
            settlements.map(|(ack_id, verdict)| v1::Settlement { ack_id, verdict: Some(verdict) });
        let settlements: Vec<_> = settlements.collect();
        for part in settlements.chunks(SETTLEMENTS_MAX) {
            self.say(Command::Settle(v1::SettleRecords { settlements: part.to_vec() }));
        }
    }

    fn say(&self, command: Command) {
        // A stream that is gone says so where it is read.
        drop(self.commands.send(v1::ReceiveRequest { command: Some(command) }));
    }
}
