//! A backup of a log that is being written: whole, in one piece or not at all, and served like any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{
    BackupError, BackupReport, CompactionConfig, CompactionStep, Directory, Log, LogReader,
};
use taffrail_model::Offset;

use crate::delete::append;
use crate::given::{DeleteAll, Given, NO_PRODUCERS, NOW, batch, config, log_id, root, try_open};
use crate::model::Model;

pub(crate) fn place() -> &'static Path {
    Path::new("/backups/one")
}

/// A log of four segments, and a directory for backups.
pub(crate) fn given() -> (Given, Model) {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    given.memory.create_directory(Path::new("/backups")).expect("the place is free");
    given.memory.sync_directory(Path::new("/")).expect("it syncs");
    for at in 0..4 {
        if at > 0 {
            given.log.roll().expect("it rolls");
        }
        append(&mut given.log, &mut model, [10 + 2 * at, 11 + 2 * at].map(|mark| batch(mark, 3)));
    }
    given.log.syncer().sync().expect("it syncs");
    (given, model)
}

pub(crate) fn back_up(
    directory: &Directory,
    reader: &LogReader,
) -> Result<BackupReport, BackupError> {
    let mut backup = directory.begin_backup(place(), NOW)?;
    backup.add(reader, &mut |_| true)?;
    backup.finish(NOW)
}

/// Opens the backup as a broker does, and holds it against what should be in it.
#[track_caller]
fn check(memory: &Memory, model: &Model) -> Log {
    check_at(memory, place(), model)
}

#[track_caller]
pub(crate) fn check_at(memory: &Memory, path: &Path, model: &Model) -> Log {
    let report = inspect(memory, path).expect("it can be inspected");
    let bad: Vec<_> = report.findings().filter(|it| it.severity > Severity::Note).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let directory = try_open(Arc::new(memory.clone()), path).expect("it opens");
    let restored = directory.restored().expect("it says what it was");
    assert_eq!(restored.taken, NOW);
    let opened = directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("it opens");
    assert!(opened.report.damage.is_empty() && opened.report.moved_aside.is_empty());
    model.check_all(&opened.log.reader(), 1 << 20);
    opened.log
}

fn names(memory: &Memory) -> Vec<String> {
    let entries = memory.list(Path::new("/backups")).expect("it is there").into_iter();
    entries.map(|entry| entry.name).collect()
}

/// Marks what is not in a backup any more once it was served.
fn copy_of(memory: &Memory) -> Memory {
    crate::given::settled(memory)
}

#[test]
fn a_backup_is_a_data_directory_with_all_that_was_durable() {
    let (mut given, mut model) = given();
    let report = back_up(&given.directory, &given.log.reader()).expect("there is room");
    assert_eq!((report.logs, report.segments, report.damaged), (1, 4, 0));
    assert!(report.copied_bytes < report.bytes / 2, "what no longer changes is shared: {report:?}");
    // What comes later is not in it, nor what was not durable.
    append(&mut given.log, &mut Model::clone(&model), [batch(90, 3)]);
    let mut log = check(&copy_of(&given.memory), &model);
    append(&mut log, &mut model, [batch(91, 3)]);
    assert_eq!(log.end(), Offset::new(27));
    let (given, report) = Given::open(&given.kill().crash(1), 1 << 20);
    assert!(report.damage.is_empty(), "it has nothing to do with the other: {report:?}");
    drop(given);
}

#[test]
fn what_was_written_and_not_synced_is_not_in_it() {
    let (mut given, model) = given();
    append(&mut given.log, &mut Model::clone(&model), [batch(90, 3)]);
    back_up(&given.directory, &given.log.reader()).expect("there is room");
    check(&copy_of(&given.memory), &model);
    // An empty log too.
    let mut empty = Given::new(1 << 20);
    empty.memory.create_directory(Path::new("/backups")).expect("the place is free");
    back_up(&empty.directory, &empty.log.reader()).expect("there is room");
    check(&copy_of(&empty.memory), &Model::default());
    append(&mut empty.log, &mut Model::default(), [batch(90, 3)]);
}

