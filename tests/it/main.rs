//! The product from outside: a real broker process, reached as any client reaches it.
//!
//! Each test starts the brokers it needs, each on a port and in a directory of its own, and ends
//! them. What the contract promises is checked with the bare calls, what a user does with the Rust
//! client. Nothing here knows the broker's insides; a broker that dies is `crash`'s matter.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it expects, and fails on all else"
)]

mod backup;
mod broker;
mod commands;
mod compaction;
mod compression;
mod consume;
mod contract;
mod credit;
mod crowd;
mod deaf;
mod door;
mod fetch;
mod groups;
mod http;
mod idempotent;
mod idle;
mod observe;
mod offsets;
mod partial;
mod pipe;
mod process;
mod program;
mod published;
mod queues;
mod raw;
mod refusals;
mod restart;
mod retention;
mod scrub;
mod segments;
mod store;
mod stream;
mod tiny;
mod topics;
mod trouble;
mod wire;
