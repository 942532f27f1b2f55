//! The seam to the disk.
//!
//! Everything that the log does to files, and nothing more: whoever implements these two traits
//! carries a log. [`Disk`] is the real one; [`Memory`] keeps apart what is durable and what is
//! not, and can lose power. Reads and writes name their position; files have no cursor.

mod disk;
mod memory;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use disk::Disk;
pub use memory::{Fault, Memory};

/// Bytes that are copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// A file system, and what else the log needs of the machine.
pub trait Vfs: Debug + Send + Sync {
    /// Creates a file that must not exist yet, open for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading.
    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading what the disk returns, not what is in memory of it, where that can be.
    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open_read_only(path)
    }
    /// Lists a directory, ascending by name.
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>>;
    /// Creates a directory that must not exist yet, in one that does.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name besides its own, which must be free: both stand for the same bytes.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file or directory another name, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything in it.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock that a file stands for, or `None` if another process holds it. It is held
    /// until the returned value is dropped.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// Whether somebody holds the lock that a file stands for, found out without taking it; `None`
    /// where that cannot be told.
    fn is_locked(&self, path: &Path) -> io::Result<Option<bool>>;
    /// Bytes that still fit on the disk that holds a directory.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
    /// Random bits.
    fn random(&self) -> [u8; 16];
    /// Differs after every start of the machine; `None` where that cannot be told.
    fn boot_id(&self) -> Option<[u8; 16]>;
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// Reads at `position`; fewer bytes than asked for only at the end of the file or when the
    /// operating system is interrupted.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes at `position`; how many bytes were taken.
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Cuts or extends it.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes its contents and length durable, as `fdatasync`. After an error nothing is known of
    /// what was written since the last success, and trying again proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// The file system that it is on, if [`Self::sync_file_system`] can be had there.
    fn file_system(&self) -> Option<u64> {
        None
    }
    /// Begins to write its contents to the disk.
    fn start_write(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Waits until its contents are written, but for what makes them findable. An error is that of this
    /// file, and is as final as one of [`Self::sync_data`].
    fn finish_write(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes durable what makes the contents of all files of its file system findable, once they are
    /// written.
    fn sync_file_system(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Maps its first `length` bytes, which nobody may cut off while the map lives.
    fn map(&self, length: u64) -> io::Result<Arc<dyn Map>>;
}

/// A file in memory, to read from.
pub trait Map: Debug + Send + Sync {
    /// Shares a range, which is in memory on return.
    fn slice(&self, position: u64, length: usize) -> io::Result<Bytes>;
}

/// A lock that is held as long as this lives.
pub trait Lock: Debug + Send + Sync {
    /// Leaves a note for whoever is refused.
    fn annotate(&self, note: &str) -> io::Result<()>;
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name within the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_directory: bool,
}

/// Makes files durable, as [`File::sync_data`] does each: with one call for all where they are on one
/// file system that can. What became of each stands in its place.
pub(crate) fn sync_files(files: &[Arc<dyn File>]) -> Vec<io::Result<()>> {
    let [first, others @ ..] = files else { return Vec::new() };
    let system = first.file_system();
    let is_one = system.is_some() && others.iter().all(|file| file.file_system() == system);
    if others.is_empty() || !is_one {
        return files.iter().map(|file| file.sync_data()).collect();
    }
    let started: Vec<_> = files.iter().map(|file| file.start_write()).collect();
    // Whoever forbids the call has not written anything, or lost it.
    let is_forbidden = |result: &io::Result<()>| {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        let kind = result.as_ref().err().map(io::Error::kind);
        matches!(kind, Some(InvalidInput | PermissionDenied | Unsupported))
    };
    if started.iter().any(is_forbidden) {
        let sync = |(started, file): (io::Result<()>, &Arc<dyn File>)| {
            if is_forbidden(&started) {
                file.sync_data()
            } else {
                started.and_then(|()| file.sync_data())
            }
        };
        return started.into_iter().zip(files).map(sync).collect();
    }
    // What is lost once is lost: a later call may find nothing wrong.
    let finish = |(started, file): (io::Result<()>, &Arc<dyn File>)| {
        started.and_then(|()| file.finish_write())
    };
    let written: Vec<_> = started.into_iter().zip(files).map(finish).collect();
    if first.sync_file_system().is_ok() {
        return written;
    }
    let sync =
        |(written, file): (io::Result<()>, &Arc<dyn File>)| written.and_then(|()| file.sync_data());
    written.into_iter().zip(files).map(sync).collect()
}

/// Reads until `buffer` is full or the file ends; how many bytes were read.
pub(crate) fn read_full(file: &dyn File, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(position + filled as u64, rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads up to `length` bytes as a shared slice; shorter only at the end of the file, which may be
/// growing. Where reading ends before the file does, that is an error: what was not read must not be
/// taken for missing.
pub(crate) fn read_bytes(file: &dyn File, position: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    let mut filled = read_full(file, position, &mut buffer)?;
    while filled < length {
        let (reached, end) = (position + filled as u64, file.length()?);
        if end <= reached {
            break;
        }
        // Unless it has grown since.
        let more = read_full(file, reached, &mut buffer[filled..])?;
        if more == 0 {
            let message = format!("reading ends at byte {reached} of {end}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        filled += more;
    }
    buffer.truncate(filled);
    Ok(Bytes::from(buffer))
}

/// Reads a whole file of at most `length_max` bytes.
pub(crate) fn read_file(vfs: &dyn Vfs, path: &Path, length_max: u64) -> io::Result<Bytes> {
    let file = vfs.open_read_only(path)?;
    let length = file.length()?;
    if length > length_max {
        let message = format!("{length} bytes, at most {length_max} were expected");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    read_bytes(file.as_ref(), 0, length as usize)
}

/// Writes all of `bytes`; on an error, how many were written before it.
pub(crate) fn write_full(
    file: &dyn File,
    position: u64,
    bytes: &[u8],
) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write_at(position + written as u64, rest) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Copies bytes of one file into another, from `at` on.
pub(crate) fn copy_bytes(
    from: &dyn File,
    bytes: Range<u64>,
    to: &dyn File,
    mut at: u64,
) -> io::Result<()> {
    let mut position = bytes.start;
    while position < bytes.end {
        let wanted = (bytes.end - position).min(COPY_BYTES);
        let read = read_bytes(from, position, wanted as usize)?;
        if read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_full(to, at, &read).map_err(|(_, error)| error)?;
        position += read.len() as u64;
        at += read.len() as u64;
    }
    Ok(())
}

/// Copies a file to where there is none, and syncs it.
pub(crate) fn copy_file(vfs: &dyn Vfs, from: &Path, to: &Path) -> io::Result<()> {
    let from = vfs.open_read_only(from)?;
    let (length, to) = (from.length()?, vfs.create(to)?);
    copy_bytes(from.as_ref(), 0..length, to.as_ref(), 0)?;
    to.sync_data()
}

/// Puts a file with these contents in place, durably: the old file or the new one is there at any
/// moment, never a part.
pub(crate) fn replace_file(vfs: &dyn Vfs, path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    match vfs.remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = vfs.create(&beside)?;
    write_full(file.as_ref(), 0, contents).map_err(|(_, error)| error)?;
    file.sync_data()?;
    vfs.rename(&beside, path)?;
    vfs.sync_directory(parent(path))
}

/// The name under which a file is prepared before it is put in place.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
