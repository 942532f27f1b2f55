//! The public contract `taffrail.v1` in Rust: generated from `proto/`, nothing by hand.
//!
//! This is the raw view (`proto/taffrail/v1/log_raw.proto`): a batch's records and an answer's
//! batches are `Bytes`, since nobody between producer and consumer opens them.

/// Messages, clients and servers of `taffrail.v1`.
#[expect(clippy::pedantic, reason = "generated")]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/taffrail.v1.rs");

    /// The compiled contract in its published view, for reflection.
    pub const DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor.bin");
}
