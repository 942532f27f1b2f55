//! A damaged segment header loses no record, and lets no file of another log in.

use taffrail_log::vfs::{Memory, Vfs};
use taffrail_log::{OpenError, Read, ReadError, ReadRequest, SegmentHeaderError};
use taffrail_model::{LogId, Offset};

use crate::given::{
    AppendAll, Given, NOW, SEGMENT_HEADER_BYTES, batch, config, has_ending, root, segment, settled,
};
use crate::model::Model;

/// Three segments of so many batches each, of 3 records each; the last one is active. Cleanly closed.
fn given(batches: u64) -> (Memory, Model) {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    for segment in 0..3 {
        let batches: Vec<_> =
            (0..batches).map(|index| batch(10 + 10 * segment + index, 3)).collect();
        let (appended, error) = given.log.append(&batches, NOW);
        assert!(error.is_none());
        model.append(&batches, &appended, given.log.leader_epoch());
        if segment < 2 {
            given.log.roll().expect("it rolls");
        }
    }
    (given.close(), model)
}

fn overwrite(memory: &Memory, base: u64, from: usize, bytes: &[u8]) {
    let file = memory.open(&segment(base)).expect("it is there");
    file.write_at(from as u64, bytes).expect("there is room");
}

fn without_indexes(memory: &Memory) {
    for (path, _) in memory.files().iter().filter(|(path, _)| has_ending(path, "index")) {
        memory.remove_file(path).expect("it is there");
    }
}

