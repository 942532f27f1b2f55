//! Damage where everything was on disk: it is named exactly, what is sound is served, and nothing
//! is deleted.

use std::path::PathBuf;

use taffrail_log::vfs::{Memory, Vfs};
use taffrail_log::{AppendError, LogReader, OpenError, Read, ReadError, ReadRequest};
use taffrail_model::batch::{BatchHeader, BatchKind, Compression, Salt, records_crc};
use taffrail_model::{LogId, Offset};

use crate::given::{
    AppendAll, Given, NOW, NewRecord, SEGMENT_HEADER_BYTES, batch, batch_of, bytes_on_disk, config,
    has_ending, root, segment, wreck,
};
use crate::model::Model;

/// Three segments of four batches each, of 3 records each; the last one is active. Cleanly closed.
fn given() -> (Memory, Model) {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    for segment in 0..3 {
        let batches: Vec<_> = (0..4).map(|index| batch(10 + 10 * segment + index, 3)).collect();
        let (appended, error) = given.log.append(&batches, NOW);
        assert!(error.is_none());
        model.append(&batches, &appended, given.log.leader_epoch());
        if segment < 2 {
            given.log.roll().expect("it rolls");
        }
    }
    (given.close(), model)
}

/// Where the batch with this index begins in its segment; all are of one size.
fn position(index: usize) -> usize {
    SEGMENT_HEADER_BYTES + index * bytes_on_disk(&batch(10, 3))
}

/// Opens the log and reads it through. `lost` are the ranges that cannot be read, in order.
#[track_caller]
fn check(memory: &Memory, model: &Model, lost: &[(u64, u64)], read_only: bool) {
    let before = segments(memory);
    // The second time nothing is marked clean.
    for _ in 0..2 {
        let (mut given, report) = Given::open(memory, 1 << 20);
        assert_eq!(given.log.end().get(), model.end(), "no offset is given out again");
        assert_eq!(given.log.read_only().is_some(), read_only, "{:?}", given.log.read_only());
        assert_eq!(report.moved_aside, Vec::<PathBuf>::new());
        for bytes_max in [1, 300, 1 << 20] {
            assert_eq!(read_through(&given.log.reader(), model, bytes_max), lost);
        }
        if read_only {
            let (appended, error) = given.log.append(&[batch(99, 1)], NOW);
            assert!(appended.is_empty() && matches!(error, Some(AppendError::ReadOnly { .. })));
            assert!(matches!(given.log.roll(), Err(AppendError::ReadOnly { .. })));
        }
        assert_eq!(segments(memory), before, "nothing is deleted or changed");
    }
}

/// Reads everything that can be read, and returns what cannot.
#[track_caller]
fn read_through(reader: &LogReader, model: &Model, bytes_max: usize) -> Vec<(u64, u64)> {
    let mut lost = Vec::new();
    let mut from = 0;
    while from < model.end() {
        let limit = Offset::new(model.end());
        let request = ReadRequest { from: Offset::new(from), limit, bytes_max };
        match reader.read(&request) {
            Err(ReadError::DataLoss { from: first, to, .. }) => {
                assert_eq!(first.get(), from, "{request:?}");
                assert!(first < to, "{request:?}: {first} to {to}");
                lost.push((first.get(), to.get()));
                from = to.get();
            }
            Err(error) => panic!("{request:?}: {error}"),
            Ok(Read::End | Read::Gap(_)) => panic!("{request:?}: there are no records"),
            Ok(Read::Batches { .. }) => from = model.check_read(reader, &request),
        }
    }
    lost
}

fn segments(memory: &Memory) -> Vec<(PathBuf, Vec<u8>)> {
    memory.files().into_iter().filter(|(path, _)| has_ending(path, "log")).collect()
}

fn flip(memory: &Memory, base: u64, position: usize) {
    memory.flip(&segment(base), position, 0x10).expect("it is there");
}

fn cut(memory: &Memory, base: u64, length: usize) {
    let file = memory.open(&segment(base)).expect("it is there");
    file.set_length(length as u64).expect("it can be cut");
}

#[test]
fn without_damage_nothing_is_lost() {
    let (memory, model) = given();
    check(&memory, &model, &[], false);
}

