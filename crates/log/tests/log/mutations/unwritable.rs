//! While a directory is opened one write or sync fails, or the disk is full, at each step in turn:
//! nothing vanishes, and the next opening ends where the first one should have.

use taffrail_log::vfs::Fault;
use taffrail_log::{OpenError, Opened};

use super::image::{Image, images, open, producer_ids_end};
use super::judge::{Case, check_kept};
use super::outcome::Outcome;
use crate::given::root;

/// Opens an image while something goes wrong, and once more when nothing does; whether it went wrong.
#[track_caller]
fn check(image: &Image, fault: Fault) -> bool {
    let _case = Case(format!("{}: {fault:?}", image.name));
    let sound = open(&image.memory.copy(), &image.logs).expect("it opens");
    let sound = image.logs.each_ref().map(|history| {
        let (_, outcome) = Outcome::of(&sound, history).expect("it opens");
        outcome
    });
    let memory = image.memory.copy();
    let before = memory.files();
    let may_drop = matches!(fault, Fault::OneSyncFails { drops: true, .. });
    memory.set_fault(Some(fault));
    let mut durable = [0; 2];
    match open(&memory, &image.logs) {
        Ok(directory) => {
            for (at, history) in image.logs.iter().enumerate() {
                let opened = directory.open_log(history.id, history.config, producer_ids_end());
                match opened {
                    Ok(Opened { log, report }) => {
                        assert_eq!(report.damage, []);
                        match log.read_only() {
                            Some(cause) => assert!(cause.contains("/data"), "of what? {cause}"),
                            None => assert_eq!(log.end().get(), sound[at].end),
                        }
                        durable[at] = log.syncer().durable_end().get();
                    }
                    Err(OpenError::Io { path, .. }) => assert!(path.starts_with(root())),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        Err(error) => assert!(error.to_string().contains("/data"), "{error}"),
    }
    if !may_drop {
        check_kept(&before, &memory.files());
    }
    let has_come = match memory.fault() {
        Some(Fault::NoRoom { changes_left }) => changes_left == 0,
        fault => fault.is_none(),
    };
    memory.set_fault(None);
    let lost_power = memory.crash(3);
    let directory = open(&memory, &image.logs).expect("it opens");
    for (history, sound) in image.logs.iter().zip(&sound) {
        let (_, found) = Outcome::of(&directory, history).expect("it opens");
        assert!(!found.has_damage(), "{found:?}");
        if may_drop {
            // What was never synced is gone; what was read before is not given out again.
            let offset = if history.config.reserves_offsets { history.end() } else { 0 };
            assert!(offset.max(history.acknowledged) <= found.end, "{found:?}");
        } else {
            assert_eq!((&found.pieces, found.end), (&sound.pieces, sound.end));
        }
    }
    let directory = open(&lost_power, &image.logs).expect("it opens");
    for (history, durable) in image.logs.iter().zip(durable) {
        let (_, found) = Outcome::of(&directory, history).expect("it opens");
        assert!(
            durable <= found.end && found.lost().is_empty(),
            "{durable} was durable: {found:?}"
        );
    }
    has_come
}

#[track_caller]
fn at_each_step(fault: impl Fn(usize) -> Fault) {
    for image in &images() {
        let steps = (0..1_000).take_while(|step| check(image, fault(*step))).count();
        assert!(steps >= 2, "{}: {steps}", image.name);
    }
}

#[test]
fn a_directory_that_opens_on_a_full_disk_loses_nothing() {
    at_each_step(|changes_left| Fault::NoRoom { changes_left });
}

#[test]
fn a_write_that_fails_while_a_directory_opens_loses_nothing() {
    at_each_step(|before| Fault::OneWriteFails { before });
}

#[test]
fn a_sync_that_fails_while_a_directory_opens_loses_nothing() {
    for drops in [false, true] {
        at_each_step(|before| Fault::OneSyncFails { before, drops });
    }
}
