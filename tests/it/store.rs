//! What is stored of what was sent: the producer's bytes, and a header of the broker's own.

use bytes::Bytes;
use prost::Message as _;
use taffrail_proto::v1;

use crate::broker::Broker;
use crate::door::{
    Door, Placed, batch, batch_of, batch_with, batches, payload, placed, produce_batch, record,
    value,
};
use crate::published::{self, View};
use crate::wire;

const HEADER_BYTES: usize = 89;

/// A record with every field that a producer may set.
fn full_record() -> v1::Record {
    let header = |name: &str, value: &'static [u8]| v1::Header {
        name: name.to_owned(),
        value: Bytes::from_static(value),
    };
    v1::Record {
        key: Some(Bytes::from_static(b"\0key\xff")),
        value: Some(Bytes::from_static(b"value")),
        headers: vec![header("a", b"1"), header("a", b"\xff\xfe"), header("ümlaut", b"")],
        timestamp_ms: 1_517_788_800_123,
        offset_delta: None,
        delete_after_ms: None,
    }
}

async fn stored(door: &Door, topic: &str) -> (Bytes, v1::RecordBatch) {
    let result = door.fetch(topic, 0, 0).await;
    assert_eq!(result.error, None);
    let mut found = batches(&result.data);
    assert_eq!(found.len(), 1);
    (result.data, found.remove(0))
}

#[tokio::test]
async fn the_records_bytes_are_those_that_were_sent() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let tombstone = v1::Record { key: Some(Bytes::from_static(b"k")), ..Default::default() };
    let records = vec![full_record(), tombstone, v1::Record::default()];
    let sent = batch_of(records.clone());
    let result = door.produce(produce_batch("t", 0, sent.clone())).await;
    assert_eq!(result.error, None);

    let (data, found) = stored(&door, "t").await;
    assert_eq!(payload(&found), payload(&sent));
    assert_eq!(data.len(), HEADER_BYTES + payload(&sent).len(), "nothing around it");
    assert_eq!(found.records_crc, Some(crc32fast::hash(&payload(&sent))));
    let expected: Vec<_> =
        (0..).zip(records).map(|(offset, record)| Placed { offset, record }).collect();
    assert_eq!(placed(&data), expected);
}

#[tokio::test]
async fn the_header_is_the_brokers_whatever_the_producer_sends_in_it() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["first"]).await;
    let sent = v1::RecordBatch {
        header_crc: 1,
        base_offset: 77,
        last_offset_delta: 7,
        leader_epoch: 99,
        producer_epoch: 5,
        base_sequence: 6,
        append_time_ms: 12,
        max_timestamp_ms: 13,
        synced_end: 1 << 40,
        ..batch_of(vec![full_record(), record("x")])
    };
    let result = door.produce(produce_batch("t", 0, sent)).await;
    assert_eq!((result.base_offset(), result.error), (1, None));
    let data = door.fetch("t", 0, 1).await.data;
    let found = batches(&data).into_iter().find(|batch| batch.base_offset == 1).expect("stored");
    let description = door.describe("t").await;
    let broker_set = (found.last_offset_delta, found.leader_epoch, found.append_time_ms);
    assert_eq!(broker_set, (1, description.partitions[0].leader_epoch, result.append_time_ms));
    assert_eq!((found.producer_id, found.producer_epoch, found.base_sequence), (0, 0, 0));
    assert_eq!((found.compression, found.kind), (0, 0));
    assert!(found.synced_end <= 1 && found.header_crc != 1, "{found:?}");
    // The record without a timestamp has that of its batch, which is later than the other's.
    assert_eq!(found.max_timestamp_ms, found.append_time_ms);
}

#[tokio::test]
async fn the_latest_timestamp_of_a_batch_is_in_its_header() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let at = |timestamp_ms| v1::Record { timestamp_ms, ..record("x") };
    door.produce(produce_batch("t", 0, batch_of(vec![at(5), at(9), at(-3)]))).await;
    assert_eq!(stored(&door, "t").await.1.max_timestamp_ms, 9);
}

#[tokio::test]
async fn the_header_is_spelled_canonically() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a", "b"]).await;
    let (data, _) = stored(&door, "t").await;
    // Tags at their places, every field present, and lengths of four bytes.
    let tags = [
        (0, 0x12),
        (5, 0x0d),
        (10, 0x11),
        (19, 0x1d),
        (24, 0x25),
        (29, 0x29),
        (38, 0x35),
        (43, 0x3d),
        (48, 0x41),
        (57, 0x49),
        (66, 0x50),
        (68, 0x58),
        (70, 0x65),
        (75, 0x69),
        (84, 0x7a),
    ];
    for (at, tag) in tags {
        assert_eq!(data[at], tag, "byte {at}");
    }
    for at in [1, 85] {
        let [a, b, c, d] = [data[at], data[at + 1], data[at + 2], data[at + 3]];
        assert!(a >= 0x80 && b >= 0x80 && c >= 0x80 && d < 0x80, "length at byte {at}");
    }
}

#[tokio::test]
async fn unknown_fields_stay_in_records_and_leave_the_header() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let unknown =
        [wire::length(100, b"later"), wire::number(101, 7), wire::fixed64(102, 8)].concat();
    let header = [wire::length(1, b"n"), wire::length(2, b"v"), wire::fixed32(9, 4)].concat();
    let one = [wire::length(2, b"value"), wire::length(3, &header), unknown.clone()].concat();
    let records = [wire::length(1, &one), unknown.clone()].concat();
    produce_by_hand(&door, &[wire::length(15, &records), unknown].concat()).await;

    let (data, found) = stored(&door, "t").await;
    assert_eq!(payload(&found), records);
    let typed = typed_batches(&data);
    assert!(!typed[0].has_unknown_fields());
    let set = typed[0].message("records");
    assert!(set.has_unknown_fields() && set.list("records")[0].has_unknown_fields());
    assert_eq!(value(&placed(&data)[0]), "value");
}