#[test]
fn the_next_backup_shares_what_has_not_changed() {
    let (mut given, mut model) = given();
    back_up(&given.directory, &given.log.reader()).expect("there is room");
    given.log.delete_before(Offset::new(6)).expect("nothing is wrong");
    model.begin_at(6);
    append(&mut given.log, &mut model, [batch(90, 3)]);
    given.log.roll().expect("it rolls");
    append(&mut given.log, &mut model, [batch(91, 3)]);
    given.log.syncer().sync().expect("it syncs");
    let report = back_up(&given.directory, &given.log.reader()).expect("there is room");
    assert_eq!(report.segments, 4);
    assert!(report.verified_bytes < report.bytes / 2, "{report:?}");
    assert_eq!(names(&given.memory), ["one"]);
    check(&copy_of(&given.memory), &model);
    // Whoever lets a shell complete its name means the same.
    let mut backup =
        given.directory.begin_backup(Path::new("/backups/one/"), NOW).expect("it is its own");
    backup.add(&given.log.reader(), &mut |_| true).expect("there is room");
    backup.finish(NOW).expect("there is room");
    assert_eq!(names(&given.memory), ["one"]);
    // What was compacted is another segment of the same name.
    let mut compaction = given.log.begin_compaction(CompactionConfig::default(), NOW, true);
    while !matches!(compaction.step().expect("it works"), CompactionStep::Done(_)) {}
    back_up(&given.directory, &given.log.reader()).expect("there is room");
    let directory = try_open(Arc::new(copy_of(&given.memory)), place()).expect("it opens");
    let log = directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("it opens").log;
    assert_eq!((log.reader().size().1, log.end()), (2, Offset::new(30)));
}

#[test]
fn a_place_that_holds_something_else_is_refused_and_left_as_it_is() {
    let (given, _) = given();
    let refused = |place: &str| {
        let before = given.memory.files();
        let refused = given.directory.begin_backup(Path::new(place), NOW).map(drop);
        assert_eq!(given.memory.files(), before, "{place}");
        refused.expect_err("it is not free")
    };
    for unclear in ["backups/two", "/backups/../data/two"] {
        assert!(matches!(refused(unclear), BackupError::Relative { .. }), "{unclear}");
    }
    for within in ["/data", "/data/logs", "/data/backup", "/"] {
        assert!(matches!(refused(within), BackupError::Within { .. }), "{within}");
    }
    given.memory.create_directory(Path::new("/backups/other")).expect("the place is free");
    given.memory.create(Path::new("/backups/other/file")).expect("the place is free");
    assert!(matches!(refused("/backups/other"), BackupError::NotEmpty { .. }));
    assert!(matches!(refused("/nowhere/one"), BackupError::Io { .. }));

    back_up(&given.directory, &given.log.reader()).expect("there is room");
    let other = copy_of(&given.memory);
    let served = try_open(Arc::new(other.clone()), place()).expect("it opens");
    let again =
        try_open(Arc::new(other), root()).map(|directory| directory.begin_backup(place(), NOW));
    drop(served);
    let again = again.expect("it opens").map(drop).expect_err("it was served");
    assert!(matches!(again, BackupError::Served { .. }), "{again}");
    let (foreign, _) = Given::open(&Memory::new(9), 1 << 20);
    foreign.memory.create_directory(Path::new("/backups")).expect("the place is free");
    for (path, contents) in given.memory.files() {
        if path.starts_with("/backups") {
            let mut above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
            above.pop();
            above.iter().rev().for_each(|it| drop(foreign.memory.create_directory(it)));
            let file = foreign.memory.create(&path).expect("the place is free");
            file.write_at(0, &contents).expect("there is room");
        }
    }
    let refused = foreign.directory.begin_backup(place(), NOW).map(drop).expect_err("not its own");
    assert!(matches!(refused, BackupError::OfAnother { .. }), "{refused}");
}

