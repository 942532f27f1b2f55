//! Compaction by key: the latest record of each key stays, at its offset, wherever it stops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{
    CompactionConfig, CompactionError, CompactionReport, CompactionStep, Deletion, Known, Log,
    LogReader, NewBatch, Read, ReadRequest,
};
use taffrail_model::batch::{BatchKind, Batches, Compression, RecordFields, RecordSetBuilder};
use taffrail_model::{
    GapReason, Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence, Timestamp,
};

use crate::given::{
    AppendAll, DeleteAll, Given, NOW, Numbers, checked, config, has_ending, log_id, log_path,
    packed, root, seeds, segment, settled, try_open,
};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub(crate) value: Option<String>,
}

/// All that was ever appended.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
    batches: usize,
}

impl History {
    fn end(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.offset + 1)
    }

    /// Appends a batch of keys; every fifth value of a key is a tombstone.
    #[track_caller]
    pub(crate) fn append(
        &mut self,
        log: &mut Log,
        keys: &[Option<u64>],
        is_tombstone: impl Fn(u64) -> bool,
    ) {
        let mut builder = RecordSetBuilder::default();
        for (offset, key) in (self.end()..).zip(keys) {
            let name = key.map(|key| format!("key {key}").into_bytes());
            let value = (!is_tombstone(offset)).then(|| format!("value {offset}"));
            let fields = RecordFields {
                key: name.as_deref(),
                value: value.as_deref().map(str::as_bytes),
                ..RecordFields::default()
            };
            builder.push(&fields);
            self.entries.push(Entry { offset, key: name, value });
        }
        // One after another in each way.
        let compressions = [Compression::None, Compression::Lz4, Compression::Zstd];
        let batch = packed(checked(builder.finish()), compressions[self.batches % 3]);
        self.batches += 1;
        let (appended, error) = log.append(&[batch], NOW);
        assert!(error.is_none() && appended.len() == 1, "{error:?}");
        assert_eq!(appended[0].end_offset.get(), self.end());
    }

    /// What stays when all below `sealed_end` was compacted, tombstones included.
    pub(crate) fn compacted(&self, sealed_end: u64) -> Vec<Entry> {
        let last: BTreeMap<_, _> = self
            .entries
            .iter()
            .filter(|entry| entry.offset < sealed_end)
            .filter_map(|entry| Some((entry.key.clone()?, entry.offset)))
            .collect();
        let stays = |entry: &&Entry| {
            let key = entry.key.as_ref();
            entry.offset >= sealed_end || key.is_none_or(|key| last[key] == entry.offset)
        };
        self.entries.iter().filter(stays).cloned().collect()
    }
}

/// Compacts all that there is.
pub(crate) fn compact_by(
    log: &Log,
    config: CompactionConfig,
    now: Timestamp,
) -> Result<CompactionReport, CompactionError> {
    let mut compaction = log.begin_compaction(config, now, true);
    loop {
        if let CompactionStep::Done(report) = compaction.step()? {
            return Ok(report);
        }
    }
}

pub(crate) fn tight(segment_bytes: u64, keys_max: usize) -> CompactionConfig {
    CompactionConfig { segment_bytes, tombstone_age: DAY, keys_max, ..CompactionConfig::default() }
}

#[track_caller]
pub(crate) fn compact(log: &Log) -> CompactionReport {
    compact_by(log, tight(1 << 20, 1_000), NOW).expect("nothing is wrong")
}

/// Reads everything from an offset on, in small pieces, up to where the log ends by then: what is
/// superseded meanwhile is so by what comes later.
#[track_caller]
pub(crate) fn read_from(reader: &LogReader, from: u64) -> Vec<Entry> {
    let mut from = Offset::new(from);
    let first = from;
    let mut entries = Vec::new();
    loop {
        let limit = reader.end();
        match reader.read(&ReadRequest { from, limit, bytes_max: 100 }) {
            Ok(Read::End) => return entries,
            Ok(Read::Gap(gap)) => {
                assert_eq!((gap.from, gap.reason), (from, GapReason::Compaction));
                assert!(gap.from < gap.to && gap.to <= limit, "{gap:?}");
                from = gap.to;
            }
            Ok(Read::Batches { bytes, next }) => {
                for batch in Batches::received(bytes) {
                    let batch = batch.expect("a batch");
                    assert!(batch.is_sound());
                    let mut latest = Timestamp::MIN;
                    for record in batch.open().expect("a frame").records() {
                        let record = record.expect("it decodes");
                        latest = latest.max(record.timestamp);
                        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                        assert!(record.offset < batch.header.end_offset());
                        if first <= record.offset {
                            entries.push(Entry {
                                offset: record.offset.get(),
                                key: record.key.map(<[u8]>::to_vec),
                                value: record.value.map(text),
                            });
                        }
                    }
                    assert_eq!(batch.header.max_timestamp, latest);
                }
                assert!(from < next, "it goes on");
                from = next;
            }
            Err(error) => panic!("from {from}: {error}"),
        }
    }
}

