//! Restoring a backup: the copy is what the backup is, and the backup stays; whatever fails, nothing is
//! half done.

use std::path::Path;

use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{RestoreError, Restored, restore};

use crate::backup::{back_up, check_at, given, place};
use crate::given::{NOW, root, settled};
use crate::model::Model;

fn there() -> &'static Path {
    Path::new("/restored")
}

/// A disk with a backup on it, and nothing else.
fn backed_up() -> (Memory, Model) {
    let (given, model) = given();
    back_up(&given.directory, &given.log.reader()).expect("there is room");
    let memory = given.close();
    memory.remove_directory(root()).expect("nobody needs it");
    (settled(&memory), model)
}

fn restore_there(memory: &Memory) -> Result<Restored, RestoreError> {
    restore(memory, place(), there(), &mut |_| {})
}

/// What is there but for the backup.
fn others(memory: &Memory) -> Vec<String> {
    let entries = memory.list(Path::new("/")).expect("it can be listed").into_iter();
    entries.map(|entry| entry.name).filter(|name| name != "backups").collect()
}

#[test]
fn what_is_restored_is_what_was_backed_up_and_the_backup_stays() {
    let (memory, model) = backed_up();
    let before = memory.files();
    let mut copied = Vec::new();
    let restored = restore(&memory, place(), there(), &mut |bytes| copied.push(bytes));
    let restored = restored.expect("there is room");
    assert_eq!((restored.backup.taken, restored.damaged), (NOW, 0));
    assert!(copied.is_sorted() && copied.last() == Some(&restored.bytes), "{copied:?}");
    assert_eq!(restored.files, before.len() as u64);
    assert_eq!(others(&memory), ["restored"]);
    // Whatever happens to it, the backup is as it was.
    let flipped = memory.copy();
    for (path, contents) in memory.files() {
        if path.starts_with(there()) && !contents.is_empty() {
            flipped.flip(&path, 0, 1).expect("it is there");
        }
    }
    let kept = flipped.files().into_iter().filter(|(path, _)| path.starts_with(place()));
    assert!(kept.eq(before), "the backup has changed");
    drop(check_at(&memory.copy().crash(1), there(), &model));
    // An empty directory will do.
    let empty = Path::new("/empty");
    memory.create_directory(empty).expect("the place is free");
    restore(&memory, place(), empty, &mut |_| {}).expect("it is free");
    drop(check_at(&settled(&memory), empty, &model));
}

#[test]
fn a_place_that_is_not_free_and_what_is_no_backup_are_refused_and_left_as_they_are() {
    let (given, _) = given();
    back_up(&given.directory, &given.log.reader()).expect("there is room");
    let memory = given.memory.clone();
    let refused = |from: &Path, to: &str| {
        let before = memory.files();
        let refused = restore(&memory, from, Path::new(to), &mut |_| {}).expect_err("it is wrong");
        assert_eq!(memory.files(), before, "{}", from.display());
        refused
    };
    let in_use = refused(place(), "/data");
    assert!(matches!(in_use, RestoreError::InUse { .. }), "{in_use}");
    let not_empty = refused(place(), "/data/logs");
    assert!(matches!(not_empty, RestoreError::NotEmpty { .. }), "{not_empty}");
    for around in ["/backups", "/backups/one", "/backups/one/logs", "/"] {
        let within = refused(place(), around);
        assert!(matches!(within, RestoreError::Within { .. }), "{around}: {within}");
    }
    for nothing in ["/data", "/backups", "/nowhere"] {
        let no_backup = refused(Path::new(nothing), "/restored");
        assert!(matches!(no_backup, RestoreError::NoBackup { .. }), "{nothing}: {no_backup}");
    }
    let file = refused(place(), "/data/identity");
    assert!(matches!(file, RestoreError::NotEmpty { .. }), "{file}");
    let file = refused(Path::new("/data/identity"), "/restored");
    assert!(matches!(file, RestoreError::NoBackup { .. }), "{file}");
    let nowhere = refused(place(), "/nowhere/restored");
    assert!(matches!(nowhere, RestoreError::Io { .. }), "{nowhere}");
    restore_there(&memory).expect("there is room");
    drop(crate::given::try_open(std::sync::Arc::new(memory.clone()), there()).expect("it opens"));
    let served = refused(there(), "/again");
    assert!(matches!(served, RestoreError::Served { .. }), "{served}");
}

