//! Producer and consumer over a real connection, against a broker in memory that fails on request.

mod consume;
mod fake_broker;
mod fake_producers;
mod idempotence;
mod produce;
