//! What is counted. Each case prepares what it needs, counts one thing, and says of how many it was.

use std::hint::black_box;

use anyhow::ensure;
use taffrail_log::{LogConfig, LogReader, Opened, Read, ReadRequest};
use taffrail_model::batch::{HeaderView, scan};

use crate::callgrind::counted;
use crate::given::{
    Batches::{self, Large, Small},
    Given, append, open_directory, open_log, records,
};

/// One of them.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Of what it is.
    pub(crate) unit: &'static str,
    /// Runs it, and returns how many of them it was.
    pub(crate) run: fn() -> anyhow::Result<u64>,
}

/// In the order of names.
pub(crate) const CASES: [Case; 12] = [
    Case { name: "append-large", unit: "batch", run: || appending(Large) },
    Case { name: "append-small", unit: "batch", run: || appending(Small) },
    Case { name: "fetch-file-large", unit: "batch", run: || fetching_from_file(Large) },
    Case { name: "fetch-file-small", unit: "batch", run: || fetching_from_file(Small) },
    Case { name: "fetch-map-large", unit: "batch", run: || fetching_from_map(Large) },
    Case { name: "fetch-map-small", unit: "batch", run: || fetching_from_map(Small) },
    Case { name: "fetch-tail-large", unit: "batch", run: || fetching_from_tail(Large) },
    Case { name: "fetch-tail-small", unit: "batch", run: || fetching_from_tail(Small) },
    Case { name: "recover-large", unit: "batch", run: || recovering(Large) },
    Case { name: "recover-small", unit: "batch", run: || recovering(Small) },
    Case { name: "scan", unit: "record", run: || scanning(&[]) },
    Case { name: "scan-headers", unit: "record", run: || scanning(&HEADERS) },
];

const HEADERS: [HeaderView<'_>; 2] = [
    HeaderView { name: "content-type", value: b"application/json" },
    HeaderView { name: "trace", value: b"0123456789abcdef" },
];

/// Bytes of the payload that is scanned.
const SCAN_BYTES: usize = 1 << 20;

/// Bytes that one fetch asks for at most.
const FETCH_BYTES: usize = 256 << 10;

/// Batches that were checked go into a log, in writes as large as a broker's.
fn appending(batches: Batches) -> anyhow::Result<u64> {
    let mut given = Given::new(LogConfig::default())?;
    let groups = batches.groups();
    counted(|| append(&mut given.log, groups))?;
    Ok(batches.count())
}

/// The check of what comes in.
fn scanning(headers: &[HeaderView<'_>]) -> anyhow::Result<u64> {
    let payload = records(SCAN_BYTES, headers).finish();
    let summary = counted(|| scan(black_box(&payload)))?;
    Ok(u64::from(summary.record_count))
}

/// What is not in memory any more, and is verified when it is read.
fn fetching_from_file(batches: Batches) -> anyhow::Result<u64> {
    let given = Given::with(batches, LogConfig { tail_bytes_max: 0, ..LogConfig::default() })?;
    counted(|| fetch(&given.log.reader()))?;
    Ok(batches.count())
}

/// What was read and verified before.
fn fetching_from_map(batches: Batches) -> anyhow::Result<u64> {
    let mut given = Given::with(batches, LogConfig::default())?;
    given.log.roll()?;
    let reader = given.log.reader();
    fetch(&reader)?;
    counted(|| fetch(&reader))?;
    Ok(batches.count())
}

/// What was just appended, out of memory.
fn fetching_from_tail(batches: Batches) -> anyhow::Result<u64> {
    let given = Given::with(batches, LogConfig::default())?;
    let reader = given.log.reader();
    let first = ReadRequest { from: reader.start(), limit: reader.end(), bytes_max: 1 };
    ensure!(reader.read_tail(&first).is_some(), "not all of the log is in memory");
    counted(|| fetch(&reader))?;
    Ok(batches.count())
}

/// Opening a log that was not closed: its last segment is read and verified. Nearly all of it was known
/// to be on disk, as it is where the recovery point is written once a second.
fn recovering(batches: Batches) -> anyhow::Result<u64> {
    let mut given = Given::new(LogConfig::default())?;
    let mut groups = batches.groups();
    let last = groups.pop();
    append(&mut given.log, groups)?;
    given.log.syncer().sync()?;
    given.directory.persist_points()?;
    append(&mut given.log, last.into_iter().collect())?;
    let Given { log, directory, home } = given;
    drop((log, directory));
    let directory = open_directory(home.path())?;
    let Opened { report, .. } = counted(|| open_log(&directory))?;
    ensure!(0 < report.scanned_bytes, "the last segment was not verified");
    ensure!(report.damage.is_empty() && report.skipped.is_none(), "{report:?}");
    Ok(batches.count())
}

/// Reads all of a log, as consumers do that are behind.
fn fetch(reader: &LogReader) -> anyhow::Result<()> {
    let (mut from, limit) = (reader.start(), reader.end());
    while from < limit {
        match reader.read(&ReadRequest { from, limit, bytes_max: FETCH_BYTES })? {
            Read::Batches { next, bytes } => {
                black_box(bytes);
                from = next;
            }
            Read::Gap(_) | Read::End => anyhow::bail!("nothing at {from}, before {limit}"),
        }
    }
    Ok(())
}
