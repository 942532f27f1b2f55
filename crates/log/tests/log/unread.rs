//! What a consumer has not read: as many bytes as there are, found without looking at most of them.

use taffrail_log::vfs::{Fault, Memory, Vfs};
use taffrail_log::{Log, LogConfig, NewBatch, ReadError, Unread};
use taffrail_model::batch::HEADER_BYTES;
use taffrail_model::{Offset, Timestamp};

use crate::given::{
    AppendAll, DeleteAll, Given, NOW, NewRecord, SEGMENT_HEADER_BYTES, batch, batch_of,
    bytes_on_disk, config, segment, settled, wreck,
};
use crate::model::Model;
use crate::repair::{accept_loss, flip};

/// The time at which the batch with this number is appended.
fn time(number: u64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + 10 * number as i64)
}

fn append(log: &mut Log, model: &mut Model, number: u64, batch: NewBatch) {
    let batches = [batch];
    let (appended, error) = log.append(&batches, time(number));
    assert!(error.is_none(), "{error:?}");
    model.append(&batches, &appended, log.leader_epoch());
}

/// Three segments of four batches each, of 3 records each; the last one is active.
fn small() -> (Given, Model) {
    let (mut given, mut model) = (Given::new(1 << 20), Model::default());
    for number in 0..12 {
        if number == 4 || number == 8 {
            given.log.roll().expect("it rolls");
        }
        append(&mut given.log, &mut model, number, batch(10 + number, 3));
    }
    (given, model)
}

fn batch_bytes() -> u64 {
    bytes_on_disk(&batch(10, 3)) as u64
}

/// Asks from each offset to each limit.
#[track_caller]
fn check_all(log: &Log, model: &Model) {
    for from in 0..=model.end() + 1 {
        for limit in (0..=model.end() + 1).chain([u64::MAX]) {
            model.check_unread(&log.reader(), Offset::new(from), Offset::new(limit));
        }
    }
}

#[track_caller]
fn unread(log: &Log, from: u64, limit: u64) -> Unread {
    log.reader().unread(Offset::new(from), Offset::new(limit)).expect("it can be told")
}

#[test]
fn each_batch_from_the_one_that_holds_an_offset_up_to_the_limit_is_counted() {
    for tail_bytes_max in [0, 200, 1 << 20] {
        let (mut given, mut model) = small();
        given.log.configure(LogConfig { tail_bytes_max, ..config(1 << 20) }).expect("it can be");
        append(&mut given.log, &mut model, 12, batch(90, 3));
        let batches = [batch(91, 3), batch(92, 1), batch(93, 2)];
        let (appended, _) = given.log.append(&batches, time(13));
        model.append(&batches, &appended, given.log.leader_epoch());
        check_all(&given.log, &model);
        given.log.delete_before(Offset::new(14)).expect("nothing is wrong");
        model.begin_at(12);
        check_all(&given.log, &model);
        let below = given.log.reader().unread(Offset::new(11), Offset::new(20));
        assert!(matches!(below, Err(ReadError::OutOfRange { .. })), "{below:?}");
        let (given, _) = Given::open(&given.kill(), 1 << 20);
        check_all(&given.log, &model);
    }
}

/// Two segments with many places in their indexes: batches of these sizes, over and over.
fn large(sizes: &[usize]) -> (Given, Model) {
    let (mut given, mut model) = (Given::new(1 << 30), Model::default());
    for number in 0..80 {
        if number == 40 {
            given.log.roll().expect("it rolls");
        }
        let value = vec![1; sizes[number as usize % sizes.len()]];
        let record = NewRecord { timestamp: None, value };
        append(&mut given.log, &mut model, number, batch_of(&[record.clone(), record]));
    }
    (given, model)
}

#[test]
fn the_answer_is_exact_between_the_places_of_an_index() {
    for sizes in [&[6_000][..], &[16_300], &[40_000, 10, 300], &[1, 1, 1, 100_000, 9_000]] {
        let (given, model) = large(sizes);
        check_all(&given.log, &model);
        let (given, _) = Given::open(&given.close(), 1 << 30);
        check_all(&given.log, &model);
    }
}

#[test]
fn nothing_is_looked_at_but_headers_near_both_ends() {
    let (given, model) = large(&[6_000]);
    let bytes = bytes_on_disk(&model.batches[0].batch);
    let header = |index: usize| SEGMENT_HEADER_BYTES + index * bytes;
    check_all(&given.log, &model);
    // Payloads everywhere, and headers that are far from what is asked for.
    for base in [0, 80] {
        (0..40).for_each(|index| flip(&given.memory, base, header(index) + HEADER_BYTES + 9));
        for index in (0..12).chain(28..40) {
            flip(&given.memory, base, header(index) + 20);
        }
    }
    for (from, limit) in [(40, 41), (41, 120), (39, 118), (44, 48), (122, 124)] {
        model.check_unread(&given.log.reader(), Offset::new(from), Offset::new(limit));
    }
    model.check_unread(&given.log.reader(), Offset::new(40), Offset::new(160));
}

