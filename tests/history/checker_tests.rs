//! The checker finds what is wrong with a history, and nothing where nothing is.

use super::checker::{Rule, judge};
use super::{Event, LAST_READER, RecordId};
use crate::history;

const PLACE: &str = "orders/0";

fn id(sequence: u64) -> RecordId {
    RecordId { producer: 7, sequence }
}

fn invoke(sequence: u64) -> Event {
    Event::Invoke { record: id(sequence), place: PLACE.into(), digest: sequence as u32 }
}

fn ok(sequence: u64, offset: u64) -> Event {
    Event::Ok { record: id(sequence), offset }
}

fn read(reader: u32, offset: u64, sequence: u64) -> Event {
    let (place, record) = (PLACE.into(), Some(id(sequence)));
    Event::Read { reader, place, offset, record, digest: sequence as u32 }
}

fn last(offset: u64, sequence: u64) -> Event {
    read(LAST_READER, offset, sequence)
}

fn end(end: u64) -> Event {
    Event::End { place: PLACE.into(), start: 0, end }
}

#[track_caller]
fn check(history: &[Event], expected: &[Rule]) {
    let violations = judge(history);
    let rules: Vec<_> = violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, expected, "{violations:#?}");
}

#[test]
fn a_sound_history_has_no_violations() {
    let fail = Event::Fail { record: id(3) };
    let unknown = [4, 5].map(|sequence| Event::Unknown { record: id(sequence) });
    let sent = [1, 2, 3, 4, 5, 6].map(invoke);
    let answers = [ok(1, 0), ok(2, 1), fail];
    let readings = [read(1, 0, 1), read(1, 1, 2), read(2, 1, 2)];
    // Number 4 was not appended, 5 was, and nobody ever heard of 6.
    let ends = [last(0, 1), last(1, 2), last(2, 5), end(3)];
    let events = sent.into_iter().chain(answers).chain(unknown).chain(readings).chain(ends);
    check(&events.collect::<Vec<_>>(), &[]);
}

#[test]
fn a_gap_is_no_hole_and_what_it_takes_is_lost() {
    let gap = |from, to| Event::Gap { reader: LAST_READER, place: PLACE.into(), from, to };
    let sent = [invoke(1), invoke(2), ok(1, 0), ok(2, 9)];
    let check_ends = |ends: &[Event], expected: &[Rule]| {
        check(&sent.iter().chain(ends).cloned().collect::<Vec<_>>(), expected);
    };
    check_ends(&[last(0, 1), gap(1, 9), last(9, 2), end(10)], &[]);
    check_ends(&[last(0, 1), gap(2, 9), last(9, 2), end(10)], &[Rule::Hole]);
    check_ends(&[gap(0, 9), last(9, 2), end(10)], &[Rule::Lost]);
    check_ends(&[read(1, 0, 1), gap(0, 9), last(9, 2), end(10)], &[Rule::TakenBack, Rule::Lost]);
}

#[test]
fn what_is_deleted_is_no_loss_as_far_as_it_may_be() {
    let cut = |reader, to| Event::Cut { reader, place: PLACE.into(), from: 0, to };
    let deletable = |before| Event::Deletable { place: PLACE.into(), before };
    let sent = [invoke(1), invoke(2), ok(1, 0), ok(2, 1), read(1, 0, 1)];
    let check_ends = |ends: &[Event], expected: &[Rule]| {
        check(&sent.iter().chain(ends).cloned().collect::<Vec<_>>(), expected);
    };
    let last_cut = |to| cut(LAST_READER, to);
    check_ends(&[deletable(1), cut(2, 1), read(2, 1, 2), last_cut(1), last(1, 2), end(2)], &[]);
    check_ends(&[deletable(2), last_cut(2), end(2)], &[]);
    check_ends(&[deletable(2), last(0, 1), last(1, 2), end(2)], &[]);
    check_ends(&[deletable(1), last_cut(2), end(2)], &[Rule::Overcut, Rule::Lost]);
    check_ends(&[cut(2, 1), last(0, 1), last(1, 2), end(2)], &[Rule::Overcut]);
    check_ends(&[cut(2, 1), deletable(1), last_cut(1), last(1, 2), end(2)], &[Rule::Overcut]);
    check_ends(&[deletable(2), last_cut(1), end(1)], &[Rule::Lost]);
    check_ends(&[deletable(2), last(1, 2), end(2)], &[Rule::Lost]);
}

#[test]
fn what_compaction_removes_has_a_later_record_of_its_key() {
    let superseded = |from, to| {
        let (reader, place) = (LAST_READER, PLACE.into());
        Event::Superseded { reader, place, from, to }
    };
    let (reader, place) = (LAST_READER, PLACE.to_owned());
    let cut = Event::Cut { reader, place: place.clone(), from: 1, to: 3 };
    let deletable = Event::Deletable { place, before: 3 };
    // Numbers 1 and 31 have the same key.
    let sent = [invoke(1), invoke(2), invoke(31), ok(1, 0), ok(2, 1), ok(31, 2), read(1, 0, 1)];
    let check_ends = |ends: &[Event], expected: &[Rule]| {
        check(&sent.iter().chain(ends).cloned().collect::<Vec<_>>(), expected);
    };
    check_ends(&[superseded(0, 1), last(1, 2), last(2, 31), end(3)], &[]);
    check_ends(&[superseded(0, 2), last(2, 31), end(3)], &[Rule::Lost]);
    check_ends(&[superseded(0, 1), last(1, 2), superseded(2, 3), end(3)], &[Rule::Lost; 3]);
    // What superseded it may be deleted since.
    check_ends(&[deletable, superseded(0, 1), cut.clone(), end(3)], &[]);
    check_ends(
        &[superseded(0, 1), cut, end(3)],
        &[Rule::Overcut, Rule::Lost, Rule::Lost, Rule::Lost, Rule::Lost],
    );
}

