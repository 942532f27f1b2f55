//! Syncs fail, disks fill up, reads fail: nothing false is acknowledged, and what can go on does.

use taffrail_log::vfs::{Fault, Vfs};
use taffrail_log::{AppendError, OpenError, ReadError, ReadRequest, SyncError};
use taffrail_model::Offset;

use crate::given::{
    AppendAll, Given, NO_PRODUCERS, NOW, SEGMENT_HEADER_BYTES, batch, bytes_on_disk, config,
    has_ending, log_id, log_path, segment,
};
use crate::model::Model;

#[track_caller]
fn append(
    given: &mut Given,
    model: &mut Model,
    marks: std::ops::Range<u64>,
) -> Option<AppendError> {
    let batches: Vec<_> = marks.map(|mark| batch(mark, 3)).collect();
    let (appended, error) = given.log.append(&batches, NOW);
    model.append(&batches, &appended, given.log.leader_epoch());
    assert_eq!(appended.len() < batches.len(), error.is_some());
    error
}

#[test]
fn after_a_failed_sync_nothing_is_taken_and_nothing_is_published() {
    for fault in [Fault::SyncFails, Fault::SyncDrops] {
        let mut given = Given::new(1 << 20);
        let mut model = Model::default();
        assert!(append(&mut given, &mut model, 0..2).is_none());
        let syncer = given.log.syncer();
        assert_eq!(syncer.sync(), Ok(Offset::new(6)));
        assert!(append(&mut given, &mut model, 2..3).is_none());
        given.memory.set_fault(Some(fault));
        assert!(matches!(syncer.sync(), Err(SyncError::Poisoned { .. })));
        given.memory.set_fault(None);
        assert!(matches!(syncer.sync(), Err(SyncError::Poisoned { .. })), "it is not believed");
        assert_eq!(syncer.durable_end(), Offset::new(6));
        let refused = append(&mut given, &mut model, 3..4);
        assert!(matches!(refused, Some(AppendError::Poisoned { .. })), "{refused:?}");
        assert!(matches!(given.log.roll(), Err(AppendError::Poisoned { .. })));
        assert!(given.log.read_only().is_some());
        assert_eq!(given.log.end(), Offset::new(9));
        assert!(given.log.close().is_err(), "it is not marked clean");
    }
}

