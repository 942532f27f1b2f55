//! What a log need not keep, by its sizes and its ages, and when that is to be asked again.

use std::time::Duration;

use taffrail_log::vfs::Vfs;
use taffrail_log::{Expired, LogReader, Retention};
use taffrail_model::{Offset, Timestamp};

use crate::given::{
    AppendAll, DeleteAll, Given, NOW, SEGMENT_HEADER_BYTES, batch, bytes_on_disk, settled, wreck,
};

const SEGMENTS: u64 = 4;
const AGE_MS: u64 = 500;

/// Bytes of a segment of two batches of three records.
fn segment_bytes() -> u64 {
    (SEGMENT_HEADER_BYTES + 2 * bytes_on_disk(&batch(10, 3))) as u64
}

fn at(millis: u64) -> Timestamp {
    NOW.plus(Duration::from_millis(millis))
}

/// Segments of six records: number k was made, and appended to, at 100 k, and again at 100 k + 10.
fn given() -> Given {
    let mut given = Given::new(segment_bytes());
    for number in 0..SEGMENTS {
        for (mark, time) in [(10, 100 * number), (11, 100 * number + 10)] {
            let (_, error) = given.log.append(&[batch(mark + 2 * number, 3)], at(time));
            assert!(error.is_none(), "{error:?}");
        }
    }
    given.log.syncer().sync().expect("it syncs");
    given.directory.persist_points().expect("the points are written");
    assert_eq!(given.log.reader().size(), (SEGMENTS * segment_bytes(), SEGMENTS as usize));
    given
}

#[track_caller]
fn expired(reader: &LogReader, age: Option<u64>, bytes: Option<u64>, now: Option<u64>) -> Expired {
    let retention = Retention { age: age.map(Duration::from_millis), bytes };
    reader.expired(&retention, now.map(at))
}

/// What of it is old, and when the next segment will be.
#[track_caller]
fn old(reader: &LogReader, now: u64) -> (u64, u64) {
    let Expired { before, next } = expired(reader, Some(AGE_MS), None, Some(now));
    let next = next.expect("there will always be something").since(NOW);
    (before.get(), next.as_millis() as u64)
}

/// Times, the offset below which all is old then, and when more will be.
fn ages() -> Vec<(u64, u64, u64)> {
    let mut ages = vec![(0, 0, 510), (509, 0, 510)];
    for number in 1..SEGMENTS {
        let due = 100 * (number - 1) + 10 + AGE_MS;
        ages.extend([(due, 6 * number, due + 100), (due + 99, 6 * number, due + 100)]);
    }
    // The whole log is old: what is appended from now on is so in a while.
    ages.extend([(810, 24, 810 + AGE_MS), (9_000, 24, 9_000 + AGE_MS)]);
    ages
}

#[test]
fn a_segment_is_old_so_long_after_its_last_batch() {
    let given = given();
    let reader = given.log.reader();
    for (now, before, next) in ages() {
        assert_eq!(old(&reader, now), (before, next), "at {now}");
    }
}

#[test]
fn when_the_last_batch_was_appended_is_looked_up_in_a_file() {
    let memory = settled(&given().kill());
    for (now, before, next) in ages() {
        let (given, _) = Given::open(&memory.copy(), segment_bytes());
        let reader = given.log.reader();
        let (found, again) = old(&reader, now);
        assert_eq!(found, before, "at {now}");
        // It may ask before it must look, but not without end.
        assert!(now < again && again <= next, "at {now}: {again}, not {next}");
        if before < 24 {
            assert_eq!(old(&reader, next - 1), (before, next), "at {now}");
        }
    }
}

#[test]
fn nothing_is_read_where_the_headers_say_it() {
    let memory = settled(&given().kill());
    let (given, _) = Given::open(&memory, segment_bytes());
    let reader = given.log.reader();
    for base in [0, 6] {
        memory.remove_file(&crate::given::segment(base)).expect("it is there");
    }
    assert_eq!(old(&reader, 0), (0, AGE_MS), "it is not older than its file");
    assert_eq!(old(&reader, 200 + AGE_MS).0, 12, "it is as old as the file behind it");
    assert_eq!(old(&reader, 9_000).0, 24);
}

#[test]
fn the_oldest_goes_while_there_is_as_much_without_it() {
    let given = given();
    let (reader, one) = (given.log.reader(), segment_bytes());
    let cases = [
        (u64::MAX, 0),
        (4 * one, 0),
        (3 * one + 1, 0),
        (3 * one, 6),
        (2 * one + 1, 6),
        (2 * one, 12),
        (one + 1, 12),
        (one, 18),
        // The one that is written stays, however little is wanted.
        (1, 18),
        (0, 18),
    ];
    for (bytes, before) in cases {
        let expected = Expired { before: Offset::new(before), next: None };
        assert_eq!(expired(&reader, None, Some(bytes), Some(9_000)), expected, "{bytes}");
        assert_eq!(expired(&reader, None, Some(bytes), None), expected, "{bytes}");
    }
}

#[test]
fn either_reason_is_enough_and_without_a_time_nothing_is_old() {
    let given = given();
    let (reader, one) = (given.log.reader(), segment_bytes());
    let both = |bytes, now| expired(&reader, Some(AGE_MS), Some(bytes), now);
    let expected =
        |before, next: Option<u64>| Expired { before: Offset::new(before), next: next.map(at) };
    assert_eq!(both(3 * one, Some(0)), expected(6, Some(610)));
    assert_eq!(both(3 * one, Some(610)), expected(12, Some(710)));
    assert_eq!(both(one, Some(610)), expected(18, Some(810)));
    assert_eq!(both(3 * one, None), expected(6, None));
    assert_eq!(expired(&reader, Some(AGE_MS), None, None), expected(0, None));
    assert_eq!(expired(&reader, None, None, Some(9_000)), expected(0, None));
}

#[test]
fn what_is_gone_is_not_old_once_more() {
    let mut given = given();
    given.log.delete_before(Offset::new(7)).expect("it can");
    let reader = given.log.reader();
    assert_eq!(old(&reader, 0), (6, 610));
    assert_eq!(old(&reader, 610), (12, 710));
    let all = given.log.delete_records_before(Offset::new(24)).expect("it can");
    all.finish().expect("it can");
    assert_eq!(reader.size().1, 1);
    assert_eq!(old(&reader, 9_000), (24, 9_000 + AGE_MS));
    let (_, error) = given.log.append(&[batch(90, 3)], at(9_500));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(old(&reader, 9_999), (24, 10_000));
    assert_eq!(old(&reader, 10_000), (27, 10_500));
}

#[test]
fn a_segment_that_cannot_be_read_is_as_old_as_the_one_behind_it() {
    let memory = settled(&given().kill());
    wreck(&memory, 6);
    let (given, report) = Given::open(&memory, segment_bytes());
    assert_eq!(report.damage.len(), 1);
    let reader = given.log.reader();
    assert_eq!(old(&reader, 200 + AGE_MS - 1).0, 0, "what is behind may be of then");
    assert_eq!(old(&reader, 200 + AGE_MS).0, 12);
}
