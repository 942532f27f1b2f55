//! What the fuzzer calls: the very functions that are property tests on stable, and what they need.
//!
//! Deliberately absent: any check of its own.

#![allow(dead_code, reason = "tests use more of these files")]

#[path = "../../crates/log/tests/log/given.rs"]
mod given;
#[path = "../../crates/log/tests/log/model.rs"]
mod model;

#[path = "../../crates/model/tests/batch/arbitrary.rs"]
mod batches;
#[path = "../../crates/log/tests/log/arbitrary.rs"]
mod logs;

/// Takes bytes for records and batches.
pub fn batch_scan(bytes: &[u8]) {
    batches::batch_scan(bytes);
}

/// Takes bytes for the last segment of a log.
pub fn segment_recovery(bytes: &[u8]) {
    logs::segment_recovery(bytes);
}

/// Takes bytes for the index of a segment.
pub fn index_load(bytes: &[u8]) {
    logs::index_load(bytes);
}

/// Takes bytes for a checkpoint of producers.
pub fn producers_load(bytes: &[u8]) {
    logs::producers_load(bytes);
}