#[test]
fn a_poisoned_log_can_be_opened_anew_in_the_same_process() {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    assert!(append(&mut given, &mut model, 0..2).is_none());
    given.memory.set_fault(Some(Fault::SyncFails));
    assert!(given.log.syncer().sync().is_err());
    given.memory.set_fault(None);
    let epoch = given.log.leader_epoch();
    drop(given.log);
    let opened =
        given.directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("it opens");
    assert!(epoch < opened.log.leader_epoch(), "each opening has an epoch of its own");
    assert!(!opened.report.was_clean);
    given.log = opened.log;
    assert!(append(&mut given, &mut model, 2..4).is_none());
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn what_was_synced_since_the_directory_opened_is_below_the_recovery_point_of_a_second_opening() {
    let (mut given, _) = Given::open(&Given::new(1 << 20).close(), 1 << 20);
    let mut model = Model::default();
    assert!(append(&mut given, &mut model, 0..2).is_none());
    given.log.syncer().sync().expect("it syncs");
    drop(given.log);
    let last = SEGMENT_HEADER_BYTES + bytes_on_disk(&batch(0, 3));
    given.memory.flip(&segment(0), last + 95, 1).expect("it is there");
    let opened =
        given.directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("it opens");
    assert_eq!(opened.report.moved_aside, Vec::<std::path::PathBuf>::new());
    assert!(opened.log.read_only().is_some(), "what was synced is cut off");
}

#[test]
fn each_opening_in_one_process_has_an_epoch_of_its_own() {
    let (mut given, _) = Given::open(&Given::new(1 << 20).close(), 1 << 20);
    for _ in 0..3 {
        let epoch = given.log.leader_epoch();
        drop(given.log);
        given.log = given
            .directory
            .open_log(log_id(), config(1 << 20), NO_PRODUCERS)
            .expect("it opens")
            .log;
        assert!(epoch < given.log.leader_epoch());
    }
}

/// A full disk leaves whole batches and nothing of the others; with room again all goes on.
#[track_caller]
fn check_disk_full(bytes_left: usize, whole: u64) {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    assert!(append(&mut given, &mut model, 0..1).is_none());
    given.memory.set_fault(Some(Fault::DiskFull { bytes_left }));
    let error = append(&mut given, &mut model, 1..4);
    assert!(matches!(error, Some(AppendError::StorageFull { .. })), "{error:?}");
    assert_eq!(model.end(), 3 + 3 * whole);
    model.check_all(&given.log.reader(), 1 << 20);
    let file = given.memory.open(&segment(0)).expect("it is there");
    let expected = SEGMENT_HEADER_BYTES + (1 + whole as usize) * bytes_on_disk(&batch(1, 3));
    assert_eq!(file.length().expect("it has one"), expected as u64, "no part of a batch is left");
    let error = append(&mut given, &mut model, 4..5);
    assert!(matches!(error, Some(AppendError::StorageFull { .. })), "{error:?}");

    given.memory.set_fault(None);
    assert!(append(&mut given, &mut model, 5..7).is_none());
    given.log.syncer().sync().expect("it syncs");
    model.check_all(&given.log.reader(), 1 << 20);
    let (given, report) = Given::open(&given.kill().crash(1), 1 << 20);
    assert!(report.damage.is_empty() && report.moved_aside.is_empty());
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn a_full_disk_refuses_batches_whole_and_recovers() {
    let length = bytes_on_disk(&batch(1, 3));
    for bytes_left in [0, 1, 50, length - 1, length, length + 1, 2 * length + 95, 3 * length - 1] {
        check_disk_full(bytes_left, (bytes_left / length) as u64);
    }
}

#[test]
fn a_full_disk_at_a_roll_leaves_the_log_as_it_was() {
    for bytes_left in [0, 1, SEGMENT_HEADER_BYTES - 1] {
        let mut given = Given::new(400);
        let mut model = Model::default();
        assert!(append(&mut given, &mut model, 0..2).is_none());
        given.memory.set_fault(Some(Fault::DiskFull { bytes_left }));
        assert!(matches!(given.log.roll(), Err(AppendError::StorageFull { .. })));
        let error = append(&mut given, &mut model, 2..5);
        assert!(matches!(error, Some(AppendError::StorageFull { .. })), "{error:?}");
        model.check_all(&given.log.reader(), 1 << 20);
        given.memory.set_fault(None);
        assert!(append(&mut given, &mut model, 5..9).is_none());
        given.log.roll().expect("there is room again");
        model.check_all(&given.log.reader(), 1 << 20);
        let (given, report) = Given::open(&given.kill(), 400);
        assert!(report.damage.is_empty() && report.moved_aside.is_empty());
        model.check_all(&given.log.reader(), 1 << 20);
    }
}

#[test]
fn a_failed_read_cuts_nothing_and_is_not_damage() {
    let mut given = Given::new(400);
    let mut model = Model::default();
    assert!(append(&mut given, &mut model, 0..9).is_none());
    let reader = given.log.reader();
    given.memory.set_fault(Some(Fault::ReadFails));
    let (from, limit) = (Offset::ZERO, Offset::new(27));
    let read = reader.read(&ReadRequest { from, limit, bytes_max: 1 });
    assert!(matches!(read, Err(ReadError::Io { .. })), "{read:?}");
    drop(given.log);
    let opened = given.directory.open_log(log_id(), config(400), NO_PRODUCERS);
    assert!(matches!(opened, Err(OpenError::Io { .. })), "{opened:?}");
    given.memory.set_fault(None);
    drop(given.directory);
    let (given, report) = Given::open(&given.memory, 400);
    assert!(report.damage.is_empty() && report.moved_aside.is_empty());
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn what_was_read_and_verified_is_served_from_a_map() {
    let mut given = Given::new(400);
    let mut model = Model::default();
    assert!(append(&mut given, &mut model, 0..9).is_none());
    let reader = given.log.reader();
    // From disk, then from a map that is made on the way, then from the map alone.
    let request = ReadRequest { from: Offset::ZERO, limit: Offset::new(27), bytes_max: 1 << 20 };
    model.check_read(&reader, &request);
    model.check_read(&reader, &request);
    given.memory.set_fault(Some(Fault::ReadFails));
    model.check_read(&reader, &request);
}

#[test]
fn a_tail_that_finds_no_room_aside_stays_and_the_log_takes_nothing() {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    assert!(append(&mut given, &mut model, 0..2).is_none());
    let memory = given.kill();
    let file = memory.open(&segment(0)).expect("it is there");
    file.write_at(file.length().expect("it has one"), &[1; 3_000]).expect("there is room");
    for _ in 0..3 {
        let directory = crate::given::try_open(
            std::sync::Arc::new(memory.clone()),
            std::path::Path::new("/data"),
        )
        .expect("it opens");
        memory.set_fault(Some(Fault::DiskFull { bytes_left: 2_000 }));
        let opened = directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("it opens");
        memory.set_fault(None);
        assert!(opened.log.read_only().is_some());
        model.check_all(&opened.log.reader(), 1 << 20);
        let entries = memory.list(&log_path()).expect("it lists");
        assert!(
            entries.iter().all(|e| !has_ending(&e.name, "aside")),
            "a part is no use: {entries:?}"
        );
    }
    let (given, report) = Given::open(&memory, 1 << 20);
    assert_eq!(report.moved_aside.len(), 1);
    assert_eq!(given.log.read_only(), None);
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn a_roll_whose_name_may_not_be_durable_poisons_the_log() {
    // The new segment has its name, but the directory could not be synced: what is appended to the
    // old one now would be hidden behind the new one after a restart.
    for changes_left in 0..8 {
        let mut given = Given::new(1 << 20);
        let mut model = Model::default();
        assert!(append(&mut given, &mut model, 0..2).is_none());
        given.memory.set_fault(Some(Fault::Stops { changes_left }));
        let rolled = given.log.roll();
        given.memory.set_fault(None);
        let refused = append(&mut given, &mut model, 2..4);
        assert!(refused.is_none() || rolled.is_err());
        let (given, _) = Given::open(&given.kill(), 1 << 20);
        model.check_all(&given.log.reader(), 1 << 20);
    }
}