#[track_caller]
pub(crate) fn check(reader: &LogReader, expected: &[Entry]) {
    assert_eq!(read_from(reader, reader.start().get()), expected);
    for from in reader.start().get()..=reader.end().get() {
        let behind: Vec<_> = expected.iter().filter(|it| from <= it.offset).cloned().collect();
        assert_eq!(read_from(reader, from), behind, "from {from}");
        reader.unread(Offset::new(from), reader.end()).expect("it can be counted");
    }
    let first = expected.first().map(|entry| Offset::new(entry.offset));
    let found = reader.find_timestamp(NOW, reader.end()).expect("it reads");
    assert_eq!(found.map(|found| found.offset), first);
    assert_eq!(reader.damage(), []);
}

/// The names of what lies in the log's directory.
fn names(memory: &Memory) -> Vec<String> {
    memory.list(&log_path()).expect("it lists").into_iter().map(|entry| entry.name).collect()
}

#[track_caller]
fn check_files(memory: &Memory) {
    let notes: Vec<_> =
        inspect(memory, root()).expect("it can be inspected").findings().cloned().collect();
    assert_eq!(notes, []);
    let left = names(memory).into_iter().filter(|name| has_ending(name, "new"));
    assert_eq!(left.collect::<Vec<_>>(), [""; 0]);
}

/// The base offset of the segment that grows.
fn active_base(memory: &Memory) -> u64 {
    let names = names(memory).into_iter().filter(|name| has_ending(name, "log"));
    names.map(|name| name[..20].parse().expect("a number")).max().expect("there is one")
}

#[test]
fn the_latest_record_of_each_key_stays_at_its_offset() {
    for seed in seeds(25) {
        let mut numbers = Numbers::new(seed);
        let mut given = Given::new(700);
        let mut history = History::default();
        let keys_max = [2, 10, 1_000][numbers.below(3) as usize];
        let bytes_max = [400, 5_000, 1 << 20][numbers.below(3) as usize];
        let key_count = 1 + numbers.below(40);
        for _ in 0..=numbers.below(4) {
            for _ in 0..numbers.below(30) {
                let keys: Vec<_> = (0..=numbers.below(6))
                    .map(|_| (!numbers.once_in(12)).then(|| numbers.below(key_count)))
                    .collect();
                let rest = numbers.below(7);
                history.append(&mut given.log, &keys, |offset| offset % 7 == rest);
            }
            let before = given.log.reader().dirt();
            let report = compact_by(&given.log, tight(bytes_max, keys_max), NOW);
            let report = report.expect("nothing is wrong");
            assert!(before.dirty_bytes == 0 || report.segments_before > 0, "{report:?}");
            assert_eq!(given.log.reader().dirt().dirty_bytes, 0);
            let again = compact_by(&given.log, tight(bytes_max, keys_max), NOW).expect("nothing");
            assert_eq!(again.removed_records, 0, "there is nothing more to remove");
            check(&given.log.reader(), &history.compacted(active_base(&given.memory)));
            check_files(&given.memory);
            if numbers.once_in(2) {
                let memory = given.kill().crash(seed);
                let (reopened, report) = Given::open(&memory, 700);
                assert!(report.damage.is_empty(), "{report:?}");
                given = reopened;
                // What was written and not synced may be gone.
                history.entries.retain(|entry| entry.offset < given.log.end().get());
            }
        }
        let base = active_base(&given.memory);
        let (given, report) = Given::open(&given.close(), 700);
        assert!(report.was_clean && report.damage.is_empty(), "{report:?}");
        check(&given.log.reader(), &history.compacted(base));
    }
}

/// Segments of two batches of three keys each; the last one is active.
pub(crate) fn given(segments: u64) -> (Given, History) {
    let mut given = Given::new(1 << 20);
    let mut history = History::default();
    for at in 0..segments {
        if at > 0 {
            given.log.roll().expect("it rolls");
        }
        let keys = [at % 3, 3 + at, 10 + at % 2].map(Some);
        history.append(&mut given.log, &keys, |offset| offset == 6);
        history.append(&mut given.log, &[Some(at), None, Some(20)], |_| false);
    }
    given.log.syncer().sync().expect("it syncs");
    given.directory.persist_points().expect("the points are written");
    (given, history)
}

