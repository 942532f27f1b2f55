//! One budget for what requests and answers hold in memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this size.
const UNIT_BYTES: u64 = 1 << 10;

/// The part of what is left that one taker should ask for.
const SHARES: u64 = 64;
/// And the least.
const SHARE_BYTES_MIN: usize = 64 << 10;

/// A bound on the bytes of requests and answers in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    units_max: u32,
}

/// Bytes that are taken from the budget until this is dropped.
#[derive(Debug)]
pub struct Charge {
    units: OwnedSemaphorePermit,
}

impl Charge {
    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let units = usize::try_from((bytes as u64).div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
        let more = self.units.num_permits().saturating_sub(units);
        drop(self.units.split(more));
    }
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let units_max = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max }
    }

    /// Takes bytes from the budget, or nothing if there are not so many left.
    pub fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let units = Arc::clone(&self.units).try_acquire_many_owned(self.units_of(bytes)).ok()?;
        Some(Charge { units })
    }

    /// What one of many takers should ask for, so that it leaves most of what is left to others: of
    /// `bytes_max` at the most, and no less than makes sense to send.
    pub fn share(&self, bytes_max: usize) -> usize {
        let left = self.bytes_max().saturating_sub(self.used_bytes());
        let share = usize::try_from(left / SHARES).unwrap_or(usize::MAX);
        share.max(SHARE_BYTES_MIN).min(bytes_max)
    }

    /// Takes bytes from the budget, waiting in line until there are so many.
    pub async fn charge(&self, bytes: usize) -> Charge {
        let units = Arc::clone(&self.units).acquire_many_owned(self.units_of(bytes)).await;
        Charge { units: units.expect("the semaphore is never closed") }
    }

    /// Bytes that are taken.
    pub fn used_bytes(&self) -> u64 {
        u64::from(self.units_max).saturating_sub(self.units.available_permits() as u64) * UNIT_BYTES
    }

    /// Bytes that there are.
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.units_max) * UNIT_BYTES
    }

    /// What is larger than the whole budget takes all of it.
    fn units_of(&self, bytes: usize) -> u32 {
        let units = (bytes as u64).div_ceil(UNIT_BYTES);
        u32::try_from(units).unwrap_or(u32::MAX).min(self.units_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_charged_comes_back() {
        let budget = MemoryBudget::new(10 * UNIT_BYTES);
        let first = budget.try_charge(6 << 10).expect("there is room");
        assert!(budget.try_charge(5 << 10).is_none());
        assert_eq!(budget.used_bytes(), 6 << 10);
        drop(first);
        assert!(budget.try_charge(1 << 40).is_some(), "the whole budget serves what is larger");
    }
}
