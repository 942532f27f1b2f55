//! Offsets that may have been read before they were synced are never given out twice.

use std::path::Path;
use std::sync::Arc;

use taffrail_log::vfs::{Fault, Memory};
use taffrail_log::{LogConfig, OpenError, Opened, Read, ReadRequest, RecoveryReport};
use taffrail_model::{Gap, GapReason, Timestamp, limits};

use crate::given::{
    AppendAll, Given, NO_PRODUCERS, NOW, SEGMENT_HEADER_BYTES, batch, log_id, root, segment,
    try_open,
};

fn config() -> LogConfig {
    LogConfig { reserves_offsets: true, ..LogConfig::default() }
}

fn open(memory: &Memory) -> (Given, RecoveryReport) {
    let (mut given, report) = Given::open(memory, config().segment_bytes);
    given.log.configure(config()).expect("it is configured");
    (given, report)
}

/// Appends so many records in one batch, and returns the offset of the first.
#[track_caller]
fn append(given: &mut Given, records: u32) -> u64 {
    let (appended, error) = given.log.append(&[batch(1, records)], NOW);
    assert!(error.is_none(), "{error:?}");
    appended[0].base_offset.get()
}

#[test]
fn a_power_loss_skips_what_may_have_been_given_out() {
    for seed in 0..50 {
        let (mut given, _) = open(&Memory::new(seed));
        append(&mut given, 10);
        given.log.syncer().sync().expect("it syncs");
        append(&mut given, 10);
        let (mut given, report) = open(&given.kill().crash(seed));
        let gap = report.skipped.expect("offsets are skipped");
        assert!([10, 20].contains(&gap.from.get()), "{gap:?}");
        assert_eq!((gap.reason, gap.to), (GapReason::PowerLoss, given.log.end()));
        assert_eq!(append(&mut given, 10), gap.to.get());
        given.log.syncer().sync().expect("it syncs");

        let request = ReadRequest { from: gap.from, limit: given.log.end(), bytes_max: 1 };
        assert!(matches!(given.log.reader().read(&request), Ok(Read::Gap(found)) if found == gap));
        let behind = ReadRequest { from: gap.to, ..request };
        assert!(matches!(given.log.reader().read(&behind), Ok(Read::Batches { .. })));

        // The gap is there for good; and what is lost before anything was appended is nothing.
        let (given, report) = open(&given.kill().crash(seed));
        let end = gap.to.advance(10);
        assert_eq!(report.skipped.map(|gap| gap.from), Some(end));
        assert!(matches!(given.log.reader().read(&request), Ok(Read::Gap(found)) if found == gap));
        let next = given.log.end();
        let (given, report) = open(&given.kill().crash(seed));
        let expected = Gap { from: next, to: given.log.end(), reason: GapReason::PowerLoss };
        assert!(report.skipped.is_none_or(|gap| gap == expected), "{report:?}");
    }
}

#[test]
fn a_process_that_is_killed_skips_nothing() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 10);
    let (mut given, report) = open(&given.kill());
    assert_eq!((report.skipped, append(&mut given, 10)), (None, 10));
}

#[test]
fn a_clean_stop_before_the_power_goes_skips_nothing() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 10);
    let (mut given, report) = open(&given.close().crash(1));
    assert_eq!((report.skipped, append(&mut given, 10)), (None, 10));
}

#[test]
fn a_power_loss_is_remembered_until_the_log_is_opened() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 10);
    let memory = given.kill().crash(1);
    // A process that is killed before it came to open this log.
    let directory = try_open(Arc::new(memory.clone()), root());
    drop(directory.expect("the directory opens"));
    let (_, report) = open(&memory);
    assert_eq!(report.skipped.map(|gap| gap.reason), Some(GapReason::PowerLoss));
}

/// Flips a byte of what a broker left that was killed, kills whoever opens it next after each number
/// of changes, and checks that no offset below `read` is given out again.
fn check_never_again(left: impl Fn() -> Memory, file: &Path, position: usize, read: u64) {
    for changes_left in 0.. {
        let memory = left();
        memory.flip(file, position, 1).expect("it is there");
        let directory = try_open(Arc::new(memory.clone()), root()).expect("the directory opens");
        memory.set_fault(Some(Fault::Stops { changes_left }));
        let opened = directory.open_log(log_id(), config(), NO_PRODUCERS);
        let is_done = opened.is_ok_and(|opened| opened.log.read_only().is_none());
        memory.set_fault(None);
        drop(directory);

        let (mut given, _) = open(&memory);
        let next = append(&mut given, 10);
        assert!(read <= next, "killed after {changes_left} changes: offset {next} was read before");
        if is_done {
            return;
        }
    }
}

#[test]
fn a_torn_end_that_is_cut_off_is_skipped_by_whoever_comes_next() {
    let left = || {
        let (mut given, _) = open(&Memory::new(1));
        append(&mut given, 10);
        given.log.syncer().sync().expect("it syncs");
        append(&mut given, 10);
        given.kill()
    };
    let files = left().files();
    let (_, bytes) = files.iter().find(|(path, _)| *path == segment(0)).expect("its file");
    check_never_again(left, &segment(0), bytes.len() - 1, 20);
}

#[test]
fn a_last_segment_that_is_moved_aside_is_skipped_by_whoever_comes_next() {
    let left = || {
        let (mut given, _) = open(&Memory::new(1));
        append(&mut given, 10);
        given.log.roll().expect("it rolls");
        append(&mut given, 10);
        given.kill()
    };
    check_never_again(left, &segment(10), 20, 20);
}

