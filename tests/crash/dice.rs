//! Random numbers that come again with their seed, which is printed; `CRASH_SEED` sets it.

use std::time::Duration;

/// SplitMix64.
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    /// Dice for a test. Prints the seed, which is shown when the test fails.
    pub(crate) fn new(test: &str) -> Self {
        let drawn = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let set = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok());
        let seed = set.unwrap_or(drawn);
        println!("{test}: CRASH_SEED={seed}");
        Self { state: seed }
    }

    /// Dice that always fall alike.
    pub(crate) fn from(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Other dice that follow from these.
    pub(crate) fn fork(&mut self) -> Self {
        Self { state: self.next() }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A time from `min` to `max`, in milliseconds.
    pub(crate) fn millis(&mut self, min: u64, max: u64) -> Duration {
        Duration::from_millis(min + self.below(max - min + 1))
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
