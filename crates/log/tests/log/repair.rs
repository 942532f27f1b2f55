//! Repair: what is lost becomes a gap, all else stays, the log takes appends again, and what was there is
//! kept. Interrupted anywhere, it can be told again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_log::repair::{Repair, RepairError};
use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{DirectoryError, Known, OpenError, Read, ReadRequest, SequenceError};
use taffrail_model::batch::Batches;
use taffrail_model::{Gap, GapReason, LogId, ProducerEpoch, ProducerId, ProducerStamp, Sequence};

use crate::given::{
    AppendAll, Given, LABEL, NOW, SEGMENT_HEADER_BYTES, batch, bytes_on_disk, config, log_id,
    log_path, root, segment, settled, try_open, wreck,
};

/// Three segments of four batches each, of 3 records each; the last one is active. Cleanly closed.
pub(crate) fn given() -> Memory {
    let mut given = Given::new(1 << 20);
    for segment in 0..3 {
        let batches: Vec<_> = (0..4).map(|index| batch(10 + 10 * segment + index, 3)).collect();
        let (_, error) = given.log.append(&batches, NOW);
        assert!(error.is_none());
        if segment < 2 {
            given.log.roll().expect("it rolls");
        }
    }
    settled(&given.close())
}

/// Where the batch with this index begins in its segment; all are of one size.
pub(crate) fn position(index: usize) -> usize {
    SEGMENT_HEADER_BYTES + index * bytes_on_disk(&batch(10, 3))
}

pub(crate) fn flip(memory: &Memory, base: u64, position: usize) {
    memory.flip(&segment(base), position, 0x10).expect("it is there");
}

pub(crate) fn cut(memory: &Memory, base: u64, length: usize) {
    let file = memory.open(&segment(base)).expect("it is there");
    file.set_length(length as u64).expect("it can be cut");
    file.sync_data().expect("it syncs");
}

pub(crate) fn remove(memory: &Memory, base: u64) {
    memory.remove_file(&segment(base)).expect("it is there");
}

/// Makes durable what was removed.
pub(crate) fn settle(memory: &Memory) {
    // The log itself may be what was removed.
    let _ = memory.sync_directory(&log_path());
    memory.sync_directory(&root().join("logs")).expect("it syncs");
}

pub(crate) fn quarantine(number: u32) -> PathBuf {
    root().join(format!("logs/{}.quarantine-{number}", log_id()))
}

fn beside(ending: &str) -> PathBuf {
    root().join(format!("logs/{}{ending}", log_id()))
}

pub(crate) fn hold(memory: &Memory) -> Repair {
    Repair::hold(Arc::new(memory.clone()), root()).expect("nobody uses it")
}

/// Accepts what the log has lost.
pub(crate) fn accept_loss(memory: &Memory) -> Result<(), RepairError> {
    let repair = Repair::hold(Arc::new(memory.clone()), root())?;
    let plan = repair.plan(log_id(), "")?;
    repair.accept_loss(&plan)
}

/// The files of a directory: their names and what tells their contents from others.
pub(crate) fn files_of(memory: &Memory, directory: &Path) -> Vec<(PathBuf, u64)> {
    let files = memory.files().into_iter();
    let inside = files.filter_map(|(path, contents)| {
        let name = path.strip_prefix(directory).ok()?.to_owned();
        let mut hasher = DefaultHasher::new();
        contents.hash(&mut hasher);
        Some((name, hasher.finish()))
    });
    inside.collect()
}

/// Reads a log through: the base offsets of its batches and its gaps.
#[track_caller]
pub(crate) fn read_through(given: &Given) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (reader, limit) = (given.log.reader(), given.log.end());
    let (mut bases, mut gaps) = (Vec::new(), Vec::new());
    let mut from = reader.start();
    loop {
        match reader.read(&ReadRequest { from, limit, bytes_max: 1 }).expect("nothing is damaged") {
            Read::End => return (bases, gaps),
            Read::Gap(Gap { from: first, to, reason }) => {
                assert_eq!((first, reason), (from, GapReason::Quarantine));
                gaps.push((first.get(), to.get()));
                from = to;
            }
            Read::Batches { bytes, next } => {
                let batches = Batches::received(bytes).map(|batch| batch.expect("a batch"));
                let headers: Vec<_> = batches.map(|batch| batch.header).collect();
                assert!(headers.iter().all(|header| header.end_offset() > from));
                bases.extend(headers.iter().map(|header| header.base_offset.get()));
                from = next;
            }
        }
    }
}

