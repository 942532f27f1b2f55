//! What requests and answers hold in memory.
//!
//! Who sends a request waits in line for room. An answer never waits, or those who do not read
//! theirs would stop those who do: the less is left, the smaller answers get, and the fewer of them
//! a stream may leave unsent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this size.
const UNIT_BYTES: u64 = 1 << 10;

/// The part of what is left that one taker should ask for.
const SHARES: u64 = 64;
/// And the least.
const SHARE_BYTES_MIN: usize = 64 << 10;

/// A bound on the bytes of requests in memory. Clones share it.
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

/// The bytes of answers in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct ReadMemory {
    used_bytes: Arc<AtomicU64>,
    bytes_max: u64,
}

/// Bytes of an answer, counted until this is dropped.
#[derive(Debug)]
pub struct Held {
    used_bytes: Arc<AtomicU64>,
    bytes: u64,
}

impl ReadMemory {
    /// Memory of so many bytes; an answer more for each stream may lie above that.
    pub fn new(bytes_max: u64) -> Self {
        Self { used_bytes: Arc::default(), bytes_max }
    }

    /// Counts the bytes of an answer.
    pub fn hold(&self, bytes: usize) -> Held {
        let bytes = bytes as u64;
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        Held { used_bytes: Arc::clone(&self.used_bytes), bytes }
    }

    /// What one answer should have, so that it leaves most of what is left to others: `bytes_max` at
    /// the most, and no less than makes sense to send.
    pub fn share(&self, bytes_max: usize) -> usize {
        let left = self.bytes_max.saturating_sub(self.used_bytes());
        let share = usize::try_from(left / SHARES).unwrap_or(usize::MAX);
        share.max(SHARE_BYTES_MIN).min(bytes_max)
    }

    /// Whether so much is used that a stream should read nothing before all it has is sent.
    pub fn is_short(&self) -> bool {
        self.used_bytes() >= self.bytes_max / 2
    }

    /// Bytes that are used.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that there are.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_get_smaller_the_less_memory_is_left() {
        let memory = ReadMemory::new(64 << 20);
        assert_eq!((memory.share(2 << 20), memory.share(7)), (1 << 20, 7));
        let held = memory.hold(32 << 20);
        assert_eq!((memory.share(2 << 20), memory.is_short()), (512 << 10, true));
        let more = memory.hold(320 << 20);
        assert_eq!(memory.share(2 << 20), SHARE_BYTES_MIN, "nobody has to wait");
        drop((held, more));
        assert_eq!((memory.used_bytes(), memory.is_short()), (0, false));
    }

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
