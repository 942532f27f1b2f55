//! Clients that work while the broker is killed: producers and consumers over the Rust client,
//! producers over the bare `ProduceStream`. All note what happens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use taffrail_client::{
    Acks, Client, Delivery, Event as Consumed, Offset, PartitionIndex, Position, ProduceError,
    Record,
};
use taffrail_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::history::{Event, History, RecordId, read_event, value_of};
use crate::readback::gap_event;
use crate::stream;

/// What the clients of a run share.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) url: String,
    pub(crate) history: History,
    stopping: Arc<AtomicBool>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// A producer of numbered records.
pub(crate) struct Sender {
    pub(crate) producer: u32,
    pub(crate) topic: String,
    pub(crate) partitions: u32,
    pub(crate) dice: Dice,
    pub(crate) sequence: u64,
}

/// Records that a producer has not heard of yet.
const IN_FLIGHT: usize = 200;

impl Load {
    pub(crate) fn new(url: String) -> Self {
        Self { url, history: History::default(), stopping: Arc::default(), tasks: Arc::default() }
    }

    /// Lets all clients end, and waits until all that was sent has an outcome.
    pub(crate) async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let mut tasks = std::mem::take(&mut *self.tasks());
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                ended.expect("a client does not panic");
            }
        };
        timeout(Duration::from_secs(60), all).await.expect("clients come to an end");
    }

    /// A producer of the Rust client.
    pub(crate) fn produce(&self, sender: Sender, acks: Acks) {
        self.tasks().spawn(produce(self.clone(), sender, acks));
    }

    /// A producer of the bare stream.
    pub(crate) fn produce_stream(&self, sender: Sender) {
        self.tasks().spawn(stream::produce(self.clone(), sender));
    }

    /// A consumer that reads everything from the start on, over all restarts.
    pub(crate) fn follow(&self, reader: u32, topics: &[&str]) {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.tasks().spawn(follow(self.clone(), reader, topics, Position::Earliest));
    }

    /// A consumer that reads from `position` on.
    pub(crate) fn follow_from(&self, reader: u32, topic: &str, position: Position) {
        self.tasks().spawn(follow(self.clone(), reader, vec![topic.to_owned()], position));
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// One whose records are all alike.
    pub(crate) fn of(topic: &str, partitions: u32) -> Self {
        let (topic, dice) = (topic.to_owned(), Dice::from(1));
        Self { producer: 1, topic, partitions, dice, sequence: 0 }
    }

    /// The next record, noted as about to be sent; and its partition and value.
    pub(crate) fn next(&mut self, history: &History, partition: u32) -> (RecordId, Vec<u8>) {
        let bytes = if self.dice.below(20) == 0 { 4000 } else { 20 + self.dice.below(300) };
        self.next_of(history, partition, bytes as usize)
    }

    /// The same, with a value of so many bytes.
    fn next_of(&mut self, history: &History, partition: u32, bytes: usize) -> (RecordId, Vec<u8>) {
        self.sequence += 1;
        let record = RecordId { producer: self.producer, sequence: self.sequence };
        let value = value_of(record, bytes);
        let place = format!("{}/{partition}", self.topic);
        history.add(Event::Invoke { record, place, digest: crc32fast::hash(&value) });
        (record, value)
    }

    /// A partition.
    pub(crate) fn any_partition(&mut self) -> u32 {
        self.dice.below(self.partitions.into()) as u32
    }
}

/// Appends a record of so many bytes by a bare call, and notes what comes of it; the reason of a refusal, or
/// `UNREACHABLE` if nobody answers.
pub(crate) async fn append(
    url: &str,
    sender: &mut Sender,
    partition: u32,
    bytes: usize,
    history: &History,
) -> Option<String> {
    let Ok(service) = stream::connect(url).await else { return Some("UNREACHABLE".into()) };
    let (record, value) = sender.next_of(history, partition, bytes);
    let sent = stream::send(service, sender.topic.clone(), partition, value).await;
    let reason = match &sent {
        Ok(result) => result.error.as_ref().map(|error| error.reason.clone()),
        Err(_) => Some("UNREACHABLE".to_owned()),
    };
    history.add(match (&sent, reason.as_deref()) {
        (Ok(result), None) => Event::Ok { record, offset: result.base_offset() },
        (_, Some("RESULT_UNKNOWN" | "UNREACHABLE") | None) => Event::Unknown { record },
        (_, Some(_)) => Event::Fail { record },
    });
    reason
}

