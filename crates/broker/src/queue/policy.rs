//! How a queue works: how long leases are, how often and when what failed is tried again, in which order.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The part of a delay that chance may add, so that what failed together does not come back together.
const JITTER: f64 = 0.2;

/// How a queue works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long somebody may work on a record before another one gets it.
    #[serde(with = "millis")]
    pub lease: Duration,
    /// How often a record is tried.
    pub attempts_max: u32,
    /// How long to wait after the first attempt that failed; twice as long after each further one.
    #[serde(with = "millis")]
    pub backoff_min: Duration,
    /// And how long at the most.
    #[serde(with = "millis")]
    pub backoff_max: Duration,
    /// Which records wait for others.
    pub order: Order,
    /// How many records of a partition may be leased, delayed or skipped at once.
    pub window: u32,
    /// How many records may be parked until no more are handed out.
    #[serde(default = "parked_max")]
    pub parked_max: u32,
    /// The topic that records are copied to which are not tried any more; where there is none, they stay
    /// parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<String>,
    /// What becomes of records that the topic's retention would delete.
    #[serde(default)]
    pub retention: Retention,
}

/// What becomes of records that are not settled and that the topic's retention would delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// They stay.
    #[default]
    Hold,
    /// They are copied to the dead-letter topic.
    Copy,
}

/// Which records wait for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// None do.
    #[default]
    None,
    /// One whose key is that of a record before it that is not settled.
    PerKey,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            attempts_max: 5,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(600),
            order: Order::None,
            window: 10_000,
            parked_max: parked_max(),
            dead_letters: None,
            retention: Retention::Hold,
        }
    }
}

/// The bounds of what can be set.
const LEASE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(12 * 3_600);
const ATTEMPTS: RangeInclusive<u32> = 1..=1_000;
const BACKOFF_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
const WINDOW: RangeInclusive<u32> = 1..=1_000_000;
const PARKED: RangeInclusive<u32> = 1..=10_000_000;

const fn parked_max() -> u32 {
    1_000_000
}

impl Policy {
    /// Says what cannot be, and what can.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { lease, attempts_max, backoff_min, backoff_max, window, parked_max, .. } = self;
        if !LEASE.contains(lease) {
            return Err(format!("a lease of {lease:?} cannot be: give it 100 ms to 12 h"));
        }
        if !ATTEMPTS.contains(attempts_max) {
            return Err(format!("{attempts_max} attempts cannot be: give 1 to 1,000"));
        }
        if backoff_max < backoff_min || BACKOFF_MAX < *backoff_max {
            return Err(format!(
                "a backoff from {backoff_min:?} to {backoff_max:?} cannot be: give a shorter time and a \
                 longer one, up to 7 days"
            ));
        }
        if self.retention == Retention::Copy && self.dead_letters.is_none() {
            return Err("what retention would delete can be copied where there is a dead-letter topic: name \
                        one, or have it held"
                .into());
        }
        if !WINDOW.contains(window) {
            return Err(format!("{window} records at once cannot be: give 1 to 1,000,000"));
        }
        if !PARKED.contains(parked_max) {
            return Err(format!("{parked_max} parked records cannot be: give 1 to 10,000,000"));
        }
        Ok(())
    }

    /// How long a lease is that somebody wants to be so long.
    pub(super) fn extension(&self, time: Option<Duration>) -> Duration {
        time.map_or(self.lease, |time| time.clamp(*LEASE.start(), *LEASE.end()))
    }

    /// How long to wait after so many attempts that failed, where `chance` lies from 0 to 1.
    pub(super) fn backoff(&self, attempts: u32, chance: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(63);
        let delay = self.backoff_min.as_secs_f64() * f64::from(doublings).exp2();
        let delay = delay * (1.0 + JITTER * chance);
        Duration::from_secs_f64(delay.min(self.backoff_max.as_secs_f64()))
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.as_millis() as u64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most_and_are_never_shorter_than_said() {
        let policy = Policy::default();
        let seconds = |attempts, chance| policy.backoff(attempts, chance).as_secs_f64();
        for (attempts, expected) in [(1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (11, 600.0)] {
            assert!((seconds(attempts, 0.0) - expected).abs() < 1e-9, "{attempts}");
        }
        assert!((seconds(1, 1.0) - 1.2).abs() < 1e-9);
        assert!((seconds(u32::MAX, 1.0) - 600.0).abs() < 1e-9);
    }
}
