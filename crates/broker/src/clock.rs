//! The seam to time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use taffrail_model::Timestamp;

/// Tells the time of day. It may jump; nothing that must be safe rests on it.
pub trait Clock: Debug + Send + Sync {
    /// The time of day.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn now(&self) -> Timestamp {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_1970.map_or(Timestamp::MIN, |since| Timestamp::default().plus(since))
    }
}

/// The monotonic clock that the runtime's timers go by.
pub(crate) fn instant() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Measures how long something takes, by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
