//! A log without a broker: compaction with many keys, and the deletion of many segments beside somebody
//! who appends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taffrail_log::vfs::Disk;
use taffrail_log::{
    CompactionConfig, CompactionStep, Deletion, Directory, DirectoryOptions, Log, LogConfig,
    NewBatch,
};
use taffrail_model::batch::{BatchKind, Compression, RecordFields, RecordSetBuilder, records_crc};
use taffrail_model::{LogId, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const BATCH_BYTES: usize = 64 << 10;

fn log(path: &Path, segment_bytes: u64) -> anyhow::Result<(Directory, Log)> {
    let path = path.join("data");
    let options = DirectoryOptions { path: &path, init: false, first_logs: &[], now: NOW };
    let directory = Directory::open(Arc::new(Disk), &options)?;
    let config =
        LogConfig { segment_bytes, segment_age: None, tail_bytes_max: 0, reserves_offsets: false };
    let log = directory.create_log(LogId::new([7; 16]), "bench/0", config, NOW)?;
    Ok((directory, log))
}

fn append(log: &mut Log, builder: RecordSetBuilder) -> anyhow::Result<()> {
    let record_count = builder.record_count();
    let payload = builder.finish();
    let batch = NewBatch {
        records_crc: records_crc(&payload),
        payload,
        record_count,
        max_timestamp: None,
        has_unstamped: true,
        compression: Compression::None,
        kind: BatchKind::Data,
        producer: None,
    };
    let mut append = log.begin(NOW);
    append.push(batch);
    let (_, error) = append.write();
    error.map_or(Ok(()), |error| Err(error.into()))
}

/// Compacts a log of so many records with so many keys.
pub(crate) fn compact(
    home: &Path,
    records: u64,
    keys: u64,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let (_directory, mut log) = log(home, 64 << 20)?;
    let value = vec![b'v'; value_bytes];
    let mut builder = RecordSetBuilder::with_capacity(BATCH_BYTES * 2);
    let mut mixed = 0u64;
    for number in 0..records {
        mixed =
            mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // All keys once where there are as many records; else at random.
        let key = if keys == records { number } else { (mixed >> 20) % keys };
        let key = format!("key-{key:012}");
        let fields = RecordFields {
            key: Some(key.as_bytes()),
            value: Some(&value),
            ..RecordFields::default()
        };
        builder.push(&fields);
        if builder.payload_bytes() >= BATCH_BYTES {
            let next = RecordSetBuilder::with_capacity(BATCH_BYTES * 2);
            append(&mut log, std::mem::replace(&mut builder, next))?;
        }
    }
    if !builder.is_empty() {
        append(&mut log, builder)?;
    }
    log.roll()?;
    let before = log.reader().dirt().sealed_bytes;
    let resident_before = resident_bytes();
    let mut resident_max = 0;
    let began = Instant::now();
    let mut compaction = log.begin_compaction(CompactionConfig::default(), NOW, true);
    let mut steps = 0u64;
    let report = loop {
        match compaction.step()? {
            CompactionStep::Worked { .. } => {}
            CompactionStep::Done(report) => break report,
        }
        steps += 1;
        if steps.is_multiple_of(16) {
            resident_max = resident_max.max(resident_bytes());
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{records} records, {keys} keys: {:.0} MB in, {:.0} MB out, {} records removed, {seconds:.1} s: \
         {:.0} MB/s of the log, {:.0} MB/s read, {:.0} MB/s written; {:.0} MB resident at the most, \
         {:.0} MB before",
        mb(before),
        mb(log.reader().dirt().sealed_bytes),
        report.removed_records,
        mb(before) / seconds,
        mb(report.read_bytes) / seconds,
        mb(report.written_bytes) / seconds,
        mb(resident_max),
        mb(resident_before),
    );
    Ok(())
}

/// Deletes so many segments while somebody appends to the same log.
pub(crate) fn delete(home: &Path, segments: u64) -> anyhow::Result<()> {
    let (directory, mut log) = log(home, 1 << 30)?;
    for _ in 0..segments {
        append(&mut log, records(63 << 10))?;
        log.roll()?;
    }
    directory.persist_points()?;
    let quiet = latencies(&mut log, |_| Duration::from_secs(3))?;
    let (log_start, began) = (log.end(), Instant::now());
    let deletion = log.delete_segments_before(log_start)?;
    let prepared = began.elapsed();
    let is_over = AtomicBool::new(false);
    let mut beside = Vec::new();
    let took = std::thread::scope(|scope| {
        let deleting = scope.spawn(|| {
            let began = Instant::now();
            let deleted = Deletion::finish(deletion);
            is_over.store(true, Ordering::Release);
            (began.elapsed(), deleted)
        });
        while !is_over.load(Ordering::Acquire) {
            beside.extend(latencies(&mut log, |_| Duration::ZERO)?);
        }
        let (took, deleted) = deleting.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
        let deleted = deleted.context("nothing is wrong")?;
        ensure!(deleted.segments as u64 == segments, "{} were deleted", deleted.segments);
        anyhow::Ok(took)
    })?;
    println!(
        "{segments} segments deleted in {:.2} s; {:.2} ms to prepare; an append of 1 KiB and its sync: \
         {} beside it, {} without",
        took.as_secs_f64(),
        prepared.as_secs_f64() * 1e3,
        percentiles(beside),
        percentiles(quiet),
    );
    Ok(())
}

/// How long appending a KiB and syncing it takes, again and again.
fn latencies(log: &mut Log, time: impl FnOnce(&Log) -> Duration) -> anyhow::Result<Vec<Duration>> {
    let (time, began) = (time(log), Instant::now());
    let syncer = log.syncer();
    let mut latencies = Vec::new();
    loop {
        let at = Instant::now();
        append(log, records(1 << 10))?;
        syncer.sync()?;
        latencies.push(at.elapsed());
        if began.elapsed() >= time {
            return Ok(latencies);
        }
    }
}

fn percentiles(mut latencies: Vec<Duration>) -> String {
    latencies.sort_unstable();
    let at =
        |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    format!(
        "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        latencies.len()
    )
}

fn records(bytes: usize) -> RecordSetBuilder {
    let mut builder = RecordSetBuilder::with_capacity(bytes + 100);
    let value = vec![b'v'; bytes];
    builder.push(&RecordFields { value: Some(&value), ..RecordFields::default() });
    builder
}

/// Memory of this process, as the kernel counts it.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
