//! One file cannot be read while a directory is opened: nothing is cut and nothing forgotten, the log
//! that it belongs to takes nothing or does not open, and when it can be read again all is there.

use std::path::{Path, PathBuf};

use taffrail_log::vfs::{Fault, Memory};
use taffrail_log::{Directory, Log, OpenError, Read, ReadError, ReadRequest};
use taffrail_model::Offset;
use taffrail_model::batch::Batches;

use super::image::{History, Image, images, open, producer_ids_end};
use super::judge::Case;
use super::outcome::Outcome;
use crate::given::{has_ending, is_deep};

/// Opens an image in which something is wrong with one file.
#[track_caller]
fn check(image: &Image, path: &Path, fault: Fault) {
    let _case = Case(format!("{}: {fault:?}", image.name));
    let memory = image.memory.copy();
    let before = segments(&memory);
    memory.set_fault(Some(fault));
    match open(&memory, &image.logs) {
        Ok(directory) => {
            for history in &image.logs {
                check_log(&memory, &directory, history, path);
            }
        }
        Err(error) => {
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }
    assert_eq!(segments(&memory), before, "nothing is cut or moved");
    memory.set_fault(None);
    let sound = open(&image.memory.copy(), &image.logs).expect("it opens");
    let directory = open(&memory, &image.logs).expect("it opens");
    for history in &image.logs {
        let (_, expected) = Outcome::of(&sound, history).expect("it opens");
        let (_, found) = Outcome::of(&directory, history).expect("it opens");
        assert_eq!(found, expected);
    }
}

#[track_caller]
fn check_log(memory: &Memory, directory: &Directory, history: &History, path: &Path) {
    let is_its = path.starts_with(history.path());
    match directory.open_log(history.id, history.config, producer_ids_end()) {
        Ok(opened) => {
            assert_eq!(opened.report.damage, [], "a failed read is not damage");
            if let Some(cause) = opened.log.read_only() {
                assert!(is_its && cause.contains(&path.display().to_string()), "{cause}");
            } else {
                assert_eq!(opened.log.end().get(), history.end());
            }
            let refused = read(&opened.log, history);
            assert!(is_its || refused.is_empty(), "{refused:?}");
            assert!(refused.iter().all(|refused| refused == path), "{refused:?}");
            // Nor is it if reading works again.
            let fault = memory.fault();
            memory.set_fault(None);
            assert_eq!(read(&opened.log, history), [""; 0].map(PathBuf::from));
            memory.set_fault(fault);
        }
        Err(OpenError::Io { path: named, .. }) => assert!(is_its && named == path),
        Err(error) => panic!("{error}"),
    }
}

/// Reads at each offset of a log, where what is read must be right, and returns the files that could
/// not be read.
#[track_caller]
fn read(log: &Log, history: &History) -> Vec<PathBuf> {
    let reader = log.reader();
    let mut refused = Vec::new();
    for from in (0..reader.end().get()).map(Offset::new) {
        // More than there is: what is not known to be on disk is not read, although it may be there.
        let limit = reader.end().advance(100);
        match reader.read(&ReadRequest { from, limit, bytes_max: 1 << 20 }) {
            Ok(Read::Batches { bytes, next }) => {
                assert!(next <= reader.end());
                for found in Batches::received(bytes) {
                    let found = found.expect("what is read are batches");
                    let base = found.header.base_offset.get();
                    history.at(base).expect("it was appended").check(&found);
                }
            }
            Err(ReadError::Io { path, .. }) => refused.push(path),
            other => panic!("at {from}: {other:?}"),
        }
    }
    refused
}

fn segments(memory: &Memory) -> Vec<(PathBuf, Vec<u8>)> {
    let is_segment = |path: &Path| has_ending(path, "log") || has_ending(path, "aside");
    memory.files().into_iter().filter(|(path, _)| is_segment(path)).collect()
}

#[test]
fn a_file_that_cannot_be_read_is_not_taken_for_damaged() {
    // After a power loss there may be something to cut, or offsets to skip.
    for image in images().iter().filter(|image| ["closed", "killed"].contains(&image.name)) {
        for (path, contents) in image.memory.files() {
            check(image, &path, Fault::FileFails { path: path.clone() });
            for length in (0..contents.len()).step_by(if is_deep() { 1 } else { 5 }) {
                check(image, &path, Fault::FileEnds { path: path.clone(), length });
            }
        }
    }
}
