//! The disk is full: batches are refused whole, reads go on, and so does all else with room again.

use std::path::Path;
use std::sync::Arc;

use taffrail_log::AppendError;
use taffrail_log::vfs::{Fault, Vfs};

use super::append;
use crate::given::{
    Given, NO_PRODUCERS, SEGMENT_HEADER_BYTES, batch, bytes_on_disk, config, has_ending, log_id,
    log_path, segment, try_open,
};
use crate::model::Model;

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
fn a_tail_that_finds_no_room_aside_stays_and_the_log_takes_nothing() {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    assert!(append(&mut given, &mut model, 0..2).is_none());
    let memory = given.kill();
    let file = memory.open(&segment(0)).expect("it is there");
    file.write_at(file.length().expect("it has one"), &[1; 3_000]).expect("there is room");
    for _ in 0..3 {
        let directory = try_open(Arc::new(memory.clone()), Path::new("/data")).expect("it opens");
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
