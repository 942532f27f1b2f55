//! What holds for any bytes: properties for stable tests, and for the fuzzer in `fuzz/`.

use bytes::Bytes;
use taffrail_model::batch::{
    Batch, BatchHeader, BatchKind, Batches, Compression, HEADER_BYTES, HeaderView, RecordFields,
    RecordSetBuilder, Salt, find_header, records_crc, scan,
};
use taffrail_model::{LeaderEpoch, Offset, Timestamp};

const SALT: Salt = Salt::new(7);

/// Takes `bytes` for records, for batches that were received, and for a part of a segment.
pub(crate) fn batch_scan(bytes: &[u8]) {
    check_records(bytes);
    check_batches(bytes);
    check_search(bytes);
}

/// What the scan accepts can be read, and is what the scan says.
fn check_records(payload: &[u8]) {
    let batch = Batch { header: header(payload, 100, 1), payload: Bytes::copy_from_slice(payload) };
    let read: Vec<_> = batch.records().collect();
    let Ok(summary) = scan(payload) else { return };
    assert_eq!(read.len(), summary.record_count as usize);
    for (at, record) in read.into_iter().enumerate() {
        let record = record.expect("what is scanned can be read");
        assert_eq!(record.offset, Offset::new(100 + at as u64));
        assert!(record.headers().count() <= payload.len());
        let is_stated = record.timestamp != batch.header.append_time;
        assert!(!is_stated || Some(record.timestamp) <= summary.max_timestamp);
    }
}

/// Each batch of a walk lies where the one before ended, and its header has one spelling.
fn check_batches(bytes: &[u8]) {
    let mut batches = Batches::received(Bytes::copy_from_slice(bytes));
    let mut position = 0;
    while let Some(Ok(batch)) = batches.next() {
        let end = batches.position();
        assert_eq!(end - position, batch.header.total_bytes());
        let again = batch.header.encode(SALT);
        // All but the CRC, whose salt is not known here.
        assert_eq!(again[..6], bytes[position..position + 6]);
        assert_eq!(again[10..], bytes[position + 10..position + HEADER_BYTES]);
        batch.records().for_each(drop);
        position = end;
    }
    assert!(batches.next().is_none(), "a walk that ended goes on");
}

/// A header is found only where one lies, and none before it.
fn check_search(bytes: &[u8]) {
    let is_header = |at: usize| {
        let window = bytes.get(at..at + HEADER_BYTES).and_then(|window| window.first_chunk());
        window.and_then(|window| BatchHeader::decode(window, SALT).ok())
    };
    if let Some((at, header)) = find_header(bytes, SALT, Offset::new(1)) {
        assert_eq!(is_header(at).as_ref(), Some(&header));
        assert!((0..at).filter_map(is_header).all(|header| header.base_offset < Offset::new(1)));
    }
}

/// A batch of `count` records as it lies in a segment, with these bytes changed.
pub(crate) fn changed(count: u8, changes: &[(u16, u8)]) -> Vec<u8> {
    let mut builder = RecordSetBuilder::default();
    for at in 0..count {
        let headers = [HeaderView { name: "name", value: &[at] }];
        let timestamp = Some(Timestamp::from_millis(i64::from(at)));
        let fields = RecordFields { key: Some(&[at]), value: None, headers: &headers, timestamp };
        builder.push(&fields);
    }
    let payload = builder.finish();
    let mut bytes = header(&payload, 1, u32::from(count)).encode(SALT).to_vec();
    bytes.extend(&payload);
    for (at, bits) in changes {
        let at = usize::from(*at) % bytes.len();
        bytes[at] ^= bits;
    }
    // Half of the changes are to the payload alone.
    if changes.len().is_multiple_of(2) { bytes.split_off(HEADER_BYTES) } else { bytes }
}

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
