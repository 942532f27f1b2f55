//! Offsets that hold no records, and why.

use crate::Offset;

/// Offsets that hold no records: from `from`, up to and without `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first offset that is missing.
    pub from: Offset,
    /// The first offset that is not.
    pub to: Offset,
    /// Why.
    pub reason: GapReason,
}

/// Why offsets hold no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Deleted by retention or on request.
    Retention,
    /// Removed by compaction.
    Compaction,
    /// Damaged, and put aside by a repair.
    Quarantine,
    /// Not on disk when the machine lost power.
    PowerLoss,
}

impl GapReason {
    /// Its number in the format, from 1; 0 means that there is no gap.
    pub const fn code(self) -> u32 {
        match self {
            Self::Retention => 1,
            Self::Compaction => 2,
            Self::Quarantine => 3,
            Self::PowerLoss => 4,
        }
    }

    /// The reason with this number.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Retention),
            2 => Some(Self::Compaction),
            3 => Some(Self::Quarantine),
            4 => Some(Self::PowerLoss),
            _ => None,
        }
    }
}
