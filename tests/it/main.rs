//! The product from outside: a real broker process, reached as any client reaches it.
//!
//! Each test starts the brokers it needs, each on a port and in a directory of its own, and ends
//! them. What the contract promises is checked with the bare calls, what a user does with the Rust
//! client. Nothing here knows the broker's insides; a broker that dies is `crash`'s matter.

mod broker;
mod consume;
mod contract;
mod credit;
mod door;
mod fetch;
mod http;
mod offsets;
mod pipe;
mod published;
mod refusals;
mod store;
mod stream;
mod wire;
