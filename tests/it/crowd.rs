//! Many clients at once: producers, consumers, those who say nothing, and those who take nothing.

use std::collections::BTreeMap;

use taffrail_client::{Acks, Client, PartitionIndex, Record};
use taffrail_proto::v1;
use taffrail_proto::v1::consume_request::Command;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::door::{Door, batch, fetch_request, produce_batch, soon};
use crate::http::{await_metric, metric};
use crate::idle::may_open;
use crate::pipe::{EARLIEST, Feed, Pipe, subscribe};
use crate::raw::Raw;

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
    const BATCHES: u64 = 1_150;
    if !may_open(4_000, "stalled consumers beside idle connections") {
        return;
    }
    // Far less memory for answers than the stalled ones would like to have.
    let broker = Broker::with(&["memory=32MiB", "tail_memory=16MiB"]);
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("durability", "page_cache")]).await;
    let sent = batch(&[&"x".repeat(60_000)]);
    let mut pipe = Pipe::open(&door).await;
    // So many at a time that there is memory for them.
    for number in 1..=BATCHES + 64 {
        if number > 64 {
            assert_eq!(pipe.next().await.1.error, None);
        }
        if number <= BATCHES {
            pipe.send(number, produce_batch("t", 0, sent.clone()));
        }
    }
    // Some say nothing at all, most have spoken HTTP/2 and want nothing.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(soon(TcpStream::connect(broker.address)).await.expect("there is room"));
    }
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(Raw::open(&broker).await);
    }
    // They grant everything and read nothing. Some keep the windows of HTTP/2 shut; of others nobody
    // reads the sockets, and what was sent waits in buffers.
    let (mut shut, mut unread) = (Vec::new(), Vec::new());
    for number in 0..100 {
        if number < 40 {
            let door = Door::open(&broker).await;
            shut.push((Feed::on(&door, "t", EARLIEST, 1 << 30).await, door));
            continue;
        }
        let mut raw = Raw::open(&broker).await;
        if number < 80 {
            let grant = Command::Grant(v1::Grant { bytes: 1 << 30 });
            let commands = [grant, Command::Subscribe(subscribe(1, "t", 0, EARLIEST))];
            let said = commands.map(|it| v1::ConsumeRequest { command: Some(it) });
            raw.call("/taffrail.v1.LogService/Consume", &said, false).await;
        } else {
            for offset in 0..4 {
                let wide = 4 << 20;
                let request = fetch_request("t", 0, offset);
                let request =
                    v1::FetchRequest { max_bytes: wide, max_message_bytes: 2 * wide, ..request };
                raw.call("/taffrail.v1.LogService/Fetch", &[request], true).await;
            }
        }
        unread.push(raw);
    }
    await_metric(&broker, "taffrail_connections", |connections| connections >= 1_100).await;
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == 80).await;

    let mut feed = Feed::on(&door, "t", EARLIEST, 1 << 30).await;
    feed.subscribed().await;
    assert_eq!(feed.values(0, BATCHES as usize).await.len(), BATCHES as usize);
    assert_eq!(door.fetch("t", 0, BATCHES - 1).await.next_offset, BATCHES, "a fetch is answered");
    for number in 0..100 {
        let text = number.to_string();
        assert_eq!(door.append("t", &[&text]).await, BATCHES + number);
        assert_eq!(feed.values(BATCHES + number, 1).await, [text]);
    }
    // As docs/operations/running.md counts it: the program, the settings, connections, and 160 streams
    // with three answers each; a quarter more for what the allocator keeps.
    let most = ((40 + 32 + 16) << 20) + 1_302 * (32 << 10) + 160 * 3 * (64 << 10);
    let most = most + most / 4;
    let resident = metric(&broker, "taffrail_process_resident_memory_bytes").await;
    assert!(resident < most, "{resident} bytes");
    drop((shut, unread, feed));
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == 0).await;
    await_metric(&broker, "taffrail_read_memory_used_bytes", |bytes| bytes == 0).await;
    drop((idle, silent));
    await_metric(&broker, "taffrail_connections", |connections| connections <= 2).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_has_as_many_consumers_as_it_likes() {
    // More than the streams of one connection, of which the broker takes 256.
    const CONSUMERS: usize = 600;
    let broker = Broker::new();
    Door::open(&broker).await.create("t", 1).await;
    let client = Client::builder(&broker.url).connections_max(1).build().expect("an address");
    let mut consumers = Vec::new();
    for _ in 0..CONSUMERS {
        consumers.push(client.consumer().topic("t").build().await.expect("starts"));
    }
    let reading = consumers.into_iter().map(|mut consumer| {
        tokio::spawn(async move {
            let batch = consumer.next_batch().await.expect("a batch").expect("sound");
            batch.records().count()
        })
    });
    let reading: Vec<_> = reading.collect();
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == CONSUMERS as u64).await;
    // Beside it that of whoever made the topic, and those of whoever asks, which end a moment later.
    await_metric(&broker, "taffrail_connections", |open| (3..=5).contains(&open)).await;
    let producer = client.producer("t").build().await.expect("starts");
    let delivery = soon(producer.send(Record::value(b"for all"))).await.expect("taken");
    soon(delivery).await.expect("delivered");
    for reads in reading {
        assert_eq!(soon(reads).await.expect("no panic"), 1);
    }
}
