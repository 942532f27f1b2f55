//! One thing goes wrong, at each step of a log's life in turn: whatever is acknowledged stays, whatever
//! is refused is not there, and the log goes on by itself where it may.

use taffrail_log::ReadRequest;
use taffrail_log::vfs::{Fault, Memory};
use taffrail_model::Offset;

use super::append;
use crate::given::{DeleteAll, Given, SEGMENT_HEADER_BYTES, batch, bytes_on_disk};
use crate::model::Model;

/// A segment takes four of the batches.
fn segment_bytes() -> u64 {
    (SEGMENT_HEADER_BYTES + 4 * bytes_on_disk(&batch(10, 3))) as u64
}

/// What a log goes through, and what of it failed.
struct Life {
    given: Given,
    model: Model,
    marks: u64,
    durable: u64,
    failures: Vec<String>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let (given, _) = Given::open(&Memory::new(seed), segment_bytes());
        Self { given, model: Model::default(), marks: 10, durable: 0, failures: Vec::new() }
    }

    /// Appends, rolls, writes checkpoints, indexes and recovery points.
    fn live(&mut self) {
        for step in 0..4 {
            self.append(2);
            self.sync();
            if step % 2 == 0 {
                self.note(self.given.directory.persist_points().err());
            }
            if step == 2 {
                let rolled = self.given.log.roll().err();
                self.note(rolled);
                self.delete();
            }
        }
    }

    /// Deletes what lies before the last segments; after a failure that may have been done or not.
    fn delete(&mut self) {
        let before = self.durable.saturating_sub(9);
        let deleted = self.given.log.delete_before(Offset::new(before));
        self.note(deleted.err());
        self.model.begin_at(self.given.log.reader().start().get());
        self.check();
    }

    fn append(&mut self, batches: u64) {
        let error = append(&mut self.given, &mut self.model, self.marks..self.marks + batches);
        self.marks += batches;
        self.note(error);
        self.check();
    }

    /// All that may be read is right: everything, or after a failed sync what was durable before.
    fn check(&self) {
        let reader = self.given.log.reader();
        if !self.given.log.syncer().is_poisoned() {
            return self.model.check_all(&reader, 1 << 20);
        }
        let (mut from, limit) = (self.model.start, Offset::new(self.durable));
        while from < self.durable {
            let request = ReadRequest { from: Offset::new(from), limit, bytes_max: 1 };
            from = self.model.check_read(&reader, &request);
        }
    }

    fn sync(&mut self) {
        let syncer = self.given.log.syncer();
        self.note(syncer.sync().err());
        assert!(self.durable <= syncer.durable_end().get(), "what is durable stays so");
        self.durable = syncer.durable_end().get();
    }

    fn note(&mut self, failure: Option<impl std::fmt::Display>) {
        self.failures.extend(failure.map(|failure| failure.to_string()));
    }

    /// Ends in order, as far as that goes.
    fn close(mut self) -> Ended {
        let Given { memory, directory, log } = self.given;
        let failures = [
            log.close().err().map(|error| error.to_string()),
            directory.persist_points().err().map(|error| error.to_string()),
        ];
        self.failures.extend(failures.into_iter().flatten());
        let Self { model, marks, durable, failures, .. } = self;
        Ended { memory, model, marks, durable, failures }
    }

    /// Ends as a process does that is killed.
    fn kill(self) -> Ended {
        let Self { given, model, marks, durable, failures } = self;
        Ended { memory: given.kill(), model, marks, durable, failures }
    }
}

/// What is left of a life.
struct Ended {
    memory: Memory,
    model: Model,
    marks: u64,
    durable: u64,
    failures: Vec<String>,
}

impl Ended {
    /// Opens what is there: all that was durable is, and more only as it was appended.
    fn open(self) -> Life {
        let Self { memory, mut model, marks, durable, .. } = self;
        let (given, report) = Given::open(&memory, segment_bytes());
        assert_eq!((report.damage, given.log.read_only()), (vec![], None));
        let end = given.log.end().get();
        assert!(durable <= end, "the log ends at {end}, {durable} was synced");
        model.truncate(end);
        model.begin_at(given.log.reader().start().get());
        model.check_all(&given.log.reader(), 1 << 20);
        Life { given, model, marks, durable: end, failures: Vec::new() }
    }
}

/// Sets each of the faults, until one is so late that it does not come any more. `then` is told what is left while
/// the process lives and nothing goes wrong any more.
#[track_caller]
fn at_each_step(fault: impl Fn(usize) -> Fault, then: impl Fn(&mut Life)) {
    for step in 0.. {
        let mut is_late = true;
        for (seed, closes) in [(1, false), (2, true), (3, false)] {
            let mut life = Life::new(seed);
            life.given.memory.set_fault(Some(fault(step)));
            life.live();
            let ended = if closes {
                life.close()
            } else {
                is_late &= is_yet_to_come(&life);
                life.given.memory.set_fault(None);
                life.failures.clear();
                then(&mut life);
                life.kill()
            };
            ended.memory.set_fault(None);
            // What is found when the process is started again is there after a power loss too.
            let mut ended = ended.open().kill();
            ended.memory = ended.memory.crash(seed);
            let mut life = ended.open();
            life.live();
            assert_eq!(life.failures, [""; 0]);
        }
        if is_late {
            assert!(step > 10, "only {step} steps were tried");
            return;
        }
    }
}

fn is_yet_to_come(life: &Life) -> bool {
    match life.given.memory.fault() {
        Some(Fault::NoRoom { changes_left }) => changes_left > 0,
        fault => fault.is_some(),
    }
}

/// The log takes what comes next, without being opened anew.
#[track_caller]
fn goes_on(life: &mut Life) {
    life.live();
    assert_eq!(life.failures, [""; 0]);
}

#[test]
fn after_one_failed_write_the_log_goes_on() {
    at_each_step(|before| Fault::OneWriteFails { before }, goes_on);
}

#[test]
fn once_there_is_room_again_the_log_goes_on() {
    at_each_step(|changes_left| Fault::NoRoom { changes_left }, goes_on);
}

#[test]
fn after_one_failed_sync_the_log_goes_on_or_is_poisoned_until_it_is_opened_anew() {
    for drops in [false, true] {
        at_each_step(
            |before| Fault::OneSyncFails { before, drops },
            |life| {
                if !life.given.log.syncer().is_poisoned() {
                    return goes_on(life);
                }
                let durable = life.durable;
                life.append(1);
                life.sync();
                assert_eq!(life.failures.len(), 2, "{:?}", life.failures);
                assert_eq!(life.durable, durable, "nothing is published any more");
            },
        );
    }
}

#[test]
fn short_writes_and_interruptions_are_nothing_special() {
    for fault in [
        Fault::WritesShort { bytes_max: 1 },
        Fault::WritesShort { bytes_max: 100 },
        Fault::Interrupts,
    ] {
        let memory = Memory::new(1);
        memory.set_fault(Some(fault));
        let (given, _) = Given::open(&memory, segment_bytes());
        let mut life = Life { given, ..Life::new(1) };
        life.live();
        assert_eq!(life.failures, [""; 0]);
        let mut life = life.kill().open();
        life.live();
        let ended = life.close();
        assert_eq!(ended.failures, [""; 0]);
        ended.open();
    }
}
