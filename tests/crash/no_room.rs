//! What else a broker is asked for while its disk is full: topics are deleted, it is stopped and
//! started; what needs room is refused whole, and all goes on when there is some.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use taffrail_client::{Admin, CallError, Client};
use taffrail_proto::v1;
use tokio::time::sleep;

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::failed_sync::statuses;
use crate::full_disk::{fill, produce, wait_for};
use crate::history::History;
use crate::kills::{TOPICS, create_topics, start_load};
use crate::mount::Mount;
use crate::readback::{conclude, read_back, wait_until_online};

/// Bytes of a topic that is worth deleting.
const LARGE_BYTES: u64 = 24 << 20;
/// What a broker keeps back of its disk.
const SPARE_BYTES: u64 = 8 << 20;
/// Batches of 8 KB that fill a segment of the least size.
const BATCHES_OF_A_SEGMENT: u32 = 8;
/// Alterations that the catalog takes before it needs more of the disk, at the most.
const ALTERATIONS_MAX: u32 = 100;

/// A broker on a disk of its own.
struct Given {
    home: Home,
    mount: Mount,
    broker: Broker,
    dice: Dice,
}

impl Given {
    async fn new(test: &str) -> Option<Self> {
        let mut home = Home::new().await;
        let mount = Mount::new(home.folder(), "ext4", test)?;
        home.data = mount.path.join("data");
        let broker = home.start().await;
        let given = Self { home, mount, broker, dice: Dice::new(test) };
        given.create("probe", 2, &[]).await.expect("the topic is created");
        Some(given)
    }

    fn admin(&self) -> Admin {
        Client::connect(&self.broker.url()).expect("a valid address").admin()
    }

    async fn create(
        &self,
        topic: &str,
        partitions: u32,
        settings: &[(&str, &str)],
    ) -> Result<v1::Topic, CallError> {
        self.admin().create_topic(topic, partitions, settings_of(settings)).await
    }

    /// The directories and files of all logs, but for those that are being prepared.
    fn files(&self) -> BTreeSet<PathBuf> {
        let list = |path: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(path).expect("the directory is there").flatten();
            entries.map(|entry| entry.path()).collect()
        };
        let logs = list(&self.home.data.join("logs"));
        let files = logs.iter().flat_map(|log| list(log)).collect::<Vec<_>>();
        let is_there = |path: &PathBuf| path.extension().is_none_or(|it| it != "new");
        logs.into_iter().chain(files).filter(is_there).collect()
    }

    async fn restart(mut self) -> Self {
        self.broker.kill().await;
        self.broker = self.home.start().await;
        self
    }
}

fn settings_of(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    settings.iter().map(owned).collect()
}

