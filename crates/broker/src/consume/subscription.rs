//! Where one subscription stands.

use std::sync::Arc;

use futures_util::future::AbortHandle;
use taffrail_model::Offset;

use super::seat::{Delivery, Seat};
use crate::fetch::Message;
use crate::group::GroupReader;
use crate::partition::Partition;

/// Where one subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Its number.
    pub subscription: u64,
    /// Offset of the first record of its partition.
    pub log_start: Offset,
    /// End of what readers may see of it.
    pub high_watermark: Offset,
    /// The next offset that will be sent.
    pub next: Offset,
}

/// A subscription, as the session keeps it.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) partition: Arc<Partition>,
    pub(super) next: Offset,
    pub(super) message: Message,
    pub(super) is_paused: bool,
    pub(super) turn: Turn,
    pub(super) seat: Option<Taken>,
}

/// The seat of a subscription that reads for a group, and for whom.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) seat: Seat,
    pub(super) reader: GroupReader,
}

/// Where a subscription stands among the others of its stream.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nowhere: it is paused, or being served.
    None,
    /// It waits for its turn.
    Ready,
    /// It waits for its partition's end to move.
    Idle {
        /// Ends the wait when the subscription moves or ends.
        _wait: IdleHandle,
    },
}

/// Ends the wait of a subscription that moves or ends.
#[derive(Debug)]
pub(super) struct IdleHandle(pub(super) AbortHandle);

impl Drop for IdleHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Active {
    /// Says what is being delivered, if somebody wants to know.
    pub(super) fn note(&self, delivery: Delivery) {
        if let Some(taken) = &self.seat {
            taken.seat.set(delivery);
        }
    }

    pub(super) fn describe(&self, subscription: u64) -> Subscription {
        Subscription {
            subscription,
            log_start: self.partition.log_start(),
            high_watermark: self.partition.high_watermark(),
            next: self.next,
        }
    }
}
