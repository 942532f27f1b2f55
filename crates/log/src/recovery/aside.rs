//! Moves what lies behind a log's end aside, and writes what lies before it again.

use std::io;
use std::path::{Path, PathBuf};

use super::last::LastSegment;
use crate::vfs::{Vfs, copy_bytes, parent};

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
    copy_bytes(last.file.as_ref(), position..last.length, aside.as_ref(), 0)?;
    aside.sync_data()?;
    vfs.sync_directory(parent(path))
}

/// Writes what lies between two positions again, in place, and syncs it.
pub(super) fn rewrite(last: &LastSegment, from: u64, to: u64) -> io::Result<()> {
    let file = last.file.as_ref();
    copy_bytes(file, from..to, file, from)?;
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
