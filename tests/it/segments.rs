//! Many segment files: reading begins anywhere, in this opening of the log and in the next.

use taffrail_client::{Offset, Position, Until};
use taffrail_proto::v1::position::At;

use crate::broker::Broker;
use crate::door::{Door, batch, fetch_request, placed, produce_batch, soon, value};
use crate::pipe::{Feed, Pipe};

const RECORDS: u64 = 600;

/// A topic of many small segments, a record of about 2 KiB a batch.
async fn fill(door: &Door, durability: &str) {
    let settings =
        [("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB"), ("durability", durability)];
    door.create_with("t", 1, &settings).await;
    let filler = "x".repeat(2_000);
    let mut pipe = Pipe::open(door).await;
    for number in 1..=RECORDS {
        let value = format!("{} {filler}", number - 1);
        pipe.send(number, produce_batch("t", 0, batch(&[&value])));
    }
    for number in 1..=RECORDS {
        assert_eq!(pipe.next().await.1.base_offset(), number - 1);
    }
}

/// Reads from everywhere, by both ways.
async fn check_reads(door: &Door) {
    for from in 0..=RECORDS {
        let request =
            taffrail_proto::v1::FetchRequest { max_bytes: 5_000, ..fetch_request("t", 0, from) };
        let result = door.fetch_all(request).await.remove(0);
        assert_eq!(result.error, None, "from {from}");
        let found = placed(&result.data);
        // An answer ends where its segment ends.
        let end = result.next_offset;
        assert!(from < end && end <= from + 2 || from == RECORDS, "from {from} to {end}");
        assert!(found.iter().map(|placed| placed.offset).eq(from..end), "from {from}");
        let is_right = |offset, text: String| text.starts_with(&format!("{offset} "));
        assert!(found.iter().all(|placed| is_right(placed.offset, value(placed))));
    }
    for from in (0..RECORDS).step_by(41) {
        let mut feed = Feed::on(door, "t", At::Offset(from), 1 << 30).await;
        assert_eq!(feed.subscribed().await.offset, from);
        let values = feed.values(from, (RECORDS - from) as usize).await;
        assert!((from..).zip(values).all(|(offset, text)| text.starts_with(&format!("{offset} "))));
    }
}

#[tokio::test]
async fn a_log_of_many_segments_is_read_from_everywhere_before_and_after_a_restart() {
    for durability in ["fsync", "page_cache"] {
        let broker = Broker::new();
        let door = Door::open(&broker).await;
        fill(&door, durability).await;
        let before = door.describe("t").await.partitions.remove(0);
        assert!(before.segments >= 15, "{before:?}");
        check_reads(&door).await;

        let broker = broker.restart().await;
        let door = Door::open(&broker).await;
        let after = door.online("t").await.partitions.remove(0);
        assert_eq!((after.log_start, after.high_watermark, after.log_end), (0, RECORDS, RECORDS));
        assert_eq!(after.segments, before.segments);
        assert_eq!(after.leader_epoch, before.leader_epoch + 1, "raised at every opening");
        check_reads(&door).await;
        assert_eq!(door.append("t", &["next"]).await, RECORDS);
    }
}

#[tokio::test]
async fn a_segment_file_is_named_by_its_first_offset_and_grows_no_larger_than_it_may() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    fill(&door, "page_cache").await;
    let id = door.describe("t").await.topic.expect("a topic").id;
    let folder = broker.partition_folder(&id, 0);
    let home = broker.stop().await;
    let mut next = 0;
    for path in segments(&folder) {
        let name = path.file_stem().expect("a name").to_str().expect("text").to_owned();
        assert_eq!(name, format!("{next:020}"));
        let file = std::fs::read(&path).expect("a file");
        assert!(file.len() <= 64 << 10, "{name} has {} bytes", file.len());
        let segment = crate::published::decode("taffrail.v1.Segment", &file);
        assert_eq!(segment.message("header").number("base_offset"), next);
        for batch in segment.list("batches") {
            assert_eq!(batch.number("base_offset"), next);
            next += batch.number("last_offset_delta") + 1;
        }
    }
    assert_eq!(next, RECORDS);
    drop(home);
}

/// The segment files of a partition, in order.
pub(crate) fn segments(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder");
    let files = files.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_consumer_of_the_client_reads_a_range_across_segments() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    fill(&door, "page_cache").await;
    let consumer = broker
        .client()
        .consumer()
        .topic("t")
        .from(Position::Offset(Offset::new(100)))
        .until(Until::Offset(Offset::new(500)))
        .prefetch_bytes(10_000);
    let mut consumer = consumer.build().await.expect("starts");
    let mut offsets = Vec::new();
    while let Some(batch) = soon(consumer.next_batch()).await {
        let batch = batch.expect("sound");
        offsets.extend(batch.records().map(|record| record.expect("sound").offset.get()));
    }
    assert!(offsets.into_iter().eq(100..500));
}
