//! Reads fail, end early, or return what does not lie on disk: what is read is right, and nothing is cut.

use std::path::PathBuf;

use taffrail_log::vfs::{Fault, Vfs};
use taffrail_log::{Log, OpenError, ReadError, ReadRequest};
use taffrail_model::{LogId, Offset};

use super::append;
use crate::given::{AppendAll, Given, NO_PRODUCERS, NOW, batch, config, log_id, segment};
use crate::model::Model;

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

/// Three segments of three batches each, and one of another log.
struct Logs {
    given: Given,
    model: Model,
    other: Log,
    other_model: Model,
}

impl Logs {
    fn new() -> Self {
        let mut given = Given::new(1 << 20);
        let mut model = Model::default();
        for base in [0, 9, 18] {
            assert!(append(&mut given, &mut model, 10 + base / 3..13 + base / 3).is_none());
            if base < 18 {
                given.log.roll().expect("it rolls");
            }
        }
        let id = LogId::new(*b"another sixteen!");
        let created = given.directory.create_log(id, "other/0", config(1 << 20), NOW);
        let (mut other, mut other_model) = (created.expect("it is created"), Model::default());
        let batches = [batch(77, 3)];
        let (appended, error) = other.append(&batches, NOW);
        assert!(error.is_none());
        other_model.append(&batches, &appended, other.leader_epoch());
        Self { given, model, other, other_model }
    }

    /// Reads at each offset: what is read is right, and all that is refused lies between `from` and
    /// `to`. Something there is refused, and nothing else goes wrong.
    #[track_caller]
    fn check(&mut self, from: u64, to: u64) {
        let reader = self.given.log.reader();
        let mut refused = 0;
        for at in 0..self.model.end() {
            let limit = reader.end();
            let request = ReadRequest { from: Offset::new(at), limit, bytes_max: 1 };
            match reader.read(&request) {
                Err(ReadError::Io { path, .. } | ReadError::DataLoss { path, .. }) => {
                    assert_eq!(path, segment(from));
                }
                _ => {
                    self.model.check_read(&reader, &request);
                    continue;
                }
            }
            assert!((from..to).contains(&at), "offset {at} is refused");
            refused += 1;
        }
        assert!(refused > 0, "nothing is wrong");
        self.other_model.check_all(&self.other.reader(), 1);
        assert!(append(&mut self.given, &mut self.model, 90..91).is_none(), "appends go on");
    }
}

#[test]
fn a_segment_that_cannot_be_read_takes_no_other_along() {
    let faults: [fn(PathBuf) -> Fault; 3] = [
        |path| Fault::FileFails { path },
        |path| Fault::FileEnds { path, length: 250 },
        |path| Fault::FileLies { path, position: 250, bits: 4 },
    ];
    for (fault, base) in faults.iter().flat_map(|fault| [0, 9, 18].map(|base| (fault, base))) {
        let mut logs = Logs::new();
        logs.given.memory.set_fault(Some(fault(segment(base))));
        logs.check(base, base + 9);
        // It was read wrong, and lies right on the disk.
        logs.given.memory.set_fault(None);
        logs.model.check_all(&logs.given.log.reader(), 1);
    }
}

#[test]
fn a_segment_that_is_cut_beneath_an_open_log_takes_no_other_along() {
    for base in [0, 9, 18] {
        let mut logs = Logs::new();
        let file = logs.given.memory.open(&segment(base)).expect("it is there");
        file.set_length(250).expect("it can be cut");
        logs.check(base, base + 9);
    }
}
