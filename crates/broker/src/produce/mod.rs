//! A producer's requests, in order.
//!
//! A request is checked where it arrives, and gets its place in its partition's queue in the order
//! of arrival, refusals included: so what is refused is refused in order, and whatever of the same
//! stream came behind it gets `PRECEDING_FAILED` until the producer says that it knows.

mod check;
mod error;
mod fence;
mod lane;
mod reply;
mod session;

use bytes::Bytes;
use taffrail_model::{Offset, PartitionIndex, ProducerStamp, Timestamp};

pub(crate) use check::{BatchRules, check};
pub use error::ProduceError;
pub(crate) use fence::Fence;
pub(crate) use lane::Lane;
pub use reply::Outcome;
pub(crate) use reply::Reply;
pub(crate) use session::produce_all;
pub use session::{ProduceSession, StreamRequest};

/// When a producer is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// When the batch is committed.
    Committed,
    /// Only if it is refused.
    None,
}

/// Where a batch goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// To this partition.
    Partition(PartitionIndex),
    /// Where Kafka's default partitioner puts this key.
    Key(Bytes),
    /// Wherever the broker likes.
    Spread,
}

/// A batch as it came from outside.
#[derive(Clone, Debug)]
pub struct IncomingBatch {
    /// The encoded records.
    pub payload: Bytes,
    /// Its CRC-32, if the producer computed it.
    pub records_crc: Option<u32>,
    /// The number of its compression.
    pub compression: i32,
    /// Whether the payload came in the field of compressed ones.
    pub is_compressed: bool,
    /// Whether it claims to be the broker's own.
    pub is_control: bool,
    /// The idempotent producer that sent it, if one did.
    pub producer: Option<ProducerStamp>,
}

/// A batch and where it goes.
#[derive(Clone, Debug)]
pub struct ProduceBatch {
    /// The topic, as the producer wrote it.
    pub topic: String,
    /// The partition.
    pub placement: Placement,
    /// The records.
    pub batch: IncomingBatch,
    /// The offset it must get, if that matters.
    pub expected_next_offset: Option<Offset>,
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Its place; `None` for a duplicate of a batch whose place nobody remembers.
    pub place: Option<Place>,
    /// End of what readers may see, when it was committed.
    pub high_watermark: Offset,
    /// Whether it was there already.
    pub is_duplicate: bool,
}

/// The place of a batch in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
}
