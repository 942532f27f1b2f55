//! What each record and each batch costs in the formats: `cargo bench -p taffrail-benches`.
//!
//! Throughput is in bytes of payload. Compare with `records_crc` of the same payload, which is the
//! least that anything reading every byte can cost.

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use taffrail_model::batch::{
    BatchHeader, BatchKind, Batches, Compression, RecordFields, RecordSetBuilder, Salt,
    records_crc, scan,
};
use taffrail_model::{LeaderEpoch, Offset, Timestamp};

/// Bytes of a record's value.
const VALUE_BYTES: [usize; 2] = [100, 1024];
/// Bytes of a batch.
const BATCH_BYTES: usize = 64 << 10;
/// Batches in a row.
const BATCHES: usize = 64;
const SALT: Salt = Salt::new(0x7245_7245);

fn payload(value_bytes: usize) -> (Bytes, u32) {
    let value = vec![b'v'; value_bytes];
    let timestamp = Some(Timestamp::from_millis(1_517_788_800_000));
    let record = RecordFields { value: Some(&value), timestamp, ..RecordFields::default() };
    let mut builder = RecordSetBuilder::with_capacity(BATCH_BYTES);
    while builder.payload_bytes() + record.encoded_bytes() <= BATCH_BYTES {
        builder.push(&record);
    }
    let count = builder.record_count();
    (builder.finish(), count)
}

fn header(payload: &[u8], base_offset: Offset, record_count: u32) -> BatchHeader {
    BatchHeader {
        base_offset,
        last_offset_delta: record_count - 1,
        leader_epoch: LeaderEpoch::new(1),
        producer: None,
        append_time: Timestamp::from_millis(1_517_788_800_000),
        max_timestamp: Timestamp::from_millis(1_517_788_800_000),
        compression: Compression::None,
        kind: BatchKind::Data,
        records_crc: records_crc(payload),
        synced_end: base_offset,
        payload_bytes: payload.len() as u32,
    }
}

/// What a payload costs: to make, to check on arrival, to sum up, to read.
fn payloads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("payload");
    for value_bytes in VALUE_BYTES {
        let (payload, count) = payload(value_bytes);
        let head = header(&payload, Offset::ZERO, count);
        let mut whole = BytesMut::from(head.encode(SALT).as_slice());
        whole.put_slice(&payload);
        let batch = Batches::verified(whole.freeze(), SALT).next();
        let batch = batch.expect("one batch").expect("a sound batch");
        group.throughput(Throughput::Bytes(payload.len() as u64));
        let id = |name| BenchmarkId::new(name, value_bytes);
        group.bench_function(id("build"), |bench| bench.iter(|| self::payload(value_bytes)));
        group.bench_function(id("scan"), |bench| bench.iter(|| scan(black_box(&payload))));
        group.bench_function(id("crc"), |bench| bench.iter(|| records_crc(black_box(&payload))));
        group.bench_function(id("read"), |bench| {
            bench.iter(|| black_box(&batch).records().flatten().count());
        });
    }
    group.finish();
}

/// What the headers of batches cost: to write, and to walk over.
fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    let (payload, count) = payload(1024);
    let mut log = BytesMut::new();
    for index in 0..BATCHES as u64 {
        let base = Offset::new(index * u64::from(count));
        log.put_slice(&header(&payload, base, count).encode(SALT));
        log.put_slice(&payload);
    }
    let log = log.freeze();
    let head = header(&payload, Offset::ZERO, count);
    group.bench_function("encode", |bench| bench.iter(|| black_box(&head).encode(SALT)));
    group.throughput(Throughput::Elements(BATCHES as u64));
    group.bench_function("walk", |bench| {
        bench.iter(|| Batches::verified(log.clone(), SALT).flatten().count());
    });
    group.finish();
}

criterion_group!(benches, payloads, headers);
criterion_main!(benches);
