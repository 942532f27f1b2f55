//! Moves what lies behind a log's end aside, and writes what lies before it again.

use std::io;
use std::path::{Path, PathBuf};

use super::last::LastSegment;
use crate::vfs::{File, Vfs, parent, read_bytes, write_full};

const COPY_BYTES: usize = 1 << 20;

/// Keeps what lies behind `position` in a file of its own, durably.
pub(super) fn keep_aside(vfs: &dyn Vfs, last: &LastSegment, position: u64) -> io::Result<PathBuf> {
    let path = aside_path(vfs, &last.path, position)?;
    let copied = copy(vfs, last, position, &path);
    if let Err(error) = copied {
        // A part of a copy only takes up room.
        let _ = vfs.remove_file(&path);
        return Err(error);
    }
    Ok(path)
}

/// Cuts off what lies behind `position`, durably.
pub(super) fn cut(last: &LastSegment, position: u64) -> io::Result<()> {
    last.file.set_length(position)?;
    last.file.sync_data()
}

/// Copies what lies behind `position` to a new file, durably.
fn copy(vfs: &dyn Vfs, last: &LastSegment, position: u64, path: &Path) -> io::Result<()> {
    let aside = vfs.create(path)?;
    let mut copied = position;
    while copied < last.length {
        let bytes = read_some(last.file.as_ref(), copied, last.length)?;
        write_full(aside.as_ref(), copied - position, &bytes).map_err(|(_, error)| error)?;
        copied += bytes.len() as u64;
    }
    aside.sync_data()?;
    vfs.sync_directory(parent(path))
}

/// Writes what lies between two positions again, in place, and syncs it.
pub(super) fn rewrite(last: &LastSegment, from: u64, to: u64) -> io::Result<()> {
    let mut position = from;
    while position < to {
        let bytes = read_some(last.file.as_ref(), position, to)?;
        write_full(last.file.as_ref(), position, &bytes).map_err(|(_, error)| error)?;
        position += bytes.len() as u64;
    }
    last.file.sync_data()
}

/// A name that is not taken for what is cut off at `position`.
pub(super) fn aside_path(vfs: &dyn Vfs, segment: &Path, position: u64) -> io::Result<PathBuf> {
    for attempt in 0..u32::MAX {
        let mut name = segment.as_os_str().to_owned();
        name.push(format!(".{position}.{attempt}.aside"));
        match vfs.open_read_only(Path::new(&name)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name.into()),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The next bytes before `to`, of which there must be some.
fn read_some(file: &dyn File, position: u64, to: u64) -> io::Result<bytes::Bytes> {
    let wanted = (to - position).min(COPY_BYTES as u64) as usize;
    let bytes = read_bytes(file, position, wanted)?;
    if bytes.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}
