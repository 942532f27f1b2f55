//! Rot on disk that nobody has read: the broker finds it by itself, and goes on.

use std::time::Duration;

use taffrail_log::vfs::{Disk, Vfs as _};

use crate::broker::{Broker, Home};
use crate::door::{Door, batch, produce_batch};
use crate::http::{await_metric, metric};
use crate::pipe::Pipe;
use crate::program::run;

/// A topic of many small segments.
async fn fill(door: &Door) {
    let settings = [("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")];
    door.create_with("t", 1, &settings).await;
    let filler = "x".repeat(2_000);
    let mut pipe = Pipe::open(door).await;
    for number in 1..=300 {
        pipe.send(number, produce_batch("t", 0, batch(&[&filler])));
    }
    for _ in 1..=300 {
        assert_eq!(pipe.next().await.1.error, None);
    }
}

/// Waits until everything was looked at once more.
async fn next_scrub(broker: &Broker) {
    let before = metric(broker, "taffrail_scrubbed_bytes_total").await;
    // All of it, whatever was under way before.
    let is_through = |bytes| bytes >= before + 1_200_000;
    await_metric(broker, "taffrail_scrubbed_bytes_total", is_through).await;
}

#[tokio::test]
async fn rot_is_found_and_told_before_anybody_reads_it() {
    let broker = Broker::with(&["scrub_interval=1s"]);
    let door = Door::open(&broker).await;
    fill(&door).await;
    next_scrub(&broker).await;
    assert_eq!(metric(&broker, "taffrail_scrub_damaged").await, 0);
    assert_eq!(door.describe("t").await.partitions[0].damaged, []);

    let id = door.describe("t").await.topic.expect("a topic").id;
    let folder = broker.partition_folder(&id, 0);
    let files = std::fs::read_dir(folder).expect("a folder").map(|it| it.expect("an entry").path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
    files.sort();
    let byte = std::fs::read(&files[2]).expect("a file")[20_000];
    // In place: nobody is to meet a file that is cut.
    let file = Disk.open(&files[2]).expect("a file");
    file.write_at(20_000, &[byte ^ 1]).expect("it can be written");
    await_metric(&broker, "taffrail_scrub_damaged", |places| places == 1).await;
    let damaged = door.describe("t").await.partitions.remove(0).damaged;
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!(damaged[0].to, damaged[0].from + 1, "one batch of one record");
    assert_eq!(door.append("t", &["next"]).await, 300, "all else goes on");

    let ended = "taffrail_scrub_ended_timestamp_seconds";
    let before = metric(&broker, ended).await;
    await_metric(&broker, ended, |seconds| seconds > before).await;
    let home = broker.stop().await;
    let data = home.data().display().to_string();
    let inspected = run(&["inspect", &data, "--output", "json"]);
    inspected.check(1, &["there is damage in one place"]);
    let report: serde_json::Value = serde_json::from_str(&inspected.output).expect("json");
    let last = &report["directory"]["last_scrub"];
    assert_eq!(last["damaged"], 1, "{last}");
    assert!(last["segments"].as_u64() > Some(5), "{last}");
}

#[tokio::test]
async fn a_scrub_can_be_turned_off() {
    let broker = Broker::with(&["scrub_interval=0s"]);
    let door = Door::open(&broker).await;
    fill(&door).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(metric(&broker, "taffrail_scrubbed_bytes_total").await, 0);
    assert!(!broker.home.data().join("scrub").exists());
}

#[tokio::test]
async fn a_scrub_goes_on_after_a_restart() {
    let broker = Broker::with(&["scrub_interval=0s"]);
    let door = Door::open(&broker).await;
    fill(&door).await;
    drop(door);
    let inspected = |home: &Home| {
        let data = home.data().display().to_string();
        run(&["inspect", &data, "--output", "json"]).json()["directory"].clone()
    };
    let home = broker.stop().await;
    let broker = home.start(&["scrub_interval=1h", "scrub_bytes_per_second=200KiB"]);
    await_metric(&broker, "taffrail_scrubbed_bytes_total", |bytes| bytes > 0).await;
    let home = broker.stop().await;
    let interrupted = inspected(&home);
    assert_eq!(interrupted["last_scrub"], serde_json::Value::Null, "it came to no end");
    assert!(interrupted["scrub"]["bytes"].as_u64() > Some(0), "{interrupted}");

    let broker = home.start(&["scrub_interval=1h"]);
    let ended = "taffrail_scrub_ended_timestamp_seconds";
    await_metric(&broker, ended, |seconds| seconds > 0).await;
    let home = broker.stop().await;
    let last = &inspected(&home)["last_scrub"];
    assert_eq!(last["began"], interrupted["scrub"]["began"], "it was the same one");
    assert!(last["bytes"].as_u64() > interrupted["scrub"]["bytes"].as_u64(), "{last}");
}
