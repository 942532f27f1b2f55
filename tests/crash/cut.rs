//! Another program cuts files under a running broker: what is cut off is named and never made up, and
//! all else goes on. Only what was on its way out of a map ends the process.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use taffrail_client::Client;
use taffrail_proto::v1;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use v1::record_batch::Payload;

use crate::broker::{Broker, Home};
use crate::history::{History, RecordId, value_of};
use crate::load::{Sender, append};
use crate::readback::wait_until_online;
use crate::stream::connect;

const TOPIC: &str = "cut";
const PATIENCE: Duration = Duration::from_secs(30);

/// What a reader gets at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The record that was appended there.
    Right,
    /// `DATA_LOSS`.
    Lost,
    /// An error of the disk, which names the file.
    Unreadable,
    /// A batch whose checksum says that it is not what was sent.
    Damaged,
}

use Answer::{Damaged, Lost, Right, Unreadable};

/// A topic of two partitions with as many records in each, a batch a record.
struct Given {
    home: Home,
    broker: Broker,
    /// Where partition 0 lies.
    folder: PathBuf,
    sender: Sender,
    history: History,
    value_bytes: usize,
    records: u64,
}

impl Given {
    async fn new(segment_bytes: &str, value_bytes: usize, records: u64) -> Self {
        let mut home = Home::new().await;
        // The end of a log too is read from its file.
        home.settings.push("tail_memory=0".into());
        let broker = home.start().await;
        let admin = Client::connect(&broker.url()).expect("a valid address").admin();
        let settings = [("segment.bytes", segment_bytes), ("max.batch.bytes", "64KiB")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let made = admin.create_topic(TOPIC, 2, BTreeMap::from(settings)).await;
        let id = made.expect("the topic is created").id;
        let folder = home.data.join(format!("logs/{id}-0"));
        let (sender, history) = (Sender::of(TOPIC, 2), History::default());
        let mut given = Self { home, broker, folder, sender, history, value_bytes, records: 0 };
        for _ in 0..records {
            given.append_to_both().await;
        }
        given
    }

    /// Appends a record to each partition, and hears that it is there.
    async fn append_to_both(&mut self) {
        let url = self.broker.url();
        for partition in 0..2 {
            let (bytes, history) = (self.value_bytes, &self.history);
            let refused = append(&url, &mut self.sender, partition, bytes, history).await;
            assert_eq!(refused, None, "partition {partition}");
        }
        self.records += 1;
    }

    fn value(&self, partition: u32, offset: u64) -> Vec<u8> {
        let sequence = 2 * offset + u64::from(partition) + 1;
        value_of(RecordId { producer: 1, sequence }, self.value_bytes)
    }

    /// The segments of partition 0, ascending.
    fn segments(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.folder).expect("the folder is there").flatten();
        let files = files.map(|entry| entry.path());
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|it| it == "log");
        let mut found: Vec<_> = files.filter(is_segment).collect();
        found.sort();
        found
    }

    /// The offsets that are in a file of partition 0, each with where its record ends there.
    fn ends(&self, path: &Path) -> BTreeMap<u64, u64> {
        let file = std::fs::read(path).expect("the segment is there");
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let base: u64 = name.parse().expect("it is named by its first offset");
        let mut end = 0;
        let next_end = |offset| {
            let value = self.value(0, offset);
            end += file[end..].windows(value.len()).position(|part| part == value)? + value.len();
            Some((offset, end as u64))
        };
        (base..self.records).map_while(next_end).collect()
    }

    /// What is said of each offset of a partition.
    async fn read(&self, partition: u32) -> Vec<Answer> {
        let mut service = connect(&self.broker.url()).await.expect("the broker listens");
        let mut found = Vec::new();
        for offset in 0..self.records {
            let at = v1::FetchPartition { topic: TOPIC.to_owned(), partition, offset };
            let partitions = vec![at];
            let request = v1::FetchRequest { partitions, max_bytes: 1, ..Default::default() };
            let answer = service.fetch(request).await.expect("a fetch is answered").into_inner();
            let result = answer.results.into_iter().next().expect("a result for the partition");
            found.push(self.judge(partition, offset, result));
        }
        found
    }

    fn judge(&self, partition: u32, offset: u64, result: v1::FetchResult) -> Answer {
        if let Some(error) = result.error {
            let folder = self.folder.to_str().expect("text");
            assert!(error.message.contains(folder), "{offset}: {error:?}");
            return match error.reason.as_str() {
                "DATA_LOSS" => Lost,
                "STORAGE_ERROR" => Unreadable,
                _ => panic!("{offset}: {error:?}"),
            };
        }
        let data = v1::FetchedData::decode(result.data).expect("what was fetched is a message");
        let [batch] = &data.batches[..] else { panic!("{offset}: {data:?}") };
        let Some(Payload::Records(payload)) = &batch.payload else { panic!("{offset}: {batch:?}") };
        if batch.records_crc != Some(crc32fast::hash(payload)) {
            return Damaged;
        }
        let set = v1::RecordSet::decode(payload.clone()).expect("records are a message");
        let value = set.records.first().and_then(|record| record.value.as_deref());
        assert_eq!(batch.base_offset, offset);
        assert_eq!(value, Some(&self.value(partition, offset)[..]), "another record at {offset}");
        Right
    }

    /// All of both partitions is there, but for these offsets of partition 0, of which this is said.
    async fn check(&self, cut: &BTreeMap<u64, u64>, said: impl Fn(u64, Answer) -> bool) {
        for (offset, answer) in (0..).zip(self.read(0).await) {
            let is_right =
                if cut.contains_key(&offset) { said(offset, answer) } else { answer == Right };
            assert!(is_right, "{answer:?} at {offset}, cut are {cut:?}");
        }
        assert!(self.read(1).await.iter().all(|answer| *answer == Right), "the other partition");
    }

    /// The same after a broker that was stopped in order, or killed.
    async fn restart(self, in_order: bool) -> Self {
        let Self { home, broker, .. } = self;
        if in_order {
            assert!(broker.stop().await.success(), "a stop in order");
        } else {
            broker.end().await;
        }
        let broker = home.start().await;
        wait_until_online(&broker, TOPIC).await;
        Self { home, broker, ..self }
    }
}

