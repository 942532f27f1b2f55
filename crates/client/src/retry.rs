//! Decides, in one place, what is sent again without asking, and when.
//!
//! Pure but for the dice. Invariant: only what surely was not applied is sent again, and what an
//! idempotent producer's sequence protects.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use crate::ServerError;

/// What a refusal means for the request that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Surely not applied, and the cause passes: send it again after a while.
    Retry,
    /// Surely not applied, because one before it was refused: send it again behind that one.
    Follows,
    /// May have been applied: send it again only if a sequence keeps it from being applied twice.
    Unknown,
    /// Surely not applied, and the broker does not know what the idempotent producer sent before:
    /// send it again under a new identity.
    Renew,
    /// Surely not applied, and nothing of this producer will be: another one has taken its name.
    Fenced,
    /// Would be refused again.
    Final,
}

/// What `reason` means for the request that got it.
pub(crate) fn verdict(reason: &str) -> Verdict {
    match reason {
        "OVERLOADED" | "PARTITION_RECOVERING" | "STORAGE_FULL" | "STOPPING" => Verdict::Retry,
        "PRECEDING_FAILED" => Verdict::Follows,
        "RESULT_UNKNOWN" => Verdict::Unknown,
        "SEQUENCE_GAP" | "UNKNOWN_PRODUCER_STATE" => Verdict::Renew,
        "PRODUCER_FENCED" => Verdict::Fenced,
        _ => Verdict::Final,
    }
}

/// Whether a call that the broker refused with this, or a stream, would be refused again.
pub(crate) fn is_final_for_call(refusal: &ServerError) -> bool {
    let passes = ["RESOURCE_EXHAUSTED", "STOPPING"];
    verdict(&refusal.reason) == Verdict::Final
        && refusal.retry_after.is_none()
        && !passes.contains(&refusal.reason.as_str())
}

/// How long to wait before the next attempt: doubling, capped, with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Before the second attempt.
    pub(crate) first: Duration,
    /// At the most.
    pub(crate) max: Duration,
}

impl Backoff {
    /// For a batch that a busy or recovering broker refused.
    pub(crate) const REQUEST: Self =
        Self { first: Duration::from_millis(20), max: Duration::from_secs(1) };
    /// For a connection that broke or could not be made.
    pub(crate) const CONNECTION: Self =
        Self { first: Duration::from_millis(50), max: Duration::from_secs(2) };

    /// The wait after `attempts` failed ones (at least 1); `dice` is in 0..1.
    ///
    /// Between half of the doubled wait and all of it, so that clients do not come back in step.
    pub(crate) fn delay(self, attempts: u32, dice: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        full.mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0))
    }

    /// The wait after a refusal: what the broker asks for, or else by the count of attempts.
    pub(crate) fn after(self, refusal: &ServerError, attempts: u32) -> Duration {
        match refusal.retry_after {
            Some(asked) => asked.mul_f64(1.0 + 0.2 * dice()),
            None => self.delay(attempts, dice()),
        }
    }
}

/// A random number in 0..1; good enough to spread clients, for nothing else.
pub(crate) fn dice() -> f64 {
    random() as f64 / (u64::MAX as f64 + 1.0)
}

/// Random bits, from the seed that the standard library draws for its maps.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_was_not_applied_is_sent_again() {
        let table = [
            ("OVERLOADED", Verdict::Retry),
            ("PARTITION_RECOVERING", Verdict::Retry),
            ("STORAGE_FULL", Verdict::Retry),
            ("STOPPING", Verdict::Retry),
            ("PRECEDING_FAILED", Verdict::Follows),
            ("RESULT_UNKNOWN", Verdict::Unknown),
            ("SEQUENCE_GAP", Verdict::Renew),
            ("UNKNOWN_PRODUCER_STATE", Verdict::Renew),
            ("PRODUCER_FENCED", Verdict::Fenced),
            ("BATCH_TOO_LARGE", Verdict::Final),
            ("UNKNOWN_TOPIC", Verdict::Final),
            ("PARTITION_READ_ONLY", Verdict::Final),
            ("A_REASON_OF_A_LATER_VERSION", Verdict::Final),
        ];
        for (reason, expected) in table {
            assert_eq!(verdict(reason), expected, "{reason}");
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_spread_over_half_of_it() {
        let backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(1) };
        let millis = |attempts, dice| backoff.delay(attempts, dice).as_millis();
        assert_eq!((millis(1, 0.0), millis(1, 1.0)), (10, 20));
        assert_eq!((millis(2, 0.0), millis(2, 1.0)), (20, 40));
        assert_eq!((millis(7, 1.0), millis(u32::MAX, 1.0)), (1_000, 1_000));
        assert!((0.0..1.0).contains(&dice()));
    }
}
