//! How a log is kept.

use std::time::Duration;

use taffrail_model::limits;

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes at which a segment is sealed and the next one begun.
    pub segment_bytes: u64,
    /// Age at which a segment that has records is sealed, when something is appended.
    pub segment_age: Option<Duration>,
    /// Bytes of the log's end that stay in memory.
    pub tail_bytes_max: usize,
    /// Whether what is written may be read before it is synced. Then offsets are reserved durably
    /// before they are given out, so that none is used twice whatever a power loss takes away.
    pub reserves_offsets: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES_MAX,
            segment_age: None,
            tail_bytes_max: limits::TAIL_BYTES_MAX,
            reserves_offsets: false,
        }
    }
}
