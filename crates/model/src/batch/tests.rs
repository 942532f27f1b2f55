//! Batches through their door: what is built is read back, what is broken is refused.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{LeaderEpoch, Offset, Timestamp};

const SALT: Salt = Salt::new(0x5eed_cafe);

fn header(payload: &[u8], base: u64, records: u32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset::new(base),
        last_offset_delta: records - 1,
        leader_epoch: LeaderEpoch::new(3),
        producer: None,
        append_time: Timestamp::from_millis(1_000),
        max_timestamp: Timestamp::from_millis(2_000),
        compression: Compression::None,
        kind: BatchKind::Data,
        records_crc: records_crc(payload),
        synced_end: Offset::new(base),
        payload_bytes: payload.len() as u32,
    }
}

/// One owned record for the model that batches are held against.
#[derive(Clone, Debug)]
struct Owned {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    timestamp: i64,
}

fn owned() -> impl Strategy<Value = Owned> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let headers = prop::collection::vec((".{0,12}", bytes()), 0..3);
    (prop::option::of(bytes()), prop::option::of(bytes()), headers, any::<i64>())
        .prop_map(|(key, value, headers, timestamp)| Owned { key, value, headers, timestamp })
}

fn build(records: &[Owned]) -> Bytes {
    let mut builder = RecordSetBuilder::default();
    for record in records {
        let headers: Vec<_> =
            record.headers.iter().map(|(name, value)| HeaderView { name, value }).collect();
        let fields = RecordFields {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp: Some(Timestamp::from_millis(record.timestamp)),
        };
        let before = builder.payload_bytes();
        builder.push(&fields);
        assert_eq!(builder.payload_bytes() - before, fields.encoded_bytes());
    }
    builder.finish()
}

proptest! {
    #[test]
    fn what_is_built_is_scanned_walked_and_read_back(
        records in prop::collection::vec(owned(), 1..20),
        base in 0u64..1 << 60,
    ) {
        let payload = build(&records);
        let summary = scan(&payload).expect("a built payload is valid");
        prop_assert_eq!(summary.record_count as usize, records.len());
        prop_assert_eq!(summary.has_unstamped, records.iter().any(|r| r.timestamp == 0));
        let latest = records.iter().map(|r| r.timestamp).filter(|t| *t != 0).max();
        prop_assert_eq!(summary.max_timestamp.map(Timestamp::as_millis), latest);

        let header = header(&payload, base, summary.record_count);
        let mut bytes = header.encode(SALT).to_vec();
        bytes.extend_from_slice(&payload);
        let batches: Vec<_> =
            Batches::verified(Bytes::from(bytes), SALT).collect::<Result<_, _>>().expect("valid");
        prop_assert_eq!(batches.len(), 1);
        prop_assert_eq!(&batches[0].header, &header);
        prop_assert!(batches[0].is_sound());
        for (index, (read, record)) in batches[0].records().zip(&records).enumerate() {
            let read = read.expect("a scanned payload decodes");
            prop_assert_eq!(read.offset, Offset::new(base + index as u64));
            prop_assert_eq!(read.key, record.key.as_deref());
            prop_assert_eq!(read.value, record.value.as_deref());
            let stated = if record.timestamp == 0 { 1_000 } else { record.timestamp };
            prop_assert_eq!(read.timestamp.as_millis(), stated);
            let headers: Vec<_> =
                read.headers().map(|h| (h.name.to_owned(), h.value.to_vec())).collect();
            prop_assert_eq!(&headers, &record.headers);
        }
    }

    #[test]
    fn any_bytes_are_scanned_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(summary) = scan(&payload) {
            let header = header(&payload, 0, summary.record_count);
            let batch = Batch { header, payload: Bytes::from(payload) };
            let records = batch.records().collect::<Result<Vec<_>, _>>();
            prop_assert_eq!(records.expect("scanned").len() as u32, summary.record_count);
        }
    }
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed() {
    let bytes = header(b"payload", 77, 5).encode(SALT);
    for bit in 0..HEADER_BYTES * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(BatchHeader::decode(&flipped, SALT).is_err(), "bit {bit} went unnoticed");
    }
    assert!(BatchHeader::decode(&bytes, Salt::new(1)).is_err(), "another salt was accepted");
}

#[test]
fn the_salt_follows_from_a_header() {
    for salt in [0, 1, 0x5eed_cafe, u32::MAX] {
        for base in [0, 77, 1 << 40] {
            let bytes = header(b"payload", base, 5).encode(Salt::new(salt));
            assert_eq!(BatchHeader::solve_salt(&bytes), Ok(Salt::new(salt)), "at {base}");
        }
    }
    let other = [0; HEADER_BYTES];
    assert_eq!(BatchHeader::solve_salt(&other), Err(HeaderError::NotCanonical { at: 0 }));
}

