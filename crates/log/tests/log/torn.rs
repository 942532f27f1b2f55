//! A log whose last bytes are not whole: they are kept aside, and appends go on.

use std::path::PathBuf;

use taffrail_log::vfs::{Memory, Vfs};
use taffrail_model::batch::{BatchHeader, HEADER_BYTES, Salt};
use taffrail_model::{LeaderEpoch, Offset};

use crate::given::{AppendAll, Given, NOW, Numbers, batch, bytes_on_disk, segment};
use crate::model::Model;

/// A log with batches of 3, 2 and 4 records, the last of which was never synced; killed.
fn given() -> (Memory, Model) {
    let mut given = Given::new(1 << 20);
    let mut model = Model::default();
    let epoch = given.log.leader_epoch();
    let synced = [batch(1, 3), batch(2, 2)];
    let (appended, error) = given.log.append(&synced, NOW);
    assert!(error.is_none());
    model.append(&synced, &appended, epoch);
    given.log.syncer().sync().expect("it syncs");
    let unsynced = [batch(3, 4)];
    let (appended, error) = given.log.append(&unsynced, NOW);
    assert!(error.is_none());
    model.append(&unsynced, &appended, epoch);
    (given.kill(), model)
}

/// Opens a log whose end is torn: it must end at `end`, what lay behind must be kept in one file,
/// and appends must go on.
#[track_caller]
fn check(memory: &Memory, mut model: Model, end: u64, kept: &[u8]) {
    let (mut given, report) = Given::open(memory, 1 << 20);
    assert!(!report.was_clean);
    assert_eq!(report.damage, []);
    assert_eq!(given.log.read_only(), None);
    assert_eq!(given.log.end(), Offset::new(end));
    let aside: Vec<_> = report.moved_aside.iter().map(|path| contents(memory, path)).collect();
    assert_eq!(aside, if kept.is_empty() { vec![] } else { vec![kept.to_vec()] });
    model.truncate(end);
    model.check_all(&given.log.reader(), 1 << 20);

    let more = [batch(4, 7)];
    let (appended, error) = given.log.append(&more, NOW);
    assert!(error.is_none());
    model.append(&more, &appended, given.log.leader_epoch());
    given.log.syncer().sync().expect("it syncs");
    let (given, report) = Given::open(&given.kill().crash(1), 1 << 20);
    assert_eq!(report.moved_aside, Vec::<PathBuf>::new());
    model.check_all(&given.log.reader(), 1 << 20);
}

fn contents(memory: &Memory, path: &PathBuf) -> Vec<u8> {
    let files = memory.files();
    files.into_iter().find(|(found, _)| found == path).expect("it is there").1
}

fn cut(memory: &Memory, length: usize) {
    let file = memory.open(&segment(0)).expect("it is there");
    file.set_length(length as u64).expect("it can be cut");
    file.sync_data().expect("it syncs");
}

fn add(memory: &Memory, bytes: &[u8]) {
    let file = memory.open(&segment(0)).expect("it is there");
    let end = file.length().expect("it has one");
    file.write_at(end, bytes).expect("there is room");
    file.sync_data().expect("it syncs");
}

#[test]
fn a_last_batch_cut_at_any_length_is_moved_aside() {
    let length = bytes_on_disk(&batch(3, 4));
    for left in 0..length {
        let (memory, model) = given();
        let whole = contents(&memory, &segment(0));
        let begin = whole.len() - length;
        cut(&memory, begin + left);
        check(&memory, model, 5, &whole[begin..begin + left]);
    }
}

#[test]
fn garbage_behind_the_last_batch_is_moved_aside() {
    let mut numbers = Numbers::new(5);
    for length in [1, 5, 88, 89, 90, 511, 2_000_000] {
        let garbage: Vec<_> = (0..length).map(|_| numbers.next() as u8).collect();
        let (memory, model) = given();
        add(&memory, &garbage);
        check(&memory, model, 9, &garbage);
    }
    let (memory, model) = given();
    add(&memory, &[0; 4096]);
    check(&memory, model, 9, &[0; 4096]);
}

