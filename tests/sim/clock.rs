//! A clock that moves when it is told to, and may jump.

use std::sync::atomic::{AtomicI64, Ordering};

use taffrail_broker::Clock;
use taffrail_model::Timestamp;

use crate::dice::Dice;

/// The time of day, in milliseconds.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    millis: AtomicI64,
    /// Whether it never jumps.
    pub(crate) is_steady: bool,
}

impl SimulatedClock {
    pub(crate) fn new(is_steady: bool) -> Self {
        Self { millis: AtomicI64::new(1_700_000_000_000), is_steady }
    }

    /// Mostly goes on a little; now and then, if it is not steady, it jumps to and fro, as after a
    /// correction.
    pub(crate) fn tick(&self, dice: &Dice) {
        let millis = match dice.below(400) {
            0 if !self.is_steady => 3_600_000,
            1 if !self.is_steady => -3_600_000,
            _ => dice.below(4) as i64,
        };
        self.millis.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.load(Ordering::Relaxed))
    }
}
