//! A consumer's stream: subscriptions, each at a position, fed as long as there is credit.
//!
//! Guarantees: a subscription's batches come in order, replay turning into the live tail without a
//! seam; what is missing is said with a gap; no more is sent than was granted, but for one batch;
//! subscriptions take turns. A seek gives a subscription a new number, so what was on its way under
//! the old one can be told apart.

mod seat;
mod session;
mod subscription;

use bytes::Bytes;
use taffrail_model::{Gap, Offset, PartitionIndex, Timestamp};

pub(crate) use seat::{Delivery, Seat};
pub use session::ConsumeSession;
pub use subscription::Subscription;

use crate::fetch::{FetchError, Message, Position};
use crate::group::{GroupError, GroupReader};
use crate::memory::Charge;

/// What a consumer says.
#[derive(Clone, Debug)]
pub enum ConsumeCommand {
    /// Starts a subscription.
    Subscribe {
        /// Its number.
        subscription: u64,
        /// The topic, as the client wrote it.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// Where to begin.
        position: Position,
        /// Whether it goes on after a broken stream.
        resume: bool,
        /// The messages that carry its batches.
        message: Message,
        /// The group that it is read for.
        reader: Option<GroupReader>,
    },
    /// Allows to send so many more bytes.
    Grant {
        /// Bytes of batches.
        bytes: u64,
    },
    /// Moves a subscription.
    Seek {
        /// Its number so far.
        subscription: u64,
        /// Its number from now on.
        new_subscription: u64,
        /// Where to go on.
        position: Position,
    },
    /// Holds a subscription back.
    Pause {
        /// Its number.
        subscription: u64,
    },
    /// Lets it go on.
    Resume {
        /// Its number.
        subscription: u64,
    },
    /// Ends it.
    Unsubscribe {
        /// Its number.
        subscription: u64,
    },
}

/// Why a subscription ended.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The partition cannot be read there.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The group that it is read for refuses.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// What the broker says to a consumer.
#[derive(Debug)]
pub enum ConsumeEvent {
    /// A subscription began or moved.
    Subscribed {
        /// Its number.
        subscription: u64,
        /// Where its records begin.
        offset: Offset,
        /// Offset of the first record.
        log_start: Offset,
        /// End of what readers may see.
        high_watermark: Offset,
    },
    /// Records.
    Delivery {
        /// The subscription.
        subscription: u64,
        /// End of what readers may see.
        high_watermark: Offset,
        /// Whole batches, as they lie on disk.
        bytes: Bytes,
        /// The memory that they take, to be kept until a message with them is encoded.
        charge: Charge,
    },
    /// Missing offsets.
    Gap {
        /// The subscription.
        subscription: u64,
        /// What is missing, and why.
        gap: Gap,
    },
    /// An error that ended a subscription.
    Failed {
        /// The subscription.
        subscription: u64,
        /// What happened.
        error: SubscriptionError,
    },
    /// A command that makes no sense; it changed nothing.
    Rejected {
        /// The subscription that it named.
        subscription: u64,
        /// Why.
        cause: &'static str,
    },
    /// A sign of life.
    Heartbeat {
        /// The broker's clock.
        now: Timestamp,
        /// Where each subscription stands.
        subscriptions: Vec<Subscription>,
        /// Bytes granted and not used.
        credit_bytes: i64,
    },
}