fn cut(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("the file is there");
    file.set_len(length).expect("it is cut");
}

/// What is wholly there, and what is not.
fn lost_behind(ends: &BTreeMap<u64, u64>, length: u64) -> impl Fn(u64, Answer) -> bool {
    move |offset, answer| answer == if ends[&offset] <= length { Right } else { Lost }
}

#[tokio::test]
async fn of_a_sealed_file_that_is_cut_the_rest_is_read_and_what_is_missing_is_named() {
    for (length, in_order) in [(30_000, true), (0, false)] {
        let mut given = Given::new("64KiB", 1_000, 200).await;
        let segment = given.segments().remove(1);
        let ends = given.ends(&segment);
        assert!(ends.len() > 50, "{ends:?}");
        cut(&segment, length);
        for _ in 0..2 {
            given.check(&ends, lost_behind(&ends, length)).await;
            given.append_to_both().await;
        }
        let mut given = given.restart(in_order).await;
        given.append_to_both().await;
        given.check(&ends, lost_behind(&ends, length)).await;
        assert!(!given.home.said_all().contains("panicked"), "the broker panicked");
    }
}

/// It is served from a map then. In the rest of the last page that is left a map has zeros, and nobody
/// checks again what was checked once: there the checksum tells the reader.
#[tokio::test]
async fn of_a_sealed_file_that_was_read_and_is_cut_nothing_is_made_up() {
    for length in [64_600, 50_000, 28_672, 0] {
        let mut given = Given::new("64KiB", 1_000, 200).await;
        let segment = given.segments().remove(1);
        let ends = given.ends(&segment);
        let all = 0..given.records;
        for _ in 0..2 {
            assert!(given.read(0).await.iter().all(|answer| *answer == Right), "before the cut");
        }
        cut(&segment, length);
        let last_page = length..length.next_multiple_of(4096);
        for _ in 0..2 {
            let said = said_of_a_map(&ends, length, &last_page);
            given.check(&ends, said).await;
            given.append_to_both().await;
        }
        assert!(all.end < given.records);
        let given = given.restart(false).await;
        given.check(&ends, lost_behind(&ends, length)).await;
    }
}

