//! What goes on while a topic is compacted: producers, groups, whoever reads, whoever looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use taffrail_client::{Commit, Event as Consumed, Position, Record};
use taffrail_proto::v1;

use super::{BATCH, EAGER, Given, LABELS, mix, new_entry};
use crate::broker::PATIENCE;
use crate::commands::taffrail;
use crate::door::{Door, batch_of, produce_batch, soon};
use crate::http::{decimal, metric};
use crate::program::run;

#[tokio::test]
async fn what_an_idempotent_producer_sent_is_known_after_it_was_compacted_and_after_a_restart() {
    let mut given = Given::new().await;
    let request = v1::InitProducerRequest::default();
    let made = soon(given.door.log.clone().init_producer(request)).await.expect("a producer");
    let made = made.into_inner();
    let stamped = |given: &mut Given, sequence: u32| {
        let records = (0..BATCH as u64).map(|key| given.record((Some(key), false))).collect();
        let batch = v1::RecordBatch {
            producer_id: made.producer_id,
            producer_epoch: made.producer_epoch,
            base_sequence: sequence,
            ..batch_of(records)
        };
        produce_batch("t", 0, batch)
    };
    let mut sent = Vec::new();
    for number in 0..60 {
        let first = given.end();
        let batch = stamped(&mut given, number * BATCH as u32);
        let result = given.door.produce(batch.clone()).await;
        assert_eq!(
            (result.base_offset, result.duplicate, result.error),
            (Some(first), false, None)
        );
        sent.push((first, batch));
    }
    given.compact().await;
    assert_eq!(given.read(0).await, given.left());
    for _ in 0..3 {
        for (first, batch) in &sent {
            let again = given.door.produce(batch.clone()).await;
            assert_eq!((again.error, again.duplicate), (None, true), "of offset {first}");
            assert_eq!(again.base_offset, Some(*first));
        }
        let (first, sequence) = (given.end(), (sent.len() * BATCH) as u32);
        let batch = stamped(&mut given, sequence);
        let result = given.door.produce(batch.clone()).await;
        assert_eq!(
            (result.base_offset, result.duplicate, result.error),
            (Some(first), false, None)
        );
        sent.push((first, batch));
        given = given.restart().await;
    }
    given.compact().await;
    assert_eq!(given.read(0).await, given.left());
}

#[tokio::test]
async fn a_group_commits_and_goes_on_inside_what_was_compacted() {
    let given = super::reading::given().await;
    let (left, end) = (given.left(), given.end());
    let mut found = Vec::new();
    let mut visits = 0;
    while found.len() < left.len() {
        let client = given.broker.client();
        let group = client.group("g").topic("t").from(Position::Earliest).commit(Commit::Manual);
        let mut consumer = soon(group.build()).await.expect("it can join");
        // A little, and then another one goes on.
        let until = (found.len() + 60).min(left.len());
        while found.len() < until {
            let batch = soon(consumer.next_batch()).await.expect("more").expect("sound");
            for record in batch.records() {
                let record = record.expect("sound");
                found.push(new_entry(record.offset.get(), record.key, record.value));
            }
            soon(consumer.commit(&batch)).await.expect("it is committed");
        }
        soon(consumer.close()).await.expect("it leaves");
        visits += 1;
        let described = describe(&given).await;
        let [partition] = &described.partitions[..] else { panic!("{described:?}") };
        let committed = partition.committed.expect("it has committed");
        assert_eq!((&partition.error, partition.end), (&None, end));
        assert_eq!((partition.lag, partition.log_start), (end - committed, 0));
        let last = found.last().expect("some").offset;
        assert!((last + 1..=last + 600).contains(&committed), "{committed} behind {last}");
        assert!(left.iter().all(|it| it.offset <= last || committed <= it.offset), "{committed}");
        assert!(partition.lag_bytes <= (end - committed) * 1_200, "{partition:?}");
    }
    assert_eq!(found, left, "each once, in order");
    assert!(visits > 3, "{visits}");
    let said = taffrail(&given.broker, &["group", "describe", "g"]).success();
    assert!(!said.contains("error") && !said.contains("failed"), "{said}");

    // Wherever a group is put, records or not.
    let bases = given.bases();
    let ends = bases[1..].iter().map(|base| base - 1);
    for offset in ends.chain([0, 1, 200, 333, end - 1, end]) {
        let to = offset.to_string();
        taffrail(&given.broker, &["group", "reset", "g", "--to", &to]).success();
        let partition = describe(&given).await.partitions.remove(0);
        assert_eq!((partition.committed, partition.lag), (Some(offset), end - offset));
        assert_eq!(partition.error, None);
        let client = given.broker.client();
        let group = client.group("g").topic("t").commit(Commit::Manual);
        let mut consumer = soon(group.build()).await.expect("it can join");
        if let Some(expected) = left.iter().find(|entry| offset <= entry.offset) {
            // The batch that spans the offset may have lost what lies behind it.
            let first = loop {
                let batch = soon(consumer.next_batch()).await.expect("more").expect("sound");
                let records = batch.records().map(|record| record.expect("sound").offset.get());
                if let Some(first) = records.min() {
                    break first;
                }
            };
            assert_eq!(first, expected.offset, "from {offset}");
        }
        soon(consumer.close()).await.expect("it leaves");
    }
}

