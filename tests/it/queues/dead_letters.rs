//! What is not tried any more is copied to a dead-letter topic: each record once.

use std::time::Duration;

use bytes::Bytes;
use taffrail_model::partition_for_key;
use taffrail_proto::v1;
use tonic::{Code, Status};

use super::{ACK, Worker, await_idle, calls, create, describe, nack, parked, reject, try_create};
use crate::broker::{Broker, Home};
use crate::door::{
    Door, Placed, batch_of, check_status, error_of, produce_batch, record, soon, value,
};
use crate::http::metric;

fn to(topic: &str) -> v1::QueueSettings {
    v1::QueueSettings { dead_letter_topic: Some(topic.into()), ..Default::default() }
}

async fn alter(door: &Door, settings: v1::QueueSettings) -> Result<(), Status> {
    let request = v1::AlterQueueRequest { queue: "q".into(), settings: Some(settings) };
    soon(calls(door).alter_queue(request)).await.map(drop)
}

fn keyed(key: &str, value: &str) -> v1::Record {
    v1::Record { key: Some(Bytes::copy_from_slice(key.as_bytes())), ..record(value) }
}

/// What a header says.
fn header(letter: &Placed, name: &str) -> String {
    let name = format!("taffrail-dead-letter-{name}");
    let found = letter.record.headers.iter().filter(|it| it.name == name).collect::<Vec<_>>();
    let [header] = found[..] else { panic!("{name}: {found:?}") };
    String::from_utf8(header.value.to_vec()).expect("text")
}