#[test]
fn segments_in_between_are_not_opened() {
    let (given, model) = small();
    check_all(&given.log, &model);
    given.memory.set_fault(Some(Fault::FileFails { path: segment(12) }));
    given.memory.remove_file(&segment(12).with_extension("index")).expect("it is there");
    model.check_unread(&given.log.reader(), Offset::new(4), Offset::new(32));
    let inside = given.log.reader().unread(Offset::new(15), Offset::new(32));
    assert!(matches!(inside, Err(ReadError::Io { .. })), "{inside:?}");
}

#[test]
fn what_is_in_memory_is_told_without_the_disk() {
    let (mut given, mut model) = small();
    given.log.configure(LogConfig { tail_bytes_max: 1 << 20, ..config(1 << 20) }).expect("it can");
    for number in 12..20 {
        append(&mut given.log, &mut model, number, batch(10 + number, 3));
    }
    given.memory.set_fault(Some(Fault::ReadFails));
    for (from, limit) in [(36, 60), (40, 41), (38, 57), (59, u64::MAX), (60, 60)] {
        model.check_unread(&given.log.reader(), Offset::new(from), Offset::new(limit));
    }
}

#[test]
fn behind_a_gap_the_next_batch_counts() {
    let (given, _) = small();
    let memory = settled(&given.close());
    wreck(&memory, 12);
    accept_loss(&memory).expect("something is lost");
    let (given, _) = Given::open(&memory, 1 << 20);
    for from in 12..=24 {
        let append_time = Some(time(8));
        assert_eq!(
            unread(&given.log, from, 30),
            Unread { bytes: 2 * batch_bytes(), append_time },
            "{from}"
        );
    }
    assert_eq!(unread(&given.log, 11, 30).bytes, 3 * batch_bytes());
    assert_eq!(unread(&given.log, 11, 20).bytes, batch_bytes(), "what is gone has no bytes");
    assert_eq!(unread(&given.log, 14, 20), Unread::default());
}

#[test]
fn behind_damage_the_next_sound_batch_counts() {
    let (given, model) = small();
    flip(&given.memory, 12, SEGMENT_HEADER_BYTES + batch_bytes() as usize + 20);
    // Offsets 15 to 18 are damaged.
    for from in 15..=18 {
        let unread = unread(&given.log, from, 36);
        assert_eq!(unread.append_time, Some(time(6)), "{from}");
        assert_eq!(unread.bytes, 6 * batch_bytes(), "{from}");
    }
    model.check_unread(&given.log.reader(), Offset::new(14), Offset::new(36));
    model.check_unread(&given.log.reader(), Offset::new(1), Offset::new(14));
    let estimate = unread(&given.log, 0, 23).bytes;
    assert!(estimate >= 5 * batch_bytes() && estimate <= 8 * batch_bytes(), "{estimate}");
    assert_eq!(unread(&given.log, 16, 18), Unread::default());
}

#[test]
fn a_batch_in_the_place_of_another_does_not_count_as_that() {
    let (given, _) = small();
    let file = given.memory.open(&segment(12)).expect("it is there");
    let position = |index: u64| SEGMENT_HEADER_BYTES as u64 + index * batch_bytes();
    let mut last = vec![0; batch_bytes() as usize];
    file.read_at(position(3), &mut last).expect("it can be read");
    file.write_at(position(1), &last).expect("there is room");
    let unread = unread(&given.log, 15, 36);
    assert_eq!(unread, Unread { bytes: 6 * batch_bytes(), append_time: Some(time(6)) });
}

/// Asks from each offset to some limits of whatever is there: there are never more bytes than files.
#[track_caller]
fn ask_everything(log: &Log) {
    let reader = log.reader();
    let (bytes_max, _) = reader.size();
    for from in reader.start().get()..=reader.end().get() {
        for limit in [from + 1, from + 7, u64::MAX] {
            match reader.unread(Offset::new(from), Offset::new(limit)) {
                Ok(unread) => assert!(unread.bytes <= bytes_max, "{from} to {limit}: {unread:?}"),
                Err(ReadError::Io { .. }) => {}
                Err(error) => panic!("{from} to {limit}: {error}"),
            }
        }
    }
}

#[test]
fn whatever_rots_or_is_cut_off_something_is_told() {
    let (given, _) = small();
    let memory: Memory = settled(&given.close());
    for base in [12, 24] {
        let length = SEGMENT_HEADER_BYTES + 4 * batch_bytes() as usize;
        for position in SEGMENT_HEADER_BYTES..length {
            let memory = memory.copy();
            let (given, _) = Given::open(&memory, 1 << 20);
            memory.flip(&segment(base), position, 1 << (position % 8)).expect("it is there");
            ask_everything(&given.log);
            let (given, _) = Given::open(&given.kill(), 1 << 20);
            ask_everything(&given.log);
        }
        for length in (0..length).step_by(7) {
            let memory = memory.copy();
            let (given, _) = Given::open(&memory, 1 << 20);
            let file = memory.open(&segment(base)).expect("it is there");
            file.set_length(length as u64).expect("it can be cut");
            ask_everything(&given.log);
            let (given, _) = Given::open(&given.kill(), 1 << 20);
            ask_everything(&given.log);
        }
    }
}