async fn describe(given: &Given) -> v1::DescribeGroupResponse {
    let channel = given.door.channel.clone();
    let mut groups = v1::group_service_client::GroupServiceClient::new(channel);
    let request = v1::DescribeGroupRequest { group: "g".to_owned() };
    soon(groups.describe_group(request)).await.expect("there is such a group").into_inner()
}

#[tokio::test]
async fn whoever_follows_the_tail_of_a_topic_that_is_compacted_misses_no_latest_value() {
    let given = Given::new().await;
    let client = given.broker.client();
    let mut followers = Vec::new();
    for prefetch in [2_000, 1 << 20] {
        let consumer = client.consumer().topic("t").from(Position::Earliest);
        let mut consumer = consumer.prefetch_bytes(prefetch).build().await.expect("it starts");
        followers.push(tokio::spawn(async move {
            let mut latest = BTreeMap::new();
            let mut next = 0;
            loop {
                let event = consumer.next_event().await.expect("it goes on").expect("sound");
                let Consumed::Batch(batch) = event else { continue };
                for record in batch.records() {
                    let record = record.expect("sound");
                    assert!(next <= record.offset.get(), "in order");
                    next = record.offset.get() + 1;
                    let key = record.key.expect("each has one").to_vec();
                    if key == b"end" {
                        return latest;
                    }
                    latest.insert(key, record.value.expect("no tombstones").to_vec());
                }
            }
        }));
    }
    let producer = client.producer("t").build().await.expect("it starts");
    let mut latest = BTreeMap::new();
    let filler = "x".repeat(1_000);
    for number in 0..4_000 {
        let key = format!("key {}", mix(number) % 50).into_bytes();
        let value = format!("{number} {filler}").into_bytes();
        let record = Record::value(&value).key(&key);
        drop(soon(producer.send(record)).await.expect("it takes it"));
        latest.insert(key, value);
    }
    let delivery = soon(producer.send(Record::value(b"").key(b"end"))).await.expect("it takes it");
    soon(delivery).await.expect("it is there");
    for follower in followers {
        let found = soon(follower).await.expect("no panic");
        assert!(found == latest, "{} of {} keys", found.len(), latest.len());
    }
    given.settle().await;
    assert!(metric(&given.broker, "taffrail_compactions_total").await > 3, "it was compacted");
    assert!(given.bases().len() < 10, "{:?}", given.bases());
}