#[tokio::test]
async fn of_a_field_that_is_repeated_the_last_one_counts_for_every_reader() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let set = |value: &[u8]| wire::length(1, &wire::length(2, value));
    let first = wire::length(15, &set(b"first"));
    let compressed = wire::length(14, b"not even compressed");
    let kinds = [wire::number(11, 1), wire::number(11, 0)].concat();
    let second = wire::length(15, &set(b"second"));
    produce_by_hand(&door, &[first, compressed, kinds, second].concat()).await;

    let (data, found) = stored(&door, "t").await;
    assert_eq!(payload(&found), set(b"second"));
    let records = typed_batches(&data)[0].message("records").list("records");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].record().value.as_deref(), Some(&b"second"[..]));
}

#[tokio::test]
async fn of_a_record_s_field_that_is_repeated_every_reader_sees_the_last_one() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let one = [
        wire::length(1, b"k1"),
        wire::length(1, b"k2"),
        wire::length(2, b"v1"),
        wire::number(4, 5),
        wire::length(2, b"v2"),
        wire::number(4, 9),
    ];
    let sent = batch_with(wire::length(1, &one.concat()).into());
    let result = door.produce(produce_batch("t", 0, sent)).await;
    assert_eq!(result.error, None);
    let (data, found) = stored(&door, "t").await;
    let record = &placed(&data)[0].record;
    assert_eq!(
        (record.key.as_deref(), record.value.as_deref()),
        (Some(&b"k2"[..]), Some(&b"v2"[..]))
    );
    assert_eq!((record.timestamp_ms, found.max_timestamp_ms), (9, 9));
}

#[tokio::test]
async fn both_views_of_an_answer_and_of_a_segment_file_agree() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let topic = door.create("t", 1).await;
    for index in 0..20 {
        let sent = batch_of(vec![full_record(), record(&format!("{index}"))]);
        assert_eq!(door.produce(produce_batch("t", 0, sent)).await.error, None);
    }
    let data = door.fetch("t", 0, 0).await.data;
    check_views(&typed_batches(&data), &raw_batches(&data), 20);

    let folder = broker.partition_folder(&topic.id, 0);
    let home = broker.stop().await;
    let file = std::fs::read(folder.join("00000000000000000000.log")).expect("a segment");
    let typed = published::decode("taffrail.v1.Segment", &file);
    let raw = published::decode("taffrail.v1.raw.Segment", &file);
    assert!(!typed.has_unknown_fields() && !raw.has_unknown_fields());
    check_views(&typed.list("batches"), &raw.list("batches"), 20);
    let header = typed.message("header");
    assert_eq!((header.number("format_version"), header.number("base_offset")), (1, 0));
    assert_eq!(header.value("label").as_str(), Some("t/0"));
    // The answer was a slice of this file, and the generated types read it too.
    assert!(file.windows(data.len()).any(|slice| slice == data));
    assert_eq!(v1::Segment::decode(file.as_slice()).expect("a segment").batches, batches(&data));
    drop(home);
}

#[track_caller]
fn check_views(typed: &[View], raw: &[View], count: usize) {
    assert_eq!((typed.len(), raw.len()), (count, count));
    let mut next = 0;
    for (typed, raw) in typed.iter().zip(raw) {
        for field in
            ["base_offset", "last_offset_delta", "leader_epoch", "append_time_ms", "records_crc"]
        {
            assert_eq!(typed.number(field), raw.number(field), "{field}");
        }
        assert_eq!(typed.number("base_offset"), next);
        next += typed.number("last_offset_delta") + 1;
        let bytes = raw.value("records");
        let bytes = bytes.as_bytes().expect("bytes");
        assert_eq!(u64::from(crc32fast::hash(bytes)), raw.number("records_crc"));
        let records = v1::RecordSet::decode(bytes.clone()).expect("records").records;
        let typed = typed.message("records").list("records");
        assert_eq!(typed.iter().map(View::record).collect::<Vec<_>>(), records);
        assert_eq!(records[0], full_record());
    }
}

fn typed_batches(data: &[u8]) -> Vec<View> {
    published::decode("taffrail.v1.FetchedData", data).list("batches")
}

fn raw_batches(data: &[u8]) -> Vec<View> {
    published::decode("taffrail.v1.raw.FetchedData", data).list("batches")
}

/// Produces a batch of these bytes to partition 0 of `t`.
async fn produce_by_hand(door: &Door, batch: &[u8]) {
    let batch = [wire::length(1, b"t"), wire::number(2, 0), wire::length(4, batch)].concat();
    let request = wire::length(1, &batch);
    let answer = wire::call(door, "/taffrail.v1.LogService/Produce", request).await;
    let answer = v1::ProduceResponse::decode(answer.expect("it answers")).expect("an answer");
    assert_eq!(answer.results.len(), 1);
    assert_eq!(answer.results[0].error, None);
}

#[tokio::test]
async fn batches_of_one_write_do_not_know_of_each_other() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let sent: Vec<_> = (0..50).map(|i| produce_batch("t", 0, batch(&[&format!("{i}")]))).collect();
    let results = door.produce_all(sent).await;
    assert!(results.iter().map(v1::ProduceResult::base_offset).eq(0..50));
    let expected: Vec<_> = (0..50).map(|i| i.to_string()).collect();
    assert_eq!(door.values("t").await, expected);
}
