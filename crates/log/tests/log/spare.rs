//! Room that is kept back for a full disk: what must be written is, and whoever may wait waits until
//! the room is there again.

use std::path::PathBuf;

use taffrail_log::AppendError;
use taffrail_log::vfs::{Fault, Vfs as _};

use crate::given::{AppendAll as _, Given, NOW, batch, log_path, root, segment};

const SPARE_BYTES: u64 = 4 << 10;
const FULL: Fault = Fault::DiskFull { bytes_left: 0 };
const SEGMENT_BYTES: u64 = 1 << 20;

fn spare() -> PathBuf {
    root().join("spare")
}

#[track_caller]
fn assert_full(error: Option<&AppendError>, at: &PathBuf) {
    assert!(matches!(error, Some(AppendError::StorageFull { path }) if path == at), "{error:?}");
}

/// A log with a record on disk that no recovery point covers, and room kept back on a full disk.
fn given_full() -> Given {
    let mut given = Given::new(SEGMENT_BYTES);
    given.directory.keep_spare(SPARE_BYTES).expect("there is room");
    assert!(given.log.append(&[batch(1, 3)], NOW).1.is_none());
    given.log.syncer().sync().expect("it syncs");
    given.memory.set_fault(Some(FULL));
    given
}

#[test]
fn on_a_full_disk_the_recovery_points_are_written_and_appends_wait_for_room() {
    let mut given = given_full();
    let (_, error) = given.log.append(&[batch(2, 3)], NOW);
    assert_full(error.as_ref(), &segment(0));
    assert_eq!(given.directory.check_spare(), Ok(()));
    given.directory.persist_points().expect("there is room for these");
    assert_eq!(given.directory.check_spare(), Err(spare()));
    let (_, error) = given.log.append(&[batch(2, 3)], NOW);
    assert_full(error.as_ref(), &spare());
    given.memory.set_fault(Some(FULL));
    given.directory.keep_spare(SPARE_BYTES).expect_err("it is still full");
    assert_eq!(given.directory.check_spare(), Err(spare()));

    given.memory.set_fault(None);
    given.directory.keep_spare(SPARE_BYTES).expect("there is room again");
    assert_eq!(given.directory.check_spare(), Ok(()));
    assert!(given.log.append(&[batch(2, 3)], NOW).1.is_none());
    let (given, report) = Given::open(&given.close(), SEGMENT_BYTES);
    assert!(report.was_clean && given.log.end().get() == 6, "{report:?}");
}

#[test]
fn on_a_full_disk_a_log_that_may_writes_in_the_room_that_is_kept_back() {
    let mut given = given_full();
    given.log.allow_spare();
    for sequence in 2..5 {
        assert!(given.log.append(&[batch(sequence, 3)], NOW).1.is_none());
    }
    given.log.syncer().sync().expect("it syncs");
    let mut refused = None;
    while refused.is_none() {
        refused = given.log.append(&[batch(5, 3)], NOW).1;
    }
    assert_full(refused.as_ref(), &segment(0));
}

#[test]
fn on_a_full_disk_a_torn_tail_is_kept_aside_in_the_room_that_is_kept_back() {
    let given = given_full();
    given.memory.set_fault(None);
    let memory = given.kill();
    let file = memory.open(&segment(0)).expect("it is there");
    let length = file.length().expect("it has one");
    file.write_at(length, &[7; 1000]).expect("there is room");
    memory.set_fault(Some(FULL));
    let (given, report) = Given::open(&memory, SEGMENT_BYTES);
    let [aside] = &report.moved_aside[..] else { panic!("{report:?}") };
    assert!(aside.starts_with(log_path()), "{report:?}");
    assert_eq!((given.log.read_only(), given.log.end().get()), (None, 3));
}
