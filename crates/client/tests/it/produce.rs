//! The producer's promises: order through refusals, back-pressure, failure in time, flush.

use std::collections::HashMap;
use std::pin::pin;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use taffrail_client::{
    Acks, Client, Offset, PartitionIndex, ProduceError, Producer, ProducerBuilder, Record, Until,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::fake_broker::{FakeBroker, Plan};

/// A producer whose every record is a batch of its own.
pub(crate) fn one_by_one(broker: &FakeBroker) -> ProducerBuilder {
    let client = Client::connect(&broker.url).expect("an address");
    client.producer("t").batch_bytes(1).batch_bytes_busy(1)
}

pub(crate) async fn send_numbers(
    producer: &Producer,
    count: u32,
) -> Vec<Result<u64, ProduceError>> {
    let mut deliveries = Vec::new();
    for number in 0..count {
        let record = number.to_string();
        deliveries.push(producer.send(Record::value(record.as_bytes())).await.expect("taken"));
    }
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.map(|placed| placed.offset.expect("acknowledged").get()));
    }
    offsets
}

/// All values in the topic, by partition.
pub(crate) async fn values(broker: &FakeBroker) -> HashMap<u32, Vec<String>> {
    let client = Client::connect(&broker.url).expect("an address");
    let consumer = client.consumer().topic("t").until(Until::HighWatermark);
    let mut consumer = consumer.build().await.expect("starts");
    let mut values: HashMap<u32, Vec<String>> = HashMap::new();
    while let Some(batch) = consumer.next_batch().await {
        let batch = batch.expect("sound");
        let of_partition = values.entry(batch.partition.get()).or_default();
        for record in batch.records() {
            let value = record.expect("sound").value.expect("has one");
            of_partition.push(String::from_utf8_lossy(value).into_owned());
        }
    }
    values
}

pub(crate) fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn every_record_gets_its_offset_and_small_records_share_batches() {
    let broker = FakeBroker::start(1, Plan::default()).await;
    let client = Client::connect(&broker.url).expect("an address");
    let producer = client.producer("t").build().await.expect("starts");
    let offsets = send_numbers(&producer, 20_000).await;
    assert!(offsets.into_iter().eq((0..20_000).map(Ok)));
    let stats = producer.stats();
    assert_eq!(
        (stats.delivered_records, stats.failed_records, stats.buffered_bytes),
        (20_000, 0, 0)
    );
    producer.close().await.expect("nothing failed");
    assert_eq!(values(&broker).await[&0], numbers(0..20_000));
}

#[tokio::test]
async fn order_holds_through_refusals_that_pass() {
    let refuse = HashMap::from([(3, "OVERLOADED"), (40, "STORAGE_FULL"), (41, "OVERLOADED")]);
    let plan = Plan { refuse, max_in_flight_requests: 7, ..Default::default() };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).build().await.expect("starts");
    let offsets = send_numbers(&producer, 200).await;
    assert!(offsets.into_iter().eq((0..200).map(Ok)));
    assert_eq!(values(&broker).await[&0], numbers(0..200));
    assert_eq!(broker.streams(), 2, "one of the producer, one of the consumer");
}

#[tokio::test]
async fn a_final_refusal_fails_one_batch_and_no_other() {
    let plan = Plan { refuse: HashMap::from([(3, "BATCH_TOO_LARGE")]), ..Default::default() };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).build().await.expect("starts");
    let offsets = send_numbers(&producer, 10).await;
    assert!(matches!(&offsets[2], Err(ProduceError::Refused(e)) if e.reason == "BATCH_TOO_LARGE"));
    assert_eq!(offsets.iter().filter(|offset| offset.is_ok()).count(), 9);
    let mut expected = numbers(0..10);
    expected.remove(2);
    assert_eq!(values(&broker).await[&0], expected);
    assert!(matches!(producer.flush().await, Err(ProduceError::Refused(_))));
    producer.flush().await.expect("said once");
}

#[tokio::test]
async fn without_sequences_a_broken_stream_leaves_unknown_results_and_the_rest_goes_on() {
    let plan = Plan { break_after: [5].into(), max_in_flight_requests: 2, ..Default::default() };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).idempotent(false).build().await.expect("starts");
    assert_eq!(broker.producers(), 0);
    let offsets = send_numbers(&producer, 20).await;
    let unknown: Vec<usize> = (0..20)
        .filter(|i| matches!(offsets[*i], Err(ProduceError::ResultUnknown { .. })))
        .collect();
    assert!(unknown.contains(&4), "it was appended and not answered: {offsets:?}");
    assert!(unknown.len() <= 2, "only what was in flight: {unknown:?}");
    assert_eq!(offsets.iter().filter(|offset| offset.is_ok()).count(), 20 - unknown.len());
    let stored = values(&broker).await.remove(&0).expect("has records");
    let mut once = stored.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), stored.len(), "nothing was appended twice");
}

