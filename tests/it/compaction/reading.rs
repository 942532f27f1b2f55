//! What is left is read the same from every kind of place, by every kind of reader.

use taffrail_client::{Event as Consumed, Offset, Position, Timestamp, Until};
use taffrail_proto::v1;
use taffrail_proto::v1::consume_response::Event;
use taffrail_proto::v1::position::At;

use super::{Entry, Given, entries, new_entry, timestamp};
use crate::commands::taffrail;
use crate::door::{batches, fetch_request, soon};
use crate::pipe::{EARLIEST, Feed, LATEST};

/// Several compacted segments: of some keys the last record is in a later one.
pub(super) async fn given() -> Given {
    let mut given = Given::new().await;
    for _ in 0..130 {
        given.append_some(3, 260).await;
        // A batch of which nothing is left, wherever a segment ends.
        given.append(&[(Some(500), false), (Some(501), false), (Some(500), true)]).await;
    }
    given.compact().await;
    assert!(given.bases().len() > 3, "{:?}", given.bases());
    given
}

/// Those from an offset on.
fn from(entries: &[Entry], offset: u64) -> &[Entry] {
    &entries[entries.partition_point(|entry| entry.offset < offset)..]
}

#[tokio::test]
async fn of_each_key_the_latest_record_is_read_from_everywhere_before_and_after_a_restart() {
    let mut given = given().await;
    for _ in 0..2 {
        let (left, bases) = (given.left(), given.bases());
        assert!(left.len() < 500 && given.history.len() > 700, "{} are left", left.len());
        assert_eq!(given.read(0).await, left);
        let mut gaps = 0;
        for offset in 0..=given.end() {
            let request = v1::FetchRequest { max_bytes: 100, ..fetch_request("t", 0, offset) };
            let result = given.door.fetch_all(request).await.remove(0);
            assert_eq!(result.error, None, "from {offset}");
            let expected: Vec<_> = from(&left, offset)
                .iter()
                .take_while(|entry| entry.offset < result.next_offset)
                .cloned()
                .collect();
            let found = entries(&result.data);
            assert_eq!(from(&found, offset), expected, "from {offset}: {result:?}");
            assert!(offset < result.next_offset || offset == given.end());
            if let Some(gap) = result.gap {
                assert_eq!((gap.from, gap.to), (offset, result.next_offset));
                assert_eq!(gap.reason(), v1::GapReason::Compaction);
                assert!(found.is_empty() && bases.contains(&gap.to), "{gap:?}");
                gaps += 1;
            }
        }
        assert!((1..50).contains(&gaps), "said only where a segment ends: {gaps}");
        given = given.restart().await;
    }
}

/// What a subscription brings up to an offset.
async fn consume(given: &Given, position: At, end: u64) -> Vec<Entry> {
    let mut feed = Feed::on(&given.door, "t", position, 1 << 30).await;
    let mut next = feed.subscribed().await.offset;
    let mut found = Vec::new();
    while next < end {
        let from = next;
        match feed.next().await {
            Event::Delivery(delivery) => {
                let data = entries(&delivery.data);
                let last = batches(&delivery.data).pop().expect("a batch");
                next = last.base_offset + u64::from(last.last_offset_delta) + 1;
                found.extend(data.into_iter().filter(|entry| from <= entry.offset));
            }
            Event::Gap(gap) => {
                let gap = gap.gap.expect("a gap");
                assert_eq!(gap.reason(), v1::GapReason::Compaction);
                assert!(next <= gap.from, "{gap:?}");
                next = gap.to;
            }
            other => panic!("{other:?}"),
        }
        assert!(from < next, "it goes on");
    }
    found
}

/// What a consumer of the client brings up to the high watermark.
async fn read_by_client(given: &Given, position: Position) -> Vec<Entry> {
    let client = given.broker.client();
    let consumer = client.consumer().topic("t").from(position).until(Until::HighWatermark);
    let mut consumer = consumer.prefetch_bytes(20_000).build().await.expect("it starts");
    let mut found = Vec::new();
    while let Some(event) = soon(consumer.next_event()).await {
        match event.expect("sound") {
            Consumed::Batch(batch) => {
                for record in batch.records() {
                    let record = record.expect("sound");
                    found.push(new_entry(record.offset.get(), record.key, record.value));
                }
            }
            Consumed::Gap { reason, .. } => assert_eq!(reason, v1::GapReason::Compaction),
            Consumed::Heartbeat { .. } => {}
        }
    }
    found
}

