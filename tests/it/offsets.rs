//! Positions: where each of them is, asked by `ListOffsets` and begun at by a consumer.

use std::path::Path;

use serde_json::Value;
use taffrail_client::{PartitionIndex, Position, Record, Timestamp, TopicName, Until};
use taffrail_proto::v1;
use taffrail_proto::v1::position::At;

use crate::broker::Broker;
use crate::door::{Door, batch_of, check_error, produce_batch, record, soon};
use crate::pipe::{EARLIEST, Feed, LATEST};

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name);
    std::fs::read_to_string(path).expect("example data")
}

#[tokio::test]
async fn a_time_is_found_at_the_first_record_that_late_however_they_are_mixed() {
    let broker = Broker::new();
    let client = broker.client();
    let settings = [("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")];
    let door = Door::open(&broker).await;
    door.create_with("quakes", 1, &settings).await;
    let producer = client.producer("quakes").batch_bytes(4 << 10).build().await.expect("starts");
    for line in data("earthquakes-unsorted.ndjson").lines() {
        let quake: Value = serde_json::from_str(line).expect("JSON");
        let time = Timestamp::from_millis(quake["time"].as_i64().expect("a number"));
        drop(producer.send(Record::value(line.as_bytes()).timestamp(time)).await.expect("taken"));
    }
    producer.close().await.expect("all delivered");
    assert!(door.describe("quakes").await.partitions[0].segments > 3);

    let questions: Value = serde_json::from_str(&data("earthquakes-times.json")).expect("JSON");
    let questions = questions.as_array().expect("a list");
    assert!(questions.len() > 10);
    for question in questions {
        check_time(&door, question).await;
    }
    // And by the indexes of sealed segments, once nothing of them is in memory.
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("quakes").await;
    for question in questions {
        check_time(&door, question).await;
    }
}

/// Asks for a time both ways.
async fn check_time(door: &Door, question: &Value) {
    let time = question["time"].as_i64().expect("a number");
    let expected = question["first"].as_u64();
    let found = door.find("quakes", 0, At::TimestampMs(time)).await;
    let offset = expected.unwrap_or(found.high_watermark);
    assert_eq!((&found.error, found.offset), (&None, offset), "{question}");
    assert_eq!(found.timestamp_ms.is_some(), expected.is_some(), "{question}");
    assert!(found.timestamp_ms.is_none_or(|found| found >= time), "{question}");
    let mut feed = Feed::on(door, "quakes", At::TimestampMs(time), 1).await;
    assert_eq!(feed.subscribed().await.offset, offset, "{question}");
}

#[tokio::test]
async fn a_consumer_of_the_client_begins_at_a_time() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let at = |timestamp_ms, value: &str| v1::Record { timestamp_ms, ..record(value) };
    let sent = batch_of(vec![at(10, "a"), at(30, "b"), at(20, "c"), at(40, "d")]);
    assert_eq!(door.produce(produce_batch("t", 0, sent)).await.error, None);
    for (time, expected) in [(0, "abcd"), (11, "bcd"), (30, "bcd"), (31, "d"), (41, "")] {
        let from = Position::Timestamp(Timestamp::from_millis(time));
        let consumer = broker.client().consumer().topic("t").from(from).until(Until::HighWatermark);
        let mut consumer = consumer.build().await.expect("starts");
        let mut found = String::new();
        while let Some(batch) = soon(consumer.next_batch()).await {
            for record in batch.expect("sound").records() {
                let value = record.expect("sound").value.expect("a value");
                found.push_str(std::str::from_utf8(value).expect("text"));
            }
        }
        assert_eq!(found, expected, "from {time}");
    }
}

#[tokio::test]
async fn every_position_is_where_it_should_be() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 2).await;
    let at = |timestamp_ms| v1::Record { timestamp_ms, ..record("x") };
    let sent = batch_of(vec![at(100), at(300), at(200), at(400), at(500)]);
    assert_eq!(door.produce(produce_batch("t", 0, sent)).await.error, None);
    let cases = [
        (EARLIEST, 0, None),
        (LATEST, 5, None),
        (At::Offset(0), 0, None),
        (At::Offset(3), 3, None),
        (At::Offset(5), 5, None),
        (At::Last(0), 5, None),
        (At::Last(2), 3, None),
        (At::Last(5), 0, None),
        (At::Last(u64::MAX), 0, None),
        (At::TimestampMs(i64::MIN), 0, Some(100)),
        (At::TimestampMs(101), 1, Some(300)),
        (At::TimestampMs(301), 3, Some(400)),
        (At::TimestampMs(501), 5, None),
        (At::TimestampMs(i64::MAX), 5, None),
    ];
    for (position, offset, timestamp_ms) in cases {
        let found = door.find("t", 0, position).await;
        assert_eq!(
            (&found.error, found.offset, found.timestamp_ms),
            (&None, offset, timestamp_ms),
            "{position:?}"
        );
        assert_eq!((found.log_start, found.high_watermark), (0, 5));
        let mut feed = Feed::on(&door, "t", position, 1).await;
        let subscribed = feed.subscribed().await;
        assert_eq!(
            (subscribed.offset, subscribed.log_start, subscribed.high_watermark),
            (offset, 0, 5)
        );
    }
    // In an empty partition all of them are one place.
    for position in [EARLIEST, LATEST, At::Offset(0), At::Last(3), At::TimestampMs(1)] {
        let found = door.find("t", 1, position).await;
        assert_eq!(
            (found.error, found.offset, found.timestamp_ms),
            (None, 0, None),
            "{position:?}"
        );
    }
    let range: &[_] = &[("offset", "6"), ("start", "0"), ("end", "5")];
    let found = door.find("t", 0, At::Offset(6)).await;
    check_error(found.error.as_ref(), "OFFSET_OUT_OF_RANGE", range, "0 to 5");
}

#[tokio::test]
async fn a_record_without_a_timestamp_is_found_at_its_append_time() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let old = v1::Record { timestamp_ms: 5, ..record("old") };
    door.produce(produce_batch("t", 0, batch_of(vec![old]))).await;
    let result = door.produce(produce_batch("t", 0, batch_of(vec![record("now")]))).await;
    let found = door.find("t", 0, At::TimestampMs(6)).await;
    assert_eq!((found.offset, found.timestamp_ms), (1, Some(result.append_time_ms)));
    assert_eq!(
        door.find("t", 0, At::TimestampMs(result.append_time_ms + 1)).await.timestamp_ms,
        None
    );
}

#[tokio::test]
async fn many_queries_are_answered_in_order_each_by_itself() {
    let broker = Broker::new();
    let client = broker.client();
    let door = Door::open(&broker).await;
    door.create("t", 2).await;
    door.append("t", &["a", "b"]).await;
    let query = |topic: &str, partition, position| taffrail_client::OffsetQuery {
        topic: TopicName::parse(topic).expect("a name"),
        partition: PartitionIndex::new(partition),
        position,
    };
    let queries = [
        query("t", 0, Position::Latest),
        query("gone", 0, Position::Latest),
        query("t", 1, Position::Latest),
        query("t", 2, Position::Latest),
    ];
    let found = soon(client.list_offsets(&queries)).await.expect("it answers");
    let found: Vec<_> = found
        .into_iter()
        .map(|found| found.map(|found| found.offset.get()).map_err(|error| error.reason))
        .collect();
    let refused = |reason: &str| Err(reason.to_owned());
    assert_eq!(found, [Ok(2), refused("UNKNOWN_TOPIC"), Ok(0), refused("UNKNOWN_PARTITION")]);
}
