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
    let memory = image.memory.copy();
    let before = memory.files();
    memory.set_fault(Some(fault));
    match open(&memory, &image.logs) {
        Ok(directory) => {
            for history in &image.logs {
                let opened = directory.open_log(history.id, history.config, producer_ids_end());
                match opened {
                    Ok(Opened { log, report }) => {
                        assert_eq!(report.damage, []);
                        let cause = log.read_only().unwrap_or("/data");
                        assert!(cause.contains("/data"), "it names no file: {cause}");
                    }
                    Err(OpenError::Io { path, .. }) => assert!(path.starts_with(root())),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        Err(error) => assert!(error.to_string().contains("/data"), "{error}"),
    }
    check_kept(&before, &memory.files());
    let has_come = match memory.fault() {
        Some(Fault::NoRoom { changes_left }) => changes_left == 0,
        fault => fault.is_none(),
    };
    memory.set_fault(None);
    let sound = open(&image.memory.copy(), &image.logs).expect("it opens");
    let directory = open(&memory, &image.logs).expect("it opens");
    for history in &image.logs {
        let (_, expected) = Outcome::of(&sound, history).expect("it opens");
        let (_, found) = Outcome::of(&directory, history).expect("it opens");
        assert_eq!((found.pieces, found.end), (expected.pieces, expected.end));
        assert!(!found.is_read_only);
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