#[test]
fn a_backup_that_stops_anywhere_leaves_the_one_before_or_the_new_one() {
    for power_lost in std::iter::once(None).chain((0..4).map(Some)) {
        for changes_left in 0.. {
            let (mut given, model) = given();
            back_up(&given.directory, &given.log.reader()).expect("there is room");
            let mut later = model.clone();
            append(&mut given.log, &mut later, [batch(90, 3)]);
            given.log.syncer().sync().expect("it syncs");
            given.memory.set_fault(Some(Fault::Stops { changes_left }));
            let done = back_up(&given.directory, &given.log.reader());
            let memory = given.kill();
            memory.set_fault(None);
            let memory = power_lost.map_or(memory.clone(), |seed| memory.crash(seed));
            let (given, report) = Given::open(&memory, 1 << 20);
            assert!(report.damage.is_empty(), "{report:?}");
            let is_there = memory.list(place()).is_ok();
            assert!(is_there || names(&memory).contains(&"one.before".to_owned()));
            if is_there {
                let copy = copy_of(&memory);
                let log = {
                    let directory = try_open(Arc::new(copy.clone()), place()).expect("it opens");
                    directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("opens").log
                };
                let expected = if log.end() == Offset::new(24) { &model } else { &later };
                expected.check_all(&log.reader(), 1 << 20);
                assert!(done.is_err() || log.end() == Offset::new(27));
            }
            // And it can be made again.
            back_up(&given.directory, &given.log.reader()).expect("there is room");
            assert_eq!(names(&memory), ["one"]);
            check(&copy_of(&memory), &later);
            if done.is_ok() {
                assert!(changes_left > 10, "it did something");
                break;
            }
        }
    }
}

#[test]
fn a_disk_that_fails_leaves_nothing_of_it() {
    let faults = (0..30).flat_map(|after| {
        [
            Fault::NoRoom { changes_left: after },
            Fault::OneWriteFails { before: after },
            Fault::OneSyncFails { before: after, drops: true },
            Fault::DiskFull { bytes_left: 60 * after },
        ]
    });
    let mut failures = 0;
    for fault in faults {
        let (given, model) = given();
        given.memory.set_fault(Some(fault.clone()));
        let done = back_up(&given.directory, &given.log.reader());
        given.memory.set_fault(None);
        if done.is_err() {
            failures += 1;
            assert!(names(&given.memory).iter().all(|name| name == "one"), "{fault:?}");
        }
        back_up(&given.directory, &given.log.reader()).expect("there is room");
        check(&copy_of(&given.memory), &model);
    }
    assert!(failures > 30, "{failures}");
}

#[test]
fn a_backup_that_is_given_up_leaves_nothing() {
    let (given, _) = given();
    let mut backup = given.directory.begin_backup(place(), NOW).expect("the place is free");
    let given_up = backup.add(&given.log.reader(), &mut |_| false);
    assert!(matches!(given_up, Err(BackupError::GivenUp)), "{given_up:?}");
    drop(backup);
    assert_eq!(names(&given.memory), [""; 0]);
}

#[test]
fn damage_is_backed_up_and_counted() {
    let (given, _) = given();
    given.memory.flip(&crate::given::segment(6), 150, 1).expect("it is there");
    let report = back_up(&given.directory, &given.log.reader()).expect("there is room");
    assert_eq!(report.damaged, 1);
}

#[test]
fn a_backup_goes_on_while_the_log_is_written_deleted_and_compacted() {
    let (mut given, mut model) = given();
    let is_over = AtomicBool::new(false);
    let (reader, memory) = (given.log.reader(), given.memory.clone());
    let directory = &given.directory;
    std::thread::scope(|scope| {
        let backing_up = scope.spawn(|| {
            let mut made = 0;
            while !is_over.load(Ordering::Acquire) {
                let report = back_up(directory, &reader).expect("there is room");
                assert_eq!(report.damaged, 0);
                let copy = copy_of(&memory);
                let report = inspect(&copy, place()).expect("it can be inspected");
                assert!(report.worst() <= Some(Severity::Note), "{report:?}");
                let opened = try_open(Arc::new(copy), place()).expect("it opens");
                let opened = opened.open_log(log_id(), config(1 << 20), NO_PRODUCERS);
                let opened = opened.expect("it opens");
                assert!(opened.report.damage.is_empty() && opened.report.moved_aside.is_empty());
                made += 1;
            }
            made
        });
        for mark in 0..300 {
            append(&mut given.log, &mut model, [batch(1_000 + mark, 3)]);
            given.log.roll().expect("it rolls");
            match mark % 20 {
                7 => drop(given.log.delete_before(Offset::new(model.end() - 30)).expect("sound")),
                13 => {
                    let mut compaction =
                        given.log.begin_compaction(CompactionConfig::default(), NOW, true);
                    while !matches!(compaction.step(), Ok(CompactionStep::Done(_)) | Err(_)) {}
                }
                _ => {}
            }
        }
        is_over.store(true, Ordering::Release);
        assert!(backing_up.join().expect("nothing goes wrong") > 0, "it came to make some");
    });
}