#[tokio::test]
async fn keys_and_partitions_place_records_and_the_rest_is_spread() {
    let broker = FakeBroker::start(4, Plan::default()).await;
    let producer = one_by_one(&broker).build().await.expect("starts");
    for number in 0..40 {
        let value = number.to_string();
        let record = Record::value(value.as_bytes());
        drop(producer.send(record.partition(PartitionIndex::new(2))).await.expect("taken"));
        drop(producer.send(record.key(b"same")).await.expect("taken"));
        drop(producer.send(record).await.expect("taken"));
    }
    let wrong = Record::value(b"x").partition(PartitionIndex::new(4));
    let error = producer.send(wrong).await.expect_err("no such partition");
    assert!(matches!(error, ProduceError::NoSuchPartition { partitions: 4, .. }));
    producer.close().await.expect("nothing failed");
    let values = values(&broker).await;
    assert_eq!(values.values().map(Vec::len).sum::<usize>(), 120);
    assert!(values.len() == 4 && values[&2].len() >= 50, "{values:?}");
}

#[tokio::test]
async fn without_acknowledgement_everything_leaves_before_close_returns() {
    let plan = Plan { refuse: HashMap::from([(2, "STORAGE_FULL")]), ..Default::default() };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).acks(Acks::None).build().await.expect("starts");
    for number in 0..50 {
        let value = number.to_string();
        let placed = producer.send(Record::value(value.as_bytes())).await.expect("taken").await;
        assert_eq!(placed.expect("handed over").offset, None);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let closed = producer.close().await;
    assert!(matches!(closed, Err(ProduceError::Refused(_))), "{closed:?}");
    let stored = values(&broker).await.remove(&0).expect("has records");
    assert_eq!(stored[0], "0");
    assert_eq!(stored.last().map(String::as_str), Some("49"), "it resumed after the refusal");
}

#[tokio::test]
async fn a_full_buffer_makes_senders_wait_and_never_holds_more() {
    const BUFFER_BYTES: usize = 2_000;
    /// A value of 100 bytes with what is around it.
    const RECORD_BYTES: usize = 110;
    // Refused for a while, the first batch keeps its room and all others behind it.
    let refuse = (1..=4).map(|number| (number, "OVERLOADED")).collect();
    let broker = FakeBroker::start(1, Plan { refuse, ..Default::default() }).await;
    let client = Client::connect(&broker.url).expect("an address");
    let builder = client.producer("t").buffer_bytes(BUFFER_BYTES).batch_bytes(500);
    let producer = builder.build().await.expect("starts");
    let (mut deliveries, mut waits) = (Vec::new(), 0);
    for number in 0..200 {
        let value = [number; 100];
        let mut sending = pin!(producer.send(Record::value(&value)));
        let delivery = tokio::select! {
            biased;
            taken = &mut sending => taken,
            () = std::future::ready(()) => {
                let stats = producer.stats();
                // Else it has been taken, and lets others go first.
                if stats.accepted_records == u64::from(number) {
                    waits += 1;
                    let with_it = stats.buffered_bytes + RECORD_BYTES;
                    assert!(BUFFER_BYTES < with_it, "there is room: {stats:?}");
                }
                sending.await
            }
        };
        deliveries.push(delivery.expect("taken"));
        let buffered = producer.stats().buffered_bytes;
        assert!(buffered <= BUFFER_BYTES, "{buffered} bytes");
    }
    assert!(waits > 0, "nobody had to wait");
    for (offset, delivery) in deliveries.into_iter().enumerate() {
        let placed = delivery.await.expect("delivered");
        assert_eq!(placed.offset, Some(Offset::new(offset as u64)));
    }
}

/// A broker on a thread of its own, whose time ends.
struct Mortal {
    broker: FakeBroker,
    life: Life,
}

/// What runs until it is told to end.
struct Life {
    end: oneshot::Sender<()>,
    thread: JoinHandle<Runtime>,
}

impl Life {
    /// What hung goes on as if nothing had been.
    fn resume(runtime: Runtime) -> Self {
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(|| {
            runtime.block_on(async { drop(ended.await) });
            runtime
        });
        Self { end, thread }
    }

    /// From here on it hangs: its connections stay, and nothing on them is read or written. It dies
    /// when what this returns is shut down.
    fn hang(self) -> Runtime {
        drop(self.end);
        self.thread.join().expect("no panic")
    }
}

impl Mortal {
    async fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let starting = runtime.spawn(FakeBroker::start(1, Plan::default()));
        let life = Life::resume(runtime);
        Self { broker: starting.await.expect("it starts"), life }
    }
}

/// How long the producers of the next tests try, and what it may need beyond that.
const TIMEOUT: Duration = Duration::from_millis(400);
const SLACK: Duration = Duration::from_secs(5);

#[track_caller]
fn check_in_time(began: Instant, due: Duration) {
    let took = began.elapsed();
    assert!(due <= took && took < due + SLACK, "after {took:?}, not {due:?}");
}