#[test]
fn a_failed_sync_skips_what_may_have_been_given_out() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 10);
    given.memory.set_fault(Some(Fault::SyncDrops));
    given.log.syncer().sync().expect_err("it does not sync");
    given.memory.set_fault(None);
    given.directory.persist_points().expect("the points are written");
    let (given, report) = open(&given.kill());
    assert_eq!(report.skipped.map(|gap| gap.to), Some(given.log.end()));
}

#[test]
fn offsets_are_reserved_in_steps_ahead_of_their_use() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 10);
    let changes = |given: &Given| given.memory.files();
    let before = changes(&given);
    append(&mut given, 10);
    let points = |files: &[(std::path::PathBuf, Vec<u8>)]| {
        let is_points = |path: &std::path::Path| path.ends_with("recovery-points.a");
        files.iter().find(|(path, _)| is_points(path)).expect("there are points").1.clone()
    };
    assert_eq!(points(&before), points(&changes(&given)), "what is reserved suffices");
    let half = u32::try_from(limits::RESERVED_OFFSETS / 2).expect("it fits");
    append(&mut given, half);
    let next = given.log.end();
    let (given, report) = open(&given.kill().crash(1));
    let gap = report.skipped.expect("offsets are skipped");
    assert!(gap.to >= next.advance(limits::RESERVED_OFFSETS / 2), "{gap:?}");
    assert_eq!(given.log.end(), gap.to);
}

#[test]
fn without_room_to_reserve_nothing_is_appended() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 1);
    given.memory.set_fault(Some(Fault::SyncFails));
    let more = u32::try_from(limits::RESERVED_OFFSETS).expect("it fits") + 10;
    let (appended, error) = given.log.append(&[batch(1, more)], NOW);
    assert!(appended.is_empty() && error.is_some(), "{error:?}");
    given.memory.set_fault(None);
    assert_eq!(append(&mut given, 1), 1);
}

#[test]
fn a_log_that_cannot_begin_to_reserve_stays_as_it_was() {
    let (mut given, _) = Given::open(&Memory::new(1), 1 << 20);
    append(&mut given, 1);
    given.memory.set_fault(Some(Fault::SyncFails));
    given.log.configure(config()).expect_err("nothing is reserved");
    given.memory.set_fault(None);
    assert_eq!(append(&mut given, 1), 1);
    let (given, report) = open(&given.kill().crash(1));
    assert_eq!(report.skipped, None, "nobody can have read what was not synced");
    drop(given);
}

#[test]
fn a_power_loss_is_remembered_while_the_log_can_only_be_read() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 10);
    given.log.syncer().sync().expect("it syncs");
    given.directory.persist_points().expect("the points are written");
    append(&mut given, 10);
    let memory = given.kill().crash(1);
    let damage = || memory.flip(&segment(0), SEGMENT_HEADER_BYTES + 100, 1).expect("it is there");
    damage();
    let (given, report) = open(&memory);
    assert!(given.log.read_only().is_some() && report.skipped.is_none(), "{report:?}");
    // A person restores the file. The machine has not been started again since.
    let memory = given.kill();
    damage();
    let (mut given, report) = open(&memory);
    let gap = report.skipped.expect("offsets are skipped");
    assert_eq!(append(&mut given, 1), gap.to.get());
}

#[test]
fn append_times_do_not_fall_behind_skipped_offsets() {
    let (mut given, _) = open(&Memory::new(1));
    append(&mut given, 10);
    given.log.syncer().sync().expect("it syncs");
    let (given, report) = open(&given.kill().crash(1));
    assert!(report.skipped.is_some());
    // Stopped before the first append, and the clock went back.
    let (mut given, _) = open(&given.kill());
    let (appended, _) = given.log.append(&[batch(2, 1)], Timestamp::from_millis(5));
    assert_eq!(appended[0].append_time, NOW);
}

/// Where a log ends, whether offsets were skipped before that, and why it takes nothing.
fn outcome(opened: Result<Opened, OpenError>) -> (u64, bool, Option<String>) {
    let Opened { log, report } = opened.expect("it opens");
    (log.end().get(), report.skipped.is_some(), log.read_only().map(str::to_owned))
}

#[test]
fn after_an_opening_that_failed_the_next_one_is_as_after_a_restart() {
    let (mut given, _) = open(&Memory::new(0));
    for _ in 0..4 {
        append(&mut given, 5);
    }
    let memory = given.kill();
    let (_, bytes) = memory.files().into_iter().find(|(path, _)| *path == segment(0)).expect("it");
    memory.flip(&segment(0), bytes.len() - 3, 0xff).expect("its last batch is damaged");
    let mut failed = 0;
    for before in 0..30 {
        for fault in [
            Fault::OneSyncFails { before, drops: false },
            Fault::OneSyncFails { before, drops: true },
            Fault::OneWriteFails { before },
            Fault::Stops { changes_left: before },
        ] {
            let memory = memory.copy();
            let directory = try_open(Arc::new(memory.clone()), root()).expect("it opens");
            memory.set_fault(Some(fault));
            let opened = directory.open_log(log_id(), config(), NO_PRODUCERS);
            memory.set_fault(None);
            if opened.is_ok_and(|opened| opened.log.read_only().is_none()) {
                continue;
            }
            failed += 1;
            let restarted = try_open(Arc::new(memory.copy()), root()).expect("it opens");
            let restarted = outcome(restarted.open_log(log_id(), config(), NO_PRODUCERS));
            let again = outcome(directory.open_log(log_id(), config(), NO_PRODUCERS));
            assert_eq!(again, restarted, "{before}");
            assert!(20 < again.0, "what was cut off may have been read: {again:?}");
        }
    }
    assert!(failed > 20, "{failed} openings failed");
}
