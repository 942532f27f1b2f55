//! Deletion at a log's start: whole segments go, whoever reads is told, and wherever it stops nothing
//! else is lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use taffrail_log::repair::{RepairError, Walked};
use taffrail_log::verify::{Finding, Severity, inspect};
use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{
    DeleteError, Deleted, Known, Log, LogReader, NewBatch, Opened, ReadError, ReadRequest,
    RecoveryReport, SequenceError,
};
use taffrail_model::{Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence, Timestamp};

use crate::given::{
    AppendAll, DeleteAll, Given, NO_PRODUCERS, NOW, batch, config, has_ending, log_id, log_path,
    root, segment, settled, try_open, wreck,
};
use crate::model::Model;
use crate::repair::{accept_loss, hold, read_through};

/// Segments of two batches of 3 records each; the last one is active.
fn given(segments: u64) -> (Given, Model) {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    for at in 0..segments {
        if at > 0 {
            given.log.roll().expect("it rolls");
        }
        append(&mut given.log, &mut model, [10 + 2 * at, 11 + 2 * at].map(|mark| batch(mark, 3)));
    }
    given.log.syncer().sync().expect("it syncs");
    given.directory.persist_points().expect("the points are written");
    (given, model)
}

#[track_caller]
pub(crate) fn append<const N: usize>(log: &mut Log, model: &mut Model, batches: [NewBatch; N]) {
    let (appended, error) = log.append(&batches, NOW);
    assert!(error.is_none(), "{error:?}");
    model.append(&batches, &appended, log.leader_epoch());
}

#[track_caller]
fn delete(log: &mut Log, before: u64) -> Deleted {
    log.delete_before(Offset::new(before)).expect("nothing is wrong")
}

/// The base offsets of the segments, or the indexes, that lie in the log's directory.
fn bases(memory: &Memory, ending: &str) -> Vec<u64> {
    let entries = memory.list(&log_path()).expect("it lists").into_iter();
    let names = entries.map(|entry| entry.name).filter(|name| has_ending(name, ending));
    names.map(|name| name[..20].parse().expect("a number")).collect()
}

/// All that lies below the log's start is out of range, and all else is right.
#[track_caller]
fn check_reads(reader: &LogReader, model: &Model) {
    let limit = Offset::new(model.end());
    for from in 0..=model.end() {
        let request = ReadRequest { from: Offset::new(from), limit, bytes_max: 1 };
        model.check_read(reader, &request);
    }
    model.check_all(reader, 1 << 20);
}

/// What inspection finds in the whole directory.
#[track_caller]
fn findings(memory: &Memory) -> Vec<Finding> {
    inspect(memory, root()).expect("it can be inspected").findings().cloned().collect()
}

fn is_sound(report: &RecoveryReport) -> bool {
    report.damage.is_empty() && report.moved_aside.is_empty() && report.skipped.is_none()
}

#[test]
fn whole_segments_below_the_offset_go_and_never_the_active_one() {
    for (before, start) in
        [(0, 0), (5, 0), (6, 6), (7, 6), (11, 6), (12, 12), (23, 18), (24, 18), (u64::MAX, 18)]
    {
        let (mut given, mut model) = given(4);
        let reader = given.log.reader();
        let (bytes_before, _) = reader.size();
        let deleted = delete(&mut given.log, before);
        model.begin_at(start);
        assert_eq!((deleted.start.get(), deleted.segments as u64), (start, start / 6), "{before}");
        let (bytes, segments) = reader.size();
        assert_eq!((deleted.bytes, segments as u64), (bytes_before - bytes, 4 - start / 6));
        let expected: Vec<_> = (start..24).step_by(6).collect();
        assert_eq!(bases(&given.memory, "log"), expected, "{before}");
        assert_eq!(bases(&given.memory, "index"), expected[..expected.len() - 1], "{before}");
        check_reads(&reader, &model);
        assert_eq!(findings(&given.memory), [], "{before}");
        append(&mut given.log, &mut model, [batch(90, 3)]);
        let (given, report) = Given::open(&given.kill(), 1 << 20);
        assert!(is_sound(&report), "{report:?}");
        check_reads(&given.log.reader(), &model);
        let (given, report) = Given::open(&given.close().crash(before), 1 << 20);
        assert!(is_sound(&report), "{report:?}");
        check_reads(&given.log.reader(), &model);
    }
}