#[test]
fn small_segments_become_one_and_what_nothing_is_left_of_takes_no_room() {
    let (mut given, mut history) = given(6);
    let report = compact(&given.log);
    assert_eq!((report.segments_before, report.segments_after), (5, 1));
    assert_eq!(given.log.reader().size().1, 2);
    check(&given.log.reader(), &history.compacted(30));
    // All that there is is superseded.
    given.log.roll().expect("it rolls");
    let keys: Vec<_> = (0..30).map(Some).collect();
    history.append(&mut given.log, &keys, |_| false);
    given.log.roll().expect("it rolls");
    history.append(&mut given.log, &[Some(1)], |_| false);
    compact(&given.log);
    check(&given.log.reader(), &history.compacted(66));
    check_files(&given.memory);
    let bytes = given.log.reader().size().0;
    assert!(bytes < 2_500, "{bytes}");
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes_with_its_key() {
    let mut given = Given::new(1 << 20);
    let mut history = History::default();
    history.append(&mut given.log, &[Some(1), Some(2), Some(3)], |_| false);
    history.append(&mut given.log, &[Some(1), Some(2)], |offset| offset == 4);
    given.log.roll().expect("it rolls");
    history.append(&mut given.log, &[Some(4)], |_| false);
    assert_eq!(given.log.reader().dirt().due, None);
    compact(&given.log);
    check(&given.log.reader(), &history.compacted(5));
    let due = NOW.plus(DAY);
    assert_eq!(given.log.reader().dirt().due, Some(due));
    let (given, _) = Given::open(&given.close(), 1 << 20);
    assert_eq!(given.log.reader().dirt().due, Some(due));
    let before = read_from(&given.log.reader(), 0);
    // Too early, and at a time that nobody believes.
    let early = compact_by(&given.log, tight(1 << 20, 9), due.minus(Duration::from_millis(1)));
    assert_eq!(early.expect("nothing is wrong").segments_before, 0);
    let mut doubtful = given.log.begin_compaction(tight(1 << 20, 9), due.plus(DAY), false);
    while !matches!(doubtful.step().expect("nothing is wrong"), CompactionStep::Done(_)) {}
    assert_eq!(read_from(&given.log.reader(), 0), before);
    let report = compact_by(&given.log, tight(1 << 20, 9), due).expect("nothing is wrong");
    assert_eq!(report.removed_records, 1);
    let mut expected = history.compacted(5);
    expected.retain(|entry| entry.value.is_some());
    check(&given.log.reader(), &expected);
    assert_eq!(given.log.reader().dirt().due, None);
}

/// Lets the machine stand still after each number of changes of a compaction, and tells `then` what is
/// left when it was killed, or has lost its power.
fn at_each_stop(keys_max: usize, then: impl Fn(Memory, &History)) {
    for power_lost in std::iter::once(None).chain((0..6).map(Some)) {
        for changes_left in 0.. {
            let (given, history) = given(5);
            given.memory.set_fault(Some(Fault::Stops { changes_left }));
            let done = compact_by(&given.log, tight(1 << 20, keys_max), NOW);
            let memory = given.kill();
            memory.set_fault(None);
            then(power_lost.map_or(memory.clone(), |seed| memory.crash(seed)), &history);
            if done.is_ok() {
                assert!(changes_left > 5, "it did something");
                break;
            }
        }
    }
}

#[test]
fn a_compaction_that_stops_anywhere_loses_nothing() {
    for keys_max in [2, 1_000] {
        at_each_stop(keys_max, |memory, history| {
            let report = inspect(&memory, root()).expect("it can be inspected");
            assert!(report.worst() <= Some(Severity::Note), "{report:?}");
            let (given, report) = Given::open(&memory, 1 << 20);
            assert!(report.damage.is_empty() && report.moved_aside.is_empty(), "{report:?}");
            let found = read_from(&given.log.reader(), 0);
            let expected = history.compacted(24);
            assert!(found == history.entries || found == expected, "{found:?}");
            check(&given.log.reader(), &found);
            check_files(&memory);
            compact(&given.log);
            check(&given.log.reader(), &expected);
            let (given, report) = Given::open(&given.close(), 1 << 20);
            assert!(report.was_clean && report.damage.is_empty(), "{report:?}");
            check(&given.log.reader(), &expected);
        });
    }
}

#[test]
fn a_disk_that_fails_in_between_costs_nothing_but_the_work() {
    let faults = (0..14)
        .flat_map(|after| {
            [
                Fault::NoRoom { changes_left: after },
                Fault::OneWriteFails { before: after },
                Fault::OneSyncFails { before: after, drops: false },
                Fault::OneSyncFails { before: after, drops: true },
                Fault::DiskFull { bytes_left: 40 * after },
            ]
        })
        .chain([Fault::ReadFails]);
    let mut failures = 0;
    for fault in faults {
        for keys_max in [2, 1_000] {
            let (given, history) = given(5);
            let expected = history.compacted(24);
            given.memory.set_fault(Some(fault.clone()));
            let done = compact_by(&given.log, tight(1 << 20, keys_max), NOW);
            given.memory.set_fault(None);
            failures += u32::from(done.is_err());
            let found = read_from(&given.log.reader(), 0);
            let is_whole = found == history.entries || found == expected;
            assert!(is_whole && (done.is_err() || found == expected), "{fault:?}: {found:?}");
            assert!(names(&given.memory).iter().all(|name| !has_ending(name, "new")), "{fault:?}");
            let memory = given.kill();
            for memory in [memory.crash(7), memory] {
                let (given, report) = Given::open(&memory, 1 << 20);
                assert!(report.damage.is_empty(), "{fault:?}: {report:?}");
                let found = read_from(&given.log.reader(), 0);
                assert!(found == history.entries || found == expected, "{fault:?}: {found:?}");
                compact(&given.log);
                check(&given.log.reader(), &expected);
            }
        }
    }
    assert!(failures > 40, "{failures}");
}

#[test]
fn what_is_deleted_meanwhile_stays_deleted() {
    let (mut outrun, mut gone_on) = (0, 0);
    for steps in 0.. {
        let (mut given, history) = given(6);
        let mut compaction = given.log.begin_compaction(tight(1 << 20, 1_000), NOW, true);
        let mut is_done = false;
        for _ in 0..steps {
            is_done |= matches!(compaction.step(), Ok(CompactionStep::Done(_)));
        }
        given.log.delete_before(Offset::new(13)).expect("nothing is wrong");
        let rest = std::iter::from_fn(|| match compaction.step() {
            Ok(CompactionStep::Done(_)) => None,
            step => Some(step.map(drop)),
        });
        let ended = rest.take(50).find_map(Result::err);
        assert!(matches!(ended, None | Some(CompactionError::Outrun)), "{ended:?}");
        outrun += u32::from(ended.is_some());
        drop(compaction);
        let start = given.log.reader().start().get();
        // What has become one segment goes as one.
        assert!(start == 12 || start == 0 && ended.is_none(), "{start}, {ended:?}");
        gone_on += u32::from(start == 12 && ended.is_none());
        compact(&given.log);
        let mut expected = history.compacted(30);
        expected.retain(|entry| start <= entry.offset);
        assert_eq!(read_from(&given.log.reader(), start), expected, "after {steps} steps");
        check_files(&given.memory);
        if is_done {
            break;
        }
    }
    assert!(outrun > 1 && gone_on > 1, "{outrun}, {gone_on}");
}

#[test]
fn who_reads_while_it_is_compacted_misses_nothing() {
    let (mut given, mut history) = given(2);
    let is_over = AtomicBool::new(false);
    let (reader, directory) = (given.log.reader(), &given.directory);
    std::thread::scope(|scope| {
        let look = || {
            let mut rounds = 0;
            while !is_over.load(Ordering::Acquire) {
                let found = read_from(&reader, 0);
                let end = found.last().expect("the log has some").offset;
                // Whatever was there last of a key, or something later of it.
                let keys: BTreeSet<_> = found.iter().filter_map(|it| it.key.clone()).collect();
                assert!(keys.len() >= 7, "{keys:?} up to {end}");
                assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]));
                rounds += 1;
            }
            rounds
        };
        let looking = [scope.spawn(look), scope.spawn(look)];
        for round in 0..200 {
            let keys: Vec<_> = (0..8).map(|at| Some((at + round) % 8)).collect();
            history.append(&mut given.log, &keys, |_| false);
            given.log.roll().expect("it rolls");
            compact(&given.log);
        }
        is_over.store(true, Ordering::Release);
        for looking in looking {
            assert!(looking.join().expect("nothing goes wrong") > 0, "it came to read");
        }
    });
    directory.persist_points().expect("they are written");
    let base = active_base(&given.memory);
    check(&given.log.reader(), &history.compacted(base));
}

