//! Killed while it compacts, or without room for that: the latest record of each key is there, and what
//! is gone stays gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use taffrail_client::{Client, Event as Consumed, Position, Until};
use taffrail_proto::v1;
use tokio::time::{sleep, timeout};

use crate::broker::{Broker, Home, binary};
use crate::dice::Dice;
use crate::full_disk::wait_for;
use crate::mount::{Mount, shell};
use crate::readback::wait_until_online;
use crate::stream::connect;
use crate::sweep::{attach, sweep, was_killed};
use crate::{is_deep, rounds};

const PATIENCE: Duration = Duration::from_secs(20);
/// Records of a batch.
const BATCH: u64 = 12;
/// Runs on one directory.
const RUNS: u32 = 12;

/// A topic that is compacted whenever a segment is sealed, and whose tombstones go at once.
const SETTINGS: [(&str, &str); 6] = [
    ("cleanup", "compact"),
    ("delete.retention.ms", "0"),
    ("durability", "page_cache"),
    ("max.batch.bytes", "65536"),
    ("min.cleanable.dirty.ratio", "0"),
    ("segment.bytes", "65536"),
];

/// What is known of a key.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The latest record that was acknowledged or read: its number, and whether it is a tombstone.
    latest: Option<(u64, bool)>,
    /// What was sent since and may be there: the same.
    unknown: BTreeMap<u64, bool>,
}

/// A topic's keys and what was said of them. Records are numbered as they are sent.
struct Keys {
    dice: Dice,
    count: u64,
    number: u64,
    known: BTreeMap<u64, Known>,
}

impl Keys {
    fn new(dice: Dice, count: u64) -> Self {
        Self { dice, count, number: 0, known: BTreeMap::new() }
    }

    /// Appends a batch; false if nobody answers any more.
    async fn append(&mut self, url: &str) -> bool {
        let mut sent = Vec::new();
        for _ in 0..BATCH {
            self.number += 1;
            sent.push((self.dice.below(self.count), self.number, self.dice.below(4) == 0));
        }
        for (key, number, is_tombstone) in &sent {
            self.known.entry(*key).or_default().unknown.insert(*number, *is_tombstone);
        }
        let records = sent.iter().map(|(key, number, is_tombstone)| {
            let value = format!("{number} {}", "x".repeat(500));
            let name = v1::Header { name: number.to_string(), ..Default::default() };
            let value = (!is_tombstone).then(|| value.into());
            v1::Record {
                key: Some(key.to_string().into()),
                value,
                headers: vec![name],
                ..Default::default()
            }
        });
        let set = v1::RecordSet { records: records.collect() };
        let payload = v1::record_batch::Payload::Records(set.encode_to_vec().into());
        let batch = v1::RecordBatch { payload: Some(payload), ..Default::default() };
        let batch = v1::ProduceBatch {
            topic: "t".to_owned(),
            placement: Some(v1::produce_batch::Placement::Partition(0)),
            batch: Some(batch),
            expected_next_offset: None,
        };
        let request = v1::ProduceRequest { batches: vec![batch], acks: 0 };
        let Ok(mut service) = connect(url).await else { return false };
        let Ok(answer) = service.produce(request).await else { return false };
        let result = answer.into_inner().results.remove(0);
        if result.error.is_some() {
            // Of a partition that is not open yet, or no room.
            return true;
        }
        for (key, number, is_tombstone) in sent {
            self.known.entry(key).or_default().note(number, is_tombstone);
        }
        true
    }