/// What the command prints.
fn print(given: &Given, position: &[&str]) -> Vec<Entry> {
    let arguments = ["consume", "t", "--no-follow", "--format", "json"];
    let ended = taffrail(&given.broker, &[&arguments[..], position].concat());
    let lines = ended.json_lines();
    let entry = |line: serde_json::Value| {
        let field = |name: &str| line[name].as_str().map(str::as_bytes);
        new_entry(line["offset"].as_u64().expect("a number"), field("key"), field("value"))
    };
    lines.into_iter().map(entry).collect()
}

#[tokio::test]
async fn every_reader_finds_the_same_from_every_kind_of_place() {
    let given = given().await;
    let (left, end) = (given.left(), given.end());
    let is_left = |offset: &u64| left.iter().any(|entry| entry.offset == *offset);
    // Where there is a record, where there is none, and where a segment ends.
    let hole = (0..end).find(|offset| !is_left(offset)).expect("something has gone");
    let bases = given.bases();
    let ends = bases[1..].iter().map(|base| base - 1).filter(|offset| !is_left(offset));
    let mut offsets: Vec<_> = [0, hole, left[7].offset, 333, end - 1].into();
    offsets.extend(ends);
    for offset in offsets {
        let expected = from(&left, offset);
        assert_eq!(consume(&given, At::Offset(offset), end).await, expected, "{offset}");
        let position = Position::Offset(Offset::new(offset));
        assert_eq!(read_by_client(&given, position).await, expected, "{offset}");
        assert_eq!(print(&given, &["--from", &offset.to_string()]), expected, "{offset}");
        // Of the time of a record that may have gone.
        let time = timestamp(offset) - 3;
        let found = given.door.find("t", 0, At::TimestampMs(time)).await;
        assert_eq!(found.offset, expected[0].offset, "the first that is left");
        assert_eq!(consume(&given, At::TimestampMs(time), end).await, expected, "{offset}");
        let position = Position::Timestamp(Timestamp::from_millis(time));
        assert_eq!(read_by_client(&given, position).await, expected, "{offset}");
        // So many offsets before the end.
        let last = end - offset;
        assert_eq!(consume(&given, At::Last(last), end).await, expected, "the last {last}");
        assert_eq!(read_by_client(&given, Position::Last(last)).await, expected, "last {last}");
        assert_eq!(print(&given, &["--from", &format!("-{last}")]), expected, "last {last}");
    }
    for (at, position, words) in [
        (EARLIEST, Position::Earliest, "earliest"),
        (At::Last(end * 2), Position::Last(end * 2), "-99999"),
    ] {
        assert_eq!(consume(&given, at, end).await, left);
        assert_eq!(read_by_client(&given, position).await, left);
        assert_eq!(print(&given, &["--from", words]), left);
    }
    assert_eq!(read_by_client(&given, Position::Latest).await, []);
    let mut feed = Feed::on(&given.door, "t", LATEST, 1 << 20).await;
    assert_eq!(feed.subscribed().await.offset, end);
}

#[tokio::test]
async fn whoever_decodes_with_the_contract_alone_gets_the_offsets_from_the_records() {
    let given = given().await;
    let left = given.left();
    let bases = given.bases();
    let mut found = Vec::new();
    let mut stated = 0;
    for (index, base) in bases.iter().enumerate() {
        let path = given.folder.join(format!("{base:020}.log"));
        let file = std::fs::read(path).expect("a file");
        let segment = crate::published::decode("taffrail.v1.Segment", &file);
        let header = segment.message("header");
        let next = bases.get(index + 1).copied().unwrap_or_default();
        assert_eq!(header.number("compacted_end"), next, "of {base}");
        assert_eq!(header.number("base_offset"), *base);
        for batch in segment.list("batches") {
            let first = batch.number("base_offset");
            assert!(!batch.has_unknown_fields());
            let records = batch.message("records").list("records");
            let last_delta = batch.number("last_offset_delta");
            for (place, record) in (0..).zip(records) {
                let record = record.record();
                let delta = record.offset_delta.map_or(place, u64::from);
                stated += u64::from(record.offset_delta.is_some());
                assert!(delta <= last_delta);
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                found.push(new_entry(first + delta, key, value));
                let is_seen = record.value.is_none() && next > 0;
                assert_eq!(record.delete_after_ms.is_some(), is_seen, "{first}+{delta}");
                assert_eq!(record.timestamp_ms, timestamp(first + delta), "it has stayed");
            }
        }
    }
    // Offsets that were passed over in the file of the growing segment are its own.
    assert_eq!(found, left);
    assert!(stated > 50, "{stated} records state their offsets");
}
