//! The vocabulary of Taffrail: offsets, epochs, names, limits, and the record batch.
//!
//! Pure: no I/O, no async, no protobuf runtime, no clock, and no other crate of ours. What stands
//! here means the same to the client that encodes a batch, to the log that stores it and to the
//! reader that opens it.

pub mod batch;
mod epoch;
mod gap;
mod ids;
pub mod limits;
mod name;
mod offset;
mod partitioner;
mod producer;
mod timestamp;
mod wire;

pub use epoch::LeaderEpoch;
pub use gap::{Gap, GapReason};
pub use ids::{LogId, PartitionIndex, TopicId};
pub use name::{NameError, TopicName};
pub use offset::Offset;
pub use partitioner::partition_for_key;
pub use producer::{ProducerEpoch, ProducerId, ProducerStamp, Sequence};
pub use timestamp::Timestamp;