/// Damages a log by `change`, accepts the loss, and checks what is left: the offsets of `lost` are gaps,
/// all other batches are there, it ends at `end`, appends go on, and inspection is content.
#[track_caller]
fn check(change: impl Fn(&Memory), lost: &[(u64, u64)], end: u64) {
    let memory = given();
    change(&memory);
    settle(&memory);
    let before = files_of(&memory, &log_path());
    let repair = Repair::look(Arc::new(memory.clone()), root()).expect("it is one");
    let plan = repair.plan(log_id(), "").expect("something is wrong");
    let planned: Vec<_> = plan.lost.iter().map(|lost| (lost.from.get(), lost.to.get())).collect();
    assert_eq!((&planned[..], plan.end.get()), (lost, end));
    assert_eq!(files_of(&memory, &log_path()), before, "to look changes nothing");

    accept_loss(&memory).expect("it is repaired");
    if !before.is_empty() {
        assert_eq!(files_of(&memory, &quarantine(1)), before, "all of it is kept");
    }
    // What is kept does not change with what becomes of the log.
    check_repaired(&memory, lost, end);
    let memory = memory.crash(5);
    check_repaired(&memory, lost, end + 3);
    assert_eq!(files_of(&memory, &quarantine(1)), before);
    assert!(matches!(accept_loss(&memory), Err(RepairError::Sound { .. })));
}

#[track_caller]
pub(crate) fn check_repaired(memory: &Memory, lost: &[(u64, u64)], end: u64) {
    let report = inspect(memory, root()).expect("it can be inspected");
    assert!(report.worst() <= Some(Severity::Note), "{report:#?}");
    let (mut given, report) = Given::open(memory, 1 << 20);
    assert_eq!((report.damage, report.moved_aside), (vec![], vec![]));
    assert_eq!((given.log.end().get(), given.log.read_only()), (end, None));
    let is_lost = |base: &u64| lost.iter().any(|(from, to)| from <= base && base < to);
    let expected: Vec<_> = (0..end).step_by(3).filter(|base| !is_lost(base)).collect();
    assert_eq!(read_through(&given), (expected, lost.to_vec()));
    let (appended, error) = given.log.append(&[batch(77, 3)], NOW);
    assert!(error.is_none());
    assert_eq!(appended.first().map(|placed| placed.base_offset.get()), Some(end));
    given.close();
}

#[test]
fn a_hole_becomes_a_gap_and_all_else_stays() {
    check(|memory| flip(memory, 0, position(0) + 95), &[(0, 3)], 36);
    check(|memory| flip(memory, 0, position(2) + 20), &[(6, 9)], 36);
    check(|memory| flip(memory, 12, position(3) + 95), &[(21, 24)], 36);
    check(|memory| flip(memory, 24, position(1) + 95), &[(27, 30)], 36);
    check(
        |memory| {
            flip(memory, 12, position(1) + 95);
            flip(memory, 12, position(3) + 20);
            flip(memory, 24, position(0) + 95);
        },
        &[(15, 18), (21, 27)],
        36,
    );
}

#[test]
fn what_is_missing_becomes_a_gap() {
    check(|memory| remove(memory, 0), &[(0, 12)], 36);
    check(|memory| remove(memory, 12), &[(12, 24)], 36);
    check(|memory| wreck(memory, 0), &[(0, 12)], 36);
    check(|memory| wreck(memory, 12), &[(12, 24)], 36);
    check(|memory| cut(memory, 12, position(1) + 7), &[(15, 24)], 36);
    check(
        |memory| {
            remove(memory, 0);
            remove(memory, 12);
        },
        &[(0, 24)],
        36,
    );
}

#[test]
fn a_log_that_lost_its_end_goes_on_at_the_recovery_point() {
    check(|memory| remove(memory, 24), &[(24, 36)], 36);
    check(|memory| wreck(memory, 24), &[(24, 36)], 36);
    check(|memory| cut(memory, 24, position(2) + 7), &[(30, 36)], 36);
    check(|memory| flip(memory, 24, position(3) + 95), &[(33, 36)], 36);
    check(|memory| [0, 12, 24].into_iter().for_each(|base| remove(memory, base)), &[(0, 36)], 36);
    check(|memory| memory.remove_directory(&log_path()).expect("it is there"), &[(0, 36)], 36);
}

