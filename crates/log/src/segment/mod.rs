//! Segments: the files that a log is made of.
//!
//! The last segment is *active*: it grows, its index and its end are in memory. All before it are
//! *sealed*: they never change, and were synced before the next one was begun. A segment's file is
//! named by its base offset, so the names alone say which file holds an offset.

mod active;
mod cache;
mod create;
mod header;
mod known;
mod salvage;
mod scanner;
mod sealed;

use std::path::{Path, PathBuf};

use taffrail_model::Offset;

pub(crate) use active::{ActiveSegment, Group, Written};
pub(crate) use cache::SegmentCache;
pub(crate) use create::{create_segment, random_salt};
pub(crate) use header::{BASE_OFFSET, HEADER_BYTES_MAX, decode_header};
pub use header::{Compacted, SegmentHeader, SegmentHeaderError};
pub(crate) use known::Known;
pub(crate) use salvage::{Salvaged, salvage_header};
pub(crate) use scanner::{Hole, Scanned, Scanner};
pub(crate) use sealed::{SealedSegment, write_index};

/// The path of the segment that begins at `base_offset`.
pub(crate) fn segment_path(directory: &Path, base_offset: Offset) -> PathBuf {
    directory.join(format!("{:020}.log", base_offset.get()))
}

/// The base offset that a segment file's name states.
pub(crate) fn parse_segment_name(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log")?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok().map(Offset::new)).flatten()
}
