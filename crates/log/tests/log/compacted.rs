//! Damage to a log that was compacted: what is read is what stayed, what is not read is named, and
//! nothing that went comes back.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{CompactionError, Dirt, LogReader, Opened, Read, ReadError, ReadRequest};
use taffrail_model::batch::Batches;
use taffrail_model::{GapReason, Offset};

use crate::compaction::{Entry, History, check, compact, compact_by, read_from, tight};
use crate::given::{Given, NOW, SEGMENT_HEADER_BYTES, has_ending, is_deep, root, segment, settled};
use crate::repair::accept_loss;

/// A log that was cleanly closed: segments that were compacted, one that was sealed since, and one that
/// grows; and what is left of all that was appended.
fn given() -> (Memory, Vec<Entry>) {
    let (given, history) = living();
    (settled(&given.close()), history.compacted(24))
}

fn living() -> (Given, History) {
    let (mut given, mut history) = (Given::new(1 << 20), History::default());
    for at in 0..5 {
        if at > 0 {
            given.log.roll().expect("it rolls");
        }
        let keys = [at % 3, 3 + at, 10 + at % 2].map(Some);
        history.append(&mut given.log, &keys, |offset| offset % 6 == 1);
        history.append(&mut given.log, &[Some(at), None, Some(20)], |_| false);
    }
    compact_by(&given.log, tight(600, 1_000), NOW).expect("nothing is wrong");
    assert_eq!(given.log.reader().size().1, 3, "two that were compacted, and one that grows");
    history.append(&mut given.log, &[Some(0), Some(1), Some(30)], |_| false);
    given.log.roll().expect("it rolls");
    history.append(&mut given.log, &[Some(31), None], |_| false);
    (given, history)
}

/// What can be read of a log, and the ranges that cannot.
fn read_all(reader: &LogReader) -> (Vec<Entry>, Vec<(u64, u64)>) {
    let (mut entries, mut lost) = (Vec::new(), Vec::new());
    let (mut from, limit) = (reader.start(), reader.end());
    loop {
        match reader.read(&ReadRequest { from, limit, bytes_max: 1 }) {
            Ok(Read::End) => return (entries, lost),
            Ok(Read::Gap(gap)) => {
                if gap.reason == GapReason::Quarantine {
                    lost.push((gap.from.get(), gap.to.get()));
                }
                assert!(from < gap.to, "it goes on");
                from = gap.to;
            }
            Err(ReadError::DataLoss { to, .. }) => {
                lost.push((from.get(), to.get()));
                assert!(from < to, "it goes on");
                from = to;
            }
            Err(error) => panic!("from {from}: {error}"),
            Ok(Read::Batches { bytes, next }) => {
                for batch in Batches::received(bytes) {
                    let batch = batch.expect("a batch");
                    for record in batch.open().expect("a frame").records() {
                        let record = record.expect("it decodes");
                        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                        entries.push(Entry {
                            offset: record.offset.get(),
                            key: record.key.map(<[u8]>::to_vec),
                            value: record.value.map(text),
                        });
                    }
                }
                assert!(from < next, "it goes on");
                from = next;
            }
        }
    }
}

/// What is read of a damaged log was left, and what was left is read, or named as lost.
#[track_caller]
fn judge(case: &str, left: &[Entry], (found, lost): &(Vec<Entry>, Vec<(u64, u64)>)) {
    for entry in found {
        assert!(left.contains(entry), "{case}: {entry:?} has come back, or is wrong");
    }
    assert!(found.is_sorted_by(|a, b| a.offset < b.offset), "{case}: {found:?}");
    for entry in left.iter().filter(|entry| !found.contains(entry)) {
        let is_named = lost.iter().any(|(from, to)| (*from..*to).contains(&entry.offset));
        assert!(is_named, "{case}: {entry:?} has vanished, {lost:?} are lost");
    }
}

/// Turns each byte of the segments over, one at a time.
fn each_flip(memory: &Memory, then: impl Fn(&str, &Path, usize, Memory)) {
    let files = memory.files().into_iter().filter(|(path, _)| has_ending(path, "log"));
    for (path, contents) in files {
        for at in 0..contents.len() {
            let every = if is_deep() { 0..8 } else { at % 8..at % 8 + 1 };
            for bits in every.map(|bit| 1 << bit).chain([0xff]) {
                let memory = memory.copy();
                memory.flip(&path, at, bits).expect("it is there");
                then(&format!("byte {at} of {} ^ {bits}", path.display()), &path, at, memory);
            }
        }
    }
}