#[test]
fn records_below_the_offset_go_and_the_files_that_hold_no_others() {
    for before in 0..=26 {
        let (mut given, mut model) = given(4);
        let reader = given.log.reader();
        let deletion = given.log.delete_records_before(Offset::new(before)).expect("it is sound");
        let deleted = deletion.finish().expect("nothing is wrong");
        let start = before.min(24);
        assert_eq!((deleted.start.get(), deleted.segments as u64), (start, start / 6), "{before}");
        // Of the batch that holds the first record the others are still on disk.
        model.begin_at(start);
        check_reads(&reader, &model);
        let expected: Vec<_> = (start / 6 * 6..=24.min(start + 18)).step_by(6).collect();
        let kept: Vec<_> = expected.into_iter().filter(|base| *base < 24 || start == 24).collect();
        assert_eq!(bases(&given.memory, "log"), kept, "{before}");
        assert_eq!(findings(&given.memory), [], "{before}");
        append(&mut given.log, &mut model, [batch(90, 3)]);
        check_reads(&given.log.reader(), &model);
        let (given, report) = Given::open(&given.kill(), 1 << 20);
        assert!(is_sound(&report), "{report:?}");
        check_reads(&given.log.reader(), &model);
        let (given, report) = Given::open(&given.close().crash(before), 1 << 20);
        assert!(is_sound(&report), "{report:?}");
        check_reads(&given.log.reader(), &model);
    }
}

#[test]
fn a_log_goes_on_whatever_was_deleted_before() {
    let (mut given, mut model) = given(3);
    for round in 0..20 {
        let deleted = delete(&mut given.log, model.end() - 9);
        model.begin_at(deleted.start.get());
        assert_eq!(delete(&mut given.log, model.end() - 9).segments, 0, "there is no more of it");
        append(&mut given.log, &mut model, [batch(100 + 2 * round, 3), batch(101 + 2 * round, 3)]);
        given.log.roll().expect("it rolls");
        if round % 3 == 0 {
            let memory = given.kill().crash(round);
            let report;
            (given, report) = Given::open(&memory, 1 << 20);
            assert!(is_sound(&report), "{report:?}");
        }
        check_reads(&given.log.reader(), &model);
    }
    assert!(bases(&given.memory, "log").len() < 5);
}

#[test]
fn times_below_the_start_are_not_found() {
    let (mut given, _) = given(4);
    let reader = given.log.reader();
    let find = |timestamp| {
        let found = reader.find_timestamp(timestamp, reader.end()).expect("it reads");
        found.map(|found| found.offset.get())
    };
    assert_eq!(find(NOW), Some(0));
    delete(&mut given.log, 13);
    assert_eq!(find(NOW), Some(12));
    assert_eq!(find(Timestamp::from_millis(i64::MAX)), None);
}

/// Lets the machine stand still after each number of changes of a deletion below 13, and tells `then`
/// what is left when it was killed, or has lost its power.
#[track_caller]
fn at_each_stop(prepare: impl Fn(&Memory), then: impl Fn(Memory, &Model)) {
    for power_lost in std::iter::once(None).chain((0..12).map(Some)) {
        for changes_left in 0.. {
            let (mut given, mut model) = given(4);
            prepare(&given.memory);
            given.memory.set_fault(Some(Fault::Stops { changes_left }));
            let deleted = given.log.delete_before(Offset::new(13));
            if deleted.is_ok() {
                model.begin_at(12);
            }
            let memory = given.kill();
            memory.set_fault(None);
            then(power_lost.map_or(memory.clone(), |seed| memory.crash(seed)), &model);
            if deleted.is_ok() {
                assert!(changes_left > 5, "it did something");
                break;
            }
        }
    }
}

