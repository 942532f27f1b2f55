//! Power is lost, machines stand still, syncs fail: nothing that was synced is lost or changed, and
//! the log opens again without a person.

use std::path::Path;
use std::sync::Arc;

use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{Directory, DirectoryError, DirectoryOptions, Log, OpenError, Opened};
use taffrail_model::{LeaderEpoch, Offset};

use crate::given::{
    AppendAll, DeleteAll, Given, LABEL, NO_PRODUCERS, NOW, Numbers, batch, config, log_id, root,
    seeds, try_open,
};
use crate::model::Model;

/// A log through many lives.
struct Lives {
    memory: Memory,
    numbers: Numbers,
    segment_bytes: u64,
    /// Everything that may still be there.
    model: Model,
    /// The offset below which everything must be.
    durable: u64,
    /// Where the log begins at the most: what was to be deleted.
    start_max: u64,
    epoch: LeaderEpoch,
    marks: u64,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerLoss,
    Kill,
}

impl Lives {
    fn new(seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        Self {
            memory: Memory::new(numbers.next()),
            segment_bytes: [1, 700, 3_000, 1 << 20][numbers.below(4) as usize],
            numbers,
            model: Model::default(),
            durable: 0,
            start_max: 0,
            epoch: LeaderEpoch::ZERO,
            marks: 0,
        }
    }

    /// Opens what is there; `None` if the machine stood still meanwhile.
    fn open(&mut self, is_whole: bool) -> Option<(Directory, Log)> {
        let directory = match try_open(Arc::new(self.memory.clone()), root()) {
            Ok(directory) => directory,
            Err(error) => return stopped(&error),
        };
        let Opened { log, report } =
            match directory.open_log(log_id(), config(self.segment_bytes), NO_PRODUCERS) {
                Ok(opened) => opened,
                Err(error) => return stopped(&error),
            };
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        if let Some(cause) = log.read_only() {
            // What it could not do may be done next time.
            return stopped(&cause);
        }
        let end = log.end().get();
        assert!(self.durable <= end, "the log ends at {end}, {} was synced", self.durable);
        assert!(!is_whole || end == self.model.end(), "only the process died");
        self.model.truncate(end);
        self.durable = end;
        let start = log.reader().start().get();
        assert!(start <= self.start_max, "{start} was not to be deleted");
        self.model.begin_at(start);
        assert!(self.epoch < log.leader_epoch(), "each opening has an epoch of its own");
        self.epoch = log.leader_epoch();
        Some((directory, log))
    }

    /// Does this and that; whether all of it worked.
    fn live(&mut self, directory: &Directory, mut log: Log, can_read: bool) -> bool {
        let syncer = log.syncer();
        for _ in 0..self.numbers.below(12) {
            let works = match self.numbers.below(11) {
                0..5 => self.append(&mut log),
                5..7 => syncer.sync().map(|end| self.durable = end.get()).is_ok(),
                7 => log.roll().is_ok(),
                8 => directory.persist_points().is_ok(),
                9 => self.delete(&mut log),
                _ if !can_read => true,
                _ => {
                    self.model.check_all(&log.reader(), 600);
                    true
                }
            };
            // An append may roll, and a roll syncs before it fails.
            assert!(self.durable <= syncer.durable_end().get());
            self.durable = syncer.durable_end().get();
            if !works {
                return false;
            }
        }
        if self.numbers.once_in(3) {
            let end = self.model.end();
            if log.close().is_err() {
                return false;
            }
            self.durable = end;
            return self.numbers.once_in(2) || directory.persist_points().is_ok();
        }
        true
    }

    fn append(&mut self, log: &mut Log) -> bool {
        let batches: Vec<_> = (0..=self.numbers.below(3))
            .map(|_| {
                self.marks += 1;
                batch(self.marks, 1 + self.numbers.below(60) as u32)
            })
            .collect();
        let (appended, error) = log.append(&batches, NOW);
        self.model.append(&batches, &appended, log.leader_epoch());
        error.is_none()
    }

    /// Deletes something; after an error it may be gone at the next opening.
    fn delete(&mut self, log: &mut Log) -> bool {
        let before = self.numbers.below(log.end().get() + 1);
        let deleted = log.delete_before(Offset::new(before));
        let start = log.reader().start().get();
        // A segment without batches begins at the end.
        let bases = self.model.batches.iter().map(|batch| batch.base).chain([self.model.end()]);
        let most = bases.filter(|base| *base <= before).max().unwrap_or_default();
        self.start_max = self.start_max.max(most).max(start);
        self.model.begin_at(start);
        deleted.is_ok()
    }

    fn fault(&mut self) -> Option<Fault> {
        match self.numbers.below(10) {
            0..5 => Some(Fault::Stops { changes_left: self.numbers.below(60) as usize }),
            5 => Some(Fault::SyncFails),
            6 => Some(Fault::SyncDrops),
            7 => Some(Fault::DiskFull { bytes_left: self.numbers.below(9_000) as usize }),
            _ => None,
        }
    }
}

/// What could not be done because the machine stood still, and for no other reason.
fn stopped<T>(error: &dyn std::fmt::Display) -> Option<T> {
    assert!(error.to_string().contains("injected"), "without a reason: {error}");
    None
}