/// The offsets that each batch of a log stands for, by segment and position.
fn batch_ends(memory: &Memory, path: &Path) -> Vec<(u64, u64)> {
    let mut places = Vec::new();
    for dumped in taffrail_log::verify::dump(memory, path).expect("it is one") {
        if let Ok(taffrail_log::verify::Dumped::Batch { position, batch }) = dumped {
            places.push((position, batch.header.end_offset().get()));
        }
    }
    places
}

#[test]
fn a_byte_that_changed_in_a_compacted_log_costs_a_batch_at_the_most_and_brings_nothing_back() {
    let (memory, left) = given();
    let (sound, dirt) = {
        let (given, _) = Given::open(&memory.copy(), 1 << 20);
        (read_all(&given.log.reader()), given.log.reader().dirt())
    };
    assert_eq!(sound, (left.clone(), vec![]));
    let original = memory.clone();
    each_flip(&memory, |case, path, at, memory| {
        let report = inspect(&memory, root()).expect("it can be inspected");
        let (given, recovered) = Given::open(&memory, 1 << 20);
        let outcome = read_all(&given.log.reader());
        judge(case, &left, &outcome);
        let (found, lost) = &outcome;
        let says_damage = report.worst() == Some(Severity::Damage);
        let is_lost = !lost.is_empty() || given.log.read_only().is_some();
        assert_eq!(says_damage, is_lost, "{case}: {lost:?} {report:#?}");
        if at < SEGMENT_HEADER_BYTES {
            assert_eq!((found, lost.len()), (&left, 0), "{case}: it is restored");
            assert_eq!(recovered.salvaged.len(), 1, "{case}");
            let Dirt { due, dirty_bytes, sealed_bytes } = given.log.reader().dirt();
            // The index says what a tombstone waits for, too.
            assert_eq!((due, dirty_bytes), (dirt.due, dirt.dirty_bytes), "{case} {sealed_bytes}");
            return;
        }
        // No more than the records of one batch, and the offsets around it that hold none.
        let places = batch_ends(&original, path);
        let index = places.iter().rposition(|(position, _)| *position <= at as u64);
        let index = index.expect("it lies in a batch");
        let gone = left.iter().filter(|entry| !found.contains(entry));
        let gone: BTreeSet<_> = gone.map(|entry| entry.offset).collect();
        let end = places[index].1;
        let first = index.checked_sub(1).map_or(0, |before| places[before].1);
        assert!(gone.iter().all(|offset| (first..end).contains(offset)), "{case}: {gone:?}");
        assert!(!gone.is_empty(), "{case}: what changed was read");
    });
}

#[test]
fn what_a_compaction_left_behind_comes_back_through_no_byte_that_changed() {
    // Killed when the new name is durable, and nothing that it stands for is removed yet.
    let covered = (0..).find_map(|changes_left| {
        let (given, history) = crate::compaction::given(5);
        given.memory.set_fault(Some(Fault::Stops { changes_left }));
        let done = compact_by(&given.log, tight(1 << 20, 1_000), NOW);
        assert!(done.is_err(), "it never stood so");
        let memory = given.kill();
        memory.set_fault(None);
        let report = inspect(&memory, root()).expect("it can be inspected");
        let is_covered = report.findings().any(|finding| finding.what.contains("stands for it"));
        is_covered.then(|| (settled(&memory), history.compacted(24)))
    });
    let (memory, left) = covered.expect("there is such a moment");
    each_flip(&memory, |case, path, at, memory| {
        let is_first = *path == segment(0);
        let (given, report) = Given::open(&memory, 1 << 20);
        let outcome = read_all(&given.log.reader());
        if *path != segment(24) {
            judge(case, &left, &outcome);
        }
        if is_first && at < SEGMENT_HEADER_BYTES {
            assert_eq!(outcome, (left.clone(), vec![]), "{case}: it is restored");
            assert_eq!(report.salvaged.len(), 1, "{case}");
        }
        if !is_first && *path != segment(24) {
            assert_eq!(outcome, (left.clone(), vec![]), "{case}: nobody reads it any more");
        }
    });
}

