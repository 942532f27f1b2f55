//! What the small files beside the segments hold: indexes, checkpoints, recovery points.

use std::path::Path;

use taffrail_model::{LogId, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use super::InspectError;
use crate::index::{self, IndexFile};
use crate::points::{self, Point};
use crate::producers::{self, Checkpoint, Producer};
use crate::vfs::{Vfs, read_bytes, read_file};

/// More than any of these files takes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What a small file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A segment's index.
    Index(IndexContents),
    /// What a log remembers of idempotent producers.
    Checkpoint(CheckpointContents),
    /// The recovery points of a data directory.
    Points(PointsContents),
}

/// What an index holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexContents {
    /// The salt of its segment.
    pub salt: u32,
    /// Bytes of its segment.
    pub segment_bytes: u64,
    /// The base offset of its segment.
    pub base_offset: Offset,
    /// The offset behind its segment's last record.
    pub end_offset: Offset,
    /// The latest timestamp in its segment.
    pub max_timestamp: Timestamp,
    /// Its entries: a batch's base offset, its position, and the latest timestamp before it.
    pub entries: Vec<(Offset, u64, Timestamp)>,
}

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointContents {
    /// The log.
    pub log: LogId,
    /// The offset below which all batches are counted in.
    pub end: Offset,
    /// Whoever is below this and not listed may have been forgotten.
    pub known_from: ProducerId,
    /// The producers, ascending.
    pub producers: Vec<ProducerContents>,
}

/// What is remembered of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerContents {
    /// Its identity.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// When its last batch was appended.
    pub last_append: Timestamp,
    /// Its last batches, in order: sequence, number of records, base offset.
    pub batches: Vec<(Sequence, u32, Offset)>,
}

/// What a copy of the recovery points holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointsContents {
    /// Grows with each change.
    pub generation: u64,
    /// The start of the machine in which it was written.
    pub boot_id: [u8; 16],
    /// When the broker was last seen, to within an hour; 1970 if it never told the time.
    pub last_seen: Timestamp,
    /// What is known of each log, ascending.
    pub entries: Vec<(LogId, Point)>,
}

/// Reads an index, a checkpoint or recovery points, whichever `path` is; `None` if it is none of these.
///
/// # Errors
/// If it cannot be read, or is damaged.
pub fn contents(vfs: &dyn Vfs, path: &Path) -> Result<Option<Contents>, InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    let file = vfs.open_read_only(path).map_err(io)?;
    let magic = read_bytes(file.as_ref(), 0, index::MAGIC.len()).map_err(io)?;
    if ![index::MAGIC, producers::MAGIC, points::MAGIC].iter().any(|known| magic == known[..]) {
        return Ok(None);
    }
    let bytes = read_file(vfs, path, FILE_BYTES_MAX).map_err(io)?;
    let found = if bytes.starts_with(&index::MAGIC) {
        index::decode(&bytes).map(|file| Contents::Index(file.into()))
    } else if bytes.starts_with(&producers::MAGIC) {
        producers::decode(&bytes).map(|checkpoint| Contents::Checkpoint(checkpoint.into()))
    } else {
        points::decode(&bytes).map(|copy| Contents::Points(copy.into()))
    };
    found.map(Some).ok_or_else(|| InspectError::Damaged { path: path.to_owned() })
}

impl From<IndexFile> for IndexContents {
    fn from(file: IndexFile) -> Self {
        let entries = file.index.entries().iter();
        Self {
            salt: file.salt.get(),
            segment_bytes: file.segment_bytes,
            base_offset: file.base_offset,
            end_offset: file.end_offset,
            max_timestamp: file.index.max_timestamp(),
            entries: entries
                .map(|entry| (entry.offset, entry.position, entry.max_timestamp_before))
                .collect(),
        }
    }
}

impl From<Checkpoint> for CheckpointContents {
    fn from(Checkpoint { log_id, end, producers }: Checkpoint) -> Self {
        let known_from = producers.known_from();
        let producers = producers.by_id().iter().map(|(id, producer)| {
            let Producer { epoch, batches, last_append } = producer;
            let batches =
                batches.iter().map(|mark| (mark.sequence, mark.record_count, mark.base_offset));
            ProducerContents {
                id: *id,
                epoch: *epoch,
                last_append: *last_append,
                batches: batches.collect(),
            }
        });
        Self { log: log_id, end, known_from, producers: producers.collect() }
    }
}

impl From<points::Copy> for PointsContents {
    fn from(points::Copy { generation, boot_id, last_seen, entries }: points::Copy) -> Self {
        Self { generation, boot_id, last_seen, entries: entries.into_iter().collect() }
    }
}