#[test]
fn a_deletion_that_stops_anywhere_loses_nothing_else() {
    at_each_stop(
        |_| {},
        |memory, model| {
            let mut model = model.clone();
            let notes = findings(&memory);
            assert!(notes.iter().all(|it| it.severity == Severity::Note), "{notes:?}");
            let (mut given, report) = Given::open(&memory, 1 << 20);
            assert!(is_sound(&report), "{report:?}");
            let start = given.log.reader().start().get();
            assert!(start == 0 || start == 12, "{start}");
            model.begin_at(start);
            check_reads(&given.log.reader(), &model);
            let expected: Vec<_> = (start..24).step_by(6).collect();
            assert_eq!(bases(&memory, "log"), expected, "what was on its way out is gone");
            let strays = bases(&memory, "index").into_iter().filter(|base| *base < start);
            assert_eq!(strays.collect::<Vec<_>>(), [0; 0]);
            // And it can be done again.
            delete(&mut given.log, 13);
            model.begin_at(12);
            append(&mut given.log, &mut model, [batch(90, 3)]);
            check_reads(&given.log.reader(), &model);
            let notes = findings(&given.close());
            assert_eq!(notes, []);
        },
    );
}

#[test]
fn a_deletion_of_records_that_stops_anywhere_loses_nothing_else() {
    // In the middle of a batch, of a segment, at a segment's start, and all of them.
    for before in [4, 15, 18, 22, 24] {
        let delete = |log: &mut Log| log.delete_records_before(Offset::new(before))?.finish();
        for power_lost in std::iter::once(None).chain((0..6).map(Some)) {
            for changes_left in 0.. {
                let (mut given, mut model) = given(4);
                given.memory.set_fault(Some(Fault::Stops { changes_left }));
                let deleted = delete(&mut given.log);
                let memory = given.kill();
                memory.set_fault(None);
                let memory = power_lost.map_or(memory.clone(), |seed| memory.crash(seed));
                let notes = findings(&memory);
                assert!(notes.iter().all(|it| it.severity == Severity::Note), "{notes:?}");
                let (mut given, report) = Given::open(&memory, 1 << 20);
                assert!(report.damage.is_empty() && report.skipped.is_none(), "{report:?}");
                let start = given.log.reader().start().get();
                assert!(start == before || start == 0 && deleted.is_err(), "{start} of {before}");
                model.begin_at(start);
                check_reads(&given.log.reader(), &model);
                let has_first = |base: &u64| *base <= start && start < base + 6;
                assert!(has_first(&bases(&memory, "log")[0]), "what was on its way out is gone");
                // And it can be done again.
                assert_eq!(delete(&mut given.log).expect("it can").start.get(), before);
                model.begin_at(before);
                append(&mut given.log, &mut model, [batch(90, 3)]);
                check_reads(&given.log.reader(), &model);
                assert_eq!(bases(&memory, "log")[0], before / 6 * 6);
                let (given, report) = Given::open(&given.kill(), 1 << 20);
                assert!(is_sound(&report), "{report:?}");
                check_reads(&given.log.reader(), &model);
                if deleted.is_ok() {
                    assert!(changes_left > 5, "it did something");
                    break;
                }
            }
        }
    }
}

#[test]
fn what_a_deletion_left_is_told_from_damage_by_a_repair() {
    at_each_stop(
        |_| {},
        |memory, model| {
            let sound = accept_loss(&memory);
            assert!(matches!(sound, Err(RepairError::Sound { .. })), "{sound:?}");
            let mut batches = 0;
            let walked = hold(&memory).walk(log_id(), |walked| {
                assert!(matches!(walked, Walked::Batch(_)), "nothing is lost");
                batches += 1;
                Ok::<_, RepairError>(())
            });
            walked.expect("it can be read");
            let deleted = model.batches.len() - batches;
            assert!(deleted == 0 || deleted == 4, "{deleted} are missing");
        },
    );
}

#[test]
fn a_deletion_that_stops_anywhere_can_be_followed_by_a_repair() {
    let lose = |memory: &Memory| wreck(memory, 12);
    at_each_stop(lose, |memory, _| {
        let memory = settled(&memory);
        accept_loss(&memory).expect("something is lost");
        let (given, report) = Given::open(&memory, 1 << 20);
        assert!(is_sound(&report), "{report:?}");
        let (bases, gaps) = read_through(&given);
        match given.log.reader().start().get() {
            0 => assert_eq!((&bases[..], &gaps[..]), (&[0, 3, 6, 9, 18, 21][..], &[(12, 18)][..])),
            12 => assert_eq!((&bases[..], &gaps[..]), (&[18, 21][..], &[(12, 18)][..])),
            start => panic!("it begins at {start}"),
        }
        let notes = findings(&given.close());
        assert!(notes.iter().all(|it| it.severity == Severity::Note), "{notes:?}");
    });
}

