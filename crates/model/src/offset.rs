//! A record's place in a partition, counted in records.

use std::fmt;

/// A record's place in a partition: the first one ever appended has offset 0.
///
/// Counts records, not bytes; a place counted in bytes is called a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// Where every log begins.
    pub const ZERO: Self = Self(0);

    /// The offset with this number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `records` further on; at the end of all numbers it stays there.
    pub const fn advance(self, records: u64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// The next offset.
    pub const fn next(self) -> Self {
        self.advance(1)
    }

    /// The number of records from `earlier` to here; 0 if `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The offset `records` before, or the first one.
    pub const fn back(self, records: u64) -> Self {
        Self(self.0.saturating_sub(records))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
