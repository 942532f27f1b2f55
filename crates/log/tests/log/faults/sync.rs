//! Syncs fail: nothing false is acknowledged, and only a reopening tells what is on disk.

use taffrail_log::vfs::Fault;
use taffrail_log::{AppendError, SyncError};
use taffrail_model::Offset;

use super::append;
use crate::given::{
    Given, NO_PRODUCERS, SEGMENT_HEADER_BYTES, batch, bytes_on_disk, config, log_id, segment,
};
use crate::model::Model;

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

#[test]
fn a_roll_whose_name_may_not_be_durable_poisons_the_log() {
    // The new segment has its name, but the directory could not be synced: what is appended to the
    // old one now would be hidden behind the new one after a restart.
    for changes_left in 0..16 {
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