#[test]
fn without_recovery_points_the_first_segment_says_where_the_log_begins() {
    let (mut given, mut model) = given(4);
    delete(&mut given.log, 12);
    model.begin_at(12);
    let memory = settled(&given.close());
    for name in ["recovery-points.a", "recovery-points.b"] {
        memory.remove_file(&root().join(name)).expect("it is there");
    }
    let (given, report) = Given::open(&memory, 1 << 20);
    assert!(is_sound(&report), "{report:?}");
    check_reads(&given.log.reader(), &model);
}

#[test]
fn files_below_a_start_at_which_no_segment_begins_are_not_removed() {
    // Somebody has put back an old copy of the log, of which the points know more.
    let (mut given, _) = given(4);
    delete(&mut given.log, 18);
    let memory = settled(&given.close());
    let (old, _) = self::given(4);
    let old = old.close();
    for (path, contents) in old.files() {
        if !memory.files().iter().any(|(there, _)| *there == path) {
            let file = memory.create(&path).expect("the place is free");
            file.write_at(0, &contents).expect("there is room");
        }
    }
    memory.remove_file(&segment(18)).expect("it is there");
    let (given, report) = Given::open(&memory, 1 << 20);
    assert_eq!(bases(&memory, "log"), [0, 6, 12]);
    assert!(given.log.read_only().is_some() && !report.damage.is_empty());
}

#[test]
fn a_segment_with_an_unreadable_header_goes_with_those_around_it() {
    let (given, mut model) = given(4);
    let memory = settled(&given.close());
    wreck(&memory, 6);
    let (mut given, report) = Given::open(&memory, 1 << 20);
    assert_eq!(report.damage.len(), 1);
    let reader = given.log.reader();
    assert_eq!(reader.damage(), [Offset::new(6)..Offset::new(12)]);
    assert_eq!(
        delete(&mut given.log, 11).segments,
        0,
        "offset 11 is in the one behind, for all we know"
    );
    assert_eq!(reader.damage(), [Offset::new(6)..Offset::new(12)]);
    delete(&mut given.log, 12);
    model.begin_at(12);
    assert_eq!((bases(&memory, "log"), reader.damage()), (vec![12, 18], vec![]));
    check_reads(&reader, &model);
    let (given, report) = Given::open(&given.kill(), 1 << 20);
    assert!(is_sound(&report), "{report:?}");
    assert_eq!(given.log.reader().damage(), []);
}