#[test]
fn a_separator_behind_a_name_changes_nothing() {
    let (memory, model) = backed_up();
    for _ in 0..2 {
        restore(&memory, Path::new("/backups/one/"), Path::new("/restored/"), &mut |_| {})
            .expect("there is room");
        assert_eq!(others(&memory), ["restored"]);
        drop(check_at(&settled(&memory), there(), &model));
        memory.remove_directory(there()).expect("it is there");
        memory.create_directory(there()).expect("the place is free");
    }
}

#[test]
fn a_backup_that_another_one_replaces_meanwhile_is_not_mixed_with_it() {
    let (memory, _) = backed_up();
    let mut is_replaced = false;
    let replaced = restore(&memory, place(), there(), &mut |_| {
        if !std::mem::replace(&mut is_replaced, true) {
            let manifest = memory.open(&place().join("backup")).expect("it is there");
            let later = format!("taken {}", NOW.as_millis() + 1);
            let position = manifest.length().expect("it has one") - later.len() as u64 - 1;
            manifest.write_at(position, later.as_bytes()).expect("there is room");
        }
    });
    assert!(matches!(replaced, Err(RestoreError::Replaced { .. })), "{replaced:?}");
    assert_eq!(others(&memory), [""; 0]);
}

#[test]
fn two_restores_to_one_place_do_not_get_in_each_others_way() {
    let (memory, model) = backed_up();
    let mut refused = None;
    restore(&memory, place(), there(), &mut |_| {
        refused.get_or_insert_with(|| restore_there(&memory));
    })
    .expect("it was the first");
    let refused = refused.expect("it was tried").expect_err("the other one is at work");
    assert!(matches!(refused, RestoreError::InUse { .. }), "{refused}");
    drop(check_at(&settled(&memory), there(), &model));
}

#[test]
fn a_restore_that_stops_anywhere_leaves_nothing_in_its_place_or_all() {
    for power_lost in std::iter::once(None).chain((0..4).map(Some)) {
        for changes_left in 0.. {
            let (memory, model) = backed_up();
            memory.set_fault(Some(Fault::Stops { changes_left }));
            let done = restore_there(&memory);
            memory.set_fault(None);
            let memory = power_lost.map_or(memory.clone(), |seed| memory.crash(seed));
            if memory.list(there()).is_ok() {
                drop(check_at(&settled(&memory), there(), &model));
            } else {
                assert!(done.is_err(), "it was said to be there");
                restore_there(&memory).expect("it can be said again");
                drop(check_at(&settled(&memory), there(), &model));
            }
            assert_eq!(others(&memory), ["restored"]);
            if done.is_ok() {
                assert!(changes_left > 10, "it did something");
                break;
            }
        }
    }
}

#[test]
fn a_disk_that_fails_leaves_nothing_of_a_restore() {
    let faults = (0..20).flat_map(|after| {
        [
            Fault::NoRoom { changes_left: after },
            Fault::OneWriteFails { before: after },
            Fault::OneSyncFails { before: after, drops: true },
            Fault::DiskFull { bytes_left: 60 * after },
        ]
    });
    let (mut failures, mut full) = (0, 0);
    for fault in faults {
        let (memory, model) = backed_up();
        memory.set_fault(Some(fault.clone()));
        let done = restore_there(&memory);
        memory.set_fault(None);
        if let Err(error) = done {
            failures += 1;
            full += usize::from(matches!(error, RestoreError::StorageFull { .. }));
            assert!(others(&memory).iter().all(|name| name == "restored"), "{fault:?}: {error}");
        }
        if others(&memory).is_empty() {
            restore_there(&memory).expect("there is room");
        }
        drop(check_at(&settled(&memory), there(), &model));
    }
    assert!(failures > 30 && full > 10, "{failures}, {full}");
}

#[test]
fn what_is_damaged_in_the_backup_is_restored_and_counted() {
    let (memory, _) = backed_up();
    let (path, _) = memory
        .files()
        .into_iter()
        .find(|(path, _)| path.to_string_lossy().ends_with("6.log"))
        .expect("there is a second segment");
    memory.flip(&path, 150, 1).expect("it is there");
    let restored = restore_there(&memory).expect("there is room");
    assert_eq!(restored.damaged, 1);
}
