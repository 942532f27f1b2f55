//! What goes at a partition's start: by age, by size, and on request; and what readers hear of it.

mod deletion;
mod readers;
mod settings;

use std::path::Path;
use std::time::{Duration, Instant};

use taffrail_proto::v1;

use crate::broker::Broker;
use crate::door::{Door, Placed, batch, produce_batch, soon, value};
use crate::http::metric;
use crate::pipe::Pipe;
use crate::segments::segments;

/// The smallest segments that there are, and batches that fit into them.
const SMALL: [(&str, &str); 2] = [("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")];
const KIB: u64 = 1 << 10;

/// A broker with a topic `t` of one partition with small segments, kept as these settings say.
async fn given(settings: &[(&str, &str)]) -> (Broker, Door) {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[&SMALL[..], settings].concat()).await;
    (broker, door)
}

/// Appends records of some 2 KiB that begin with their offsets, each a batch: some thirty a segment.
async fn fill(door: &Door, from: u64, count: u64) {
    let filler = "x".repeat(2_000);
    let mut pipe = Pipe::open(door).await;
    for number in 1..=count {
        let value = format!("{} {filler}", from + number - 1);
        pipe.send(number, produce_batch("t", 0, batch(&[&value])));
    }
    for number in 1..=count {
        let (_, result) = pipe.next().await;
        assert_eq!((result.error, result.base_offset), (None, Some(from + number - 1)));
    }
}

/// Reads all from an offset on; each record must be the one that was appended there.
async fn check_read(door: &Door, from: u64, end: u64) {
    let found = door.read("t", 0, from).await;
    assert!(found.iter().map(|placed| placed.offset).eq(from..end), "{from} to {end}");
    let is_right = |placed: &Placed| value(placed).starts_with(&format!("{} ", placed.offset));
    assert!(found.iter().all(is_right));
}

async fn stand(door: &Door) -> v1::Partition {
    door.online("t").await.partitions.remove(0)
}

