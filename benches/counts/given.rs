//! What the cases begin with: records, batches, a log. The same in every run.

use std::path::Path;
use std::sync::Arc;

use taffrail_log::vfs::Disk;
use taffrail_log::{Directory, DirectoryOptions, Known, Log, LogConfig, NewBatch, Opened};
use taffrail_model::batch::{
    BatchKind, Compression, HeaderView, RecordFields, RecordSetBuilder, records_crc,
};
use taffrail_model::limits::WRITE_BYTES_MAX;
use taffrail_model::{
    LogId, Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence, Timestamp,
};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const VALUE: &[u8] = &[b'v'; 100];
const LARGE_BYTES: usize = 64 << 10;

/// How many producers take turns in sending small batches.
const SMALL_PRODUCERS: usize = 16;
/// How many of their batches go into one write.
const SMALL_GROUP: usize = 64;

/// The batches that one case is about.
#[derive(Clone, Copy)]
pub(crate) enum Batches {
    /// 64 KiB of records each, from one producer: 8 go into a write.
    Large,
    /// One record each, from many producers: 64 go into a write.
    Small,
}

impl Batches {
    /// How many there are.
    pub(crate) fn count(self) -> u64 {
        match self {
            Self::Large => 32,
            Self::Small => 4096,
        }
    }

    /// Groups of batches; each is one write.
    pub(crate) fn groups(self) -> Vec<Vec<NewBatch>> {
        let count = self.count() as usize;
        let (producers, group) = match self {
            Self::Large => (1, WRITE_BYTES_MAX / LARGE_BYTES),
            Self::Small => (SMALL_PRODUCERS, SMALL_GROUP),
        };
        let mut sequences = vec![Sequence::ZERO; producers];
        let mut batches = (0..count).map(|number| {
            let records = match self {
                Self::Large => records(LARGE_BYTES, &[]),
                Self::Small => records(0, &[]),
            };
            let producer = number % producers;
            let stamp = ProducerStamp {
                id: ProducerId::FIRST.advance(producer as u64),
                epoch: ProducerEpoch::ZERO,
                sequence: sequences[producer],
            };
            let batch = batch(records, stamp);
            sequences[producer] = stamp.sequence.advance(batch.record_count);
            batch
        });
        (0..count / group).map(|_| batches.by_ref().take(group).collect()).collect()
    }
}

/// As many records with a key, a value of 100 B and a time as fit into so many bytes, at least one.
pub(crate) fn records(bytes: usize, headers: &[HeaderView<'_>]) -> RecordSetBuilder {
    let mut builder = RecordSetBuilder::with_capacity(bytes + 2 * VALUE.len());
    loop {
        let key = format!("key-{:08}", builder.record_count());
        let record = RecordFields {
            key: Some(key.as_bytes()),
            value: Some(VALUE),
            headers,
            timestamp: Some(NOW),
        };
        if !builder.is_empty() && bytes < builder.payload_bytes() + record.encoded_bytes() {
            return builder;
        }
        builder.push(&record);
        if bytes == 0 {
            return builder;
        }
    }
}

fn batch(builder: RecordSetBuilder, stamp: ProducerStamp) -> NewBatch {
    let record_count = builder.record_count();
    let payload = builder.finish();
    NewBatch {
        records_crc: records_crc(&payload),
        payload,
        record_count,
        max_timestamp: Some(NOW),
        has_unstamped: false,
        compression: Compression::None,
        kind: BatchKind::Data,
        producer: Some(stamp),
    }
}

/// A log in a data directory of its own, on the real disk: the kernel's part is not counted.
pub(crate) struct Given {
    pub(crate) log: Log,
    pub(crate) directory: Directory,
    pub(crate) home: TempDir,
}

/// The log of that directory.
const LOG: LogId = LogId::new([7; 16]);

impl Given {
    /// An empty log that keeps so many bytes of its end in memory.
    pub(crate) fn new(config: LogConfig) -> anyhow::Result<Self> {
        // Not below the workspace: the length of its path would be counted.
        let home = tempfile::Builder::new().prefix("counts-").tempdir()?;
        let directory = open_directory(home.path())?;
        let log = directory.create_log(LOG, "counts/0", config, NOW)?;
        directory.persist_points()?;
        Ok(Self { log, directory, home })
    }

    /// A log with batches in it.
    pub(crate) fn with(batches: Batches, config: LogConfig) -> anyhow::Result<Self> {
        let mut given = Self::new(config)?;
        append(&mut given.log, batches.groups())?;
        Ok(given)
    }
}

pub(crate) fn open_directory(home: &Path) -> anyhow::Result<Directory> {
    let path = home.join("data");
    let options = DirectoryOptions { path: &path, init: false, first_logs: &[], now: NOW };
    Ok(Directory::open(Arc::new(Disk), &options)?)
}

pub(crate) fn open_log(directory: &Directory) -> anyhow::Result<Opened> {
    let producers_end = ProducerId::FIRST.advance(SMALL_PRODUCERS as u64);
    Ok(directory.open_log(LOG, LogConfig::default(), producers_end)?)
}

/// Appends each group with one write, as a broker's writer thread does. Returns the log's end.
pub(crate) fn append(log: &mut Log, groups: Vec<Vec<NewBatch>>) -> anyhow::Result<Offset> {
    for group in groups {
        let mut append = log.begin(NOW);
        for batch in group {
            if append.find(&batch)? == Known::New {
                append.push(batch);
            }
        }
        if let (_, Some(error)) = append.write() {
            return Err(error.into());
        }
    }
    Ok(log.end())
}
