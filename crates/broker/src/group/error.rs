//! Why something that is asked of a group is not done.

use super::command::GroupRefusal;
use crate::fetch::FetchError;
use crate::produce::ProduceError;

/// Why something that is asked of a group is not done.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The group refuses.
    #[error(transparent)]
    Refused(#[from] GroupRefusal),
    /// It cannot be a group's name.
    #[error(
        "{name:?} cannot be a group's name: give it 1 to {max} of the letters a to z and A to Z, digits, \
         and \". _ -\""
    )]
    Name {
        /// What was given.
        name: String,
        /// Bytes that it may have.
        max: usize,
    },
    /// What is asked makes no sense.
    #[error("{0}")]
    Request(String),
    /// There is no such partition, or no such offset in it.
    #[error(transparent)]
    Partition(#[from] FetchError),
    /// No group reads a topic of the broker's own.
    #[error("{topic} is the broker's own: no group reads it; consume it without one")]
    Internal {
        /// The topic.
        topic: String,
    },
    /// The topic is not the one that is meant.
    #[error("topic {topic:?} has id {found}, not {expected}: it was deleted, and another one made")]
    OtherTopic {
        /// Its name.
        topic: String,
        /// What was expected.
        expected: String,
        /// What it has.
        found: String,
    },
    /// The decision could not be stored.
    #[error("the group cannot be changed: {0}")]
    Storage(ProduceError),
    /// What is known of groups is damaged.
    #[error(
        "the log of groups cannot be used: {cause}; topics can be read without a group until the broker \
         was started with a sound one: `taffrail repair` builds it anew"
    )]
    Damaged {
        /// What is wrong.
        cause: String,
    },
}
