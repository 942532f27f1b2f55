//! Data directories: one process at a time, none that is not ours, none made by accident.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use taffrail_log::vfs::{Disk, Fault, Memory, Vfs};
use taffrail_log::{Directory, DirectoryError, DirectoryOptions};
use taffrail_model::Offset;

use crate::given::{
    AppendAll, Given, LABEL, NO_PRODUCERS, NOW, batch, config, log_id, root, try_open,
};

fn open(vfs: &Memory, init: bool) -> Result<Directory, DirectoryError> {
    let first_logs = [(log_id(), LABEL)];
    let options = DirectoryOptions { path: root(), init, first_logs: &first_logs, now: NOW };
    Directory::open(Arc::new(vfs.clone()), &options)
}

fn put(memory: &Memory, path: &Path, contents: &str) {
    let file = memory.create(path).expect("the place is free");
    file.write_at(0, contents.as_bytes()).expect("there is room");
}

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_directory() {
    let memory = Memory::new(1);
    let first = open(&memory, false).expect("it opens");
    match open(&memory, false) {
        Err(DirectoryError::Locked { holder, .. }) => {
            assert_eq!(holder, format!("process {}", std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    open(&memory, false).expect("it is free again");
}

#[test]
fn a_second_process_is_refused_on_a_real_disk() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let path = place.path().join("data");
    let first = try_open(Arc::new(Disk), &path).expect("it opens");
    match try_open(Arc::new(Disk), &path) {
        Err(DirectoryError::Locked { holder, .. }) => {
            assert_eq!(holder, format!("process {}", std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    try_open(Arc::new(Disk), &path).expect("it is free again");
}

#[test]
fn an_identity_stays() {
    let memory = Memory::new(1);
    let id = open(&memory, false).expect("it opens").id().to_owned();
    assert_eq!(id.len(), 32);
    assert_eq!(open(&memory, false).expect("it opens").id(), id);
    assert_ne!(open(&Memory::new(2), false).expect("it opens").id(), id);
}

#[test]
fn an_empty_directory_may_be_an_unmounted_disk() {
    for entries in [&[][..], &["lost+found"]] {
        let memory = Memory::new(1);
        memory.create_directory(root()).expect("the place is free");
        for entry in entries {
            memory.create_directory(&root().join(entry)).expect("the place is free");
        }
        assert!(matches!(open(&memory, false), Err(DirectoryError::Empty { .. })));
        assert_eq!(memory.files(), [], "nothing is changed");
        let directory = open(&memory, true).expect("it is set up");
        directory.open_log(log_id(), config(700), NO_PRODUCERS).expect("the first log is there");
        drop(directory);
        open(&memory, false).expect("it is one now");
        open(&memory, true).expect("--init is no harm");
    }
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    for init in [false, true] {
        let memory = Memory::new(1);
        memory.create_directory(root()).expect("the place is free");
        put(&memory, &root().join("thesis.doc"), "years of work");
        match open(&memory, init) {
            Err(DirectoryError::Foreign { entry, .. }) => assert_eq!(entry, "thesis.doc"),
            other => panic!("{other:?}"),
        }
        assert_eq!(memory.files().len(), 1, "nothing is changed");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let memory = Memory::new(1);
    memory.create_directory(root()).expect("the place is free");
    let text = "taffrail data directory\nformat 7\nid 0123456789abcdef0123456789abcdef\n";
    put(&memory, &root().join("identity"), text);
    assert!(matches!(open(&memory, true), Err(DirectoryError::Newer { found: 7, .. })));
}

#[test]
fn a_damaged_identity_is_refused() {
    let memory = Memory::new(1);
    drop(open(&memory, false).expect("it opens"));
    memory.flip(&root().join("identity"), 3, 0xff).expect("it is there");
    for init in [false, true] {
        assert!(matches!(open(&memory, init), Err(DirectoryError::Identity { .. })));
    }
}

#[test]
fn an_interrupted_set_up_in_an_empty_directory_is_done_again_when_told() {
    let memory = Memory::new(1);
    memory.create_directory(root()).expect("the place is free");
    drop(open(&memory, true).expect("it is set up"));
    for name in ["identity", "recovery-points.a", "recovery-points.b"] {
        memory.remove_file(&root().join(name)).expect("it is there");
    }
    assert!(matches!(open(&memory, false), Err(DirectoryError::Unfinished { .. })));
    let directory = open(&memory, true).expect("it is set up");
    directory.open_log(log_id(), config(700), NO_PRODUCERS).expect("the first log is there");
}

#[test]
fn what_killed_set_ups_left_beside_goes_with_the_next_one() {
    let beside = |name: &str| Path::new("/").join(name);
    let names = |memory: &Memory| -> Vec<String> {
        memory.list(Path::new("/")).expect("it lists").into_iter().map(|it| it.name).collect()
    };
    // A set-up that stops at each of its changes leaves something, or nothing.
    for changes_left in 0.. {
        let memory = Memory::new(changes_left as u64);
        memory.set_fault(Some(Fault::Stops { changes_left }));
        let ended = open(&memory, false).is_ok();
        memory.set_fault(None);
        drop(open(&memory, false).expect("it is set up"));
        assert_eq!(names(&memory), ["data"], "after {changes_left} changes");
        if ended {
            break;
        }
    }
    // What another directory's set-up left, or what holds something, is left alone.
    let memory = Memory::new(1);
    let others =
        ["data.setup-0123", "data.setup-0123456G", "data.setup-01234567", "x.setup-89abcdef"];
    for name in others {
        memory.create_directory(&beside(name)).expect("the place is free");
        put(&memory, &beside(name).join("thesis.doc"), "years of work");
    }
    let mut used = Given::new(1 << 20);
    let (_, error) = used.log.append(&[batch(1, 1)], NOW);
    assert!(error.is_none());
    for (path, contents) in used.close().files() {
        let path = path.strip_prefix(root()).expect("it is there").to_owned();
        if path.starts_with("logs") || path.ends_with("identity") {
            let path = beside("data.setup-fedcba98").join(path);
            let above: Vec<_> = path.ancestors().skip(1).collect();
            above.into_iter().rev().for_each(|above| drop(memory.create_directory(above)));
            let file = memory.create(&path).expect("the place is free");
            file.write_at(0, &contents).expect("there is room");
        }
    }
    drop(open(&memory, false).expect("it is set up"));
    let mut expected = [&["data", "data.setup-fedcba98"][..], &others].concat();
    expected.sort_unstable();
    assert_eq!(names(&memory), expected);
}

#[test]
fn a_directory_that_lost_its_identity_is_never_set_up_over_its_records() {
    for lost in [&["identity"][..], &["identity", "recovery-points.a", "recovery-points.b"]] {
        let mut given = Given::new(1 << 20);
        let (_, error) = given.log.append(&[batch(1, 1)], NOW);
        assert!(error.is_none());
        let memory = given.close();
        for name in lost {
            memory.remove_file(&root().join(name)).expect("it is there");
        }
        let before = memory.files();
        for init in [false, true] {
            let opened = open(&memory, init);
            assert!(matches!(opened, Err(DirectoryError::Identity { .. })), "{opened:?}");
        }
        assert_eq!(memory.files(), before, "nothing is changed");
    }
}

#[test]
fn points_of_which_one_copy_is_damaged_are_still_known() {
    for name in ["recovery-points.a", "recovery-points.b"] {
        let mut given = Given::new(1 << 20);
        let (_, error) = given.log.append(&[batch(1, 5)], NOW);
        assert!(error.is_none());
        let epoch = given.log.leader_epoch();
        let memory = given.close();
        memory.flip(&root().join(name), 60, 0xff).expect("it is there");
        let (given, report) = Given::open(&memory, 1 << 20);
        assert!(report.was_clean);
        assert!(epoch < given.log.leader_epoch());
    }
}

#[test]
fn of_two_copies_of_the_points_the_newer_one_counts() {
    for name in ["recovery-points.a", "recovery-points.b"] {
        let path = root().join(name);
        let mut given = Given::new(1 << 20);
        let old = given.memory.files().into_iter().find(|(found, _)| *found == path);
        let (_, error) = given.log.append(&[batch(1, 5)], NOW);
        assert!(error.is_none());
        let memory = given.close();
        let file = memory.open(&path).expect("it is there");
        file.write_at(0, &old.expect("it is there").1).expect("there is room");
        let (_, report) = Given::open(&memory, 1 << 20);
        assert!(report.was_clean, "{name} is old");
    }
}

#[test]
fn points_that_cannot_be_read_are_not_taken_for_none() {
    let mut given = Given::new(1 << 20);
    let (_, error) = given.log.append(&[batch(1, 5)], NOW);
    assert!(error.is_none());
    let memory = given.close();
    for name in ["recovery-points.a", "recovery-points.b"] {
        memory.remove_file(&root().join(name)).expect("it is there");
        memory.create_directory(&root().join(name)).expect("the place is free");
    }
    assert!(matches!(open(&memory, false), Err(DirectoryError::Io { .. })));
}

#[test]
fn points_of_which_no_copy_is_sound_are_not_taken_for_none() {
    let mut given = Given::new(1 << 20);
    let (_, error) = given.log.append(&[batch(1, 5)], NOW);
    assert!(error.is_none());
    let memory = given.close();
    let copies = ["recovery-points.a", "recovery-points.b"].map(|name| root().join(name));
    for copy in &copies {
        memory.flip(copy, 60, 0xff).expect("it is there");
    }
    let before = memory.files();
    let refused = open(&memory, false).expect_err("nobody knows what was on disk");
    assert!(refused.to_string().contains("restore one from a backup"), "{refused}");
    assert_eq!(memory.files(), before, "something was changed");
    for copy in &copies {
        memory.remove_file(copy).expect("it is there");
    }
    let (given, _) = Given::open(&memory, 1 << 20);
    assert_eq!(given.log.end(), Offset::new(5));
}

#[test]
fn a_deleted_log_does_not_come_back() {
    let mut given = Given::new(1 << 20);
    let (_, error) = given.log.append(&[batch(1, 5)], NOW);
    assert!(error.is_none());
    let syncer = given.log.syncer();
    given.directory.delete_log(log_id()).expect("it is deleted");
    // Somebody still syncs what he has open.
    syncer.sync().expect("it syncs");
    given.directory.persist_points().expect("they are written");
    let memory = given.kill();
    let points = memory.files().into_iter().find(|(path, _)| path.ends_with("recovery-points.a"));
    let (_, contents) = points.expect("they are there");
    assert_eq!(contents.len(), 48, "no entry is left");
}

#[test]
fn a_log_that_should_be_there_is_never_made_anew() {
    let directory = open(&Memory::new(1), false).expect("it opens");
    let missing = taffrail_model::LogId::new(*b"nobody knows me.");
    let opened = directory.open_log(missing, config(700), NO_PRODUCERS);
    assert!(matches!(opened, Err(taffrail_log::OpenError::Missing { .. })));
}

#[test]
fn when_the_broker_was_last_seen_is_known_to_within_an_hour() {
    let memory = Memory::new(1);
    let minute = |number: u64| NOW.plus(Duration::from_secs(60 * number));
    let seen = || open(&memory, false).expect("it opens").last_seen();
    assert_eq!(seen(), None, "nobody was here before");
    assert_eq!(seen(), None, "nobody told the time");
    // What is told, and what the next one hears, who opens the directory after a kill.
    let lives = [(600, 600), (659, 600), (660, 660), (601, 660), (600, 600), (9_000, 9_000)];
    for (told, heard) in lives {
        let directory = open(&memory, false).expect("it opens");
        directory.tell_time(minute(told));
        directory.persist_points().expect("the points are written");
        drop(directory);
        assert_eq!(seen(), Some(minute(heard)), "{told}");
    }
    // With anything else that is written the time is, too.
    let mut given = Given::new(1 << 20);
    given.directory.tell_time(minute(0));
    given.directory.persist_points().expect("the points are written");
    given.directory.tell_time(minute(3));
    let (_, error) = given.log.append(&[batch(1, 3)], NOW);
    assert!(error.is_none(), "{error:?}");
    let memory = given.close();
    assert_eq!(open(&memory, false).expect("it opens").last_seen(), Some(minute(3)));
}