#[test]
fn a_header_is_found_behind_damage_and_not_below_the_offset() {
    let bytes = header(b"", 50, 1).encode(SALT);
    let mut damaged = vec![0x12; 37];
    damaged.extend_from_slice(&bytes);
    let found = find_header(&damaged, SALT, Offset::new(50)).map(|(at, h)| (at, h.base_offset));
    assert_eq!(found, Some((37, Offset::new(50))));
    assert_eq!(find_header(&damaged, SALT, Offset::new(51)), None);
    assert_eq!(find_header(&damaged, Salt::new(0), Offset::ZERO), None);
}

#[test]
fn a_walk_ends_at_a_batch_that_is_not_whole() {
    let mut bytes = header(b"abc", 0, 1).encode(SALT).to_vec();
    bytes.extend_from_slice(b"abc");
    let whole = bytes.len();
    bytes.extend_from_slice(&header(b"defg", 1, 1).encode(SALT));
    bytes.extend_from_slice(b"def");
    let mut batches = Batches::verified(Bytes::from(bytes), SALT);
    assert!(batches.next().is_some_and(|batch| batch.is_ok()));
    assert!(batches.next().is_none());
    assert_eq!(batches.position(), whole);
}

#[track_caller]
fn check_scan(payload: &[u8], expected: Result<u32, ScanError>) {
    assert_eq!(scan(payload).map(|summary| summary.record_count), expected);
}

#[test]
fn payloads_that_some_decoder_would_refuse_are_refused() {
    let wire = |record, cause| Err(ScanError::Wire { record, cause });
    check_scan(&[], Err(ScanError::Empty));
    check_scan(&[0x0a, 0], Ok(1));
    // An unknown field beside the records, and one inside a record.
    check_scan(&[0x0a, 0, 0x38, 1], Ok(1));
    check_scan(&[0x0a, 2, 0x38, 1], Ok(1));
    check_scan(&[0x38, 1], Err(ScanError::Empty));
    // Cut short: in the length, in the record, in a varint.
    check_scan(&[0x0a], wire(0, WireError::Truncated));
    check_scan(&[0x0a, 0, 0x0a, 3, 0x12], wire(1, WireError::Truncated));
    check_scan(&[0x0a, 2, 0x20, 0x80], wire(0, WireError::Truncated));
    // Groups, wire types and field numbers that do not exist, numbers that are too long.
    check_scan(&[0x0a, 2, 0x0b, 0x0c], wire(0, WireError::WireType { field: 1, wire_type: 3 }));
    check_scan(&[0x0a, 1, 0x0e], wire(0, WireError::WireType { field: 1, wire_type: 6 }));
    check_scan(&[0x8a, 0x00, 2, 0x20, 2], wire(0, WireError::Padded));
    check_scan(&[0x0a, 3, 0xa0, 0x00, 2], wire(0, WireError::Padded));
    check_scan(&[0x0a, 0x82, 0x80, 0x80, 0x80, 0x80, 0x00, 0x20, 2], wire(0, WireError::Padded));
    check_scan(&[0x0a, 2, 0x02, 0], wire(0, WireError::FieldNumber));
    let long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    check_scan(&[&[0x0a, 11, 0x20][..], &long].concat(), wire(0, WireError::Varint));
    // Known fields of the wrong type, at each level.
    check_scan(&[0x08, 0], wire(0, WireError::Mismatch { field: 1 }));
    check_scan(&[0x0a, 2, 0x08, 0], wire(0, WireError::Mismatch { field: 1 }));
    check_scan(&[0x0a, 2, 0x22, 0], wire(0, WireError::Mismatch { field: 4 }));
    check_scan(&[0x0a, 4, 0x1a, 2, 0x10, 0], wire(0, WireError::Mismatch { field: 2 }));
    // What only the broker sets, and a header's name that is not text.
    let own = |field| Err(ScanError::BrokersOwn { record: 0, field });
    check_scan(&[0x0a, 2, 0x28, 0], own("offset_delta"));
    check_scan(&[0x0a, 9, 0x31, 0, 0, 0, 0, 0, 0, 0, 0], own("delete_after_ms"));
    let name = [0x0a, 5, 0x1a, 3, 0x0a, 1, 0xff];
    check_scan(&name, Err(ScanError::HeaderName { record: 0 }));
}