#[test]
fn what_a_place_may_have_lost_lies_in_a_gap() {
    let gap = |reader| Event::Gap { reader, place: PLACE.into(), from: 1, to: 9 };
    let loss = Event::Loss { place: PLACE.into() };
    let sent = [invoke(1), invoke(2), invoke(3), ok(1, 0), ok(2, 1), read(1, 0, 1), read(1, 1, 2)];
    let lost = |before: &[Event], behind: &[Event], expected: &[Rule]| {
        check(&[&sent[..], before, std::slice::from_ref(&loss), behind].concat(), expected);
    };
    let ends = [last(0, 1), gap(LAST_READER), last(9, 3), end(10)];
    lost(&[], &ends, &[]);
    lost(&[], &[&[read(2, 0, 1), gap(2)], &ends[..]].concat(), &[]);
    lost(&[], &[last(0, 1), last(1, 3), end(2)], &[Rule::Changed, Rule::Lost]);
    lost(&[], &[last(0, 1), end(1)], &[Rule::TakenBack, Rule::Lost]);
    // Acknowledged after the loss.
    lost(&[], &[&[ok(3, 5)], &ends[..3], &[end(10)]].concat(), &[Rule::Lost]);
}

#[test]
fn an_acknowledged_record_that_is_gone_is_lost() {
    check(&[invoke(1), ok(1, 0), end(0)], &[Rule::Lost]);
    let other = [invoke(1), invoke(2), ok(1, 0), last(0, 2), end(1)];
    check(&other, &[Rule::Lost]);
}

#[test]
fn a_record_that_is_there_twice_is_duplicated() {
    check(&[invoke(1), ok(1, 0), last(0, 1), last(1, 1), end(2)], &[Rule::Duplicated]);
}

#[test]
fn records_of_a_producer_out_of_turn_are_reordered() {
    let events = [invoke(1), invoke(2), ok(2, 0), ok(1, 1), last(0, 2), last(1, 1), end(2)];
    check(&events, &[Rule::Reordered]);
    let unordered = Event::Unordered { producer: id(1).producer };
    check(&[&events[..], &[unordered]].concat(), &[]);
}

#[test]
fn a_refused_record_that_is_there_is_resurrected() {
    let fail = Event::Fail { record: id(1) };
    check(&[invoke(1), fail, last(0, 1), end(1)], &[Rule::Resurrected]);
}

#[test]
fn a_value_that_nobody_sent_is_changed_or_invented() {
    let changed = Event::Read {
        reader: LAST_READER,
        place: PLACE.into(),
        offset: 0,
        record: Some(id(1)),
        digest: 99,
    };
    check(&[invoke(1), ok(1, 0), changed, end(1)], &[Rule::Changed]);
    check(&[invoke(1), last(0, 2), end(1)], &[Rule::Invented]);
    let elsewhere = Event::Invoke { record: id(2), place: "orders/1".into(), digest: 2 };
    check(&[elsewhere, last(0, 2), end(1)], &[Rule::Invented, Rule::Unread]);
}

#[test]
fn an_offset_read_as_one_record_and_later_as_another_is_changed() {
    let events = [invoke(1), invoke(2), read(1, 0, 1), last(0, 2), end(1)];
    check(&events, &[Rule::Changed]);
}

#[test]
fn an_offset_acknowledged_twice_is_reused() {
    let events = [invoke(1), invoke(2), ok(1, 0), ok(2, 0), last(0, 2), end(1)];
    check(&events, &[Rule::Reused]);
}

#[test]
fn an_offset_below_one_acknowledged_before_went_back() {
    let events = [invoke(1), ok(1, 1), invoke(2), ok(2, 0), last(0, 2), last(1, 1), end(2)];
    check(&events, &[Rule::WentBack, Rule::Reordered]);
}

#[test]
fn offsets_that_a_reader_skips_are_a_hole() {
    let sent = [invoke(1), invoke(2), invoke(3)];
    let skips = [last(0, 1), last(2, 3), end(3)];
    check(&[&sent[..], &skips].concat(), &[Rule::Hole]);
    let again = [read(1, 0, 1), read(1, 0, 1), last(0, 1), end(1)];
    check(&[&sent[..], &again].concat(), &[Rule::Hole]);
    let short = [last(0, 1), end(2)];
    check(&[&sent[..], &short].concat(), &[Rule::Hole]);
}

#[test]
fn what_was_read_and_is_gone_was_taken_back() {
    check(&[invoke(1), read(1, 0, 1), end(0)], &[Rule::TakenBack]);
}

#[test]
fn a_history_is_json_lines() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("history.jsonl");
    let note = Event::Note { text: "killed".into() };
    let events = [invoke(1), ok(1, 0), read(1, 0, 1), note, end(1)];
    history::write(&path, &events).expect("the history is written");
    assert_eq!(history::read(&path).expect("the history is read"), events);
    let text = std::fs::read_to_string(&path).expect("the file is there");
    let second = r#"{"event":"ok","record":{"producer":7,"sequence":1},"offset":0}"#;
    assert_eq!(text.lines().nth(1), Some(second));
}

#[test]
fn a_value_says_which_record_it_is() {
    let record = RecordId { producer: 3, sequence: 41 };
    let value = history::value_of(record, 100);
    assert_eq!((value.len(), history::record_of(&value)), (100, Some(record)));
    assert_eq!(history::record_of(b"garbage"), None);
}
