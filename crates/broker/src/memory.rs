//! What requests and answers hold in memory.
//!
//! Nobody waits for it. A request for which there is no room is refused. An answer is never: or those
//! who do not read theirs would stop those who do. The less is left, the smaller answers get, and the
//! fewer of them a stream may leave unsent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of what is left that one answer should have.
const SHARES: u64 = 64;
/// And the least.
const SHARE_BYTES_MIN: usize = 64 << 10;

/// A bound on the bytes of requests or answers in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    used_bytes: Arc<AtomicU64>,
    bytes_max: u64,
}

/// Bytes that are taken from a budget until this is dropped.
#[derive(Debug)]
pub struct Charge {
    used_bytes: Arc<AtomicU64>,
    bytes: u64,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { used_bytes: Arc::default(), bytes_max }
    }

    /// Takes bytes, or nothing if there are not so many left. What is larger than the whole budget may
    /// have all of it.
    pub fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let charge = self.charge(bytes);
        self.has_room_for(&charge).then_some(charge)
    }

    /// Whether what was taken is no more than there is. What is larger than the whole budget may have all
    /// of it.
    pub fn has_room_for(&self, charge: &Charge) -> bool {
        let used_bytes = self.used_bytes();
        used_bytes <= self.bytes_max || used_bytes == charge.bytes
    }

    /// Takes bytes whether or not there are so many left.
    pub fn charge(&self, bytes: usize) -> Charge {
        let bytes = bytes as u64;
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        Charge { used_bytes: Arc::clone(&self.used_bytes), bytes }
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

    /// Bytes that are taken.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that there are.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

impl Charge {
    /// Takes so many bytes instead.
    pub fn resize(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_charged_comes_back() {
        let budget = MemoryBudget::new(10);
        let first = budget.try_charge(6).expect("there is room");
        assert!(budget.try_charge(5).is_none());
        assert_eq!(budget.used_bytes(), 6);
        drop(first);
        assert!(budget.try_charge(1 << 40).is_some(), "the whole budget serves what is larger");
        let mut resized = budget.charge(9);
        resized.resize(4);
        assert_eq!(budget.used_bytes(), 4);
        resized.resize(7);
        assert_eq!(budget.used_bytes(), 7);
        drop(resized);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn answers_get_smaller_the_less_memory_is_left() {
        let budget = MemoryBudget::new(64 << 20);
        assert_eq!((budget.share(2 << 20), budget.share(7)), (1 << 20, 7));
        let half = budget.charge(32 << 20);
        assert_eq!((budget.share(2 << 20), budget.is_short()), (512 << 10, true));
        let more = budget.charge(320 << 20);
        assert_eq!(budget.share(2 << 20), SHARE_BYTES_MIN, "nobody has to wait");
        drop((half, more));
        assert_eq!((budget.used_bytes(), budget.is_short()), (0, false));
    }
}
