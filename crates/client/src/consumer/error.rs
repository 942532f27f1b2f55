//! Why a consumer stopped reading.

use taffrail_model::batch::{OpenError, WalkError};
use taffrail_model::{Offset, PartitionIndex, TopicName};

use crate::ServerError;

/// Why a consumer stopped reading a partition, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The broker ended the reading of one partition; others go on.
    #[error("{topic}/{partition}: {error}")]
    Partition {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// What the broker says.
        error: ServerError,
    },
    /// A batch is not what its producer sent. The partition is no longer read; others go on.
    #[error(
        "{topic}/{partition}: the batch at offset {offset} is not what its producer sent: \
         its checksum does not fit"
    )]
    Corrupt {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// Offset of the batch's first record.
        offset: Offset,
    },
    /// A batch cannot be opened. It is passed over.
    #[error("{topic}/{partition}: the batch at offset {offset} cannot be opened: {cause}")]
    Unopened {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// Offset of the batch's first record.
        offset: Offset,
        /// What is wrong with it.
        cause: OpenError,
    },
    /// What came is not a row of batches. The partition is no longer read; others go on.
    #[error("{topic}/{partition}: {cause}")]
    Malformed {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// What is wrong with it.
        cause: WalkError,
    },
    /// The broker refused the whole stream; the consumer has ended.
    #[error(transparent)]
    Refused(#[from] ServerError),
}
