//! Why a batch was not appended.

use std::path::PathBuf;
use std::sync::Arc;

use taffrail_log::SequenceError;
use taffrail_model::batch::ScanError;
use taffrail_model::{NameError, Offset, PartitionIndex, ProducerId, Timestamp};

/// Why a batch was not appended. But for `ResultUnknown`, nothing of it is in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProduceError {
    /// Requests of a stream are numbered upwards.
    #[error("request {number} came behind request {last}: number a stream's requests upwards")]
    NumberOrder {
        /// Its number.
        number: u64,
        /// The number of the one before it.
        last: u64,
    },
    /// Not a topic's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such topic.
    #[error("there is no topic {topic:?}{}: create it first", crate::nearest::did_you_mean(.nearest.as_deref()))]
    UnknownTopic {
        /// What was asked for.
        topic: String,
        /// A topic with a similar name.
        nearest: Option<String>,
    },
    /// The topic has no such partition.
    #[error("topic {topic:?} has partitions 0 to {}, not {partition}", .partitions.saturating_sub(1))]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: PartitionIndex,
        /// How many there are.
        partitions: u32,
    },
    /// Only the broker writes there.
    #[error("topic {topic:?} is the broker's own: only the broker writes to it")]
    InternalTopic {
        /// The topic.
        topic: String,
    },
    /// Larger than the topic allows.
    #[error(
        "the batch has {found} bytes; the topic takes {max}: send smaller batches, \
         or raise its max.batch.bytes"
    )]
    BatchTooLarge {
        /// Bytes of the batch with its header.
        found: u64,
        /// Bytes that the topic takes.
        max: u64,
    },
    /// Larger than the topic allows, once it is opened.
    #[error(
        "the batch has more than {max} bytes when it is opened, which is what the topic takes: send \
         smaller batches, or raise its max.batch.bytes"
    )]
    OpensTooLarge {
        /// Bytes that the topic takes.
        max: u64,
    },
    /// It cannot be opened.
    #[error("the batch cannot be opened: {cause}")]
    Unopened {
        /// Why not.
        cause: String,
    },
    /// The payload is not where its compression says.
    #[error(
        "compression {compression} does not go with the payload's field: compressed_records holds \
         a frame of LZ4 or ZSTD, records hold what is not compressed"
    )]
    PayloadMismatch {
        /// The compression.
        compression: &'static str,
    },
    /// A compression that this version does not know.
    #[error("compression {compression} is not known here: send COMPRESSION_NONE, _LZ4 or _ZSTD")]
    UnsupportedCompression {
        /// The compression's number.
        compression: i32,
    },
    /// It claims to be the broker's own.
    #[error("kind = BATCH_KIND_CONTROL is the broker's own: send BATCH_KIND_DATA")]
    ControlBatch,
    /// It names an idempotent producer and no partition.
    #[error("a batch of an idempotent producer names its partition by number: set `partition`")]
    Unplaced,
    /// Its producer may not append it.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// Somebody else has taken its producer's name.
    #[error("producer {id} has lost its name to another: stop it, or take the name anew")]
    NameLost {
        /// The producer.
        id: ProducerId,
    },
    /// Its CRC does not fit.
    #[error(
        "the batch arrived damaged: records crc {found:#010x}, computed {computed:#010x}; \
         send it again"
    )]
    CorruptBatch {
        /// What the producer says.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Its records cannot be stored.
    #[error(transparent)]
    InvalidRecords(#[from] ScanError),
    /// Records without a key, where of each key the latest is kept.
    #[error(
        "the topic is compacted, and {count} of the batch's records have no key, at index {}: give \
         each a key, or set the topic's cleanup=delete",
        named(.records, *.count)
    )]
    KeyMissing {
        /// The first of them, by their place in the batch.
        records: Vec<u32>,
        /// How many there are.
        count: u32,
    },
    /// A record from the future.
    #[error(
        "the batch has a timestamp of {found} ms; the broker's clock says {now} ms and takes at \
         most {ahead_ms} ms more: check the producer's clock and unit (Unix milliseconds)"
    )]
    TimestampAhead {
        /// The latest timestamp.
        found: Timestamp,
        /// The broker's clock.
        now: Timestamp,
        /// How much later it may be.
        ahead_ms: u64,
    },
    /// Nobody knows who has which producer's name.
    #[error(
        "the log of producers cannot be used: {cause}; until that is mended names cannot be told"
    )]
    ProducersDamaged {
        /// What is wrong.
        cause: String,
    },
    /// It would get another offset than the one it must get.
    #[error(
        "the next offset is {actual}, not {expected}: read what came in between, then decide anew"
    )]
    OffsetMismatch {
        /// The offset it must get.
        expected: Offset,
        /// The offset it would get.
        actual: Offset,
    },
    /// An earlier one of the same stream or request was refused.
    #[error(
        "request {refused} was refused before it: send that again first, or set resumes_after = {refused}"
    )]
    PrecedingFailed {
        /// The number of the one that was refused.
        refused: u64,
    },
    /// Too much at once.
    #[error("{what} in flight exceed {limit}: wait for answers, then retry")]
    Overloaded {
        /// Of what there is too much.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// The partition is being checked, after an unclean stop or because it is opened anew.
    #[error("the partition is being checked: retry in a moment")]
    Recovering,
    /// The partition takes nothing.
    #[error("the partition is read-only: {cause}")]
    ReadOnly {
        /// Why.
        cause: String,
    },
    /// The partition cannot be opened.
    #[error("the partition is offline: {cause}")]
    Offline {
        /// Why.
        cause: String,
    },
    /// The disk is full.
    #[error("the disk is full: {path} cannot grow; free some space, then retry")]
    StorageFull {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Arc<std::io::Error>,
    },
    /// It may or may not be in the log.
    #[error("whether the batch is in the log is not known: {cause}")]
    ResultUnknown {
        /// What happened.
        cause: String,
    },
    /// The broker is going away.
    #[error("the broker is stopping: connect again in a moment")]
    Stopping,
}

/// Some of `count` records, by their places.
fn named(records: &[u32], count: u32) -> String {
    let places: Vec<_> = records.iter().map(u32::to_string).collect();
    let rest = count as usize - records.len().min(count as usize);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", places.join(", "))
}
