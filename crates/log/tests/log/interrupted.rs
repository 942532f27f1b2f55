//! Repairs that stop anywhere, with and without power: what was there is kept, a start says what is the
//! matter, and the same repair comes to its end.

use std::sync::Arc;

use taffrail_log::repair::{Repair, RepairError};
use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{OpenError, Opened};

use crate::given::{Given, LABEL, NOW, batch, log_id, log_path, root, settled};
use crate::repair::{
    accept_loss, check_repaired, cut, files_of, flip, given, hold, position, quarantine,
    read_through, remove, settle,
};

#[test]
fn a_repair_that_stops_anywhere_is_done_again() {
    type Change = fn(&Memory);
    let changes: [(Change, &[(u64, u64)]); 4] = [
        (|memory| flip(memory, 12, position(1) + 95), &[(15, 18)]),
        (|memory| cut(memory, 24, position(2) + 7), &[(30, 36)]),
        (|memory| remove(memory, 0), &[(0, 12)]),
        (|memory| memory.remove_directory(&log_path()).expect("it is there"), &[(0, 36)]),
    ];
    for (change, lost) in changes {
        // Killed, or without power; then a seed says what survives.
        for power_lost in [None, Some(1), Some(2), Some(3), Some(4)] {
            for changes_left in 0.. {
                let memory = given();
                change(&memory);
                settle(&memory);
                let before = files_of(&memory, &log_path());
                memory.set_fault(Some(Fault::Stops { changes_left }));
                let ended = accept_loss(&memory).is_ok();
                memory.set_fault(None);
                let memory = power_lost.map_or(memory.clone(), |seed| memory.crash(seed));
                check_between(&memory, before.is_empty() && !ended);
                match accept_loss(&memory) {
                    Ok(()) | Err(RepairError::Sound { .. }) => {}
                    Err(error) => panic!("after {changes_left} changes: {error}"),
                }
                if !before.is_empty() {
                    let kept = [1, 2].map(|number| files_of(&memory, &quarantine(number)));
                    let is_kept = kept.contains(&before);
                    assert!(is_kept, "after {changes_left}: {kept:?}, not {before:?}");
                }
                check_repaired(&memory, lost, 36);
                if ended {
                    assert!(changes_left > 5, "it did something");
                    break;
                }
            }
        }
    }
}

/// A broker that starts on what an interrupted repair left serves what it did before, or says what to do.
#[track_caller]
fn check_between(memory: &Memory, may_be_missing: bool) {
    let memory = settled(memory);
    let (given, opened) = Given::try_open_log(&memory, 1 << 20);
    match opened {
        Ok(Opened { log, .. }) => assert_eq!(given(log).log.end().get(), 36),
        Err(error @ OpenError::Interrupted { .. }) => {
            assert!(error.to_string().contains("taffrail repair"), "{error}");
        }
        Err(error) => {
            let is_missing = matches!(error, OpenError::Missing { .. });
            assert!(is_missing && may_be_missing, "{error}");
        }
    }
}

/// Does a repair that stops after each number of changes, loses power, and does it again until it ends.
#[track_caller]
fn at_each_change(act: impl Fn(&Repair) -> Result<(), RepairError>, check: impl Fn(&Memory)) {
    for changes_left in 0.. {
        for seed in 0..4 {
            let memory = given();
            memory.set_fault(Some(Fault::Stops { changes_left }));
            let repair = Repair::hold(Arc::new(memory.clone()), root());
            let ended = repair.and_then(|repair| act(&repair)).is_ok();
            memory.set_fault(None);
            let memory = memory.crash(seed);
            if !ended {
                act(&hold(&memory)).expect("nothing stops it now");
            }
            check(&memory);
            if ended && seed == 3 {
                assert!(changes_left > 3, "it did something");
                return;
            }
        }
    }
}

#[test]
fn a_replacement_that_stops_anywhere_is_done_again() {
    let before = files_of(&given(), &log_path());
    at_each_change(
        |repair| {
            if repair.is_built(log_id())? {
                return repair.finish(log_id());
            }
            repair.replace(log_id(), LABEL, &[batch(50, 3)], NOW)
        },
        |memory| {
            let kept: Vec<_> =
                [1, 2].map(|number| files_of(memory, &quarantine(number))).into_iter().collect();
            assert!(kept.contains(&before), "what was there is kept");
            let (given, report) = Given::open(memory, 1 << 20);
            assert_eq!(report.damage, vec![]);
            let (bases, gaps) = read_through(&given);
            // Where the first one ended after all, the second begins behind it.
            let end = gaps.first().map(|gap| gap.1).expect("a gap");
            assert!(36 <= end && bases == [end], "{bases:?} behind {gaps:?}");
        },
    );
}

#[test]
fn a_removal_that_stops_anywhere_is_done_again() {
    let before = files_of(&given(), &log_path());
    at_each_change(
        |repair| match repair.remove(log_id()) {
            // The first time it was done after all.
            Err(RepairError::NotThere { .. }) => Ok(()),
            removed => removed,
        },
        |memory| {
            assert_eq!(files_of(memory, &log_path()), []);
            let places = ["", ".1"].map(|number| {
                let name = format!("{}{number}", log_id());
                files_of(memory, &root().join("removed").join(name))
            });
            assert!(places.contains(&before), "it is kept");
        },
    );
}