/// Checks that what is sent fails when its time is over.
async fn check_fails_in_time(producer: &Producer) {
    let began = Instant::now();
    let first = producer.send(Record::value(&[7; 40])).await.expect("taken");
    // There is no room for it until the first has failed.
    let second = producer.send(Record::value(&[8; 40])).await.expect("taken");
    for (delivery, due) in [(first, TIMEOUT), (second, 2 * TIMEOUT)] {
        let error = delivery.await.expect_err("nobody is there");
        assert!(matches!(error, ProduceError::TimedOut { .. }), "{error}");
        check_in_time(began, due);
    }
}

#[tokio::test]
async fn what_a_broker_that_hangs_or_is_dead_does_not_take_fails_in_time() {
    let mortal = Mortal::start().await;
    let client = Client::connect(&mortal.broker.url).expect("an address");
    let builder = client.producer("t").delivery_timeout(TIMEOUT).buffer_bytes(50);
    let producer = builder.build().await.expect("starts");
    let delivery = producer.send(Record::value(&[7; 40])).await.expect("taken");
    delivery.await.expect("the broker is well");

    let hanging = mortal.life.hang();
    let began = Instant::now();
    let delivery = producer.send(Record::value(&[7; 40])).await.expect("taken");
    let error = delivery.await.expect_err("nobody answers");
    assert!(matches!(error, ProduceError::ResultUnknown { .. }), "it was sent: {error}");
    check_in_time(began, TIMEOUT);
    check_fails_in_time(&producer).await;

    hanging.shutdown_background();
    for _ in 0..3 {
        check_fails_in_time(&producer).await;
    }
}

#[tokio::test]
async fn flush_and_close_return_when_the_broker_stays_away() {
    let mortal = Mortal::start().await;
    let client = Client::connect(&mortal.broker.url).expect("an address");
    let producer = client.producer("t").delivery_timeout(TIMEOUT).build().await.expect("starts");
    let delivery = producer.send(Record::value(b"first")).await.expect("taken");
    delivery.await.expect("the broker is well");

    let hanging = mortal.life.hang();
    let began = Instant::now();
    drop(producer.send(Record::value(b"sent and not answered")).await.expect("taken"));
    let outcome = tokio::time::timeout(SLACK, producer.flush()).await;
    let error = outcome.expect("it returns").expect_err("nobody answers");
    assert!(matches!(error, ProduceError::ResultUnknown { .. }), "{error}");
    check_in_time(began, TIMEOUT);

    hanging.shutdown_background();
    let began = Instant::now();
    drop(producer.send(Record::value(b"not sent")).await.expect("taken"));
    let outcome = tokio::time::timeout(SLACK, producer.close()).await;
    let error = outcome.expect("it returns").expect_err("nobody is there");
    assert!(matches!(error, ProduceError::TimedOut { .. }), "{error}");
    check_in_time(began, TIMEOUT);
}

#[tokio::test]
async fn a_stream_that_answered_too_late_takes_nothing_from_the_next() {
    /// More than a connection takes of a stream that nobody reads.
    const BATCHES: usize = 40;
    const TIMEOUT: Duration = Duration::from_secs(3);
    let mortal = Mortal::start().await;
    let client = Client::connect(&mortal.broker.url).expect("an address");
    let builder = client.producer("t").delivery_timeout(TIMEOUT).batch_bytes(100 << 10);
    let producer = builder.build().await.expect("starts");
    let value = vec![7; 99 << 10];
    producer.send(Record::value(&value)).await.expect("taken").await.expect("the broker is well");

    let hanging = mortal.life.hang();
    let mut deliveries = Vec::new();
    for _ in 0..BATCHES {
        deliveries.push(producer.send(Record::value(&value)).await.expect("taken"));
    }
    let mut unknown = 0;
    for delivery in deliveries {
        let error = delivery.await.expect_err("nobody answers");
        unknown += usize::from(matches!(error, ProduceError::ResultUnknown { .. }));
    }
    assert!(0 < unknown && unknown < BATCHES, "{unknown} were handed to the connection");

    let life = Life::resume(hanging);
    for _ in 0..BATCHES {
        let delivery = producer.send(Record::value(&value)).await.expect("taken");
        delivery.await.expect("the broker is well again");
    }
    drop(producer.flush().await);
    producer.close().await.expect("all was delivered or said before");
    let deadline = Instant::now() + SLACK;
    while mortal.broker.open_produce_streams() > 0 {
        assert!(Instant::now() < deadline, "a stream was never ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    life.hang().shutdown_background();
}

#[tokio::test]
async fn records_too_large_for_a_batch_are_refused_at_once() {
    let broker = FakeBroker::start(1, Plan::default()).await;
    let client = Client::connect(&broker.url).expect("an address");
    let producer = client.producer("t").build().await.expect("starts");
    let huge = vec![0; 2 << 20];
    let error = producer.send(Record::value(&huge)).await.expect_err("too large");
    assert!(matches!(error, ProduceError::RecordTooLarge { .. }));
    let large = vec![0; 900 << 10];
    let placed = producer.send(Record::value(&large)).await.expect("taken").await;
    assert_eq!(placed.expect("appended").offset, Some(Offset::ZERO));
}
