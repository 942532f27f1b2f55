//! Compaction by key, as clients see it: of each key the latest record is left, at its offset.

mod endings;
mod meanwhile;
mod reading;
mod refusals;
mod tombstones;

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use taffrail_proto::v1;

use crate::broker::Broker;
use crate::door::{Door, Placed, batch_of, produce_batch};
use crate::http::await_metric;

/// A topic of small segments that is compacted whenever one is sealed.
const EAGER: [(&str, &str); 5] = [
    ("cleanup", "compact"),
    ("durability", "page_cache"),
    ("max.batch.bytes", "16KiB"),
    ("min.cleanable.dirty.ratio", "0"),
    ("segment.bytes", "64KiB"),
];

/// How `/metrics` names the partition of these tests.
const LABELS: &str = "{topic=\"t\",partition=\"0\"}";

/// Records of a batch.
const BATCH: usize = 3;

/// A key that no other test record has, and its value is no tombstone.
const UNIQUE: u64 = 1_000_000;

/// A record, as far as that tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    offset: u64,
    key: Option<String>,
    /// The first word of its value; a tombstone has none.
    value: Option<String>,
}

/// What a record is to be: its key, and whether it is a tombstone.
type Plan = (Option<u64>, bool);

/// A broker with topic `t`, and all that was appended to it.
struct Given {
    broker: Broker,
    door: Door,
    folder: PathBuf,
    history: Vec<Entry>,
}

impl Given {
    async fn new() -> Self {
        Self::with(&EAGER, &[]).await
    }

    async fn with(topic: &[(&str, &str)], settings: &[&str]) -> Self {
        let broker = Broker::with(settings);
        let door = Door::open(&broker).await;
        let id = door.create_with("t", 1, topic).await.id;
        let folder = broker.partition_folder(&id, 0);
        Self { broker, door, folder, history: Vec::new() }
    }

    /// Stops the broker in order, and starts it.
    async fn restart(mut self) -> Self {
        self.broker = self.broker.restart().await;
        self.door = Door::open(&self.broker).await;
        self.door.online("t").await;
        self
    }

    fn end(&self) -> u64 {
        self.history.len() as u64
    }

    /// Appends records of 1 KB, a few a batch.
    async fn append(&mut self, plans: &[Plan]) {
        for plans in plans.chunks(BATCH) {
            let first = self.end();
            let records = plans.iter().map(|plan| self.record(*plan)).collect();
            let result = self.door.produce(produce_batch("t", 0, batch_of(records))).await;
            assert_eq!((result.base_offset, result.error), (Some(first), None));
        }
    }

    /// Appends random ones of so many keys, some of them tombstones.
    async fn append_some(&mut self, count: u64, keys: u64) {
        let plan = |offset| {
            let random = mix(offset);
            (Some(random % keys), (random >> 40).is_multiple_of(8))
        };
        let plans: Vec<_> = (self.end()..self.end() + count).map(plan).collect();
        self.append(&plans).await;
    }

    /// Appends keys of their own until the segment is sealed in which the last record is.
    async fn seal(&mut self) {
        let end = self.end();
        while self.sealed_end() < end {
            self.append(&[(Some(UNIQUE + self.end()), false)]).await;
        }
    }

    /// The same, and waits until it is compacted.
    async fn compact(&mut self) {
        self.seal().await;
        self.settle().await;
    }

    /// Waits until all that is sealed is compacted.
    async fn settle(&self) {
        let dirty = format!("taffrail_log_dirty_bytes{LABELS}");
        await_metric(&self.broker, &dirty, |bytes| bytes == 0).await;
        await_metric(&self.broker, "taffrail_compactions_waiting", |count| count == 0).await;
    }

    /// The base offsets of the segments, ascending.
    fn bases(&self) -> Vec<u64> {
        let files = std::fs::read_dir(&self.folder).expect("a folder").flatten();
        let names = files.map(|file| file.file_name().into_string().expect("text"));
        let base = |name: String| name.strip_suffix(".log")?.parse().ok();
        let mut bases: Vec<_> = names.filter_map(base).collect();
        bases.sort_unstable();
        bases
    }

    /// The offset behind the last sealed segment.
    fn sealed_end(&self) -> u64 {
        self.bases().last().copied().expect("a log has a segment")
    }

    /// What is left when all that is sealed was compacted, tombstones included.
    fn left(&self) -> Vec<Entry> {
        let sealed_end = self.sealed_end();
        let sealed = self.history.iter().filter(|entry| entry.offset < sealed_end);
        let last: BTreeMap<_, _> =
            sealed.filter_map(|entry| Some((entry.key.as_ref()?, entry.offset))).collect();
        let is_left = |entry: &&Entry| {
            let last = entry.key.as_ref().map(|key| last.get(key));
            entry.offset >= sealed_end || last.is_none_or(|last| last == Some(&entry.offset))
        };
        self.history.iter().filter(is_left).cloned().collect()
    }

    /// All that is read from an offset on, gaps passed over.
    async fn read(&self, from: u64) -> Vec<Entry> {
        let (mut found, mut next) = (Vec::new(), from);
        loop {
            let result = self.door.fetch("t", 0, next).await;
            assert_eq!(result.error, None, "from {next}");
            found.extend(entries(&result.data).into_iter().filter(|entry| next <= entry.offset));
            if result.next_offset == next {
                return found;
            }
            next = result.next_offset;
        }
    }

    fn record(&mut self, (key, is_tombstone): Plan) -> v1::Record {
        let offset = self.end();
        let key = key.map(|key| format!("key-{key}"));
        let word = (!is_tombstone).then(|| format!("v{offset}"));
        let value = word.as_ref().map(|word| format!("{word} {}", "x".repeat(1_000)));
        self.history.push(Entry { offset, key: key.clone(), value: word });
        v1::Record {
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            timestamp_ms: timestamp(offset),
            ..Default::default()
        }
    }
}

/// The timestamp of a record: later ones have later ones.
fn timestamp(offset: u64) -> i64 {
    1_000 + 10 * offset as i64
}

fn entries(data: &[u8]) -> Vec<Entry> {
    crate::door::placed(data).iter().map(entry).collect()
}

fn entry(Placed { offset, record }: &Placed) -> Entry {
    new_entry(*offset, record.key.as_deref(), record.value.as_deref())
}

fn new_entry(offset: u64, key: Option<&[u8]>, value: Option<&[u8]>) -> Entry {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let word = |value| text(value).split(' ').next().expect("a word").to_owned();
    Entry { offset, key: key.map(text), value: value.map(word) }
}

/// A number that looks random, and is the same each time.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
