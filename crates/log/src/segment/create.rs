//! Creates the file of a segment.

use std::io;
use std::path::PathBuf;

use taffrail_model::batch::Salt;

use super::{ActiveSegment, SegmentHeader, Written};
use crate::index::Index;
use crate::vfs::{Vfs, beside, write_full};

/// Creates the file of a segment and opens it. The file has its name only once its header is on
/// disk; that it has it is durable once the directory is synced.
pub(crate) fn create_segment(
    vfs: &dyn Vfs,
    path: PathBuf,
    header: SegmentHeader,
) -> io::Result<ActiveSegment> {
    // A file that nobody could read may hold what somebody wants back.
    match vfs.open_read_only(&path) {
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let bytes = header.encode();
    let beside = beside(&path);
    match vfs.remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = vfs.create(&beside)?;
    write_full(file.as_ref(), 0, &bytes).map_err(|(_, error)| error)?;
    file.sync_data()?;
    vfs.rename(&beside, &path)?;
    let (end, append_time) = (header.base_offset, header.created);
    let written = Written { position: bytes.len() as u64, end, append_time };
    Ok(ActiveSegment::new(header, bytes.len() as u64, path, file, Index::default(), written))
}

pub(crate) fn random_salt(vfs: &dyn Vfs) -> Salt {
    let [a, b, c, d, ..] = vfs.random();
    Salt::new(u32::from_le_bytes([a, b, c, d]))
}