#[test]
fn a_damaged_batch_loses_exactly_its_records() {
    let (memory, model) = given();
    // A byte of the length, of the CRC, of the base offset, of the payload's length, of the payload.
    for byte in [1, 6, 12, 86, 89, 95] {
        for (base, index) in [(0, 0), (0, 2), (12, 3), (24, 0), (24, 2)] {
            let memory = memory.copy();
            flip(&memory, base, position(index) + byte);
            let from = base + 3 * index as u64;
            check(&memory, &model, &[(from, from + 3)], false);
        }
    }
}

/// Reads at `from`, which must be refused, and returns file and position of what is wrong.
#[track_caller]
fn place(memory: &Memory, from: u64) -> (PathBuf, u64) {
    let (given, _) = Given::open(memory, 1 << 20);
    let (from, limit) = (Offset::new(from), Offset::new(36));
    match given.log.reader().read(&ReadRequest { from, limit, bytes_max: 1 }) {
        Err(ReadError::DataLoss { path, position, .. }) => (path, position),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refused_read_names_the_file_and_the_place() {
    let (memory, _) = given();
    flip(&memory, 0, position(2) + 95);
    wreck(&memory, 12);
    flip(&memory, 24, position(3) + 20);
    assert_eq!(place(&memory, 6), (segment(0), position(2) as u64));
    assert_eq!(place(&memory, 13), (segment(12), 0));
    assert_eq!(place(&memory, 34), (segment(24), position(3) as u64));
    let (memory, _) = given();
    cut(&memory, 12, position(3));
    cut(&memory, 24, position(3));
    assert_eq!(place(&memory, 22), (segment(12), position(3) as u64));
    assert_eq!(place(&memory, 34), (segment(24), position(3) as u64));
}

#[test]
fn damage_in_two_places_is_two_ranges() {
    let (memory, model) = given();
    flip(&memory, 0, position(1) + 100);
    flip(&memory, 0, position(3) + 20);
    flip(&memory, 24, position(1) + 20);
    check(&memory, &model, &[(3, 6), (9, 12), (27, 30)], false);
}

#[test]
fn damage_at_the_very_end_makes_the_log_read_only() {
    for byte in [20, 95] {
        let (memory, model) = given();
        flip(&memory, 24, position(3) + byte);
        check(&memory, &model, &[(33, 36)], true);
    }
    for length in [position(3) + 50, position(3)] {
        let (memory, model) = given();
        cut(&memory, 24, length);
        check(&memory, &model, &[(33, 36)], true);
    }
}

#[test]
fn a_sealed_segment_that_is_cut_short_loses_its_end() {
    for length in [position(3) + 50, position(3), position(2) + 3] {
        let (memory, model) = given();
        cut(&memory, 12, length);
        let from = if length < position(3) { 18 } else { 21 };
        check(&memory, &model, &[(from, 24)], false);
    }
}

#[test]
fn a_segment_that_nothing_says_how_to_read_is_lost_and_no_other() {
    for (base, read_only) in [(0, false), (12, false), (24, true)] {
        let (memory, model) = given();
        wreck(&memory, base);
        check(&memory, &model, &[(base, base + 12)], read_only);
    }
}

#[test]
fn a_missing_segment_loses_that_segment_and_no_other() {
    for (base, read_only) in [(0, false), (12, false), (24, true)] {
        let (memory, model) = given();
        memory.remove_file(&segment(base)).expect("it is there");
        check(&memory, &model, &[(base, base + 12)], read_only);
    }
}

#[test]
fn what_is_damaged_or_missing_is_reported_when_the_log_opens() {
    #[track_caller]
    fn check_report(change: impl FnOnce(&Memory), from: u64, to: u64, base: u64) {
        let (memory, _) = given();
        change(&memory);
        let (_, report) = Given::open(&memory, 1 << 20);
        let found: Vec<_> =
            report.damage.iter().map(|d| (d.from.get(), d.to.get(), d.path.clone())).collect();
        assert_eq!(found, [(from, to, segment(base))]);
    }
    check_report(|memory| flip(memory, 24, position(3) + 95), 33, 36, 24);
    check_report(|memory| cut(memory, 24, position(3)), 33, 36, 24);
    check_report(|memory| wreck(memory, 24), 24, 36, 24);
    check_report(|memory| wreck(memory, 12), 12, 24, 12);
    check_report(|memory| wreck(memory, 0), 0, 12, 0);
    let (memory, _) = given();
    memory.remove_file(&segment(0)).expect("it is there");
    let (_, report) = Given::open(&memory, 1 << 20);
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert_eq!((damage.from.get(), damage.to.get()), (0, 12));
}

/// Three batches, of which the first two were synced; killed before any recovery point was written
/// that covers them. Only the third one's header says that they were.
fn known_by_a_header() -> Memory {
    let mut given = Given::new(1 << 20);
    for mark in 10..13 {
        let (_, error) = given.log.append(&[batch(mark, 3)], NOW);
        assert!(error.is_none());
        if mark == 11 {
            given.log.syncer().sync().expect("it syncs");
        }
    }
    given.kill()
}

#[test]
fn a_header_says_that_what_is_damaged_before_it_was_synced() {
    let memory = known_by_a_header();
    flip(&memory, 0, position(1) + 95);
    let (given, report) = Given::open(&memory, 1 << 20);
    assert_eq!(report.moved_aside, Vec::<PathBuf>::new(), "what was synced is cut off");
    let lost: Vec<_> = report.damage.iter().map(|d| (d.from.get(), d.to.get())).collect();
    assert_eq!(lost, [(3, 6)]);
    assert_eq!(given.log.read_only(), None, "its end is certain");
    assert_eq!(given.log.end().get(), 9);
}

#[test]
fn a_header_forged_inside_a_payload_is_not_found_when_the_payload_is_damaged() {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    // Who reads the log can work the salt out, and write into a record what looks like a batch.
    let (_, segment_bytes) = segments(&given.memory).remove(0);
    let salt = u32::from_le_bytes(*segment_bytes[16..].first_chunk().expect("it is long enough"));
    let mut forged = BatchHeader {
        base_offset: Offset::new(1_000),
        last_offset_delta: 0,
        leader_epoch: given.log.leader_epoch(),
        producer: None,
        append_time: NOW,
        max_timestamp: NOW,
        compression: Compression::None,
        kind: BatchKind::Data,
        records_crc: 0,
        synced_end: Offset::new(1_000),
        payload_bytes: 0,
    };
    forged.records_crc = records_crc(&[]);
    let value = forged.encode(Salt::new(salt)).to_vec();
    let batches = [batch_of(&[NewRecord { timestamp: None, value }]), batch(10, 3)];
    let (appended, error) = given.log.append(&batches, NOW);
    assert!(error.is_none());
    model.append(&batches, &appended, given.log.leader_epoch());
    let memory = given.close();
    flip(&memory, 0, position(0) + 90);
    check(&memory, &model, &[(0, 1)], false);
}

#[test]
fn a_segment_of_another_log_is_refused_by_name() {
    let (memory, _) = given();
    let id = LogId::new(*b"another sixteen!");
    let (given, _) = Given::open(&memory, 1 << 20);
    drop(given.directory.create_log(id, "other/0", config(1 << 20), NOW).expect("it is created"));
    drop(given);
    let foreign = root().join("logs").join(id.to_string()).join("00000000000000000000.log");
    memory.rename(&foreign, &segment(36)).expect("it is there");
    let (_, opened) = Given::try_open_log(&memory, 1 << 20);
    match opened {
        Err(OpenError::Foreign { path, found }) => assert_eq!((path, found), (segment(36), id)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_header_behind_a_torn_payload_still_says_what_was_synced() {
    let memory = known_by_a_header();
    flip(&memory, 0, position(1) + 95);
    flip(&memory, 0, position(2) + 95);
    let (given, report) = Given::open(&memory, 1 << 20);
    assert!(given.log.read_only().is_some(), "what was synced is cut off");
    assert_eq!(report.damage.first().map(|damage| damage.from.get()), Some(3));
    assert_eq!(given.log.end().get(), 6);
}