/// Waits until nothing is parked any more.
async fn await_copies(door: &Door) {
    let wait = async {
        while !parked(door).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(wait).await;
}

#[tokio::test]
async fn dead_letters_say_where_they_come_from_and_why() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("dead", 3).await;
    let settings =
        v1::QueueSettings { max_attempts: Some(2), min_backoff_ms: Some(0), ..to("dead") };
    create(&door, 1, settings).await;
    let own = v1::Header { name: "own".into(), value: Bytes::from_static(b"kept") };
    let first = v1::Record { headers: vec![own], timestamp_ms: 1_234, ..keyed("k", "one") };
    let records = vec![first, record("two"), record("three")];
    door.produce(produce_batch("t", 0, batch_of(records))).await;
    let mut worker = Worker::start(&door, 10).await;
    for _ in 0..5 {
        let delivery = worker.next().await;
        let verdict = match (delivery.offset, delivery.attempt) {
            (0, _) => reject("it is broken"),
            (1, _) | (_, 1) => nack(0),
            _ => ACK,
        };
        assert_eq!(worker.settle(&delivery, verdict).await, None);
    }
    await_copies(&door).await;

    let home = partition_for_key(b"k", 3).get();
    let mut letters = door.read("dead", home, 0).await;
    if home != 0 {
        letters.extend(door.read("dead", 0, 0).await);
    }
    letters.sort_by_key(|letter| header(letter, "offset"));
    let [one, two] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((value(one), value(two)), ("one".into(), "two".into()));
    assert_eq!((one.record.key.as_deref(), two.record.key.as_deref()), (Some(&b"k"[..]), None));
    assert_eq!(one.record.timestamp_ms, 1_234, "as it was");
    assert_eq!(one.record.headers.iter().filter(|it| it.name == "own").count(), 1);
    let said = |letter, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| header(letter, name)).collect()
    };
    let names = ["queue", "topic", "partition", "offset", "reason", "attempts"];
    assert_eq!(said(one, &names), ["q", "t", "0", "0", "it is broken", "1"]);
    assert_eq!(said(two, &names), ["q", "t", "0", "1", "failed at attempt 2", "2"]);
    assert!(header(two, "time").parse::<i64>().expect("a number") > 1_700_000_000_000);

    let described = await_idle(&door, v1::QueueIdle::Empty).await;
    let tally = described.tally.expect("it has counted");
    assert_eq!((tally.delivered, tally.redelivered), (5, 2));
    assert_eq!((tally.acknowledged, tally.failed, tally.parked, tally.copied), (1, 3, 2, 2));
    assert_eq!(described.uncopied_cause, "");
    for (name, labels, expected) in [
        ("delivered_total", "", 5),
        ("redelivered_total", "", 2),
        ("acknowledged_total", "", 1),
        ("failed_total", "", 3),
        ("expired_total", "", 0),
        ("given_up_total", "", 2),
        ("dead_letters_total", "", 2),
        ("records", ",state=\"new\"", 0),
        ("records", ",state=\"parked\"", 0),
        ("workers", "", 1),
        ("oldest_seconds", "", 0),
    ] {
        let name = format!("taffrail_queue_{name}{{queue=\"q\"{labels}}}");
        assert_eq!(metric(&broker, &name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn what_was_parked_before_goes_there_too_and_nothing_where_there_is_no_such_topic() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 2, v1::QueueSettings::default()).await;
    door.append("t", &["a", "b", "c"]).await;
    let mut worker = Worker::start(&door, 10).await;
    for _ in 0..3 {
        let delivery = worker.next().await;
        assert_eq!(worker.settle(&delivery, reject("why")).await, None);
    }
    door.create("dead", 1).await;
    alter(&door, to("dead")).await.expect("it can be");
    await_copies(&door).await;
    assert_eq!(door.values("dead").await, ["a", "b", "c"]);

    door.delete("dead").await.expect("it is there");
    door.append("t", &["d"]).await;
    let delivery = worker.next().await;
    assert_eq!(worker.settle(&delivery, reject("why")).await, None);
    let says_why = async {
        loop {
            let cause = describe(&door).await.uncopied_cause;
            if cause.contains("there is no dead-letter topic \"dead\": create it") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(says_why).await;
    assert_eq!(parked(&door).await.len(), 1, "nothing is lost");
    door.create("dead", 2).await;
    await_copies(&door).await;
    assert_eq!(door.values("dead").await, ["d"]);
    assert_eq!(describe(&door).await.uncopied_cause, "");

    alter(&door, to("")).await.expect("it can be");
    door.append("t", &["e"]).await;
    let delivery = worker.next().await;
    assert_eq!(worker.settle(&delivery, reject("why")).await, None);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(parked(&door).await.len(), 1, "it stays parked");
}

#[tokio::test]
async fn what_the_topic_does_not_take_stays_parked_and_holds_up_nothing() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("dead", 1, &[("max.batch.bytes", "64KiB")]).await;
    create(&door, 1, to("dead")).await;
    let large = "x".repeat(70_000);
    door.append("t", &[&large]).await;
    let small: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let small: Vec<_> = small.iter().map(String::as_str).collect();
    door.append("t", &small).await;
    let mut worker = Worker::start(&door, 200).await;
    for _ in 0..101 {
        let delivery = worker.next().await;
        assert_eq!(worker.settle(&delivery, reject("why")).await, None);
    }
    let is_copied = async {
        while parked(&door).await.len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while !describe(&door).await.uncopied_cause.contains("offset 0 of partition 0") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(is_copied).await;
    assert_eq!(door.values("dead").await.len(), 100);
    door.alter("dead", &[("max.batch.bytes", "1MiB")]).await.expect("it can be");
    await_copies(&door).await;
    assert_eq!(door.values("dead").await[100], large);
}

#[tokio::test]
async fn a_queue_goes_back_to_a_topic_that_it_has_copied_to_before() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("one", 1).await;
    door.create("two", 1).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let mut worker = Worker::start(&door, 10).await;
    for (topic, value) in [("one", "a"), ("two", "b"), ("one", "c"), ("two", "d")] {
        alter(&door, to(topic)).await.expect("it can be");
        door.append("t", &[value]).await;
        let delivery = worker.next().await;
        assert_eq!(worker.settle(&delivery, reject("why")).await, None);
        await_copies(&door).await;
    }
    assert_eq!((door.values("one").await, door.values("two").await), {
        let text = |values: [&str; 2]| values.map(str::to_owned).to_vec();
        (text(["a", "c"]), text(["b", "d"]))
    });
}

#[tokio::test]
async fn a_record_that_is_deleted_while_it_is_parked_says_so_as_a_dead_letter() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    door.append("t", &["a", "b"]).await;
    let mut worker = Worker::start(&door, 10).await;
    let delivery = worker.next().await;
    assert_eq!(worker.settle(&delivery, reject("why")).await, None);
    door.delete_records("t", 0, Some(1)).await.expect("it can be");
    door.create("dead", 1).await;
    alter(&door, to("dead")).await.expect("it can be");
    await_copies(&door).await;
    let letters = door.read("dead", 0, 0).await;
    assert_eq!(letters[0].record.value, None);
    assert_eq!(header(&letters[0], "content"), "gone");
    assert_eq!(header(&letters[0], "reason"), "why");
}

#[tokio::test]
async fn dead_letter_topics_that_cannot_be_are_refused() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    door.create_with("table", 1, &[("cleanup", "compact")]).await;
    for (topic, code, reason, says) in [
        ("nowhere", Code::NotFound, "UNKNOWN_TOPIC", "no topic"),
        ("__queues", Code::PermissionDenied, "INTERNAL_TOPIC", "no queue can be on it"),
        ("t", Code::InvalidArgument, "INVALID_REQUEST", "name another one"),
        ("table", Code::InvalidArgument, "INVALID_REQUEST", "is compacted"),
    ] {
        for refused in [alter(&door, to(topic)).await, try_create(&door, "r", "t", to(topic)).await]
        {
            let status = refused.expect_err("it cannot be");
            assert_eq!(status.code(), code, "{status:?}");
            let error = error_of(&status);
            assert_eq!(error.reason, reason);
            assert!(error.message.contains(says), "{error:?}");
        }
    }
    let gone =
        soon(calls(&door).describe_queue(v1::DescribeQueueRequest { queue: "r".into() })).await;
    check_status(gone, Code::NotFound, "UNKNOWN_QUEUE", &[("queue", "r")], "create it first");
}

#[tokio::test]
async fn a_broker_that_starts_goes_on_copying_though_nobody_works() {
    let home = Home::new();
    let mut broker = home.start(&[]);
    let door = Door::open(&broker).await;
    door.create("dead", 1).await;
    create(&door, 1, to("dead")).await;
    door.delete("dead").await.expect("it is there");
    let values: Vec<_> = (0..200).map(|index| index.to_string()).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    door.append("t", &values).await;
    let mut worker = Worker::start(&door, 300).await;
    for _ in 0..200 {
        let delivery = worker.next().await;
        assert_eq!(worker.settle(&delivery, reject("why")).await, None);
    }
    drop(worker);
    broker.program.kill();
    drop(broker);
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    assert_eq!(parked(&door).await.len(), 100, "as many as are listed at once");
    door.create("dead", 1).await;
    await_copies(&door).await;
    let mut copied = door.values("dead").await;
    copied.sort_by_key(|value| value.parse::<u32>().expect("a number"));
    assert_eq!(copied, values);
}