#[tokio::test]
async fn inspect_finds_no_damage_in_what_a_broker_compacts_at_that_time() {
    let given = Given::with(&EAGER, &[]).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (own, ends) = (given.door.clone(), Arc::clone(&is_over));
    let producer = tokio::spawn(async move { churn(&own, &ends).await });
    let data = given.broker.home.data().to_str().expect("text").to_owned();
    let (deadline, mut looks) = (Instant::now() + PATIENCE, 0);
    let compactions = async || metric(&given.broker, "taffrail_compactions_total").await;
    while looks < 60 || compactions().await < 20 {
        let data = data.clone();
        let ended = tokio::task::spawn_blocking(move || run(&["inspect", &data])).await;
        let ended = ended.expect("no panic");
        assert!(ended.status.success() && !ended.output.contains("damage"), "{ended:?}");
        looks += 1;
        assert!(Instant::now() < deadline, "only {} compactions", compactions().await);
    }
    is_over.store(true, Ordering::Release);
    producer.await.expect("no panic");
    given.settle().await;
    let _home = given.broker.stop().await;
    let said = run(&["inspect", &data]).success();
    assert!(said.contains("everything is sound"), "{said}");
}

/// Appends the same keys until it is over.
async fn churn(door: &Door, is_over: &AtomicBool) {
    let mut number = 0;
    while !is_over.load(Ordering::Acquire) {
        let record = |_| {
            number += 1;
            let key = Some(format!("{}", number % 97).into());
            let value = Some(format!("{number} {}", "x".repeat(1_000)).into());
            v1::Record { key, value, ..Default::default() }
        };
        let records = (0..10).map(record).collect();
        let result = door.produce(produce_batch("t", 0, batch_of(records))).await;
        assert_eq!(result.error, None);
    }
}

#[tokio::test]
async fn the_numbers_say_what_there_is_to_compact_and_what_was() {
    let mut given = Given::new().await;
    given.door.create("other", 1).await;
    given.append_some(400, 100).await;
    given.compact().await;
    let now = async |name: &str| metric(&given.broker, &format!("taffrail_{name}_total")).await;
    let compactions = now("compactions").await;
    let read = now("compaction_read_bytes").await;
    let written = now("compaction_written_bytes").await;
    let removed = now("compacted_records").await;
    let gone = given.history.len() - given.left().len();
    assert_eq!(removed, gone as u64);
    assert!(compactions >= 1 && read > 2 * written && written > 50_000, "{read} {written}");
    assert_eq!(now("failed_compactions").await, 0);
    let ratio = format!("taffrail_log_dirty_ratio{LABELS}");
    assert!(decimal(&given.broker, &ratio).await.abs() < f64::EPSILON);
    // So much that is new is not worth it yet.
    let patient = [("min.cleanable.dirty.ratio", "0.9")];
    given.door.alter("t", &patient).await.expect("it can be altered");
    given.append_some(1, 1).await;
    given.seal().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let dirty = metric(&given.broker, &format!("taffrail_log_dirty_bytes{LABELS}")).await;
    let found = decimal(&given.broker, &ratio).await;
    assert!((40_000..70_000).contains(&dirty), "{dirty}");
    assert!(0.0 < found && found < 0.9, "{found}");
    assert_eq!(metric(&given.broker, "taffrail_compactions_total").await, compactions);
    let (_, body) = crate::http::get(&given.broker, "/metrics").await;
    assert!(!body.contains("taffrail_log_dirty_bytes{topic=\"other\""), "it is not compacted");
}

#[tokio::test]
async fn a_compaction_takes_no_more_of_the_disk_than_it_may() {
    let mut given = Given::with(&EAGER, &["compaction_bytes_per_second=256KiB"]).await;
    let before = Instant::now();
    given.append_some(300, 1_000).await;
    assert!(before.elapsed() < Duration::from_secs(5), "appending does not wait for it");
    given.settle().await;
    let took = before.elapsed().as_secs_f64();
    let name = ["taffrail_compaction_read_bytes_total", "taffrail_compaction_written_bytes_total"];
    let mut bytes = 0;
    for name in name {
        bytes += metric(&given.broker, name).await;
    }
    let per_second = bytes as f64 / took;
    assert!(bytes > 400_000 && per_second < 300.0 * 1024.0, "{bytes} in {took} s");
}
