//! Idempotent producers: who sent a batch, and which of theirs it is.

use std::fmt;
use std::num::NonZeroU64;

/// An idempotent producer's identity. Ascending in the order in which they are given out, and never
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(NonZeroU64);

impl ProducerId {
    /// The first one that is given out.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// One that never is.
    pub const LAST: Self = Self(NonZeroU64::MAX);

    /// The producer with this number; `None` for 0, which means no producer at all.
    pub const fn new(value: u64) -> Option<Self> {
        match NonZeroU64::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The identity that is given out so many later.
    #[must_use]
    pub fn advance(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("fewer than 2^64 producers are ever made"))
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a producer's name was taken before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(u32);

impl ProducerEpoch {
    /// Of whoever is the first.
    pub const ZERO: Self = Self(0);

    /// The epoch with this number.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ProducerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record's number among all that one producer sends to one partition; after the last comes 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sequence(u32);

impl Sequence {
    /// Of a producer's first record.
    pub const ZERO: Self = Self(0);

    /// The sequence with this number.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The sequence so many records later.
    #[must_use]
    pub const fn advance(self, records: u32) -> Self {
        Self(self.0.wrapping_add(records))
    }

    /// Whether this comes before `other`: they are less than half of all numbers apart.
    pub const fn is_before(self, other: Self) -> bool {
        self.0 != other.0 && other.0.wrapping_sub(self.0) < 1 << 31
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an idempotent producer says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Who sent it.
    pub id: ProducerId,
    /// In which epoch.
    pub epoch: ProducerEpoch,
    /// The number of its first record.
    pub sequence: Sequence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_on_behind_the_last_one() {
        let last = Sequence::new(u32::MAX);
        assert_eq!(last.advance(3), Sequence::new(2));
        assert!(last.is_before(Sequence::ZERO) && !Sequence::ZERO.is_before(last));
        assert!(!last.is_before(last));
        assert!(Sequence::new(5).is_before(Sequence::new(5 + (1 << 31) - 1)));
        assert!(!Sequence::new(5).is_before(Sequence::new(5 + (1 << 31))));
    }
}
