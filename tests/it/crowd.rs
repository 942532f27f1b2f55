//! Many clients at once: producers, consumers, those who say nothing, and those who take nothing.

use std::collections::BTreeMap;

use taffrail_client::{Acks, Client, PartitionIndex, Record};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::door::{Door, batch, produce_batch, soon};
use crate::http::{await_metric, metric};
use crate::pipe::{EARLIEST, Feed};

const PARTITIONS: u32 = 4;
const PRODUCERS: u32 = 6;
const RECORDS: u32 = 2_000;
const TOTAL: usize = (PRODUCERS * RECORDS) as usize;

/// Sends numbered records to all partitions in turn, as `producer number`.
async fn produce(client: Client, producer: u32, acks: Acks) {
    let sender = client.producer("t").batch_bytes(2_000).acks(acks).build().await.expect("starts");
    let mut deliveries = Vec::new();
    for number in 0..RECORDS {
        let text = format!("{producer} {number}");
        let partition = PartitionIndex::new(number % PARTITIONS);
        let record = Record::value(text.as_bytes()).partition(partition);
        deliveries.push(soon(sender.send(record)).await.expect("taken"));
    }
    let mut last = BTreeMap::new();
    for delivery in deliveries {
        let placed = soon(delivery).await.expect("delivered");
        if let Some(offset) = placed.offset {
            let before = last.insert(placed.partition, offset);
            assert!(before.is_none_or(|before| before < offset), "offsets go back");
        }
    }
    assert_eq!(sender.stats().refused_batches, 0);
    soon(sender.close()).await.expect("nothing failed");
}

/// What a consumer sees until it has seen everything: numbers by partition and producer, in order.
async fn consume(client: Client) -> BTreeMap<(u32, u32), Vec<u32>> {
    let mut consumer = client.consumer().topic("t").build().await.expect("starts");
    let mut found: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    let mut next = [0; PARTITIONS as usize];
    for _ in 0..TOTAL {
        if next.iter().sum::<u64>() as usize == TOTAL {
            break;
        }
        let batch = soon(consumer.next_batch()).await.expect("more").expect("sound");
        let partition = batch.partition.get();
        for record in batch.records() {
            let record = record.expect("sound");
            assert_eq!(record.offset.get(), next[partition as usize], "a seam");
            next[partition as usize] += 1;
            let text = std::str::from_utf8(record.value.expect("a value")).expect("text");
            let (producer, number) = text.split_once(' ').expect("two numbers");
            let key = (partition, producer.parse().expect("a number"));
            found.entry(key).or_default().push(number.parse().expect("a number"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_producers_and_consumers_see_every_record_once_and_in_order() {
    for (durability, acks) in
        [("fsync", Acks::Committed), ("page_cache", Acks::Committed), ("page_cache", Acks::None)]
    {
        let broker = Broker::new();
        let door = Door::open(&broker).await;
        door.create_with("t", PARTITIONS, &[("durability", durability)]).await;
        let consumers: Vec<_> = (0..4).map(|_| tokio::spawn(consume(broker.client()))).collect();
        let producers: Vec<JoinHandle<()>> = (0..PRODUCERS)
            .map(|number| tokio::spawn(produce(broker.client(), number, acks)))
            .collect();
        for producer in producers {
            producer.await.expect("no panic");
        }
        for consumer in consumers {
            let found = soon(consumer).await.expect("no panic");
            for partition in 0..PARTITIONS {
                for producer in 0..PRODUCERS {
                    let numbers = found[&(partition, producer)].iter().copied();
                    let expected = (partition..RECORDS).step_by(PARTITIONS as usize);
                    assert!(numbers.eq(expected), "{durability} {acks:?} {partition} {producer}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_and_stalled_consumers_cost_others_nothing() {
    // Far less memory for answers than the stalled ones would like to have.
    let broker = Broker::with(&["memory=64MiB", "tail_memory=16MiB"]);
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("durability", "page_cache")]).await;
    let value = "x".repeat(900_000);
    for _ in 0..20 {
        door.append("t", &[&value]).await;
    }
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(soon(TcpStream::connect(broker.address)).await.expect("there is room"));
    }
    // They grant everything and read nothing: what was sent waits in windows and buffers.
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let door = Door::open(&broker).await;
        stalled.push((Feed::on(&door, "t", EARLIEST, 1 << 30).await, door));
    }
    await_metric(&broker, "taffrail_connections", |connections| connections >= 250).await;
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == 50).await;

    let mut feed = Feed::on(&door, "t", EARLIEST, 1 << 30).await;
    feed.subscribed().await;
    assert_eq!(feed.values(0, 20).await.len(), 20);
    assert_eq!(door.fetch("t", 0, 3).await.next_offset, 4, "a fetch is answered");
    for number in 0..100 {
        let text = number.to_string();
        assert_eq!(door.append("t", &[&text]).await, 20 + number);
        assert_eq!(feed.values(20 + number, 1).await, [text]);
    }
    let resident = metric(&broker, "taffrail_process_resident_memory_bytes").await;
    assert!(resident < 400 << 20, "{resident} bytes");
    drop((stalled, feed));
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == 0).await;
    await_metric(&broker, "taffrail_read_memory_used_bytes", |bytes| bytes == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_nobody_asks_hold_up_no_producer_on_their_connection() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let value = "x".repeat(900_000);
    for _ in 0..24 {
        door.append("t", &[&value]).await;
    }
    let client = broker.client();
    let mut consumers = Vec::new();
    for _ in 0..2 {
        let mut consumer = client.consumer().topic("t").build().await.expect("starts");
        soon(consumer.next_batch()).await.expect("more").expect("sound");
        consumers.push(consumer);
    }
    // All that they were granted is on the connection, and nobody takes it.
    await_metric(&broker, "taffrail_read_bytes_total", |bytes| bytes > 32_000_000).await;
    let producer = client.producer("t").build().await.expect("starts");
    let delivery = soon(producer.send(Record::value(b"late"))).await.expect("taken");
    soon(delivery).await.expect("delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_of_many_logs_share_their_memory() {
    let broker = Broker::with(&["tail_memory=16MiB"]);
    let door = Door::open(&broker).await;
    door.create("t", 150).await;
    let value = "x".repeat(1_000_000);
    for partition in 0..150 {
        let result = door.produce(produce_batch("t", partition, batch(&[&value]))).await;
        assert_eq!(result.error, None);
    }
    let resident = metric(&broker, "taffrail_process_resident_memory_bytes").await;
    assert!(resident < 120 << 20, "{resident} bytes");
    assert_eq!(door.fetch("t", 0, 0).await.next_offset, 1, "it is read from the file");
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_their_turn() {
    let broker = Broker::with(&["max_connections=4"]);
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let mut first = Vec::new();
    for _ in 0..2 {
        first.push(Door::open(&broker).await);
    }
    await_metric(&broker, "taffrail_connections", |connections| connections == 4).await;
    let full = soon(TcpStream::connect(broker.address)).await.expect("the kernel takes it");
    let late = broker.client();
    let asking = tokio::spawn(async move { late.admin().list_topics(false).await });
    // Those that are in are served.
    door.append("t", &["x"]).await;
    drop((full, first));
    assert_eq!(soon(asking).await.expect("no panic").expect("served").len(), 1);
}
