//! What is left of the product when it is killed, paused, or its disk fails: real processes, real
//! files, one history of what happened, and one checker that judges it.
//!
//! Random, with a printed seed; a few seconds each, far longer with `TAFFRAIL_DEEP=1`. What a
//! machine does not allow says SKIPPED.

mod broker;
mod checker;
mod checker_tests;
mod dice;
mod failed_sync;
mod full_disk;
mod history;
mod kills;
mod load;
mod pauses;
mod power;
mod proxy;
mod readback;
mod startup;
mod stream;
mod tails;
mod topics;

/// How often to do something: quick, or deep.
fn rounds(quick: u64, deep: u64) -> u64 {
    if std::env::var_os("TAFFRAIL_DEEP").is_some() { deep } else { quick }
}