#[test]
fn a_header_of_a_compacted_segment_is_restored_from_its_crc_or_from_its_index() {
    let (memory, left) = given();
    let bases: Vec<_> = memory.files().into_iter().map(|(path, _)| path).collect();
    let compacted: Vec<_> = bases.into_iter().filter(|path| has_ending(path, "log")).collect();
    let due = {
        let (given, _) = Given::open(&memory.copy(), 1 << 20);
        given.log.reader().dirt().due
    };
    assert!(due.is_some(), "there is a tombstone");
    for path in &compacted[..2] {
        // Without an index one byte is found out all the same.
        for at in 0..SEGMENT_HEADER_BYTES {
            let memory = memory.copy();
            memory.remove_file(&path.with_extension("index")).expect("it is there");
            memory.flip(path, at, 0x5a).expect("it is there");
            let (given, report) = Given::open(&settled(&memory), 1 << 20);
            assert_eq!((report.salvaged.len(), report.damage.len()), (1, 0), "byte {at}");
            assert_eq!(given.log.reader().dirt().due, due);
            check(&given.log.reader(), &left);
        }
        // With one, all of it may be gone.
        for bytes in [vec![0; SEGMENT_HEADER_BYTES], vec![0xff; SEGMENT_HEADER_BYTES]] {
            let memory = memory.copy();
            let file = memory.open(path).expect("it is there");
            file.write_at(0, &bytes).expect("there is room");
            let report = inspect(&memory, root()).expect("it can be inspected");
            assert_eq!(report.worst(), Some(Severity::Warning), "{report:#?}");
            let (given, report) = Given::open(&settled(&memory), 1 << 20);
            assert_eq!((report.salvaged.len(), report.damage.len()), (1, 0));
            assert_eq!(given.log.reader().dirt().due, due);
            check(&given.log.reader(), &left);
        }
        // With neither, what is read is right, and what is not is named.
        let memory = memory.copy();
        memory.remove_file(&path.with_extension("index")).expect("it is there");
        let file = memory.open(path).expect("it is there");
        file.write_at(0, &[0; SEGMENT_HEADER_BYTES]).expect("there is room");
        let (given, _) = Given::open(&settled(&memory), 1 << 20);
        judge(&path.display().to_string(), &left, &read_all(&given.log.reader()));
    }
}

#[test]
fn a_repair_keeps_what_is_sound_of_a_compacted_segment_and_it_goes_on() {
    let (memory, left) = given();
    let files = memory.files().into_iter().filter(|(path, _)| has_ending(path, "log"));
    let mut repairs = 0;
    for (path, _) in files {
        for (position, _) in batch_ends(&memory, &path) {
            // In the header of the batch, and in its records.
            for byte in [12, 95] {
                let memory = memory.copy();
                memory.flip(&path, position as usize + byte, 1).expect("it is there");
                let memory = settled(&memory);
                let before = match Given::try_open_log(&settled(&memory), 1 << 20) {
                    (given, Ok(Opened { log, .. })) => read_all(&given(log).log.reader()),
                    (_, Err(error)) => panic!("{error}"),
                };
                accept_loss(&memory).expect("it is repaired");
                let report = inspect(&memory, root()).expect("it can be inspected");
                assert!(report.worst() <= Some(Severity::Note), "{report:#?}");
                let (given, report) = Given::open(&memory, 1 << 20);
                assert_eq!((report.damage, given.log.read_only()), (vec![], None));
                let (found, gaps) = read_all(&given.log.reader());
                let case = format!("byte {byte} of the batch at {position} of {}", path.display());
                assert_eq!(found, before.0, "{case}");
                judge(&case, &left, &(found.clone(), gaps));
                // What is left is compacted as ever.
                let mut given = given;
                given.log.roll().expect("it rolls");
                compact(&given.log);
                let (again, _) = read_all(&given.log.reader());
                assert!(again.iter().all(|entry| found.contains(entry)), "{case}");
                let keys = |entries: &[Entry]| -> BTreeSet<_> {
                    entries.iter().map(|entry| entry.key.clone()).collect()
                };
                assert_eq!(keys(&again), keys(&found), "{case}: the latest of each that is left");
                let (given, report) = Given::open(&given.close(), 1 << 20);
                assert!(report.was_clean && report.damage.is_empty(), "{case}: {report:?}");
                assert_eq!(read_all(&given.log.reader()).0, again, "{case}");
                repairs += 1;
            }
        }
    }
    assert!(repairs > 10, "{repairs}");
}