#[test]
fn what_producers_sent_is_known_although_it_was_compacted() {
    let stamped = |sequence: u32, key: u64| {
        let mut builder = RecordSetBuilder::default();
        let key = key.to_string();
        let key = Some(key.as_bytes());
        builder.push(&RecordFields { key, value: Some(b"v"), ..RecordFields::default() });
        let (id, epoch) = (ProducerId::FIRST, ProducerEpoch::ZERO);
        let producer = Some(ProducerStamp { id, epoch, sequence: Sequence::new(sequence) });
        NewBatch { producer, ..checked(builder.finish()) }
    };
    let mut given = Given::new(1 << 20);
    for sequence in 0..6 {
        let (_, error) = given.log.append(&[stamped(sequence, 7)], NOW);
        assert!(error.is_none());
        if sequence % 2 == 1 {
            given.log.roll().expect("it rolls");
        }
    }
    compact(&given.log);
    assert_eq!(read_from(&given.log.reader(), 0).len(), 1);
    let memory = given.kill().crash(3);
    let directory = try_open(std::sync::Arc::new(memory), root()).expect("it opens");
    let ids_end = ProducerId::FIRST.advance(1);
    let mut log = directory.open_log(log_id(), config(1 << 20), ids_end).expect("it opens").log;
    let mut append = log.begin(NOW);
    let known = |append: &mut taffrail_log::Append<'_>, sequence| {
        append.find(&stamped(sequence, 7)).expect("it is known")
    };
    for sequence in 0..6 {
        assert!(matches!(known(&mut append, sequence), Known::Duplicate { .. }), "{sequence}");
    }
    assert_eq!(known(&mut append, 6), Known::New);
}

