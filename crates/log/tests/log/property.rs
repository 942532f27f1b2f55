//! Whatever is done to a log, in whatever order, it behaves as a list of batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use taffrail_log::vfs::{Disk, Memory, Vfs};
use taffrail_log::{Directory, Log, LogConfig, NewBatch, ReadRequest};
use taffrail_model::{LeaderEpoch, Offset, Timestamp};

use crate::arbitrary;
use crate::given::{
    AppendAll, DeleteAll, NO_PRODUCERS, NOW, NewRecord, batch_of, cases, has_ending, log_id,
    try_open,
};
use crate::model::Model;

#[derive(Clone, Debug)]
enum Step {
    Append { batches: Vec<Vec<NewRecord>>, now: i64 },
    Sync,
    Roll,
    Delete { before: f64 },
    Read { from: f64, limit: f64, bytes_max: usize },
    FindTimestamp { timestamp: i64, limit: f64 },
    Unread { from: f64, limit: f64 },
    Close,
    Kill,
    LoseIndex { which: usize },
    DamageIndex { which: usize, position: usize },
}

fn record() -> impl Strategy<Value = NewRecord> {
    let value = prop_oneof![4 => 0..40usize, 1 => 300..700usize, 1 => 2_000..3_000usize];
    let timestamp = prop_oneof![Just(None), Just(Some(0)), (-50..50i64).prop_map(Some)];
    (timestamp, value, any::<u8>())
        .prop_map(|(timestamp, bytes, fill)| NewRecord { timestamp, value: vec![fill; bytes] })
}

fn step() -> impl Strategy<Value = Step> {
    let batch = prop::collection::vec(record(), 1..5);
    let part = || 0.0..1.2;
    prop_oneof![
        8 => (prop::collection::vec(batch, 1..5), -60..60i64)
            .prop_map(|(batches, now)| Step::Append { batches, now }),
        2 => Just(Step::Sync),
        1 => Just(Step::Roll),
        1 => part().prop_map(|before| Step::Delete { before }),
        4 => (part(), part(), prop_oneof![Just(0), 1..5_000usize, Just(usize::MAX)])
            .prop_map(|(from, limit, bytes_max)| Step::Read { from, limit, bytes_max }),
        4 => (-70..70i64, part())
            .prop_map(|(timestamp, limit)| Step::FindTimestamp { timestamp, limit }),
        4 => (part(), part()).prop_map(|(from, limit)| Step::Unread { from, limit }),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => any::<usize>().prop_map(|which| Step::LoseIndex { which }),
        1 => any::<(usize, usize)>()
            .prop_map(|(which, position)| Step::DamageIndex { which, position }),
    ]
}

fn config() -> impl Strategy<Value = LogConfig> {
    let segment_bytes = prop_oneof![Just(1), 500..3_000u64, Just(1 << 20)];
    let tail_bytes_max = prop_oneof![Just(0), 100..2_000usize, Just(1 << 20)];
    (segment_bytes, tail_bytes_max, any::<bool>()).prop_map(
        |(segment_bytes, tail_bytes_max, reserves_offsets)| LogConfig {
            segment_bytes,
            segment_age: None,
            tail_bytes_max,
            reserves_offsets,
        },
    )
}

/// A log and its model, side by side.
struct Pair {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    config: LogConfig,
    model: Model,
    epoch: LeaderEpoch,
    open: Option<(Directory, Log)>,
}

impl Pair {
    fn new(vfs: Arc<dyn Vfs>, path: &Path, config: LogConfig) -> Self {
        let (model, epoch) = (Model::default(), LeaderEpoch::ZERO);
        let mut pair = Self { vfs, path: path.to_owned(), config, model, epoch, open: None };
        pair.reopen(false);
        pair
    }

    /// Opens what is there; everything must be.
    fn reopen(&mut self, was_clean: bool) {
        self.open = None;
        let directory = try_open(Arc::clone(&self.vfs), &self.path).expect("the directory opens");
        let opened =
            directory.open_log(log_id(), self.config, NO_PRODUCERS).expect("the log opens");
        assert_eq!(opened.log.end().get(), self.model.end());
        assert_eq!(opened.log.read_only(), None);
        assert!(self.epoch < opened.log.leader_epoch(), "each opening has an epoch of its own");
        assert!(opened.report.damage.is_empty() && opened.report.moved_aside.is_empty());
        assert!(was_clean || !opened.report.was_clean, "it was not closed");
        self.epoch = opened.log.leader_epoch();
        self.open = Some((directory, opened.log));
    }