#[test]
fn a_compacted_segment_that_was_cut_is_noticed_wherever_it_ends_now() {
    let (memory, left) = given();
    let files = memory.files().into_iter().filter(|(path, _)| has_ending(path, "log"));
    for (path, contents) in files.take(2) {
        for (length, has_index) in (SEGMENT_HEADER_BYTES..contents.len())
            .flat_map(|length| [(length, true), (length, false)])
        {
            let case = format!("{} cut at {length}, index: {has_index}", path.display());
            let memory = memory.copy();
            memory
                .open(&path)
                .and_then(|file| file.set_length(length as u64))
                .expect("it is there");
            if !has_index {
                memory.remove_file(&path.with_extension("index")).expect("it is there");
            }
            let memory = settled(&memory);
            let report = inspect(&memory, root()).expect("it can be inspected");
            assert_eq!(report.worst(), Some(Severity::Damage), "{case}: {report:#?}");
            let alone = inspect(&memory, &path).expect("it can be inspected");
            assert_eq!(alone.worst(), Some(Severity::Damage), "{case}: {alone:#?}");
            let (given, _) = Given::open(&memory, 1 << 20);
            let (found, lost) = read_all(&given.log.reader());
            judge(&case, &left, &(found.clone(), lost.clone()));
            assert!(!lost.is_empty(), "{case}");
            let memory = settled(&given.close());
            accept_loss(&memory).expect("it is repaired");
            let report = inspect(&memory, root()).expect("it can be inspected");
            assert!(report.worst() <= Some(Severity::Note), "{case}: {report:#?}");
            let (given, report) = Given::open(&memory, 1 << 20);
            assert_eq!((report.damage, given.log.read_only()), (vec![], None), "{case}");
            assert_eq!(read_all(&given.log.reader()), (found, lost), "{case}");
        }
    }
}

#[test]
fn bytes_behind_the_end_of_a_compacted_segment_are_read_by_nobody() {
    let (memory, left) = given();
    let files = memory.files().into_iter().filter(|(path, _)| has_ending(path, "log"));
    for (path, contents) in files.take(2) {
        for surplus in [vec![0], contents[SEGMENT_HEADER_BYTES..].to_vec()] {
            let memory = memory.copy();
            let file = memory.open(&path).expect("it is there");
            file.write_at(contents.len() as u64, &surplus).expect("there is room");
            let report = inspect(&memory, root()).expect("it can be inspected");
            let bad: Vec<_> = report.findings().filter(|it| it.severity > Severity::Note).collect();
            let [finding] = bad[..] else { panic!("{report:#?}") };
            assert_eq!(finding.severity, Severity::Warning, "{finding:?}");
            assert!(finding.what.contains("behind where it ends"), "{finding:?}");
            let (given, report) = Given::open(&settled(&memory), 1 << 20);
            assert!(report.damage.is_empty() && report.moved_aside.is_empty(), "{report:?}");
            assert_eq!(read_all(&given.log.reader()), (left.clone(), vec![]));
        }
    }
}

#[test]
fn a_segment_that_is_missing_is_named_and_not_taken_for_one_that_was_deleted() {
    let (given, _) = crate::compaction::given(5);
    given.memory.remove_file(&segment(6)).expect("it is there");
    match compact_by(&given.log, tight(1 << 20, 1_000), NOW) {
        Err(CompactionError::Io { path, source }) => {
            assert_eq!((path, source.kind()), (segment(6), ErrorKind::NotFound));
        }
        other => panic!("whoever is outrun tries again at once: {other:?}"),
    }
}

#[test]
fn whoever_inspects_while_it_is_compacted_finds_no_damage() {
    let (mut given, mut history) = crate::compaction::given(2);
    let is_over = AtomicBool::new(false);
    let memory = given.memory.clone();
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(Ordering::Acquire) {
                let report = inspect(&memory, root()).expect("it can be inspected");
                assert!(report.worst() <= Some(Severity::Note), "{report:#?}");
                looks += 1;
            }
            looks
        });
        for round in 0..300 {
            for part in 0..3 {
                let keys: Vec<_> = (0..8).map(|at| Some((at + round + part) % 11)).collect();
                history.append(&mut given.log, &keys, |_| false);
                given.log.roll().expect("it rolls");
            }
            compact_by(&given.log, tight(900, 1_000), NOW).expect("nothing is wrong");
        }
        is_over.store(true, Ordering::Release);
        assert!(looking.join().expect("no damage") > 3, "it came to look");
    });
    let end = Offset::new(history.entries.len() as u64);
    assert_eq!(given.log.end(), end);
    assert_eq!(read_from(&given.log.reader(), 0), history.compacted(end.get()));
}
