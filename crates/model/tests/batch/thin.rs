//! Taking records out of a batch: what stays says all that it said, wherever it lay.

use bytes::Bytes;
use proptest::prelude::*;
use taffrail_model::batch::{
    Batch, BatchHeader, BatchKind, Compression, Fate, keyless, records_crc, scan, thin,
};
use taffrail_model::{LeaderEpoch, Offset, Timestamp};

const BASE: u64 = 1_000;
const APPENDED: Timestamp = Timestamp::from_millis(5_000);

/// A field of a record, as it lies there: its number, and all of its bytes.
type Field = (u64, Vec<u8>);

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn with_length(field: u64, bytes: &[u8]) -> Vec<u8> {
    [&varint(field << 3 | 2)[..], &varint(bytes.len() as u64), bytes].concat()
}

/// Any field that a producer may send, those included that only a later version knows.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let later = || prop_oneof![7u64..20, 1_000u64..3_000];
    prop_oneof![
        3 => bytes().prop_map(|key| with_length(1, &key)),
        3 => bytes().prop_map(|value| with_length(2, &value)),
        1 => bytes().prop_map(|value| with_length(3, &with_length(2, &value))),
        2 => any::<i64>().prop_map(|time| [varint(4 << 3), varint(time as u64)].concat()),
        1 => (later(), any::<u64>()).prop_map(|(it, value)| [varint(it << 3), varint(value)].concat()),
        1 => (later(), bytes()).prop_map(|(it, value)| with_length(it, &value)),
        1 => (later(), any::<[u8; 4]>()).prop_map(|(it, v)| [&varint(it << 3 | 5)[..], &v].concat()),
        1 => (later(), any::<[u8; 8]>()).prop_map(|(it, v)| [&varint(it << 3 | 1)[..], &v].concat()),
    ]
}

fn record() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(field(), 0..7).prop_map(|fields| fields.concat())
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Goes),
        Just(Fate::Stays),
        any::<i64>().prop_map(|time| Fate::StaysUntil(Timestamp::from_millis(time))),
    ]
}

/// Takes a varint from the front.
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).expect("it ends") + 1;
    let value =
        bytes[..end].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    *bytes = &bytes[end..];
    value
}

/// The fields of a message, as another decoder finds them.
fn fields(mut rest: &[u8]) -> Vec<Field> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        let tag = take_varint(&mut rest);
        let length = match tag & 7 {
            0 => {
                take_varint(&mut rest);
                0
            }
            1 => 8,
            2 => take_varint(&mut rest) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        rest = &rest[length..];
        found.push((tag >> 3, before[..before.len() - rest.len()].to_vec()));
    }
    found
}

/// The records of a payload, each as its fields.
fn records(payload: &[u8]) -> Vec<Vec<Field>> {
    let inside = |(number, bytes): Field| {
        assert_eq!(number, 1);
        let mut rest = &bytes[1..];
        let length = take_varint(&mut rest) as usize;
        assert_eq!(rest.len(), length);
        fields(rest)
    };
    fields(payload).into_iter().map(inside).collect()
}

fn batch_of(payload: Bytes, count: u32) -> Batch {
    let header = BatchHeader {
        base_offset: Offset::new(BASE),
        last_offset_delta: count - 1,
        leader_epoch: LeaderEpoch::ZERO,
        producer: None,
        append_time: APPENDED,
        max_timestamp: APPENDED,
        compression: Compression::None,
        kind: BatchKind::Data,
        records_crc: records_crc(&payload),
        synced_end: Offset::ZERO,
        payload_bytes: payload.len() as u32,
    };
    Batch { header, payload }
}

/// A record that is expected: its place, its own fields, and when it may go.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    delta: u64,
    fields: Vec<Field>,
    delete_after: Option<i64>,
}

/// What is left of them.
fn left(before: &[Expected], fates: &[Fate]) -> Vec<Expected> {
    let stays = |(it, fate): (&Expected, &Fate)| match fate {
        Fate::Goes => None,
        Fate::Stays => Some(it.clone()),
        Fate::StaysUntil(at) => Some(Expected { delete_after: Some(at.as_millis()), ..it.clone() }),
    };
    before.iter().zip(fates).filter_map(stays).collect()
}

