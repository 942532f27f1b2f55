//! Compressed batches: stored and handed out as they came, opened for whoever cannot, refused where they
//! cannot be opened.

use bytes::Bytes;
use prost::Message as _;
use taffrail_model::batch::Compression;
use taffrail_proto::v1;
use taffrail_proto::v1::position::At;
use taffrail_proto::v1::record_batch::Payload;

use crate::broker::Broker;
use crate::commands::{taffrail, taffrail_fed};
use crate::door::{
    Door, batches, check_error, fetch_request, placed, produce_batch, record, value,
};
use crate::http::metric;
use crate::pipe::{EARLIEST, Feed, subscribe};
use crate::program::run;

const BOTH: [Compression; 2] = [Compression::Lz4, Compression::Zstd];
const CREDIT: u64 = 64 << 20;

fn encoded(records: Vec<v1::Record>) -> Bytes {
    v1::RecordSet { records }.encode_to_vec().into()
}

/// A batch with this payload, compressed.
fn packed(compression: Compression, payload: Bytes) -> v1::RecordBatch {
    let payload = compression.pack(payload);
    v1::RecordBatch {
        compression: compression.code().into(),
        records_crc: Some(crc32fast::hash(&payload)),
        payload: Some(Payload::CompressedRecords(payload)),
        ..Default::default()
    }
}

/// Values that can be compressed.
fn values(from: u64, count: u64) -> Vec<String> {
    (from..from + count)
        .map(|at| format!("{{\"reading\": {at}, \"unit\": \"hectopascal\"}}"))
        .collect()
}

fn records(values: &[String]) -> Vec<v1::Record> {
    values.iter().map(|value| record(value)).collect()
}

/// Appends a hundred records in ten batches, each compressed in another way.
async fn fill(door: &Door, topic: &str) -> Vec<String> {
    for number in 0..10 {
        let payload = encoded(records(&values(10 * number, 10)));
        let batch = match number % 3 {
            0 => packed(Compression::Lz4, payload),
            1 => packed(Compression::Zstd, payload),
            _ => crate::door::batch_with(payload),
        };
        let result = door.produce(produce_batch(topic, 0, batch)).await;
        assert_eq!((result.error.clone(), result.base_offset()), (None, 10 * number));
    }
    values(0, 100)
}

#[tokio::test]
async fn compressed_batches_are_handed_out_as_they_came_or_opened() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let all = fill(&door, "t").await;
    let first = packed(Compression::Lz4, encoded(records(&values(0, 10))));
    // Who can open both gets what was sent.
    let both = vec![1, 2];
    let request =
        v1::FetchRequest { accepted_compressions: both.clone(), ..fetch_request("t", 0, 0) };
    let data = door.fetch_all(request).await.remove(0).data;
    let found = batches(&data);
    let compressions: Vec<_> = found.iter().map(|batch| batch.compression).collect();
    assert_eq!(compressions, [1, 2, 0, 1, 2, 0, 1, 2, 0, 1]);
    assert_eq!((&found[0].payload, found[0].records_crc), (&first.payload, first.records_crc));
    // Who can open one of them gets the other one opened, and who can open none all.
    for (accepted, expected) in
        [(vec![2, 77], [0, 2, 0]), (vec![1], [1, 0, 0]), (vec![], [0, 0, 0])]
    {
        let request =
            v1::FetchRequest { accepted_compressions: accepted, ..fetch_request("t", 0, 0) };
        let data = door.fetch_all(request).await.remove(0).data;
        let found: Vec<_> = batches(&data).iter().map(|batch| batch.compression).collect();
        assert_eq!(found[..3], expected);
        assert_eq!(found.len(), 10);
    }
    assert_eq!(door.values("t").await, all);
    // On a stream, too.
    let mut feed = Feed::on(&door, "t", EARLIEST, CREDIT).await;
    feed.subscribed().await;
    assert_eq!(feed.values(0, 100).await, all);
    let feed = &mut Feed::on(&door, "t", At::Offset(100), CREDIT).await;
    feed.subscribed().await;
    let subscription =
        v1::Subscribe { accepted_compressions: both, ..subscribe(2, "t", 0, EARLIEST) };
    feed.say(v1::consume_request::Command::Subscribe(subscription));
    feed.subscribed().await;
    assert_eq!(batches(&feed.delivery().await.data)[0].payload, first.payload);
    // Within a batch, and after a restart.
    let middle: Vec<_> = door.read("t", 0, 17).await.iter().map(value).collect();
    assert_eq!(middle, all[17..]);
    let data = broker.home.data().display().to_string();
    let broker = broker.restart().await;
    assert_eq!(Door::open(&broker).await.values("t").await, all);
    run(&["inspect", &data]).success();
}

