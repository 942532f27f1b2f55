//! The number of an opening of a log.

use std::fmt;

/// Number of an opening of a log: raised durably at every open, never falling along the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(u32);

impl LeaderEpoch {
    /// Before the first opening.
    pub const ZERO: Self = Self(0);

    /// The epoch with this number.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The epoch of the next opening.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