async fn produce(load: Load, mut sender: Sender, acks: Acks) {
    let client = Client::connect(&load.url).expect("a valid address");
    let builder = || {
        let builder = client.producer(&sender.topic).acks(acks).batch_bytes(4 << 10);
        builder.linger(Duration::from_millis(2)).buffer_bytes(256 << 10)
    };
    let producer = loop {
        match builder().delivery_timeout(Duration::from_secs(30)).build().await {
            Ok(producer) => break producer,
            Err(_) if load.is_stopping() => return,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    let (sent, deliveries) = mpsc::channel(IN_FLIGHT);
    let noting = tokio::spawn(note_outcomes(load.history.clone(), deliveries));
    while !load.is_stopping() {
        let partition = sender.any_partition();
        for _ in 0..=sender.dice.below(20) {
            let (record, value) = sender.next(&load.history, partition);
            let to_send = Record::value(&value).partition(PartitionIndex::new(partition));
            match producer.send(to_send).await {
                Ok(delivery) => drop(sent.send((record, delivery)).await),
                Err(error) => note_outcome(&load.history, record, Err(error)),
            }
        }
        sleep(sender.dice.millis(0, 8)).await;
    }
    drop(sent);
    drop(producer.close().await);
    noting.await.expect("noting does not panic");
}

/// Notes each outcome when it comes: those of one partition do not wait for another's.
async fn note_outcomes(history: History, mut deliveries: mpsc::Receiver<(RecordId, Delivery)>) {
    let mut waiting = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !waiting.is_empty() {
        tokio::select! {
            sent = deliveries.recv(), if is_open => match sent {
                Some((record, delivery)) => waiting.push(async move { (record, delivery.await) }),
                None => is_open = false,
            },
            Some((record, outcome)) = waiting.next() => {
                note_outcome(&history, record, outcome.map(|placed| placed.offset.map(Offset::get)));
            }
        }
    }
}

fn note_outcome(history: &History, record: RecordId, outcome: Result<Option<u64>, ProduceError>) {
    history.add(match outcome {
        Ok(Some(offset)) => Event::Ok { record, offset },
        Ok(None) | Err(ProduceError::ResultUnknown { .. }) => Event::Unknown { record },
        Err(_) => Event::Fail { record },
    });
}

async fn follow(load: Load, reader: u32, topics: Vec<String>, position: Position) {
    let client = Client::connect(&load.url).expect("a valid address");
    let builder = || {
        let builder = client.consumer().from(position).prefetch_bytes(1 << 20);
        topics.iter().fold(builder, |builder, topic| builder.topic(topic))
    };
    let mut consumer = loop {
        match builder().build().await {
            Ok(consumer) => break consumer,
            Err(_) if load.is_stopping() => return,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    while !load.is_stopping() {
        let Ok(event) = timeout(Duration::from_millis(200), consumer.next_event()).await else {
            continue;
        };
        match event.expect("a consumer without an end does not end") {
            Ok(Consumed::Batch(batch)) => {
                let place = format!("{}/{}", batch.topic, batch.partition);
                for record in batch.records() {
                    let record = record.expect("records of a sound batch");
                    let value = record.value.unwrap_or_default();
                    load.history.add(read_event(reader, place.clone(), record.offset.get(), value));
                }
            }
            Ok(Consumed::Heartbeat { .. }) => {}
            Ok(Consumed::Gap { topic, partition, from, to, reason }) => {
                let (from, to, reason) = (from.get(), to.get(), reason.into());
                let gap = v1::Gap { from, to, reason };
                load.history.add(gap_event(reader, format!("{topic}/{partition}"), gap));
            }
            Err(error) => panic!("reader {reader}: {error}"),
        }
    }
}