    fn log(&mut self) -> &mut Log {
        &mut self.open.as_mut().expect("it is open").1
    }

    fn append(&mut self, batches: &[NewBatch], now: Timestamp) {
        let epoch = self.epoch;
        let (appended, error) = self.log().append(batches, now);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(appended.len(), batches.len());
        self.model.append(batches, &appended, epoch);
    }

    fn offset(&self, part: f64) -> Offset {
        Offset::new((self.model.end() as f64 * part) as u64)
    }

    fn indexes(&self) -> Vec<PathBuf> {
        let log = self.path.join("logs").join(log_id().to_string());
        let entries = self.vfs.list(&log).expect("it is there").into_iter();
        entries.filter(|e| has_ending(&e.name, "index")).map(|e| log.join(e.name)).collect()
    }

    fn index(&self, which: usize) -> Option<PathBuf> {
        let indexes = self.indexes();
        indexes.get(which.checked_rem(indexes.len())?).cloned()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { batches, now } => {
                let batches: Vec<_> = batches.iter().map(|records| batch_of(records)).collect();
                self.append(&batches, Timestamp::from_millis(NOW.as_millis() + now));
            }
            Step::Sync => {
                let end = self.log().syncer().sync().expect("it syncs");
                assert_eq!(end.get(), self.model.end());
            }
            Step::Roll => self.log().roll().expect("it rolls"),
            Step::Delete { before } => {
                let before = self.offset(before);
                let deleted = self.log().delete_before(before).expect("nothing is wrong");
                assert!(deleted.start <= before || deleted.segments == 0);
                self.model.begin_at(deleted.start.get());
            }
            Step::Read { from, limit, bytes_max } => {
                let (from, limit) = (self.offset(from), self.offset(limit));
                let reader = self.log().reader();
                self.model.check_read(&reader, &ReadRequest { from, limit, bytes_max });
            }
            Step::Unread { from, limit } => {
                let (from, limit) = (self.offset(from), self.offset(limit));
                let reader = self.log().reader();
                self.model.check_unread(&reader, from, limit);
            }
            Step::FindTimestamp { timestamp, limit } => {
                let limit = self.offset(limit);
                // Around the stated ones, which are small, and around the append times.
                for timestamp in [timestamp, NOW.as_millis() + timestamp] {
                    let timestamp = Timestamp::from_millis(timestamp);
                    let found = self.log().reader().find_timestamp(timestamp, limit);
                    let expected = self.model.find_timestamp(timestamp, limit);
                    assert_eq!(found.expect("it reads"), expected, "{timestamp} below {limit}");
                }
            }
            Step::Close => {
                let (directory, log) = self.open.take().expect("it is open");
                log.close().expect("it closes");
                directory.persist_points().expect("they are written");
                drop(directory);
                self.reopen(true);
            }
            Step::Kill => self.reopen(false),
            Step::LoseIndex { which } => {
                if let Some(path) = self.index(which) {
                    self.vfs.remove_file(&path).expect("it is there");
                    self.reopen(false);
                }
            }
            Step::DamageIndex { which, position } => {
                if let Some(path) = self.index(which) {
                    let file = self.vfs.open(&path).expect("it is there");
                    let position = position as u64 % file.length().expect("it has one");
                    file.write_at(position, &[0x5a]).expect("there is room");
                    self.reopen(false);
                }
            }
        }
    }

    /// Reads everything: from disk, then what is verified from maps.
    fn check_all(&mut self) {
        let reader = self.log().reader();
        for bytes_max in [1 << 20, 700, 0, 1 << 20] {
            self.model.check_all(&reader, bytes_max);
        }
    }
}

fn check(vfs: Arc<dyn Vfs>, path: &Path, config: LogConfig, steps: Vec<Step>) {
    let mut pair = Pair::new(vfs, path, config);
    for step in steps {
        pair.step(step);
    }
    pair.check_all();
    pair.reopen(false);
    pair.check_all();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn a_log_in_memory_behaves_as_a_list_of_batches(
        config in config(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        check(Arc::new(Memory::new(1)), Path::new("/data"), config, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(16)))]

    #[test]
    fn a_log_on_disk_behaves_as_a_list_of_batches(
        config in config(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        check(Arc::new(Disk), &place.path().join("data"), config, steps);
    }
}

/// A file, or a few changes to one, or many.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |count| prop::collection::vec(any::<u8>(), count);
    prop_oneof![bytes(4..8), bytes(0..20), bytes(0..400)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(512)))]

    #[test]
    fn whatever_a_last_segment_holds_what_is_read_is_right(bytes in bytes()) {
        arbitrary::segment_recovery(&bytes);
    }

    #[test]
    fn whatever_an_index_holds_what_is_read_is_right(bytes in bytes()) {
        arbitrary::index_load(&bytes);
    }

    #[test]
    fn whatever_a_checkpoint_of_producers_holds_none_is_taken_for_another(bytes in bytes()) {
        arbitrary::producers_load(&bytes);
    }
}