#[test]
fn a_log_ends_before_its_first_batch_that_is_not_whole() {
    // Of two unsynced batches the first one did not reach the disk, the second one did.
    let (memory, mut model) = given();
    let (mut given, _) = Given::open(&memory, 1 << 20);
    let begin = contents(&memory, &segment(0)).len();
    let more = [batch(4, 1), batch(5, 1)];
    let (appended, error) = given.log.append(&more, NOW);
    assert!(error.is_none());
    model.append(&more, &appended, given.log.leader_epoch());
    drop(given);
    memory.flip(&segment(0), begin + 95, 1).expect("it is there");
    let kept = contents(&memory, &segment(0))[begin..].to_vec();
    check(&memory, model, 9, &kept);
}

/// The header of the batch at `position`, and the salt of its segment.
fn header_at(segment: &[u8], position: usize) -> (BatchHeader, Salt) {
    let salt = u32::from_le_bytes(*segment[16..].first_chunk().expect("it is long enough"));
    let bytes = segment[position..].first_chunk().expect("it is long enough");
    let salt = Salt::new(salt);
    (BatchHeader::decode(bytes, salt).expect("a batch begins there"), salt)
}

#[test]
fn a_batch_that_does_not_follow_the_one_before_is_not_one() {
    let changes: [fn(&mut BatchHeader); 5] = [
        |header| header.base_offset = header.base_offset.back(1),
        |header| header.base_offset = header.base_offset.next(),
        |header| header.leader_epoch = LeaderEpoch::ZERO,
        |header| header.synced_end = header.base_offset.next(),
        |header| header.payload_bytes = taffrail_model::limits::BATCH_BYTES_MAX,
    ];
    for change in changes {
        let (memory, model) = given();
        let whole = contents(&memory, &segment(0));
        let begin = whole.len() - bytes_on_disk(&batch(3, 4));
        let (mut header, salt) = header_at(&whole, begin);
        change(&mut header);
        cut(&memory, begin);
        add(&memory, &header.encode(salt));
        add(&memory, &whole[begin + HEADER_BYTES..]);
        let kept = contents(&memory, &segment(0))[begin..].to_vec();
        check(&memory, model, 5, &kept);
    }
}

#[test]
fn what_a_roll_left_unfinished_is_moved_aside() {
    let torn: [&[u8]; 3] = [b"", &[0; 86], b"not a header"];
    for torn in torn {
        let (memory, model) = given();
        let path = segment(9);
        let file = memory.create(&path).expect("the place is free");
        file.write_at(0, torn).expect("there is room");
        let (mut given, report) = Given::open(&memory, 1 << 20);
        let aside: Vec<_> = report.moved_aside.iter().map(|path| contents(&memory, path)).collect();
        assert_eq!(aside, [torn]);
        assert_eq!((report.damage, given.log.read_only()), (vec![], None));
        model.check_all(&given.log.reader(), 1 << 20);
        given.log.roll().expect("it rolls into the place that is free again");
    }
}

#[test]
fn a_copy_of_the_segment_inside_a_record_does_not_pass_for_batches() {
    let (memory, mut model) = given();
    let (mut given, _) = Given::open(&memory, 1 << 20);
    let copied = contents(&memory, &segment(0));
    let record = crate::given::NewRecord { timestamp: None, value: copied };
    let more = [crate::given::batch_of(&[record])];
    let (appended, error) = given.log.append(&more, NOW);
    assert!(error.is_none());
    model.append(&more, &appended, given.log.leader_epoch());
    drop(given);
    // The batch around the copy is torn.
    let length = contents(&memory, &segment(0)).len();
    cut(&memory, length - 1);
    let begin = length - bytes_on_disk(&more[0]);
    let kept = contents(&memory, &segment(0))[begin..].to_vec();
    check(&memory, model, 9, &kept);
}
