//! What a subscription has that reads for a member of a consumer group: it lasts as long as the
//! partition is the member's, and says what is being delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::watch;

/// What is being delivered to the owner of a partition, or why nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Delivery {
    /// Records are being sent.
    #[default]
    Delivering,
    /// All that there is was sent.
    AtEnd,
    /// The client has paused it.
    Paused,
    /// The client has granted no bytes.
    NoCredit,
}

/// A subscription's place among those of its group. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    is_lost: watch::Sender<bool>,
    delivery: AtomicU8,
    /// Whether the stream may be sent more.
    has_credit: Arc<AtomicBool>,
}

impl Seat {
    pub(super) fn new(has_credit: Arc<AtomicBool>) -> Self {
        let delivery = AtomicU8::new(Delivery::Delivering as u8);
        let is_lost = watch::Sender::new(false);
        Self { shared: Arc::new(Shared { is_lost, delivery, has_credit }) }
    }

    /// Takes the partition away from the subscription.
    pub(crate) fn lose(&self) {
        self.shared.is_lost.send_replace(true);
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether the partition was taken away.
    pub(super) fn is_lost(&self) -> bool {
        *self.shared.is_lost.borrow()
    }

    /// Whether only those who list the seats hold it: the subscription has ended.
    pub(crate) fn is_left(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// What is being delivered.
    pub(crate) fn delivery(&self) -> Delivery {
        let known = [Delivery::AtEnd, Delivery::Paused, Delivery::NoCredit];
        let delivery = self.shared.delivery.load(Ordering::Relaxed);
        let delivery = known.into_iter().find(|it| *it as u8 == delivery).unwrap_or_default();
        let is_held_up = !self.shared.has_credit.load(Ordering::Relaxed);
        if delivery == Delivery::Delivering && is_held_up { Delivery::NoCredit } else { delivery }
    }

    pub(super) fn set(&self, delivery: Delivery) {
        self.shared.delivery.store(delivery as u8, Ordering::Relaxed);
    }

    /// Returns when the partition is another's.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + use<> {
        let mut is_lost = self.shared.is_lost.subscribe();
        // If nobody can say so any more, the subscription has ended.
        async move { drop(is_lost.wait_for(|is_lost| *is_lost).await) }
    }
}
