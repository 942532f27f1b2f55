//! One sync for many logs: what it says of each is as true as if each had been synced by itself.

use taffrail_log::vfs::Fault;
use taffrail_log::{Log, SyncError, sync_together};
use taffrail_model::{LogId, Offset};

use crate::given::{AppendAll, Given, NO_PRODUCERS, NOW, batch, config};

const LOGS: u8 = 12;

fn id(number: u8) -> LogId {
    LogId::new([number; 16])
}

/// Logs with a synced batch each, and one behind it that is not synced.
fn given() -> (Given, Vec<Log>) {
    let given = Given::new(1 << 20);
    let create = |number| {
        let label = format!("many/{number}");
        let created = given.directory.create_log(id(number), &label, config(1 << 20), NOW);
        let mut log = created.expect("it is created");
        assert!(log.append(&[batch(0, 3)], NOW).1.is_none());
        assert_eq!(log.syncer().sync(), Ok(Offset::new(3)));
        assert!(log.append(&[batch(1, 2)], NOW).1.is_none());
        log
    };
    let logs = (0..LOGS).map(create).collect();
    (given, logs)
}

fn sync_all(logs: &[Log]) -> Vec<Result<Offset, SyncError>> {
    sync_together(&logs.iter().map(Log::syncer).collect::<Vec<_>>())
}

/// What each log holds after a power loss.
fn ends_after_power_loss(given: Given, logs: Vec<Log>, seed: u64) -> Vec<Offset> {
    drop(logs);
    let (given, _) = Given::open(&given.kill().crash(seed), 1 << 20);
    let open = |number| {
        let opened = given.directory.open_log(id(number), config(1 << 20), NO_PRODUCERS);
        opened.expect("it opens").log.end()
    };
    (0..LOGS).map(open).collect()
}

#[test]
fn what_is_synced_together_is_there_after_a_power_loss() {
    for seed in 0..50 {
        let (given, logs) = given();
        let synced = sync_all(&logs);
        assert_eq!(synced, vec![Ok(Offset::new(5)); LOGS as usize]);
        assert!(logs.iter().all(|log| log.syncer().durable_end() == Offset::new(5)));
        assert_eq!(ends_after_power_loss(given, logs, seed), vec![Offset::new(5); LOGS as usize]);
    }
}

#[test]
fn what_a_sync_for_all_could_not_write_is_not_said_to_be_durable() {
    for drops in [false, true] {
        // First the files are written, then what makes them findable.
        for before in 0..=LOGS as usize {
            let (given, logs) = given();
            given.memory.set_fault(Some(Fault::OneSyncFails { before, drops }));
            let synced = sync_all(&logs);
            given.memory.set_fault(None);
            for (number, synced) in synced.iter().enumerate() {
                assert_eq!(synced.is_err(), number == before, "{number} of {before}: {synced:?}");
            }
            for (number, again) in sync_all(&logs).iter().enumerate() {
                assert_eq!(again.is_err(), number == before, "a failure is not forgotten");
            }
            for (synced, end) in synced.iter().zip(ends_after_power_loss(given, logs, 1)) {
                assert!(synced.clone().unwrap_or(Offset::new(3)) <= end, "{synced:?}, {end}");
            }
        }
    }
}

#[test]
fn a_log_that_is_poisoned_or_has_nothing_to_sync_holds_up_no_other() {
    let (given, mut logs) = given();
    given.memory.set_fault(Some(Fault::SyncFails));
    assert!(logs[4].syncer().sync().is_err());
    given.memory.set_fault(None);
    assert_eq!(logs[7].syncer().sync(), Ok(Offset::new(5)));
    for (number, synced) in sync_all(&logs).into_iter().enumerate() {
        assert_eq!(synced.is_err(), number == 4, "{number}: {synced:?}");
    }
    assert!(logs[5].append(&[batch(2, 1)], NOW).1.is_none());
    assert_eq!(sync_all(&logs)[5], Ok(Offset::new(6)));
    assert_eq!(sync_together(&[]), []);
}