#[test]
fn the_broker_s_own_batches_stay() {
    let mut given = Given::new(1 << 20);
    let mut history = History::default();
    history.append(&mut given.log, &[Some(1)], |_| false);
    let mut builder = RecordSetBuilder::default();
    builder.push(&RecordFields { key: Some(b"key 1"), ..RecordFields::default() });
    let control = NewBatch { kind: BatchKind::Control, ..checked(builder.finish()) };
    let (_, error) = given.log.append(&[control.clone(), control], NOW);
    assert!(error.is_none());
    given.log.roll().expect("it rolls");
    let report = compact(&given.log);
    assert_eq!(report.removed_records, 0);
    let offsets: Vec<_> = read_from(&given.log.reader(), 0).iter().map(|it| it.offset).collect();
    assert_eq!(offsets, [0, 1, 2]);
}

#[test]
fn a_log_whose_last_segment_is_gone_goes_on_behind_what_was_compacted() {
    let (mut given, history) = given(4);
    given.log.roll().expect("it rolls");
    compact(&given.log);
    let memory = settled(&given.close());
    // As a roll that did not come to its end leaves it.
    memory.open(&segment(24)).expect("it is there").set_length(3).expect("it can be cut");
    let _ = memory.remove_file(&segment(24).with_extension("index"));
    let (mut given, report) = Given::open(&memory, 1 << 20);
    assert!(report.damage.is_empty(), "{report:?}");
    assert_eq!((given.log.end(), given.log.read_only()), (Offset::new(24), None));
    let mut expected = history.clone();
    expected.append(&mut given.log, &[Some(99)], |_| false);
    check(&given.log.reader(), &expected.compacted(24));
    let (given, report) = Given::open(&given.close(), 1 << 20);
    assert!(report.damage.is_empty(), "{report:?}");
    check(&given.log.reader(), &expected.compacted(24));
}

#[test]
fn records_may_be_deleted_before_and_after() {
    let (mut given, history) = given(6);
    let delete = |log: &mut Log, before| {
        let deletion = log.delete_records_before(Offset::new(before)).expect("it is sound");
        Deletion::finish(deletion).expect("nothing is wrong");
    };
    delete(&mut given.log, 8);
    compact(&given.log);
    let behind = |from: u64| {
        let mut expected = history.compacted(30);
        expected.retain(|entry| from <= entry.offset);
        expected
    };
    check(&given.log.reader(), &behind(8));
    delete(&mut given.log, 20);
    check(&given.log.reader(), &behind(20));
    let (mut given, report) = Given::open(&given.close(), 1 << 20);
    assert!(report.damage.is_empty(), "{report:?}");
    check(&given.log.reader(), &behind(20));
    delete(&mut given.log, 31);
    check(&given.log.reader(), &behind(31));
    check_files(&given.memory);
}
