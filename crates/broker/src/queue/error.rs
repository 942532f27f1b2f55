//! Why something that is asked of a queue is not done.

use super::command::QueueRefusal;
use crate::coordinator::CommandError;
use crate::fetch::FetchError;
use crate::produce::ProduceError;

/// Why something that is asked of a queue is not done.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue refuses.
    #[error(transparent)]
    Refused(#[from] QueueRefusal),
    /// It cannot be a queue's name.
    #[error(
        "{name:?} cannot be a queue's name: give it 1 to {max} of the letters a to z and A to Z, digits, \
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
    /// There is no such topic, or no such place in it.
    #[error(transparent)]
    Partition(#[from] FetchError),
    /// No queue is on a topic of the broker's own.
    #[error("{topic} is the broker's own: no queue can be on it")]
    Internal {
        /// The topic.
        topic: String,
    },
    /// The queue's topic is gone.
    #[error(
        "topic {topic:?} of queue {queue:?} was deleted: delete the queue too, or create it anew"
    )]
    NoTopic {
        /// The queue.
        queue: String,
        /// The topic's name.
        topic: String,
    },
    /// The decision could not be stored.
    #[error("the queue cannot be changed: {0}")]
    Storage(ProduceError),
    /// What is known of queues is damaged.
    #[error(
        "the log of queues, __queues, cannot be used: {cause}; topics can be read without a queue; stop the \
         broker, and `taffrail repair` builds it anew"
    )]
    Damaged {
        /// What is wrong.
        cause: String,
    },
    /// The broker is going away.
    #[error("the broker is stopping: connect again in a moment")]
    Stopping,
}

impl From<CommandError<QueueRefusal>> for QueueError {
    fn from(error: CommandError<QueueRefusal>) -> Self {
        match error {
            CommandError::Refused(refusal) => Self::Refused(refusal),
            CommandError::Storage(error) => Self::Storage(error),
            CommandError::Journal(error) => Self::Damaged { cause: error.to_string() },
        }
    }
}
