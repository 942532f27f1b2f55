//! The last segment of a log, while it is being recovered.

use std::path::PathBuf;
use std::sync::Arc;

use crate::index::Index;
use crate::segment::{ActiveSegment, SegmentHeader, Written};
use crate::vfs::File;

/// The last segment of a log, open.
pub(super) struct LastSegment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) length: u64,
    pub(super) header: SegmentHeader,
    pub(super) header_bytes: u64,
}

impl LastSegment {
    pub(super) fn activate(self, index: Index, written: Written) -> ActiveSegment {
        let Self { path, file, header, header_bytes, .. } = self;
        ActiveSegment::new(header, header_bytes, path, file, index, written)
    }
}