    /// Reads all there is, and judges it.
    async fn check(&mut self, broker: &Broker) {
        let mut found: BTreeMap<u64, Vec<(u64, bool)>> = BTreeMap::new();
        let client = Client::connect(&broker.url()).expect("a valid address");
        let consumer = client.consumer().topic("t").from(Position::Earliest);
        let mut consumer = consumer.until(Until::HighWatermark).build().await.expect("it starts");
        let reading = async {
            while let Some(event) = consumer.next_event().await {
                let Consumed::Batch(batch) = event.expect("nothing is damaged") else { continue };
                for record in batch.records() {
                    let record = record.expect("sound");
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                    let key = text(record.key.expect("each has one")).parse().expect("a number");
                    let header = record.headers().next().expect("each has one");
                    let number: u64 = header.name.parse().expect("a number");
                    let is_right =
                        record.value.is_none_or(|it| text(it).starts_with(&format!("{number} ")));
                    assert!(is_right, "of record {number}");
                    found.entry(key).or_default().push((number, record.value.is_none()));
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("it comes to the end");
        for (key, known) in &mut self.known {
            let found = found.remove(key).unwrap_or_default();
            assert!(found.is_sorted(), "{key} is out of order: {found:?}");
            known.judge(*key, found.last().copied());
        }
        assert!(found.is_empty(), "nobody sent {found:?}");
    }
}

impl Known {
    fn note(&mut self, number: u64, is_tombstone: bool) {
        self.latest = Some((number, is_tombstone));
        self.unknown.retain(|other, _| *other > number);
    }

    /// Holds the latest record of a key that is there against what is known of it.
    fn judge(&mut self, key: u64, found: Option<(u64, bool)>) {
        let Some((number, is_tombstone)) = found else {
            let had_none = self.latest.is_none_or(|(_, is_tombstone)| is_tombstone);
            let may_be_over = self.unknown.values().any(|is_tombstone| *is_tombstone);
            assert!(had_none || may_be_over, "key {key} has lost its latest value: {self:?}");
            return;
        };
        let is_latest = self.latest == Some((number, is_tombstone));
        let is_later = self.unknown.get(&number) == Some(&is_tombstone);
        assert!(is_latest || is_later, "of key {key} record {number} has come back: {self:?}");
        self.note(number, is_tombstone);
    }
}

async fn create(broker: &Broker) -> String {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    admin.create_topic("t", 1, settings(&SETTINGS)).await.expect("it is created").id
}

async fn alter(broker: &Broker, changes: &[(&str, &str)]) {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    // It may be killed in between.
    let _ = timeout(PATIENCE, admin.alter_topic("t", settings(changes))).await;
}

fn settings(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The names of the files of the topic's log.
fn files(home: &Home, id: &str) -> BTreeSet<String> {
    let folder = home.data.join(format!("logs/{id}-0"));
    let files = std::fs::read_dir(folder).expect("the log is there").flatten();
    files.map(|file| file.file_name().into_string().expect("text")).collect()
}

/// Whether a file is still being made.
fn is_new(name: impl AsRef<Path>) -> bool {
    name.as_ref().extension().is_some_and(|it| it == "new")
}

/// What `inspect` says of a directory, which is in order.
fn inspect(home: &Home) -> String {
    let mut command = Command::new(binary());
    command.arg("inspect").arg(&home.data).stdin(Stdio::null());
    let ended = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success() && !said.contains("damage"), "{said}");
    said
}

/// Waits until nothing is left of a compaction that is over.
async fn check_files(home: &Home, id: &str) {
    let gone = async {
        while files(home, id).iter().any(is_new) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = timeout(PATIENCE, gone).await.is_ok();
    assert!(in_time, "left behind: {:?}", files(home, id));
}

/// The number that `/metrics` has for a name.
async fn metric(broker: &Broker, name: &str) -> Option<f64> {
    let address = broker.url().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(&address).await.ok()?;
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.ok()?;
    let mut body = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut body).await.ok()?;
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.parse().ok()
}

/// Waits until all that is sealed is compacted; false if the broker is gone, or it takes too long.
async fn settle(broker: &Broker, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        let dirty = metric(broker, "taffrail_log_dirty_bytes{topic=\"t\",partition=\"0\"}").await;
        let waiting = metric(broker, "taffrail_compactions_waiting").await;
        match dirty.zip(waiting) {
            Some((dirty, waiting)) if dirty == 0.0 && waiting == 0.0 => return true,
            Some(_) => sleep(Duration::from_millis(10)).await,
            None => return false,
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_while_it_compacts_the_latest_of_each_key_is_there() {
    let mut dice = Dice::new("kills while compacting");
    let mut home = Home::new().await;
    // So slow that it is going on at most times, and so fast that it comes to write.
    home.settings.push("compaction_bytes_per_second=24MiB".to_owned());
    let mut broker = home.start().await;
    let id = create(&broker).await;
    let mut keys = Keys::new(dice.fork(), 400);
    let mut unfinished = 0;
    for _ in 0..rounds(25, 400) {
        let until = Instant::now() + dice.millis(20, 400);
        while Instant::now() < until {
            assert!(keys.append(&broker.url()).await, "it answers");
        }
        broker.kill().await;
        unfinished += u32::from(files(&home, &id).iter().any(is_new));
        broker = home.start().await;
        wait_until_online(&broker, "t").await;
        keys.check(&broker).await;
        inspect(&home);
    }
    assert!(unfinished > 0, "it was never killed in the middle");
    assert!(settle(&broker, PATIENCE).await, "it is compacted in the end");
    keys.check(&broker).await;
    check_files(&home, &id).await;
    assert!(broker.stop().await.success(), "a clean stop");
    let said = inspect(&home);
    assert!(said.contains("everything is sound"), "{said}");
    assert!(!home.said_all().contains("panicked"), "the broker panicked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_of_a_compaction_it_loses_nothing_and_leaves_nothing_behind() {
    let mut given: Option<(Home, String, Keys, u32)> = None;
    sweep("sweep of compactions", 12, async |calls, number, dice| {
        let (home, id, mut keys, runs) = match given.take() {
            Some(given) if given.3 < RUNS => given,
            _ => {
                let home = Home::new().await;
                let broker = home.start().await;
                let id = create(&broker).await;
                broker.kill().await;
                (home, id, Keys::new(dice.fork(), 300), 0)
            }
        };
        let broker = home.start().await;
        wait_until_online(&broker, "t").await;
        // Nothing but the compaction is to be hit.
        alter(&broker, &[("cleanup", "delete")]).await;
        for _ in 0..40 {
            assert!(keys.append(&broker.url()).await, "it answers");
        }
        let strace = attach(&broker, calls, number).await;
        alter(&broker, &[("cleanup", "compact")]).await;
        settle(&broker, Duration::from_secs(2)).await;
        let is_killed = was_killed(broker).await;
        drop(strace);
        inspect(&home);
        let broker = home.start().await;
        wait_until_online(&broker, "t").await;
        keys.check(&broker).await;
        alter(&broker, &[("cleanup", "compact")]).await;
        assert!(settle(&broker, PATIENCE).await, "it is compacted the next time");
        keys.check(&broker).await;
        check_files(&home, &id).await;
        assert!(broker.stop().await.success(), "a clean stop");
        let said = inspect(&home);
        assert!(said.contains("everything is sound"), "{said}");
        assert!(!home.said_all().contains("panicked"), "the broker panicked");
        given = Some((home, id, keys, runs + 1));
        is_killed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_while_it_compacts_is_named_and_it_goes_on_when_there_is_room() {
    let mut dice = Dice::new("full while compacting");
    let mut home = Home::new().await;
    let Some(mount) = Mount::new(home.folder(), "ext4", "full while compacting") else { return };
    home.data = mount.path.join("data");
    home.settings.push("compaction_bytes_per_second=4MiB".to_owned());
    let broker = home.start().await;
    let id = create(&broker).await;
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    admin.create_topic("probe", 2, BTreeMap::new()).await.expect("it is created");
    alter(&broker, &[("cleanup", "delete"), ("segment.bytes", "16777216")]).await;
    let mut keys = Keys::new(dice.fork(), 8_000);
    for _ in 0..1_000 {
        assert!(keys.append(&broker.url()).await, "it answers");
    }
    // A restart seals nothing; smaller segments do, with the next record.
    alter(&broker, &[("segment.bytes", "65536")]).await;
    assert!(keys.append(&broker.url()).await, "it answers");
    alter(&broker, &[("segment.bytes", "16777216"), ("cleanup", "compact")]).await;
    let is_writing = || {
        let part = home.data.join(format!("logs/{id}-0"));
        let files = std::fs::read_dir(part).expect("the log is there").flatten();
        let new = files.filter(|file| is_new(file.path()));
        new.filter_map(|file| file.metadata().ok()).any(|file| file.len() > 0)
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_writing() {
        assert!(Instant::now() < deadline, "it is not compacted");
        sleep(Duration::from_millis(2)).await;
    }
    let ballast: PathBuf = mount.path.join("ballast");
    shell(&format!("cat /dev/zero >> {}", ballast.display()));
    let says = async {
        while !home.said_all().contains("the disk is full") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, says).await.expect("it is said");
    let said = home.said_all();
    let line = said.lines().find(|line| line.contains("not compacted")).expect("a line");
    for words in ["WARN", "topic=t", "partition=0", ".log.new cannot grow", "tried again"] {
        assert!(line.contains(words), "{line:?} does not say {words:?}");
    }
    check_files(&home, &id).await;
    assert_eq!(metric(&broker, "taffrail_failed_compactions_total").await, Some(1.0));
    keys.check(&broker).await;
    let before = metric(&broker, "taffrail_compactions_total").await;
    std::fs::remove_file(&ballast).expect("the ballast is removed");
    wait_for(&broker, |reason| reason.is_none()).await;
    let broker = if is_deep() {
        broker
    } else {
        // Else it would be tried again in a minute.
        broker.kill().await;
        let broker = home.start().await;
        wait_until_online(&broker, "t").await;
        broker
    };
    assert!(settle(&broker, PATIENCE * 5).await, "there is room");
    assert!(metric(&broker, "taffrail_compactions_total").await > before.filter(|_| is_deep()));
    keys.check(&broker).await;
    assert!(broker.stop().await.success(), "a clean stop");
    assert!(inspect(&home).contains("everything is sound"));
}