/// What may be said of what is served from a map of a file that was cut: of what is left, that it cannot
/// be read, since more than it was to be read at once.
fn said_of_a_map(
    ends: &BTreeMap<u64, u64>,
    length: u64,
    last_page: &Range<u64>,
) -> impl Fn(u64, Answer) -> bool {
    move |offset, answer| match answer {
        Right => ends[&offset] <= length,
        Unreadable => true,
        Damaged => last_page.contains(&(ends[&offset] - 1)),
        Lost => length < ends[&offset],
    }
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_written_goes_on_behind_what_is_missing() {
    for (length, in_order) in [(10_000, true), (10_000, false), (200, false)] {
        let mut given = Given::new("64KiB", 1_000, 80).await;
        let segment = given.segments().remove(1);
        let ends = given.ends(&segment);
        assert!(ends.len() > 10, "{ends:?}");
        cut(&segment, length);
        given.check(&ends, lost_behind(&ends, length)).await;
        for _ in 0..3 {
            given.append_to_both().await;
        }
        given.check(&ends, lost_behind(&ends, length)).await;
        let mut given = given.restart(in_order).await;
        given.check(&ends, lost_behind(&ends, length)).await;
        given.append_to_both().await;
        given.check(&ends, lost_behind(&ends, length)).await;
        assert!(!given.home.said_all().contains("panicked"), "the broker panicked");
    }
}

/// Maps of segments that a process has.
fn maps(broker: &Broker) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", broker.pid()));
    let maps = maps.expect("Linux says what is mapped");
    maps.lines().filter(|line| Path::new(line).extension().is_some_and(|it| it == "log")).count()
}

#[tokio::test]
async fn what_is_cut_on_its_way_out_of_a_map_ends_the_process_which_names_the_file() {
    let mut given = Given::new("1MiB", 60_000, 200).await;
    assert!(given.read(0).await.iter().all(|answer| *answer == Right), "before the cut");
    // A consumer that takes nothing: what is read for it waits, in maps.
    let mut service = connect(&given.broker.url()).await.expect("the broker listens");
    let (command, commands) = mpsc::unbounded_channel();
    let (earliest, granted) = (v1::position::At::Earliest(v1::Earliest {}), 100 << 20);
    let subscribe = v1::Subscribe {
        subscription: 1,
        topic: TOPIC.to_owned(),
        position: Some(v1::Position { at: Some(earliest) }),
        ..Default::default()
    };
    use v1::consume_request::Command;
    for first in [Command::Grant(v1::Grant { bytes: granted }), Command::Subscribe(subscribe)] {
        command.send(v1::ConsumeRequest { command: Some(first) }).expect("nobody ended it");
    }
    let consuming = service.consume(UnboundedReceiverStream::new(commands)).await;
    let mut events = consuming.expect("it is answered").into_inner();
    let waits = async {
        while maps(&given.broker) < 5 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waits).await.expect("it reads ahead");
    let mut sealed = given.segments();
    sealed.pop();
    let ends = sealed.iter().flat_map(|segment| given.ends(segment)).collect::<BTreeMap<_, _>>();
    for segment in &sealed {
        cut(segment, 0);
    }
    while let Ok(Some(_)) = events.message().await {}

    assert!(given.broker.ends_within(PATIENCE).await, "it ends");
    let said = given.home.said();
    let last = said.lines().last().expect("it says why");
    let is_named = sealed.iter().any(|segment| last.contains(segment.to_str().expect("text")));
    assert!(is_named && last.contains("can no longer be read"), "{said}");
    // The next one serves what is left.
    let mut given = given.restart(false).await;
    given.append_to_both().await;
    given.check(&ends, lost_behind(&ends, 0)).await;
}