#[test]
fn times_are_found_between_the_places_of_an_index() {
    let config = LogConfig {
        segment_bytes: 200_000,
        segment_age: None,
        tail_bytes_max: 0,
        ..LogConfig::default()
    };
    let mut pair = Pair::new(Arc::new(Memory::new(1)), Path::new("/data"), config);
    // Times rise, and fall, and stay, over more than one segment with several places in its index.
    for step in 0..40i64 {
        let timestamp = |at: i64| Some(1_000 + step / 4 * 10 - (step % 3) * 7 + at);
        let record = |at| NewRecord { timestamp: timestamp(at), value: vec![1; 6_000] };
        pair.append(&[batch_of(&[record(0), record(1)])], NOW);
    }
    for _ in 0..2 {
        for timestamp in (970..1_110).map(Timestamp::from_millis) {
            for limit in [0, 1, 40, 79, 80] {
                let limit = Offset::new(limit);
                let found = pair.log().reader().find_timestamp(timestamp, limit);
                let expected = pair.model.find_timestamp(timestamp, limit);
                assert_eq!(found.expect("it reads"), expected, "{timestamp} below {limit}");
            }
        }
        pair.reopen(false);
    }
}

#[test]
fn an_index_of_another_segment_is_not_believed() {
    // Two segments of one length, whose batches begin in other places.
    let sizes = [[40_000, 30_000, 50_000], [30_000, 50_000, 40_000]];
    let config = LogConfig {
        segment_bytes: 1 << 20,
        segment_age: None,
        tail_bytes_max: 0,
        ..LogConfig::default()
    };
    let [mut pair, other] = sizes.map(|sizes| {
        let memory = Memory::new(sizes[0] as u64);
        let mut pair = Pair::new(Arc::new(memory), Path::new("/data"), config);
        let record = |bytes: usize| NewRecord { timestamp: None, value: vec![1; bytes] };
        for size in sizes {
            pair.append(&[batch_of(&[record(size)])], NOW);
        }
        pair.step(Step::Roll);
        pair
    });
    let index = |pair: &Pair| pair.index(0).expect("it is there");
    let file = other.vfs.open(&index(&other)).expect("it is there");
    let mut bytes = vec![0; file.length().expect("it has one") as usize];
    file.read_at(0, &mut bytes).expect("it can be read");
    let file = pair.vfs.open(&index(&pair)).expect("it is there");
    assert_eq!(file.length().expect("it has one"), bytes.len() as u64);
    file.write_at(0, &bytes).expect("there is room");
    pair.reopen(false);
    pair.check_all();
    let limit = Offset::new(3);
    let last = ReadRequest { from: Offset::new(2), limit, bytes_max: 1 };
    let reader = pair.log().reader();
    pair.model.check_read(&reader, &last);
}

#[test]
fn batches_larger_than_a_window_and_an_index_interval_are_read() {
    let sizes = [10, 100_000, 10, 1_200_000, 40_000, 40_000, 2_500_000, 10];
    for tail_bytes_max in [0, 1 << 20] {
        let config = LogConfig {
            segment_bytes: 1 << 30,
            segment_age: None,
            tail_bytes_max,
            ..LogConfig::default()
        };
        let mut pair = Pair::new(Arc::new(Memory::new(1)), Path::new("/data"), config);
        let record = |bytes: usize| NewRecord { timestamp: None, value: vec![7; bytes] };
        for size in sizes {
            pair.append(&[batch_of(&[record(size), record(1)])], NOW);
        }
        for _ in 0..2 {
            let end = pair.model.end();
            let reader = pair.log().reader();
            for (from, bytes_max) in (0..end).flat_map(|from| [(from, 1), (from, 150_000)]) {
                let (from, limit) = (Offset::new(from), Offset::new(end));
                pair.model.check_read(&reader, &ReadRequest { from, limit, bytes_max });
            }
            pair.check_all();
            // Once more as a sealed segment.
            pair.log().roll().expect("it rolls");
            pair.reopen(false);
        }
    }
}