/// Waits until the partition is as it should be.
async fn stand_once(door: &Door, is_so: impl Fn(&v1::Partition) -> bool) -> v1::Partition {
    let mut last = None;
    let wait = async {
        loop {
            let partition = stand(door).await;
            if is_so(&partition) {
                return partition;
            }
            last = Some(partition);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(crate::broker::PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("it stays {last:?}"))
}

/// The folder of the partition's files.
async fn folder(broker: &Broker, door: &Door) -> std::path::PathBuf {
    let id = door.describe("t").await.topic.expect("a topic").id;
    broker.partition_folder(&id, 0)
}

/// The offsets at which the segment files begin.
fn bases(folder: &Path) -> Vec<u64> {
    let base = |path: std::path::PathBuf| {
        path.file_stem().and_then(|name| name.to_str()?.parse().ok()).expect("an offset")
    };
    segments(folder).into_iter().map(base).collect()
}

/// Waits until there is only the segment file that begins at an offset: the start moves before files go.
async fn until_only(folder: &Path, base: u64) {
    let wait = async {
        while bases(folder) != [base] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(wait).await;
}

/// Stops a broker or kills it, and starts one on the same data.
async fn again(broker: Broker, is_killed: bool) -> (Broker, Door) {
    let home = if is_killed {
        let home = broker.home.clone();
        drop(broker);
        home
    } else {
        broker.stop().await
    };
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    (broker, door)
}

#[tokio::test]
async fn the_oldest_segments_go_while_as_much_is_left_as_is_to_be_kept() {
    let (broker, door) = given(&[("retention.bytes", "256KiB")]).await;
    let least = 256 * KIB;
    let mut end = 0;
    for _ in 0..10 {
        fill(&door, end, 100).await;
        end += 100;
        let partition = stand(&door).await;
        assert!(partition.log_start == 0 || least <= partition.size_bytes, "{partition:?}");
    }
    // One segment more, at the most, and what came since the last one was begun.
    let folder = folder(&broker, &door).await;
    let is_over =
        |it: &v1::Partition| it.size_bytes < least + 128 * KIB && bases(&folder)[0] == it.log_start;
    let partition = stand_once(&door, is_over).await;
    assert!(least <= partition.size_bytes, "{partition:?}");
    assert_eq!(partition.high_watermark, end);
    let bases = bases(&folder);
    assert_eq!((bases[0], bases.len()), (partition.log_start, partition.segments as usize));
    let length = |path: &std::path::PathBuf| path.metadata().expect("a file").len();
    let on_disk: u64 = segments(&folder).iter().map(length).sum();
    assert!(on_disk < least + 192 * KIB, "{on_disk}");
    let files = std::fs::read_dir(&folder).expect("a folder").count();
    assert!(files <= 2 * bases.len() + 2, "{files} files: their indexes are gone too");
    check_read(&door, partition.log_start, end).await;

    let gone = metric(&broker, "taffrail_deleted_segments_total").await;
    let bytes = metric(&broker, "taffrail_deleted_bytes_total").await;
    assert!(gone * 60 * KIB < bytes && bytes <= gone * 64 * KIB, "{bytes} in {gone} segments");
    assert!(partition.log_start * 2_000 < bytes, "{bytes}");
    assert_eq!(metric(&broker, "taffrail_retention_paused").await, 0);
}

#[tokio::test]
async fn an_idle_partition_loses_all_that_is_old_and_nothing_before_its_time() {
    const AGE: Duration = Duration::from_secs(3);
    let (broker, door) = given(&[("retention.ms", "3s")]).await;
    let mut appended = Vec::new();
    for number in 0..2 {
        appended.push(Instant::now());
        let result = door.produce(produce_batch("t", 0, batch(&["a"]))).await;
        assert_eq!(result.base_offset, Some(number));
        tokio::time::sleep(Duration::from_millis(1_700)).await;
    }
    for (start, appended) in (1..).zip(appended) {
        stand_once(&door, |it| start <= it.log_start).await;
        let age = appended.elapsed();
        assert!(AGE <= age, "{} was {age:?} old", start - 1);
    }
    let partition = stand(&door).await;
    assert_eq!((partition.log_start, partition.high_watermark, partition.segments), (2, 2, 1));
    // The file that was written is gone too.
    until_only(&folder(&broker, &door).await, 2).await;
    assert_eq!(door.append("t", &["b"]).await, 2);
    stand_once(&door, |it| it.log_start == 3).await;
    let (_broker, door) = again(broker, true).await;
    let partition = stand(&door).await;
    assert_eq!((partition.log_start, partition.high_watermark), (3, 3));
    assert_eq!(door.append("t", &["c"]).await, 3);
}

#[tokio::test]
async fn a_setting_acts_on_what_is_there_when_it_is_altered() {
    let (broker, door) = given(&[("durability", "page_cache")]).await;
    fill(&door, 0, 300).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stand(&door).await.log_start, 0);
    door.alter("t", &[("retention.bytes", "200KiB")]).await.expect("can be");
    let partition = stand_once(&door, |it| it.size_bytes < 264 * KIB).await;
    assert!(200 * KIB <= partition.size_bytes, "{partition:?}");
    check_read(&door, partition.log_start, 300).await;
    // Nothing is needed any more to make all that there is old.
    door.alter("t", &[("retention.bytes", ""), ("retention.ms", "1s")]).await.expect("can be");
    stand_once(&door, |it| it.log_start == 300).await;
    until_only(&folder(&broker, &door).await, 300).await;
    door.alter("t", &[("retention.ms", "")]).await.expect("can be");
    fill(&door, 300, 40).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(stand(&door).await.log_start, 300, "nothing is old any more");
}

#[tokio::test]
async fn retention_goes_on_in_the_next_life_of_the_broker() {
    let (broker, door) = given(&[("retention.ms", "2s")]).await;
    assert_eq!(door.append("t", &["a", "b"]).await, 0);
    let folder = folder(&broker, &door).await;
    let (_broker, door) = again(broker, true).await;
    stand_once(&door, |it| it.log_start == 2).await;
    until_only(&folder, 2).await;
    assert_eq!(door.append("t", &["c"]).await, 2);
}

#[tokio::test]
async fn what_is_begun_at_stays_so_however_the_broker_ends() {
    for durability in ["fsync", "page_cache"] {
        let (mut broker, mut door) = given(&[("durability", durability)]).await;
        let mut end = 0;
        for (round, is_killed) in [false, true, false, true].into_iter().enumerate() {
            fill(&door, end, 100).await;
            end += 100;
            // In the middle of a segment, and once everything.
            let start = if round == 2 { end } else { end - 30 };
            let deleted = door.delete_records("t", 0, Some(start)).await.expect("it can");
            assert_eq!((deleted.log_start, deleted.high_watermark), (start, end));
            let files = bases(&folder(&broker, &door).await);
            (broker, door) = again(broker, is_killed).await;
            let partition = stand(&door).await;
            let found = (partition.log_start, partition.high_watermark, partition.log_end);
            assert_eq!(found, (start, end, end), "{durability}, round {round}");
            assert_eq!(bases(&folder(&broker, &door).await)[0], files[0]);
            check_read(&door, start, end).await;
        }
    }
}