fn check(seed: u64) {
    let mut lives = Lives::new(seed);
    let mut is_whole = true;
    for _ in 0..6 {
        let early = lives.numbers.once_in(2);
        let fault = lives.fault();
        if early && matches!(fault, Some(Fault::Stops { .. })) {
            lives.memory.set_fault(fault.clone());
        }
        if let Some((directory, log)) = lives.open(is_whole) {
            is_whole = true;
            lives.memory.set_fault(fault.clone());
            lives.live(&directory, log, !matches!(fault, Some(Fault::Stops { .. })));
        }
        let end = if lives.numbers.once_in(3) { End::Kill } else { End::PowerLoss };
        is_whole &= end == End::Kill && fault != Some(Fault::SyncDrops);
        lives.memory = match end {
            End::Kill => lives.memory,
            End::PowerLoss => lives.memory.crash(lives.numbers.next()),
        };
        lives.memory.set_fault(None);
    }
    let (directory, mut log) = lives.open(is_whole).expect("nothing goes wrong any more");
    lives.model.check_all(&log.reader(), 600);
    assert!(lives.append(&mut log), "appends go on");
    log.syncer().sync().expect("it syncs");
    lives.model.check_all(&log.reader(), 1 << 20);
    drop((directory, log));
}

#[test]
fn crashes_lose_only_what_was_not_synced() {
    for seed in seeds(2_000) {
        check(seed);
    }
}

/// In what `prepare` makes, the machine stands still after each number of changes that `act` makes,
/// then loses power. `act` says whether it came to its end, and `then` is told.
#[track_caller]
fn at_each_change(
    prepare: impl Fn(&Memory),
    act: impl Fn(&Memory) -> bool,
    then: impl Fn(&Memory, bool),
) {
    for changes_left in 0.. {
        let mut ended = false;
        for seed in 0..16 {
            let memory = Memory::new(seed);
            prepare(&memory);
            memory.set_fault(Some(Fault::Stops { changes_left }));
            ended = act(&memory);
            let memory = memory.crash(seed);
            then(&memory, ended);
        }
        if ended {
            assert!(changes_left > 5, "it did something");
            return;
        }
    }
}

fn open(memory: &Memory, init: bool) -> Result<Directory, DirectoryError> {
    let first_logs = [(log_id(), LABEL)];
    let options = DirectoryOptions { path: root(), init, first_logs: &first_logs, now: NOW };
    Directory::open(Arc::new(memory.clone()), &options)
}

#[test]
fn an_interrupted_set_up_is_done_again_without_a_person() {
    // Where there is nothing, and in an empty directory, where one has to say --init.
    for init in [false, true] {
        at_each_change(
            |memory| {
                if init {
                    memory.create_directory(root()).expect("the place is free");
                    memory.sync_directory(Path::new("/")).expect("it syncs");
                }
            },
            |memory| open(memory, init).is_ok(),
            |memory, _| {
                let directory = open(memory, init).expect("it is set up");
                let opened = directory
                    .open_log(log_id(), config(700), NO_PRODUCERS)
                    .expect("the log is there");
                assert_eq!(opened.log.read_only(), None);
            },
        );
    }
}

#[test]
fn a_log_is_created_whole_or_can_be_told_from_one() {
    let other = taffrail_model::LogId::new(*b"another sixteen!");
    at_each_change(
        |memory| drop(open(memory, false).expect("it opens")),
        |memory| {
            let Ok(directory) = open(memory, false) else { return false };
            directory.create_log(other, "other/0", config(700), NOW).is_ok()
        },
        |memory, ended| {
            let directory = open(memory, false).expect("it opens");
            match directory.open_log(other, config(700), NO_PRODUCERS) {
                Ok(opened) => assert_eq!(opened.log.read_only(), None),
                Err(OpenError::Missing { .. }) => assert!(!ended, "it was created"),
                Err(error) => panic!("{error}"),
            }
        },
    );
}

#[test]
fn an_interrupted_deletion_leaves_all_or_nothing_and_can_be_done_again() {
    at_each_change(
        |memory| {
            let (mut given, _) = Given::open(memory, 1);
            let (_, error) = given.log.append(&[batch(1, 3), batch(2, 3), batch(3, 3)], NOW);
            assert!(error.is_none());
            given.close();
        },
        |memory| {
            let Ok(directory) = open(memory, false) else { return false };
            directory.delete_log(log_id()).is_ok()
        },
        |memory, ended| {
            let directory = open(memory, false).expect("it opens");
            match directory.open_log(log_id(), config(700), NO_PRODUCERS) {
                Ok(opened) => {
                    assert!(!ended, "it was deleted");
                    assert_eq!((opened.report.damage, opened.log.end().get()), (vec![], 9));
                }
                Err(OpenError::Missing { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            directory.delete_log(log_id()).expect("it is deleted");
            assert!(directory.logs().expect("it lists").is_empty());
            let files = memory.files();
            assert!(files.iter().all(|(path, _)| !path.to_string_lossy().contains(".deleted")));
            directory.persist_points().expect("they are written");
        },
    );
}

#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_written_again_before_it_counts() {
    for seed in seeds(200) {
        let mut lives = Lives::new(seed);
        let (directory, mut log) = lives.open(true).expect("it opens");
        lives.append(&mut log);
        lives.memory.set_fault(Some(Fault::SyncFails));
        log.syncer().sync().expect_err("the sync fails");
        lives.memory.set_fault(None);
        log.syncer().sync().expect_err("no sync is believed after one that failed");
        drop((directory, log));
        let written = lives.model.end();
        // The process starts anew; the machine did not stop. What it finds it must be able to keep.
        let (directory, log) = lives.open(true).expect("it opens");
        assert_eq!(log.syncer().durable_end().get(), written);
        drop((directory, log));
        lives.memory = lives.memory.crash(seed);
        lives.open(true).expect("it opens");
    }
}
