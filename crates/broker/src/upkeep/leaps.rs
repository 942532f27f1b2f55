//! Whether the time of day can be believed by somebody who deletes what is old.
//!
//! A wall clock that leaps ahead makes everything old at once. So after a leap, which the monotonic clock
//! knows nothing of, nothing is old for a while: long enough for somebody to set the clock back. If
//! nobody does, the clock was right. A leap back does no harm: what is old is deleted later.
//! Pure: both clocks come in as arguments.

use std::time::Duration;

use taffrail_model::{Timestamp, limits};
use tokio::time::Instant;

/// Compares the wall clock with the monotonic one.
#[derive(Debug, Default)]
pub(crate) struct Leaps {
    last: Option<(Timestamp, Instant)>,
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    until: Instant,
    /// How far the wall clock is ahead of what it should say, in milliseconds.
    ahead_ms: i64,
}

/// What is to be said of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is as good as any.
    Sound,
    /// The clock has leapt ahead just now: it is not believed before the instant.
    Leapt { ahead: Duration, until: Instant },
    /// It leapt ahead before: it is not believed before the instant.
    Doubtful { until: Instant },
    /// It leapt ahead before, and was set back just now.
    SetBack,
}

impl Leaps {
    /// Continues from when the clock was last seen before this start, if that is known.
    pub(crate) fn since(last_seen: Option<Timestamp>, now: Timestamp, instant: Instant) -> Self {
        let leapt = last_seen.map(|last| now.since(last)).filter(|it| *it >= limits::LONG_ABSENCE);
        let doubt = leapt.map(|ahead| Doubt {
            until: instant + limits::CLOCK_DOUBT,
            ahead_ms: i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX),
        });
        Self { last: Some((now, instant)), doubt }
    }

    /// Judges a time.
    pub(crate) fn judge(&mut self, now: Timestamp, instant: Instant) -> Verdict {
        let leap_ms = self.last.map_or(0, |(last, at)| {
            let expected = last.plus(instant.saturating_duration_since(at));
            now.as_millis().saturating_sub(expected.as_millis())
        });
        self.last = Some((now, instant));
        let threshold = limits::CLOCK_LEAP.as_millis() as i64;
        let leap_ms = if leap_ms.abs() < threshold { 0 } else { leap_ms };
        let before = self.doubt.filter(|doubt| instant < doubt.until);
        let ahead_ms = before.map_or(0, |doubt| doubt.ahead_ms).saturating_add(leap_ms);
        let until = match before {
            Some(doubt) if leap_ms <= 0 => doubt.until,
            _ => instant + limits::CLOCK_DOUBT,
        };
        self.doubt = (ahead_ms >= threshold).then_some(Doubt { until, ahead_ms });
        match (before, self.doubt) {
            (Some(_), None) => Verdict::SetBack,
            (_, None) => Verdict::Sound,
            (_, Some(_)) if leap_ms > 0 => {
                Verdict::Leapt { ahead: Duration::from_millis(ahead_ms.unsigned_abs()), until }
            }
            (_, Some(_)) => Verdict::Doubtful { until },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Timestamp = Timestamp::from_millis(86_400_000);
    const MINUTE: Duration = Duration::from_secs(60);

    /// Both clocks, of which the wall clock leaps.
    struct Clocks {
        leaps: Leaps,
        began: Instant,
        passed: Duration,
        ahead_ms: i64,
    }

    impl Clocks {
        fn new(last_seen: Option<Timestamp>) -> Self {
            let began = crate::clock::instant();
            let leaps = Leaps::since(last_seen, DAY, began);
            Self { leaps, began, passed: Duration::ZERO, ahead_ms: 0 }
        }

        fn after(&mut self, passed: Duration, leap_ms: i64) -> Verdict {
            (self.passed, self.ahead_ms) = (self.passed + passed, self.ahead_ms + leap_ms);
            let wall = DAY.plus(self.passed).as_millis() + self.ahead_ms;
            self.leaps.judge(Timestamp::from_millis(wall), self.began + self.passed)
        }

        fn at(&self, passed: Duration) -> Instant {
            self.began + passed
        }
    }

    #[test]
    fn a_clock_that_leapt_ahead_is_believed_after_a_while() {
        let mut clocks = Clocks::new(None);
        assert_eq!(clocks.after(MINUTE, 900), Verdict::Sound, "clocks are corrected all the time");
        let ahead = Duration::from_secs(7_200);
        let until = clocks.at(2 * MINUTE + limits::CLOCK_DOUBT);
        assert_eq!(clocks.after(MINUTE, 7_200_000), Verdict::Leapt { ahead, until });
        assert_eq!(clocks.after(MINUTE, 0), Verdict::Doubtful { until });
        assert_eq!(
            clocks.after(limits::CLOCK_DOUBT.saturating_sub(2 * MINUTE), 0),
            Verdict::Doubtful { until }
        );
        assert_eq!(clocks.after(MINUTE, 0), Verdict::Sound);
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed_at_once() {
        let mut clocks = Clocks::new(None);
        assert!(matches!(clocks.after(MINUTE, 7_200_000), Verdict::Leapt { .. }));
        assert!(matches!(clocks.after(MINUTE, -3_600_000), Verdict::Doubtful { .. }));
        assert_eq!(clocks.after(MINUTE, -3_600_000), Verdict::SetBack);
        assert_eq!(clocks.after(MINUTE, 0), Verdict::Sound);
        assert_eq!(clocks.after(MINUTE, -3_600_000), Verdict::Sound, "that deletes nothing");
        assert!(matches!(clocks.after(MINUTE, 3_600_000), Verdict::Leapt { .. }));
    }

    #[test]
    fn leaps_add_up() {
        let mut clocks = Clocks::new(None);
        assert!(matches!(clocks.after(MINUTE, 3_600_000), Verdict::Leapt { .. }));
        let until = clocks.at(3 * MINUTE + limits::CLOCK_DOUBT);
        let ahead = Duration::from_secs(7_200);
        assert_eq!(clocks.after(2 * MINUTE, 3_600_000), Verdict::Leapt { ahead, until });
        assert!(matches!(clocks.after(MINUTE, -3_600_000), Verdict::Doubtful { .. }));
    }

    #[test]
    fn a_start_long_after_the_last_one_is_a_leap() {
        let seen = |ago: Duration| Some(DAY.minus(ago));
        assert_eq!(Clocks::new(seen(20 * MINUTE)).after(MINUTE, 0), Verdict::Sound);
        let mut clocks = Clocks::new(seen(limits::LONG_ABSENCE));
        let until = clocks.at(limits::CLOCK_DOUBT);
        assert_eq!(clocks.after(MINUTE, 0), Verdict::Doubtful { until });
        assert_eq!(clocks.after(limits::CLOCK_DOUBT, 0), Verdict::Sound);
        assert_eq!(Clocks::new(Some(DAY.plus(MINUTE))).after(MINUTE, 0), Verdict::Sound);
    }
}
