//! Each byte of a directory is flipped, one after another: what is read is right, or is not read.

use std::sync::Arc;

use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::Memory;
use taffrail_log::{Read, ReadError, ReadRequest};
use taffrail_model::Offset;

use crate::given::{
    AppendAll, Given, NO_PRODUCERS, NOW, batch, config, copy, has_ending, log_id, root, try_open,
};
use crate::model::Model;

fn given() -> (Memory, Model) {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    for mark in 1..3 {
        let batches = [batch(mark, 2), batch(mark + 2, 1)];
        let (appended, error) = given.log.append(&batches, NOW);
        assert!(error.is_none());
        model.append(&batches, &appended, given.log.leader_epoch());
        if mark == 1 {
            given.log.roll().expect("it rolls");
        }
    }
    (given.close(), model)
}

/// What became of the records: how many were read; the others were refused.
#[track_caller]
fn read(memory: &Memory, model: &Model) -> Option<u64> {
    let directory = try_open(Arc::new(memory.clone()), root()).ok()?;
    let opened = directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).ok()?;
    let reader = opened.log.reader();
    assert_eq!(reader.end().get(), model.end(), "acknowledged records are forgotten");
    let mut sound = 0;
    let mut from = 0;
    while from < model.end() {
        let limit = Offset::new(model.end());
        let request = ReadRequest { from: Offset::new(from), limit, bytes_max: 1 };
        match reader.read(&request) {
            Ok(Read::Batches { .. }) => {
                let next = model.check_read(&reader, &request);
                sound += next - from;
                from = next;
            }
            Err(ReadError::DataLoss { from: first, to, .. }) => {
                assert!(first.get() == from && first < to, "{first} to {to} at {from}");
                from = to.get();
            }
            other => panic!("at {from}: {other:?}"),
        }
    }
    Some(sound)
}

#[test]
fn no_flipped_byte_makes_a_wrong_record_or_a_panic() {
    let (memory, model) = given();
    assert_eq!(read(&copy(&memory), &model), Some(6));
    for (path, contents) in memory.files() {
        for position in 0..contents.len() {
            for bits in [1 << (position % 8), 0xff] {
                let memory = copy(&memory);
                memory.flip(&path, position, bits).expect("it is there");
                let report = inspect(&memory, root()).expect("it can be inspected");
                let sound = read(&memory, &model);
                assert!(sound == Some(6) || report.worst() == Some(Severity::Damage), "{report:?}");
                let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
                let is_cache = has_ending(&name, "index") || name.starts_with("recovery-points");
                assert!(!is_cache || sound == Some(6), "{name} is a cache: byte {position}");
                let is_segment = has_ending(&name, "log");
                assert!(!is_segment || sound < Some(6), "{name}: byte {position} went unnoticed");
            }
        }
    }
}
