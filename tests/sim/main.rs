//! Whole brokers in a simulation: real code on a disk in memory that fails and loses power, under
//! producers, consumers, the members of a group, the workers of a queue and restarts, in an order that follows from a seed.
//!
//! One thread, a clock that stands still unless it is moved, and work done in turns that the seed
//! chooses: the same seed, the same run. What happened is judged by the checker that also judges real
//! processes. `cargo xtask sim --seed N --runs M` runs more of it, or one again.
//!
//! What is not here: the network, and two threads at once; `it` and `crash` have both.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a simulation names what it excuses, and fails on all else"
)]

mod administrator;
mod backup;
mod clock;
mod consumer;
mod dice;
mod disk;
#[path = "../history/mod.rs"]
mod history;
mod lane;
mod life;
mod member;
mod producer;
mod refusals;
mod run;
mod seeds;
mod worker;
mod world;