#[test]
fn a_damaged_header_is_written_anew_and_nothing_is_lost() {
    for base in [0, 12, 24] {
        check(|memory| flip(memory, base, 17), &[], 36);
    }
}

#[test]
fn sealed_segments_that_nothing_is_missing_in_are_not_copied() {
    let memory = given();
    flip(&memory, 24, position(1) + 95);
    accept_loss(&memory).expect("it is repaired");
    // The same file under another name: what is written to one is seen in the other.
    memory.flip(&segment(0), 3, 1).expect("it is there");
    let kept = quarantine(1).join(segment(0).file_name().expect("it has one"));
    let contents = |path: &PathBuf| {
        memory.files().into_iter().find(|(found, _)| found == path).expect("it is there").1
    };
    assert_eq!(contents(&kept), contents(&segment(0)));
    let growing = quarantine(1).join(segment(24).file_name().expect("it has one"));
    memory.flip(&segment(24), 3, 1).expect("it is there");
    assert_ne!(contents(&growing)[3], contents(&segment(24))[3], "what grows is a file of its own");
}

#[test]
fn a_repair_without_room_leaves_everything_as_it_was() {
    let memory = given();
    flip(&memory, 12, position(1) + 95);
    let before = files_of(&memory, root());
    memory.set_fault(Some(Fault::DiskFull { bytes_left: 300 }));
    assert!(matches!(accept_loss(&memory), Err(RepairError::Io { .. })));
    memory.set_fault(None);
    let unchanged = |mut files: Vec<(PathBuf, u64)>| {
        files.retain(|(path, ..)| !path.ends_with("lock"));
        files
    };
    assert_eq!(unchanged(files_of(&memory, root())), unchanged(before));
    accept_loss(&memory).expect("now there is");
    check_repaired(&memory, &[(15, 18)], 36);
}

#[test]
fn what_is_not_to_be_repaired_is_refused() {
    let memory = given();
    assert!(matches!(accept_loss(&memory), Err(RepairError::Sound { .. })));
    // A torn tail is the next start's.
    let file = memory.open(&segment(24)).expect("it is there");
    file.write_at(file.length().expect("it has one"), &[7; 99]).expect("there is room");
    assert!(matches!(accept_loss(&memory), Err(RepairError::Sound { .. })));
    let other = LogId::new(*b"another sixteen!");
    assert!(matches!(hold(&memory).plan(other, ""), Err(RepairError::NotThere { .. })));
    assert!(matches!(hold(&memory).remove(other), Err(RepairError::NotThere { .. })));
    let directory = try_open(Arc::new(memory.clone()), root()).expect("it opens");
    let is_locked = |opened: &Result<Repair, RepairError>| {
        matches!(opened, Err(RepairError::Directory(DirectoryError::Locked { .. })))
    };
    let held = Repair::hold(Arc::new(memory.clone()), root());
    assert!(is_locked(&held));
    let looked = Repair::look(Arc::new(memory.clone()), root());
    assert!(is_locked(&looked));
    drop(directory.create_log(other, "other/0", config(1 << 20), NOW).expect("it is created"));
    drop(directory);
    let foreign = beside("").with_file_name(other.to_string()).join("00000000000000000000.log");
    memory.rename(&foreign, &segment(36)).expect("it is there");
    assert!(matches!(accept_loss(&memory), Err(RepairError::Misplaced { .. })));
    memory.remove_file(&root().join("identity")).expect("it is there");
    let lost = Repair::look(Arc::new(memory.clone()), root());
    assert!(matches!(lost, Err(RepairError::NotOne { .. })));
}

#[test]
fn a_log_that_is_removed_is_kept() {
    let memory = given();
    let files = files_of(&memory, &log_path());
    hold(&memory).remove(log_id()).expect("it is there");
    assert_eq!(files_of(&memory, &log_path()), []);
    let kept = root().join("removed").join(log_id().to_string());
    assert_eq!(files_of(&memory.crash(3), &kept), files);
    // Another one of that name has a place of its own.
    let again = given();
    hold(&again).remove(log_id()).expect("it is there");
    let (_, opened) = Given::try_open_log(&again, 1 << 20);
    assert!(matches!(opened, Err(OpenError::Missing { .. })));
}

