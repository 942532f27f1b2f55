//! A record to work on, and what is said of it.

use std::time::Duration;

use bytes::Bytes;
use taffrail_model::{Offset, PartitionIndex, Timestamp};
use taffrail_proto::v1;

/// A record to work on.
#[derive(Clone, Debug)]
pub struct Job {
    delivery: v1::QueueDelivery,
    record: v1::Record,
}

/// What is said of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// It failed: to be tried again after this time, or the one that the queue has.
    Retry {
        /// After which time.
        delay: Option<Duration>,
    },
    /// It was not tried: somebody gets it at once, and it counts as no attempt.
    Release,
    /// There is no use in trying it again: it is parked.
    Reject {
        /// Why, for people.
        reason: String,
    },
}

impl Job {
    pub(super) fn new(mut delivery: v1::QueueDelivery) -> Self {
        let record = delivery.record.take().unwrap_or_default();
        Self { delivery, record }
    }

    /// The partition that it is in.
    pub fn partition(&self) -> PartitionIndex {
        PartitionIndex::new(self.delivery.partition)
    }

    /// Its place there.
    pub fn offset(&self) -> Offset {
        Offset::new(self.delivery.offset)
    }

    /// The how-many-eth attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.delivery.attempt
    }

    /// What it is about.
    pub fn key(&self) -> Option<&Bytes> {
        self.record.key.as_ref()
    }

    /// What it says.
    pub fn value(&self) -> Option<&Bytes> {
        self.record.value.as_ref()
    }

    /// Names and values beside it, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.record.headers.iter().map(|header| (header.name.as_str(), &header.value))
    }

    /// When the event happened.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.record.timestamp_ms)
    }
}

impl From<Verdict> for v1::settlement::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => Self::Ack(v1::Ack {}),
            Verdict::Retry { delay } => {
                let millis = |delay: Duration| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
                Self::Nack(v1::Nack { delay_ms: delay.map(millis) })
            }
            Verdict::Release => Self::Release(v1::Release {}),
            Verdict::Reject { reason } => Self::Reject(v1::Reject { reason }),
        }
    }
}