/// The disk is full, which the broker says of a path or a topic.
#[track_caller]
fn assert_full<T: std::fmt::Debug>(answer: &Result<T, CallError>) {
    let is_full = |error: &CallError| matches!(error, CallError::Refused(it) if it.reason == "STORAGE_FULL" && (it.metadata.contains_key("path") || it.metadata.contains_key("topic")));
    assert!(answer.as_ref().is_err_and(is_full), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_what_needs_room_is_refused_whole_and_deleting_makes_some() {
    let Some(mut given) = Given::new("no room").await else { return };
    create_topics(&given.broker).await;
    let large = given.create("large", 1, &[]).await.expect("the topic is created");
    let small = [("segment.bytes", "65536"), ("max.batch.bytes", "65536")];
    let rolling = given.create("rolling", 1, &small).await.expect("the topic is created");
    let rolling = given.home.data.join(format!("logs/{}-0", rolling.id));
    for _ in 1..BATCHES_OF_A_SEGMENT {
        assert_eq!(produce(&given.broker.url(), "rolling", 0).await.error, None);
    }
    for _ in 0..LARGE_BYTES / 8000 {
        assert_eq!(produce(&given.broker.url(), "large", 0).await.error, None);
    }
    let load = start_load(&given.home, &mut given.dice);
    sleep(Duration::from_millis(300)).await;
    load.history.note("the disk is full");
    let ballast = fill(&given.broker, &given.mount).await;
    let admin = given.admin();

    let before = given.files();
    let refused = loop {
        // The last block of the segment may have room for a few.
        let result = produce(&given.broker.url(), "rolling", 0).await;
        if let Some(error) = result.error {
            break error;
        }
    };
    assert_eq!(refused.reason, "STORAGE_FULL", "{refused:?}");
    // What is kept back may have been given up for the recovery points in between.
    let full = Path::new(&refused.metadata["path"]);
    assert!(full.starts_with(&rolling) || full.ends_with("spare"), "{refused:?}");
    assert_full(&given.create("more", 40, &[]).await);
    assert_full(&admin.add_partitions("large", 40).await);
    let (topic, partitions) = admin.describe_topic("large").await.expect("it is there");
    assert_eq!((topic.partitions, partitions.len()), (1, 1), "nothing half done");
    let is_log = |path: &&PathBuf| path.extension().is_none_or(|it| it == "log");
    let is_new = |path: &&PathBuf| is_log(path) && !before.contains(*path);
    let after = given.files();
    let segments: Vec<_> =
        after.iter().filter(is_new).filter(|it| !it.starts_with(&rolling)).collect();
    assert!(segments.is_empty(), "left behind: {segments:?}");
    check_altered_or_refused(&admin).await;
    for (topic, partitions) in TOPICS {
        read_back(&given.broker, topic, partitions, &History::default()).await;
    }

    admin.delete_topic("large").await.expect("a topic can be deleted");
    load.history.note("a topic was deleted: there is room again");
    let is_left = |path: &PathBuf| path.to_string_lossy().contains(&large.id);
    assert!(!given.files().iter().any(is_left), "its files are gone");
    wait_for(&given.broker, |reason| reason.is_none()).await;
    assert_eq!(produce(&given.broker.url(), "rolling", 0).await.error, None, "it rolls");
    given.create("more", 2, &[]).await.expect("the topic is created");
    std::fs::remove_file(&ballast).expect("the ballast is removed");
    load.stop().await;
    conclude(&given.home, &given.broker, &TOPICS, &load.history).await;
    let given = given.restart().await;
    conclude(&given.home, &given.broker, &TOPICS, &load.history).await;
    assert!(!given.home.said_all().contains("panicked"), "the broker panicked");
}

/// Alters a topic until that is refused; each alteration is done, or refused and not done.
async fn check_altered_or_refused(admin: &Admin) {
    for number in 0..ALTERATIONS_MAX {
        let bytes = (100_000 + number).to_string();
        let settings = settings_of(&[("segment.bytes", &bytes), ("max.batch.bytes", "65536")]);
        let altered = admin.alter_topic("rolling", settings).await;
        let (topic, _) = admin.describe_topic("rolling").await.expect("it is there");
        let is_altered = topic.settings.iter().any(|it| it.value == bytes);
        assert_eq!(is_altered, altered.is_ok(), "{altered:?} {topic:?}");
        if altered.is_err() {
            return assert_full(&altered);
        }
    }
    panic!("so many alterations fit on a full disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_a_broker_stops_and_starts_and_goes_on_when_there_is_room() {
    let Some(mut given) = Given::new("no room to stop").await else { return };
    create_topics(&given.broker).await;
    let load = start_load(&given.home, &mut given.dice);
    sleep(Duration::from_millis(500)).await;
    load.history.note("the disk is full");
    let ballast = fill(&given.broker, &given.mount).await;
    for round in 0..3 {
        if round == 1 {
            given = given.restart().await;
        } else {
            assert!(given.broker.stop().await.success(), "a clean stop");
            given.broker = given.home.start().await;
        }
        for (topic, partitions) in TOPICS {
            wait_until_online(&given.broker, topic).await;
            read_back(&given.broker, topic, partitions, &History::default()).await;
        }
        fill(&given.broker, &given.mount).await;
    }
    let said = given.home.said_all();
    assert!(!said.contains("could not be written"), "the recovery points are written:\n{said}");
    load.history.note("there is room again");
    std::fs::remove_file(&ballast).expect("the ballast is removed");
    wait_for(&given.broker, |reason| reason.is_none()).await;
    load.stop().await;
    conclude(&given.home, &given.broker, &TOPICS, &load.history).await;
}

/// Leaves a torn tail of so many bytes behind on a full disk, and starts a broker on it.
async fn start_with_tail(mut given: Given, bytes: u64) -> (Given, PathBuf) {
    wait_until_online(&given.broker, "probe").await;
    let (topic, _) = given.admin().describe_topic("probe").await.expect("it is there");
    let log = given.home.data.join(format!("logs/{}-0", topic.id));
    for partition in 0..2 {
        assert_eq!(produce(&given.broker.url(), "probe", partition).await.error, None);
    }
    given.broker.kill().await;
    let segment = log.join("00000000000000000000.log");
    let mut file = OpenOptions::new().append(true).open(&segment).expect("the segment");
    let torn: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
    file.write_all(&torn).expect("something is torn");
    let ballast = given.mount.path.join("ballast");
    crate::mount::shell(&format!("cat /dev/zero >> {}", ballast.display()));
    given.broker = given.home.start().await;
    (given, log)
}

fn has_aside(log: &Path) -> bool {
    let mut entries = std::fs::read_dir(log).expect("the log is there").flatten();
    entries.any(|entry| entry.path().extension().is_some_and(|it| it == "aside"))
}

#[tokio::test]
async fn on_a_full_disk_a_torn_tail_is_kept_aside_in_the_room_that_was_kept_back() {
    let Some(given) = Given::new("a torn tail and no room").await else { return };
    let (given, log) = start_with_tail(given, SPARE_BYTES / 2).await;
    wait_until_online(&given.broker, "probe").await;
    assert!(has_aside(&log), "what was torn is kept");
    wait_for(&given.broker, |reason| reason == Some("STORAGE_FULL")).await;
    std::fs::remove_file(given.mount.path.join("ballast")).expect("the ballast is removed");
    wait_for(&given.broker, |reason| reason.is_none()).await;
}

#[tokio::test]
async fn a_torn_tail_that_cannot_be_kept_aside_is_not_cut_until_there_is_room() {
    let Some(given) = Given::new("a long torn tail and no room").await else { return };
    let (given, log) = start_with_tail(given, SPARE_BYTES * 3 / 2).await;
    let admin = given.admin();
    let partition = loop {
        let (_, partitions) = admin.describe_topic("probe").await.expect("it is there");
        let partition = partitions.into_iter().next().expect("a partition");
        if partition.status() != v1::PartitionStatus::Recovering {
            break partition;
        }
        sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(partition.status(), v1::PartitionStatus::ReadOnly, "{partition:?}");
    assert_eq!(partition.high_watermark, 1, "what was acknowledged is read: {partition:?}");
    assert!(!has_aside(&log), "no part of a copy takes up room");
    let refused = produce(&given.broker.url(), "probe", 0).await.error.expect("it is read-only");
    assert_eq!(refused.reason, "PARTITION_READ_ONLY", "{refused:?}");
    // With some room the other partition goes on, and nobody takes that room in vain.
    let ballast = given.mount.path.join("ballast");
    let length = std::fs::metadata(&ballast).expect("it is there").len();
    let file = OpenOptions::new().write(true).open(&ballast).expect("it is there");
    file.set_len(length - SPARE_BYTES / 2).expect("some of it is given back");
    drop(file);
    while produce(&given.broker.url(), "probe", 1).await.error.is_some() {
        sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..200 {
        assert_eq!(produce(&given.broker.url(), "probe", 1).await.error, None);
        sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(ballast).expect("the ballast is removed");
    wait_for(&given.broker, |reason| reason.is_none()).await;
    assert!(has_aside(&log), "what was torn is kept");
    assert_eq!(statuses(&given.broker, "probe").await, [v1::PartitionStatus::Online; 2]);
}
