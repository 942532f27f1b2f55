//! The topic beneath a queue grows, is cut, and goes.

use std::time::Duration;

use bytes::Bytes;
use taffrail_proto::v1;

use super::{ACK, Worker, await_idle, calls, create, describe, reject, try_create, value};
use crate::broker::Broker;
use crate::door::{Door, batch, batch_of, check_status, produce_batch, record, soon};

#[tokio::test]
async fn partitions_that_are_added_are_worked_on_too() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let mut worker = Worker::start(&door, 10).await;
    let request = v1::AddPartitionsRequest { name: "t".into(), partitions: 3 };
    soon(door.admin.clone().add_partitions(request)).await.expect("it grows");
    door.produce(produce_batch("t", 2, batch(&["new"]))).await;
    let delivery = worker.next().await;
    assert_eq!((delivery.partition, value(&delivery).as_str()), (2, "new"));
    assert_eq!(worker.settle(&delivery, ACK).await, None);
}

#[tokio::test]
async fn retention_keeps_what_a_queue_needs_and_nothing_else() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let settings = [("segment.bytes", "1MiB"), ("retention.bytes", "1MiB")];
    door.create_with("t", 1, &settings).await;
    try_create(&door, "q", "t", v1::QueueSettings::default()).await.expect("it is new");
    let large = "x".repeat(500_000);
    for _ in 0..10 {
        door.append("t", &[&large]).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(door.describe("t").await.partitions[0].log_start, 0, "the queue needs all of it");
    let mut worker = Worker::start(&door, 100).await;
    let first = worker.next().await;
    assert_eq!(worker.settle(&first, reject("later")).await, None);
    for _ in 0..9 {
        let delivery = worker.next().await;
        assert_eq!(worker.settle(&delivery, ACK).await, None);
    }
    await_idle(&door, v1::QueueIdle::Empty).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(door.describe("t").await.partitions[0].log_start, 0, "what is parked is kept");
    let selection = Some(v1::parked_selection::Selection::First(1));
    let discard = v1::DiscardParkedRequest {
        queue: "q".into(),
        selection: Some(v1::ParkedSelection { selection }),
    };
    soon(calls(&door).discard_parked(discard)).await.expect("it is there");
    let is_deleted = async {
        while door.describe("t").await.partitions[0].log_start == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(is_deleted).await;
}

#[tokio::test]
async fn what_was_deleted_on_request_is_passed_over() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    door.append("t", &["a", "b", "c"]).await;
    let mut worker = Worker::start(&door, 1).await;
    let first = worker.next().await;
    door.delete_records("t", 0, Some(2)).await.expect("they go");
    worker.grant(10);
    let next = worker.next().await;
    if value(&next) == "b" {
        // It was read before it went.
        assert_eq!(value(&worker.next().await), "c");
    } else {
        assert_eq!(value(&next), "c");
    }
    assert_eq!(worker.settle(&first, ACK).await, None);
}

#[tokio::test]
async fn a_queue_whose_topic_is_gone_says_so() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let worker = Worker::start(&door, 1).await;
    door.delete("t").await.expect("it was there");
    assert_eq!(describe(&door).await.idle(), v1::QueueIdle::NoTopic);
    drop(worker);
    // Another one of its name is another one.
    door.create("t", 1).await;
    assert_eq!(describe(&door).await.idle(), v1::QueueIdle::NoTopic);
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    let mut worker = Worker::open(&door, "q").await;
    let refused = soon(worker.take()).await;
    let metadata = [("topic", "t"), ("queue", "q")];
    check_status(refused, tonic::Code::NotFound, "UNKNOWN_TOPIC", &metadata, "was deleted");
}

#[tokio::test]
async fn compaction_leaves_alone_what_a_queue_needs() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let settings = [
        ("cleanup", "compact"),
        ("segment.bytes", "64KiB"),
        ("max.batch.bytes", "64KiB"),
        ("min.cleanable.dirty.ratio", "0"),
    ];
    door.create_with("t", 1, &settings).await;
    try_create(&door, "q", "t", v1::QueueSettings::default()).await.expect("it is new");
    let filler = "x".repeat(20_000);
    let key = Some(Bytes::from_static(b"k"));
    for _ in 0..20 {
        let record = v1::Record { key: key.clone(), ..record(&filler) };
        door.produce(produce_batch("t", 0, batch_of(vec![record]))).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(door.read("t", 0, 0).await.len(), 20, "the queue needs each of them");
    let mut worker = Worker::start(&door, 100).await;
    for offset in 0..20 {
        let delivery = worker.next().await;
        assert_eq!(delivery.offset, offset);
        assert_eq!(worker.settle(&delivery, ACK).await, None);
    }
    let is_compacted = async {
        while door.read("t", 0, 0).await.len() > 10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(is_compacted).await;
}

#[tokio::test]
async fn what_retention_would_delete_is_copied_where_that_is_wanted() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let settings = [("segment.bytes", "1MiB"), ("retention.bytes", "1MiB")];
    door.create_with("t", 1, &settings).await;
    door.create("dead", 1).await;
    let copying = v1::QueueSettings {
        dead_letter_topic: Some("dead".into()),
        retention: v1::QueueRetention::Copy.into(),
        ..Default::default()
    };
    try_create(&door, "q", "t", copying).await.expect("it is new");
    let large = "x".repeat(500_000);
    let value = |number: u32| format!("{number} {large}");
    door.append("t", &[&value(0)]).await;
    let mut worker = Worker::start(&door, 1).await;
    let held = worker.next().await;
    for number in 1..10 {
        door.append("t", &[&value(number)]).await;
    }
    let is_copied = async {
        while door.values("dead").await.len() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(is_copied).await;
    assert_eq!(door.describe("t").await.partitions[0].log_start, 0, "somebody works on the first");
    assert_eq!(worker.settle(&held, ACK).await, None);
    let is_deleted = async {
        while door.describe("t").await.partitions[0].log_start == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(is_deleted).await;

    // The rest is handed out, or goes there too, and nothing twice.
    worker.grant(100);
    let mut done = vec![0];
    let all_is_told = async {
        loop {
            if !worker.gets_nothing(Duration::from_millis(200)).await {
                let delivery = worker.next().await;
                assert_eq!(worker.settle(&delivery, ACK).await, None);
                done.push(delivery.offset);
            }
            let mut all = done.clone();
            for letter in door.read("dead", 0, 0).await {
                let header = |name: &str| {
                    let mut headers = letter.record.headers.iter();
                    let header =
                        headers.find(|it| it.name == format!("taffrail-dead-letter-{name}"));
                    String::from_utf8(header.expect("it is there").value.to_vec()).expect("text")
                };
                assert_eq!(header("reason"), "retention would have deleted it");
                let offset = header("offset").parse().expect("a number");
                assert_eq!(crate::door::value(&letter), value(offset));
                all.push(offset.into());
            }
            all.sort_unstable();
            if all.len() >= 10 {
                return all;
            }
        }
    };
    assert_eq!(soon(all_is_told).await, (0..10).collect::<Vec<_>>());
    let tally = await_idle(&door, v1::QueueIdle::Empty).await.tally.expect("it has counted");
    assert_eq!(tally.parked, tally.copied);
}
