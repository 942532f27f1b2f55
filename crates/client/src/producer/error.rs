//! Why a record was not appended.

use std::time::Duration;

use taffrail_model::PartitionIndex;

use crate::ServerError;

/// Why a record was not appended, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The record alone is larger than a batch of this topic may be. It was not sent.
    #[error(
        "a record of {record_bytes} bytes does not fit a batch of this topic, which takes \
         {record_bytes_max}: make it smaller or raise the topic's max.batch.bytes"
    )]
    RecordTooLarge {
        /// Bytes of the record as it would be sent.
        record_bytes: usize,
        /// Bytes it may have.
        record_bytes_max: usize,
    },
    /// The record names a partition that the topic does not have. It was not sent.
    #[error("the topic has no partition {partition}: it has {partitions}, numbered from 0")]
    NoSuchPartition {
        /// The partition asked for.
        partition: PartitionIndex,
        /// Number of partitions there are.
        partitions: u32,
    },
    /// The broker refused the batch: nothing of it was appended.
    #[error(transparent)]
    Refused(#[from] ServerError),
    /// The batch could not be delivered in time; nothing of it was appended.
    #[error("not delivered within {}: {cause}", seconds(*timeout))]
    TimedOut {
        /// The producer's delivery timeout.
        timeout: Duration,
        /// What stood in the way last.
        cause: String,
    },
    /// The batch was sent and its outcome is not known: it may or may not be in the log.
    ///
    /// From an idempotent producer this comes only once its delivery timeout is over, or after the
    /// broker refused to say: it lost what it knew of the producer, or takes nothing more.
    #[error("the outcome is unknown, the record may or may not be in the log: {cause}")]
    ResultUnknown {
        /// What happened.
        cause: String,
    },
    /// Another producer has taken the name. The record was not sent.
    #[error(
        "another producer has taken this one's name, so nothing of this one is appended any more: \
         end it, or build it again, under a name of its own if both are to go on"
    )]
    Fenced,
    /// The producer was closed. The record was not sent.
    #[error("the producer is closed")]
    Closed,
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
