//! The consumer's promises: every record once and in order, through broken streams and seeks.

use std::time::Duration;

use taffrail_client::{
    Client, Consumer, Offset, PartitionIndex, Position, Record, TopicName, Until,
};

use crate::fake_broker::{FakeBroker, Plan};

/// A broker with one partition that holds `count` records, some in a batch.
async fn filled(count: u32, plan: Plan) -> (FakeBroker, Client) {
    let broker = FakeBroker::start(1, plan).await;
    let client = Client::connect(&broker.url).expect("an address");
    append(&client, count).await;
    (broker, client)
}

async fn append(client: &Client, count: u32) {
    let producer = client.producer("t").batch_bytes(100).batch_bytes_busy(100);
    let producer = producer.build().await.expect("starts");
    for number in 0..count {
        drop(producer.send(Record::value(&number.to_le_bytes())).await.expect("taken"));
    }
    producer.close().await.expect("appended");
}

/// The offsets of the next `count` records.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        let batch = consumer.next_batch().await.expect("has more").expect("sound");
        offsets.extend(batch.records().map(|record| record.expect("sound").offset.get()));
    }
    offsets
}

#[tokio::test]
async fn replay_turns_into_the_live_tail() {
    let (_broker, client) = filled(100, Plan::default()).await;
    let builder = client.consumer().topic("t").from(Position::Offset(Offset::new(33)));
    let mut consumer = builder.build().await.expect("starts");
    assert!(take(&mut consumer, 67).await.into_iter().eq(33..100));
    assert!(consumer.is_caught_up());
    append(&client, 10).await;
    assert!(take(&mut consumer, 10).await.into_iter().eq(100..110));
}

#[tokio::test]
async fn broken_streams_lose_and_repeat_nothing() {
    let plan = Plan { break_after_deliveries: Some(3), ..Default::default() };
    let (broker, client) = filled(200, plan).await;
    let builder = client.consumer().topic("t").until(Until::HighWatermark).prefetch_bytes(200);
    let mut consumer = builder.build().await.expect("starts");
    assert!(take(&mut consumer, 200).await.into_iter().eq(0..200));
    assert!(consumer.next_batch().await.is_none());
    assert!(broker.streams() > 3, "it broke often");
}

#[tokio::test]
async fn a_small_prefetch_neither_stalls_nor_skips() {
    let (_broker, client) = filled(1_000, Plan::default()).await;
    let builder = client.consumer().topic("t").until(Until::HighWatermark).prefetch_bytes(1);
    let mut consumer = builder.build().await.expect("starts");
    assert!(take(&mut consumer, 1_000).await.into_iter().eq(0..1_000));
    assert!(consumer.next_batch().await.is_none());
}

#[tokio::test]
async fn seek_goes_anywhere_and_pause_holds_back() {
    let (_broker, client) = filled(100, Plan::default()).await;
    let mut consumer = client.consumer().topic("t").build().await.expect("starts");
    let (topic, partition) = (TopicName::parse("t").expect("a name"), PartitionIndex::new(0));
    take(&mut consumer, 50).await;
    assert!(consumer.seek(&topic, partition, Position::Last(5)));
    assert!(take(&mut consumer, 5).await.into_iter().eq(95..100));
    assert!(consumer.pause(&topic, partition));
    tokio::time::sleep(Duration::from_millis(50)).await;
    append(&client, 5).await;
    let wait = Duration::from_millis(100);
    assert!(tokio::time::timeout(wait, consumer.next_batch()).await.is_err(), "it is paused");
    assert!(consumer.resume(&topic, partition));
    assert!(take(&mut consumer, 5).await.into_iter().eq(100..105));
    assert!(!consumer.seek(&topic, PartitionIndex::new(1), Position::Earliest));
}