#[test]
fn who_reads_what_is_being_deleted_is_told_that_it_is_out_of_range() {
    let (mut given, mut model) = given(2);
    let is_over = AtomicBool::new(false);
    let reader = given.log.reader();
    std::thread::scope(|scope| {
        let look = || {
            let (mut read, mut refused) = (0, 0);
            while !is_over.load(Ordering::Acquire) {
                let (from, limit) = (reader.start(), reader.end());
                match reader.read(&ReadRequest { from, limit, bytes_max: 1 }) {
                    Ok(_) => read += 1,
                    Err(ReadError::OutOfRange { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                reader.find_timestamp(NOW, limit).expect("it reads");
            }
            (read, refused)
        };
        let looking = [scope.spawn(look), scope.spawn(look)];
        for mark in 0..400 {
            append(&mut given.log, &mut model, [batch(1_000 + mark, 3)]);
            given.log.roll().expect("it rolls");
            delete(&mut given.log, model.end() - 1);
        }
        is_over.store(true, Ordering::Release);
        for looking in looking {
            let (read, _) = looking.join().expect("nothing else goes wrong");
            assert!(read > 0, "it came to read");
        }
    });
    assert_eq!(reader.damage(), []);
}

/// A batch of the producer with id 1.
fn numbered(sequence: u32) -> NewBatch {
    let (id, epoch) = (ProducerId::FIRST, ProducerEpoch::ZERO);
    let sequence = Sequence::new(sequence);
    NewBatch { producer: Some(ProducerStamp { id, epoch, sequence }), ..batch(7, 3) }
}

#[test]
fn what_producers_sent_is_known_when_the_segments_that_say_it_are_gone() {
    for seed in 0..8 {
        let mut given = Given::new(1 << 20);
        for sequence in [0, 3, 6] {
            let (_, error) = given.log.append(&[numbered(sequence)], NOW);
            assert!(error.is_none());
            given.log.roll().expect("it rolls");
        }
        let memory = settled(&given.kill());
        // Of the two checkpoints the newer one rots: the other one does not know of offsets 6 to 9.
        let newest = ["producers.a", "producers.b"].map(|name| log_path().join(name));
        let newest = newest.iter().max_by_key(|path| checkpoint_end(&memory, path));
        memory.flip(newest.expect("there are two"), 30, 1).expect("it is there");
        let mut given = open_known(&memory);
        assert!(knows(&mut given.log, 6));
        delete(&mut given.log, 9);
        let mut given = open_known(&given.kill().crash(seed));
        assert_eq!(given.log.reader().start().get(), 9);
        assert!(knows(&mut given.log, 6), "nobody is forgotten because a segment went");
    }
}

fn checkpoint_end(memory: &Memory, path: &PathBuf) -> u64 {
    let contents = memory.files().into_iter().find(|(found, _)| found == path).expect("there").1;
    u64::from_le_bytes(*contents[24..].first_chunk().expect("it is long enough"))
}

/// Opens a log in which producer 1 may have sent something.
#[track_caller]
fn open_known(memory: &Memory) -> Given {
    let directory = try_open(Arc::new(memory.clone()), root()).expect("it opens");
    let ids_end = ProducerId::FIRST.advance(1);
    let opened = directory.open_log(log_id(), config(1 << 20), ids_end).expect("it opens");
    Given { memory: memory.clone(), directory, log: opened.log }
}

fn knows(log: &mut Log, sequence: u32) -> bool {
    match log.begin(NOW).find(&numbered(sequence)) {
        Ok(Known::Duplicate { .. }) => true,
        Err(SequenceError::Unknown { .. }) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_waits_for_a_person_keeps_everything() {
    let (given, _) = given(3);
    let memory = settled(&given.close());
    let file = memory.open(&segment(12)).expect("it is there");
    file.set_length(100).expect("it can be cut");
    file.sync_data().expect("it syncs");
    let (mut given, _) = Given::open(&memory, 1 << 20);
    let refused = given.log.delete_before(Offset::new(12));
    assert!(matches!(refused, Err(DeleteError::ReadOnly { .. })), "{refused:?}");

    let (mut given, mut model) = self::given(3);
    append(&mut given.log, &mut model, [batch(90, 3)]);
    given.memory.set_fault(Some(Fault::SyncFails));
    given.log.syncer().sync().expect_err("the sync fails");
    given.memory.set_fault(None);
    let refused = given.log.delete_before(Offset::new(12));
    assert!(matches!(refused, Err(DeleteError::Poisoned { .. })), "{refused:?}");
    assert_eq!(bases(&given.memory, "log"), [0, 6, 12]);
}

#[test]
fn a_deletion_that_fails_anywhere_is_ended_by_the_next_one() {
    for changes_left in 0.. {
        let (mut given, mut model) = given(4);
        given.memory.set_fault(Some(Fault::Stops { changes_left }));
        let deleted = given.log.delete_before(Offset::new(13));
        given.memory.set_fault(None);
        let again = delete(&mut given.log, 13);
        assert_eq!(again.start.get(), 12);
        model.begin_at(12);
        assert_eq!(
            (bases(&given.memory, "log"), bases(&given.memory, "index")),
            (vec![12, 18], vec![12])
        );
        check_reads(&given.log.reader(), &model);
        if deleted.is_ok() {
            return;
        }
    }
}

#[test]
fn nothing_goes_before_the_new_start_is_durable() {
    for before in 0..20 {
        let (mut given, mut model) = given(4);
        given.memory.set_fault(Some(Fault::OneSyncFails { before, drops: true }));
        let deleted = given.log.delete_before(Offset::new(12));
        let has_failed = given.memory.fault().is_none();
        assert_eq!(deleted.is_err(), has_failed, "{before}");
        given.memory.set_fault(None);
        let start = given.log.reader().start().get();
        assert!(start == 12 || bases(&given.memory, "log") == [0, 6, 12, 18]);
        model.begin_at(start);
        check_reads(&given.log.reader(), &model);
        if !given.log.syncer().is_poisoned() {
            delete(&mut given.log, 12);
            model.begin_at(12);
            assert_eq!(bases(&given.memory, "log"), [12, 18], "the next one removes what is left");
            check_reads(&given.log.reader(), &model);
        }
        let (given, report) = Given::open(&given.kill().crash(before as u64), 1 << 20);
        assert!(is_sound(&report), "{report:?}");
        model.begin_at(given.log.reader().start().get());
        check_reads(&given.log.reader(), &model);
        if !has_failed {
            assert!(before > 2, "some were tried");
            return;
        }
    }
    panic!("no deletion needs so many syncs");
}

#[test]
fn a_log_that_is_opened_anew_removes_nothing_that_is_not_durably_deleted() {
    // The points cannot be written, but are remembered; then the log is opened anew in the process.
    for before in 0..4 {
        let (mut given, model) = given(4);
        given.memory.set_fault(Some(Fault::OneSyncFails { before, drops: false }));
        given.log.delete_before(Offset::new(12)).expect_err("a sync fails");
        let Given { memory, directory, log } = given;
        assert_eq!(log.reader().start(), Offset::ZERO);
        drop(log);
        memory.set_fault(Some(Fault::SyncFails));
        let _ = directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS);
        assert_eq!(bases(&memory, "log"), [0, 6, 12, 18], "{before}");
        drop(directory);
        memory.set_fault(None);
        for seed in 0..8 {
            let (given, report) = Given::open(&memory.copy().crash(seed), 1 << 20);
            assert!(is_sound(&report), "{report:?}");
            let mut model = model.clone();
            model.begin_at(given.log.reader().start().get());
            check_reads(&given.log.reader(), &model);
        }
    }
}

#[test]
fn what_cannot_be_removed_is_passed_over_and_removed_by_the_next_deletion() {
    let (mut given, mut model) = given(4);
    // The last step of the points fails, and so does the first one at the next opening.
    given.memory.set_fault(Some(Fault::OneSyncFails { before: 3, drops: false }));
    given.log.delete_before(Offset::new(12)).expect_err("a sync fails");
    let Given { memory, directory, log } = given;
    drop(log);
    memory.set_fault(Some(Fault::OneSyncFails { before: 0, drops: false }));
    let opened = directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("it opens");
    assert_eq!(memory.fault(), None, "the sync has failed");
    let Opened { mut log, report } = opened;
    assert!(is_sound(&report), "{report:?}");
    model.begin_at(12);
    check_reads(&log.reader(), &model);
    assert_eq!((bases(&memory, "log"), log.reader().size().1), (vec![0, 6, 12, 18], 2));
    assert_eq!(delete(&mut log, 0).segments, 0, "the log did not have them any more");
    assert_eq!((bases(&memory, "log"), bases(&memory, "index")), (vec![12, 18], vec![12]));
    check_reads(&log.reader(), &model);
}

#[test]
fn segments_are_deleted_on_a_full_disk() {
    let (given, mut model) = given(4);
    // Opened anew, so that all must be written: the checkpoint too.
    let (mut given, _) = Given::open(&given.kill(), 1 << 20);
    given.directory.keep_spare(1 << 16).expect("there is room");
    given.memory.set_fault(Some(Fault::DiskFull { bytes_left: 0 }));
    delete(&mut given.log, 12);
    model.begin_at(12);
    assert_eq!(bases(&given.memory, "log"), [12, 18]);
    check_reads(&given.log.reader(), &model);
    given.memory.set_fault(None);
    let (given, report) = Given::open(&given.kill().crash(1), 1 << 20);
    assert!(is_sound(&report), "{report:?}");
    check_reads(&given.log.reader(), &model);
}