/// Thins a batch, and holds what comes of it against what is expected.
fn check(batch: &Batch, fates: &[Fate], expected: &[Expected]) -> Batch {
    let thinned = thin(batch, fates).expect("it was scanned");
    assert_eq!(thinned.record_count as usize, expected.len());
    let found: Vec<_> = records(&thinned.payload)
        .into_iter()
        .map(|all| {
            let one = |number: u64| {
                let mut found = all.iter().filter(|field| field.0 == number);
                let field = found.next().map(|field| field.1.clone());
                assert!(found.next().is_none(), "once");
                field
            };
            let delta = one(5).expect("each states its offset");
            let after =
                one(6).map(|bytes| i64::from_le_bytes(*bytes[1..].first_chunk().expect("8")));
            let fields = all.iter().filter(|field| !matches!(field.0, 5 | 6)).cloned().collect();
            Expected { delta: take_varint(&mut &delta[1..]), fields, delete_after: after }
        })
        .collect();
    assert_eq!(found, expected);
    let count = batch.header.last_offset_delta + 1;
    let after = batch_of(thinned.payload, count);
    // And so it is read.
    let read: Vec<_> = after.records().map(|record| record.expect("it can be read")).collect();
    let latest = read.iter().map(|record| record.timestamp).max();
    assert_eq!(latest.unwrap_or(Timestamp::MIN), thinned.max_timestamp);
    for (record, expected) in read.iter().zip(expected) {
        assert_eq!(record.offset.get(), BASE + expected.delta);
        let after = record.delete_after.map(Timestamp::as_millis);
        assert_eq!(after, expected.delete_after);
    }
    after
}

proptest! {
    #[test]
    fn what_stays_says_what_it_said_at_its_offset_however_often_others_go(
        given in prop::collection::vec((record(), fate(), fate()), 1..30),
    ) {
        let payload: Vec<u8> =
            given.iter().flat_map(|(record, ..)| with_length(1, record)).collect();
        let payload = Bytes::from(payload);
        prop_assert_eq!(scan(&payload).expect("it is valid").record_count as usize, given.len());
        let batch = batch_of(payload, given.len() as u32);
        let all: Vec<_> = (0..)
            .zip(&given)
            .map(|(delta, (record, ..))| Expected {
                delta,
                fields: fields(record),
                delete_after: None,
            })
            .collect();
        let views: Vec<_> = batch.records().map(|record| record.expect("valid")).collect();
        let first: Vec<_> = given.iter().map(|(_, fate, _)| *fate).collect();
        let expected = left(&all, &first);
        let once = check(&batch, &first, &expected);
        // What is read of each is what was read before.
        for record in once.records() {
            let record = record.expect("valid");
            let before = &views[(record.offset.get() - BASE) as usize];
            prop_assert_eq!((record.key, record.value), (before.key, before.value));
            prop_assert_eq!(record.timestamp, before.timestamp);
            prop_assert!(record.headers().eq(before.headers()));
        }
        let second: Vec<_> = expected
            .iter()
            .map(|it| given[it.delta as usize].2)
            .collect();
        check(&once, &second, &left(&expected, &second));
    }

    #[test]
    fn whoever_has_no_key_is_named_by_place(
        given in prop::collection::vec(record(), 1..30),
    ) {
        let payload: Vec<u8> = given.iter().flat_map(|record| with_length(1, record)).collect();
        let expected: Vec<_> = (0u32..)
            .zip(&given)
            .filter(|(_, record)| fields(record).iter().all(|field| field.0 != 1))
            .map(|(place, _)| place)
            .collect();
        prop_assert_eq!(keyless(&payload).collect::<Vec<_>>(), &expected[..]);
        let summary = scan(&payload).expect("it is valid");
        prop_assert_eq!(summary.keyless_count as usize, expected.len());
    }
}
