//! What a member of a group gets.

use std::fmt;

use taffrail_model::{Offset, PartitionIndex, TopicName};
use taffrail_proto::v1;

use crate::ConsumedBatch;

/// One thing that a member of a group gets.
#[derive(Clone, Debug)]
pub enum GroupEvent {
    /// Records.
    Batch(ConsumedBatch),
    /// Offsets that hold no records: retention, compaction or damage took them.
    Gap {
        /// Where.
        place: TopicPartition,
        /// The first offset that is missing.
        from: Offset,
        /// The first offset that is not.
        to: Offset,
        /// Why.
        reason: v1::GapReason,
    },
    /// These are this member's from now on.
    Assigned(Vec<TopicPartition>),
    /// These go to another member once the next event is asked for: what of them is done can be
    /// committed until then.
    Revoked(Vec<TopicPartition>),
    /// These may be another member's already: the session has ended, or somebody has moved the group's
    /// offsets. What was not committed of them comes again.
    Lost(Vec<TopicPartition>),
}

/// A partition, by its topic's name and its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