/// Opens the log, which has lost nothing, and appends to it.
#[track_caller]
fn check(memory: &Memory, model: &Model, damaged: u64) {
    let mut model = model.clone();
    let (mut given, report) = Given::open(memory, 1 << 20);
    let salvaged: Vec<_> = report.salvaged.iter().map(|salvaged| salvaged.path.clone()).collect();
    assert_eq!(salvaged, [segment(damaged)]);
    assert_eq!((report.damage, report.moved_aside), (vec![], vec![]));
    model.check_all(&given.log.reader(), 300);
    let more = [batch(91, 3)];
    let (appended, error) = given.log.append(&more, NOW);
    assert!(error.is_none(), "{error:?}");
    model.append(&more, &appended, given.log.leader_epoch());
    let (given, report) = Given::open(&given.close(), 1 << 20);
    assert_eq!((report.salvaged.len(), report.damage), (1, vec![]));
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn one_rotten_byte_of_a_header_is_put_right_by_its_crc() {
    let (memory, model) = given(2);
    without_indexes(&memory);
    for at in 0..SEGMENT_HEADER_BYTES {
        let (memory, base) = (settled(&memory), [0, 6, 12][at % 3]);
        memory.flip(&segment(base), at, 0x5a).expect("it is there");
        check(&memory, &model, base);
    }
}

#[test]
fn an_overwritten_header_is_restored_from_the_index_or_from_the_batches() {
    for batches in [1, 2, 4] {
        for base in [0, 3 * batches, 6 * batches] {
            let (memory, model) = given(batches);
            overwrite(&memory, base, 0, &[0; SEGMENT_HEADER_BYTES]);
            check(&settled(&memory), &model, base);
            let memory = settled(&memory);
            without_indexes(&memory);
            check(&memory, &model, base);
        }
    }
}

#[test]
fn a_log_of_one_segment_needs_no_other_to_be_read() {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    let batches = [batch(10, 3), batch(11, 3)];
    let (appended, _) = given.log.append(&batches, NOW);
    model.append(&batches, &appended, given.log.leader_epoch());
    let memory = given.close();
    without_indexes(&memory);
    overwrite(&memory, 0, 0, &[0xff; SEGMENT_HEADER_BYTES]);
    check(&memory, &model, 0);
}

#[test]
fn with_an_index_the_first_batch_may_be_gone_too() {
    let (memory, _) = given(4);
    // So much that the index has an entry behind the damage.
    let mut given = Given::open(&memory, 1 << 20).0;
    let many: Vec<_> = (0..200).map(|mark| batch(1_000 + mark, 60)).collect();
    let (_, error) = given.log.append(&many, NOW);
    assert!(error.is_none());
    let end = given.log.end();
    let memory = given.close();
    overwrite(&memory, 24, 0, &[0; SEGMENT_HEADER_BYTES + 100]);
    let (given, report) = Given::open(&memory, 1 << 20);
    assert_eq!((report.salvaged.len(), given.log.end()), (1, end));
    let read = |from| {
        let request = ReadRequest { from: Offset::new(from), limit: end, bytes_max: 1 };
        given.log.reader().read(&request)
    };
    let lost = read(24).expect_err("it is gone");
    assert!(matches!(lost, ReadError::DataLoss { to, .. } if to.get() == 27), "{lost}");
    assert!(matches!(read(27), Ok(Read::Batches { .. })));
}

#[test]
fn a_file_that_ends_inside_its_header_holds_nothing() {
    let (memory, _) = given(2);
    for length in 0..SEGMENT_HEADER_BYTES {
        let memory = settled(&memory);
        let file = memory.open(&segment(6)).expect("it is there");
        file.set_length(length as u64).expect("it can be cut");
        let (given, report) = Given::open(&memory, 1 << 20);
        let lost: Vec<_> = report.damage.iter().map(|d| (d.from.get(), d.to.get())).collect();
        assert_eq!((lost, given.log.end().get()), (vec![(6, 12)], 18), "{length}");
    }
}

/// Puts a segment of another log, with a header damaged by `damage`, in the place of one of ours.
#[track_caller]
fn check_foreign(records: u32, damage: impl Fn(&Memory)) {
    let (memory, _) = given(4);
    let id = LogId::new(*b"sixteen bytes ID");
    let (given, _) = Given::open(&memory, 1 << 20);
    let mut other =
        given.directory.create_log(id, "quakes/1", config(1 << 20), NOW).expect("it is created");
    let (_, error) = other.append(&[batch(71, records)], NOW);
    assert!(error.is_none());
    drop((other, given));
    let foreign = root().join("logs").join(id.to_string()).join("00000000000000000000.log");
    memory.remove_file(&segment(0)).expect("it is there");
    memory.rename(&foreign, &segment(0)).expect("it is there");
    damage(&memory);
    let (_, report) = Given::open(&memory, 1 << 20);
    let lost: Vec<_> = report.damage.iter().map(|d| (d.from.get(), d.to.get())).collect();
    assert_eq!((report.salvaged.len(), lost), (0, vec![(0, 12)]), "it does not pass for ours");
}

#[test]
fn a_damaged_file_of_another_log_does_not_pass() {
    // It still names its log, which differs from ours in some bytes.
    check_foreign(12, |memory| memory.flip(&segment(0), 17, 1).expect("it is there"));
    check_foreign(12, |memory| overwrite(memory, 0, 15, &[0; 40]));
    // It names none, and does not fit.
    check_foreign(13, |memory| overwrite(memory, 0, 0, &[0; SEGMENT_HEADER_BYTES]));
}

#[test]
fn a_newer_format_is_refused_however_its_header_is() {
    let (memory, _) = given(2);
    let (_, mut bytes) =
        memory.files().into_iter().find(|(path, _)| *path == segment(6)).expect("it is there");
    bytes.truncate(SEGMENT_HEADER_BYTES);
    bytes[11] = 2;
    let crc = crc32fast::hash(&[&bytes[..6], &bytes[10..]].concat());
    bytes[6..10].copy_from_slice(&crc.to_le_bytes());
    overwrite(&memory, 6, 0, &bytes);
    let (_, opened) = Given::try_open_log(&memory, 1 << 20);
    let newer = SegmentHeaderError::Version { found: 2 };
    match opened {
        Err(OpenError::Damaged { path, cause }) => assert_eq!((path, cause), (segment(6), newer)),
        other => panic!("{other:?}"),
    }
    // And one that is damaged besides is not read as this format.
    memory.flip(&segment(6), 40, 1).expect("it is there");
    let (_, report) = Given::open(&memory, 1 << 20);
    assert_eq!((report.salvaged.len(), report.damage.len()), (0, 1));
}