/// A batch of an idempotent producer.
fn stamped(id: u64, sequence: u32) -> taffrail_log::NewBatch {
    let producer = Some(ProducerStamp {
        id: ProducerId::new(id).expect("not 0"),
        epoch: ProducerEpoch::ZERO,
        sequence: Sequence::new(sequence),
    });
    taffrail_log::NewBatch { producer, ..batch(u64::from(sequence), 3) }
}

/// Producers 5 and 7 have sent; the batch of 5 is lost, with what remembers it.
fn with_a_lost_producer() -> Memory {
    let mut given = Given::new(1 << 20);
    let (_, error) = given.log.append(&[stamped(5, 0), stamped(7, 0)], NOW);
    assert!(error.is_none());
    let memory = given.close();
    flip(&memory, 0, position(0) + 95);
    for name in ["producers.a", "producers.b"] {
        let _ = memory.remove_file(&log_path().join(name));
    }
    memory
}

#[test]
fn whoever_may_have_sent_what_is_lost_is_not_taken_for_somebody_new() {
    // Producers below 100 were made.
    let memory = with_a_lost_producer();
    accept_loss(&memory).expect("it is repaired");
    for _ in 0..2 {
        let directory = try_open(Arc::new(memory.clone()), root()).expect("it opens");
        let ids_end = ProducerId::new(100).expect("not 0");
        let opened = directory.open_log(log_id(), config(1 << 20), ids_end).expect("it opens");
        let mut log = opened.log;
        let mut append = log.begin(NOW);
        let unknown = append.find(&stamped(5, 0));
        assert!(matches!(unknown, Err(SequenceError::Unknown { .. })), "{unknown:?}");
        assert!(matches!(append.find(&stamped(7, 0)), Ok(Known::Duplicate { .. })));
        assert_eq!(append.find(&stamped(100, 0)), Ok(Known::New));
        drop(append);
        log.close().expect("it closes");
        directory.persist_points().expect("they are written");
    }
}

#[test]
fn once_it_is_known_how_many_producers_there_were_later_ones_are_new() {
    let memory = with_a_lost_producer();
    let find = |ids_end: ProducerId, id| {
        let directory = try_open(Arc::new(memory.clone()), root()).expect("it opens");
        let opened = directory.open_log(log_id(), config(1 << 20), ids_end).expect("it opens");
        let mut log = opened.log;
        let found = log.begin(NOW).find(&stamped(id, 0));
        log.close().expect("it closes");
        directory.persist_points().expect("they are written");
        found
    };
    // Nobody knows how many were made: nobody is new.
    let is_unknown = |found| matches!(found, Err(SequenceError::Unknown { .. }));
    assert!(is_unknown(find(ProducerId::LAST, 100)));
    assert!(is_unknown(find(ProducerId::new(100).expect("not 0"), 99)));
    assert_eq!(find(ProducerId::new(200).expect("not 0"), 100), Ok(Known::New));
}

#[test]
fn offsets_that_may_have_been_read_are_not_given_out_again() {
    let mut given = Given::new(1 << 20);
    let reserving = taffrail_log::LogConfig { reserves_offsets: true, ..config(1 << 20) };
    given.log.configure(reserving).expect("it reserves");
    let (_, error) = given.log.append(&[batch(1, 3), batch(2, 3)], NOW);
    assert!(error.is_none());
    given.log.syncer().sync().expect("it syncs");
    given.directory.persist_points().expect("they are written");
    let memory = given.kill();
    cut(&memory, 0, position(1) + 7);
    accept_loss(&memory).expect("it is repaired");
    let (given, report) = Given::open(&memory, 1 << 20);
    assert_eq!((report.damage, given.log.read_only()), (vec![], None));
    assert!(1 << 20 <= given.log.end().get(), "{} may have been read", given.log.end());
    assert_eq!(read_through(&given), (vec![0], vec![(3, given.log.end().get())]));
}

#[test]
fn a_log_that_is_replaced_goes_on_behind_the_old_one() {
    let memory = given();
    flip(&memory, 24, position(3) + 95);
    hold(&memory).replace(log_id(), LABEL, &[batch(50, 3)], NOW).expect("it is replaced");
    let (given, report) = Given::open(&memory, 1 << 20);
    assert_eq!(report.damage, vec![]);
    assert_eq!(read_through(&given), (vec![36], vec![(0, 36)]));
    assert!(!files_of(&memory, &quarantine(1)).is_empty());
}