#[tokio::test]
async fn what_is_opened_is_cut_to_what_the_client_takes() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let filler = "y".repeat(100_000);
    for compression in BOTH {
        for _ in 0..5 {
            let batch = packed(compression, encoded(vec![record(&filler)]));
            let result = door.produce(produce_batch("t", 0, batch)).await;
            assert_eq!(result.error, None);
        }
    }
    let size = metric(&broker, "taffrail_log_size_bytes{topic=\"t\",partition=\"0\"}").await;
    assert!(size < 20_000, "{size}");
    // Two of them fit into an answer.
    let (mut next, mut answers) = (0, 0);
    while next < 10 {
        let request = v1::FetchRequest { max_bytes: 250_000, ..fetch_request("t", 0, next) };
        let result = door.fetch_all(request).await.remove(0);
        let found = placed(&result.data);
        assert!(found.iter().all(|it| value(it) == filler));
        assert_eq!((found[0].offset, found.len()), (next, 2));
        assert_eq!(result.next_offset, next + 2);
        (next, answers) = (result.next_offset, answers + 1);
    }
    assert_eq!(answers, 5);
    let request = v1::FetchRequest { max_message_bytes: 90_000, ..fetch_request("t", 0, 0) };
    let result = door.fetch_all(request.clone()).await.remove(0);
    let metadata = [("batch_bytes", "*"), ("max_message_bytes", "90000")];
    check_error(result.error.as_ref(), "MESSAGE_TOO_SMALL", &metadata, "raise max_message_bytes");
    // As it is, it would fit.
    let request = v1::FetchRequest { accepted_compressions: vec![1, 2], ..request };
    assert_eq!(door.fetch_all(request).await.remove(0).error, None);
    let mut feed = Feed::on(&door, "t", EARLIEST, CREDIT).await;
    feed.subscribed().await;
    assert_eq!(feed.values(0, 10).await, vec![filler; 10]);
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_and_named() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let settings = [("cleanup", "compact")];
    door.create_with("keyed", 1, &settings).await;
    let refuse = async |topic: &str, batch, reason, metadata: &[_], says| {
        let result = door.produce(produce_batch(topic, 0, batch)).await;
        check_error(result.error.as_ref(), reason, metadata, says);
    };
    let small = || encoded(vec![record("a")]);
    for compression in BOTH {
        let code = compression.code().into();
        let good = packed(compression, small());
        // Zeros that stand for very much, though they are few: in one record, and as no record at all.
        let zeros = Bytes::from(vec![0; 8 << 20]);
        let large = v1::Record { value: Some(zeros.clone()), ..Default::default() };
        for bomb in [encoded(vec![large]), zeros] {
            let batch = packed(compression, bomb);
            assert!(batch.encoded_len() < 100_000);
            let metadata = [("max", "1048576")];
            refuse("t", batch, "BATCH_TOO_LARGE", &metadata, "when it is opened").await;
        }
        let invalid = "INVALID_RECORDS";
        let payload = Some(Payload::CompressedRecords(small()));
        let garbage = v1::RecordBatch { compression: code, payload, ..Default::default() };
        refuse("t", garbage, invalid, &[], "cannot be opened").await;
        let payload = Some(Payload::Records(small()));
        let elsewhere = v1::RecordBatch { compression: code, payload, ..Default::default() };
        refuse("t", elsewhere, invalid, &[], "does not go with the payload's field").await;
        let unstated = v1::RecordBatch { compression: 0, ..good.clone() };
        refuse("t", unstated, invalid, &[], "does not go with the payload's field").await;
        let empty = packed(compression, Bytes::from_static(&[0x12, 0]));
        refuse("t", empty, invalid, &[], "no record").await;
        let unknown = v1::RecordBatch { compression: 17, ..good.clone() };
        let metadata = [("compression", "17")];
        refuse("t", unknown, "UNSUPPORTED_COMPRESSION", &metadata, "COMPRESSION_NONE").await;
        let damaged = v1::RecordBatch { records_crc: Some(1), ..good };
        let metadata = [("found", "1"), ("computed", "*")];
        refuse("t", damaged, "CORRUPT_BATCH", &metadata, "send it again").await;
        let far = v1::Record { timestamp_ms: i64::MAX, ..record("x") };
        let metadata = [("found", "*"), ("now", "*"), ("ahead_ms", "*")];
        refuse("t", packed(compression, encoded(vec![far])), "TIMESTAMP_AHEAD", &metadata, "")
            .await;
        let metadata = [("records", "1")];
        refuse("keyed", packed(compression, small()), "KEY_MISSING", &metadata, "no key").await;
    }
    assert!(door.values("t").await.is_empty(), "nothing of it is there");
}

#[tokio::test]
async fn records_in_compressed_batches_are_found_by_time() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let timed = |at: i64| v1::Record { timestamp_ms: at, ..record("x") };
    for (number, compression) in (0..).zip(BOTH) {
        let at = 1_000 * number;
        let payload = encoded([1, 5, 9].map(|more| timed(at + more)).to_vec());
        door.produce(produce_batch("t", 0, packed(compression, payload))).await;
    }
    for (timestamp, offset) in [(0, 0), (2, 1), (9, 2), (10, 3), (1_004, 4), (1_009, 5)] {
        let found = door.find("t", 0, At::TimestampMs(timestamp)).await;
        assert_eq!((found.error, found.offset), (None, offset), "at {timestamp}");
    }
}

#[tokio::test]
async fn the_commands_compress_where_they_are_told_to() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let lines = values(0, 3_000).join("\n") + "\n";
    for how in ["none", "lz4", "zstd"] {
        door.create(how, 1).await;
        taffrail_fed(&broker, &["produce", how, "--compression", how], lines.clone()).success();
        let read =
            taffrail(&broker, &["consume", how, "--format", "{value}\\n", "--no-follow"]).success();
        assert!(read == lines, "{how}: {} and {} bytes", read.len(), lines.len());
    }
    let mut sizes = Vec::new();
    for how in ["none", "lz4", "zstd"] {
        let name = format!("taffrail_log_size_bytes{{topic=\"{how}\",partition=\"0\"}}");
        sizes.push(metric(&broker, &name).await);
    }
    assert!(sizes[1] < sizes[0] / 2 && sizes[2] < sizes[1], "{sizes:?}");
    let id = door.describe("zstd").await.topic.expect("a topic").id;
    let folder = broker.partition_folder(&id, 0);
    let home = broker.stop().await;
    let segment = folder.join("00000000000000000000.log").display().to_string();
    let dumped = run(&["inspect", &segment, "--records"]).success();
    assert!(dumped.contains("hectopascal"), "{dumped}");
    run(&["inspect", &home.data().display().to_string()]).success();
}
