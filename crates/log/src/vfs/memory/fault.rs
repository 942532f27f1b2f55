//! What goes wrong on a disk in memory, and what each call is told then.

use std::io;
use std::path::{Path, PathBuf};

/// What goes wrong, from when it is set until it is cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every sync fails. As on Linux, programs go on seeing what it should have covered, but it
    /// counts as clean: a later sync succeeds without writing it.
    SyncFails,
    /// The same, and what the sync should have covered is no longer seen either.
    SyncDrops,
    /// Of the syncs of files and directories one fails, behind so many that succeed. Those behind it
    /// succeed again, without writing what it should have covered.
    OneSyncFails {
        /// Syncs that succeed.
        before: usize,
        /// Whether what it should have covered is no longer seen either.
        drops: bool,
    },
    /// Files grow by so many more bytes, then the disk is full. What is written over needs no room,
    /// and a file that is removed makes some.
    DiskFull {
        /// Bytes that still fit.
        bytes_left: usize,
    },
    /// After so many more changes that need room, a file that grows or a new name, the disk is full.
    NoRoom {
        /// Changes that still fit.
        changes_left: usize,
    },
    /// A write takes so many bytes at the most, and whoever wrote goes on with the rest.
    WritesShort {
        /// Bytes that are taken at once.
        bytes_max: usize,
    },
    /// Every second read and write is interrupted before it has done anything.
    Interrupts,
    /// Of the writes one fails, behind so many that succeed, and those behind it succeed again.
    OneWriteFails {
        /// Writes that succeed.
        before: usize,
    },
    /// Every read fails.
    ReadFails,
    /// Every read of one file fails.
    FileFails {
        /// The file.
        path: PathBuf,
    },
    /// Reads of one file end before it ends.
    FileEnds {
        /// The file.
        path: PathBuf,
        /// Where they end.
        length: usize,
    },
    /// Reads of one file return another byte than lies on disk.
    FileLies {
        /// The file.
        path: PathBuf,
        /// Where the byte is.
        position: usize,
        /// Its bits that are turned over.
        bits: u8,
    },
    /// After so many more changes the machine stands still: the last one is done by half if it is a
    /// write, and every call after it fails.
    Stops {
        /// Changes that are still made.
        changes_left: usize,
    },
}

/// How a sync fails.
pub(super) struct SyncFailure {
    /// Whether what it should have covered is no longer seen.
    pub(super) drops: bool,
}

/// The fault that is set.
#[derive(Debug, Default)]
pub(super) struct Faults {
    set: Option<Fault>,
    /// Calls that may be interrupted.
    calls: usize,
}

impl Faults {
    pub(super) fn set(&mut self, fault: Option<Fault>) {
        *self = Self { set: fault, calls: 0 };
    }

    pub(super) fn get(&self) -> Option<&Fault> {
        self.set.as_ref()
    }

    /// The file that the fault is about, if it is about one.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.set {
            Some(
                Fault::FileFails { path }
                | Fault::FileEnds { path, .. }
                | Fault::FileLies { path, .. },
            ) => Some(path),
            _ => None,
        }
    }

    /// A file of so many bytes is removed: there is room for as many again.
    pub(super) fn removed(&mut self, bytes: usize) {
        if let Some(Fault::DiskFull { bytes_left }) = &mut self.set {
            *bytes_left += bytes;
        }
    }

    /// Bytes that still fit.
    pub(super) fn free_bytes(&self) -> u64 {
        match self.set {
            Some(Fault::DiskFull { bytes_left }) => bytes_left as u64,
            Some(Fault::NoRoom { changes_left: 0 }) => 0,
            _ => u64::MAX,
        }
    }

    /// Counts a change, or refuses it because the machine stands still.
    pub(super) fn change(&mut self) -> io::Result<()> {
        match &mut self.set {
            Some(Fault::Stops { changes_left }) => take(changes_left, stopped),
            _ => Ok(()),
        }
    }

    /// A change that needs a new entry in a directory.
    pub(super) fn name(&mut self) -> io::Result<()> {
        self.change()?;
        match &mut self.set {
            Some(Fault::NoRoom { changes_left }) => take(changes_left, full),
            _ => Ok(()),
        }
    }

    /// A change that makes a new file.
    pub(super) fn create(&mut self) -> io::Result<()> {
        self.name()?;
        if self.set == Some(Fault::DiskFull { bytes_left: 0 }) { Err(full()) } else { Ok(()) }
    }

    /// How many of `bytes` the disk takes, `room` of which go where the file has bytes already.
    pub(super) fn write(&mut self, bytes: usize, room: usize) -> io::Result<usize> {
        self.interrupt()?;
        self.change()?;
        match &mut self.set {
            Some(Fault::Stops { changes_left: 0 }) => Ok(bytes.div_ceil(2)),
            Some(Fault::DiskFull { bytes_left }) => {
                let taken = bytes.min(room + *bytes_left);
                *bytes_left -= taken.saturating_sub(room);
                if taken == 0 { Err(full()) } else { Ok(taken) }
            }
            Some(Fault::NoRoom { changes_left }) if room < bytes => {
                take(changes_left, full).map(|()| bytes)
            }
            Some(Fault::WritesShort { bytes_max }) => Ok(bytes.min(*bytes_max)),
            Some(Fault::OneWriteFails { before }) => {
                let taken = take(before, || io::Error::other("injected: write failed"));
                if taken.is_err() {
                    self.set = None;
                }
                taken.map(|()| bytes)
            }
            _ => Ok(bytes),
        }
    }

    /// A sync, of a file or a directory.
    pub(super) fn sync(&mut self) -> Result<(), SyncFailure> {
        match &mut self.set {
            Some(Fault::SyncFails) => Err(SyncFailure { drops: false }),
            Some(Fault::SyncDrops) => Err(SyncFailure { drops: true }),
            Some(Fault::OneSyncFails { before, drops }) => {
                let drops = *drops;
                let synced = take(before, || SyncFailure { drops });
                if synced.is_err() {
                    self.set = None;
                }
                synced
            }
            _ => Ok(()),
        }
    }

    /// A read of the file that the fault is about, or of another one.
    pub(super) fn read(&mut self, is_of_file: bool) -> io::Result<()> {
        self.interrupt()?;
        match &self.set {
            Some(Fault::ReadFails) => Err(io::Error::other("injected: read failed")),
            Some(Fault::FileFails { .. }) if is_of_file => {
                Err(io::Error::other("injected: read of this file failed"))
            }
            Some(Fault::Stops { changes_left: 0 }) => Err(stopped()),
            _ => Ok(()),
        }
    }

    /// What a read of the file that the fault is about returns, of what lies there from `position` on.
    pub(super) fn spoil(&self, position: usize, read: &mut [u8]) -> usize {
        match &self.set {
            Some(Fault::FileEnds { length, .. }) => read.len().min(length.saturating_sub(position)),
            Some(Fault::FileLies { position: at, bits, .. }) => {
                if let Some(byte) = at.checked_sub(position).and_then(|at| read.get_mut(at)) {
                    *byte ^= bits;
                }
                read.len()
            }
            _ => read.len(),
        }
    }

    fn interrupt(&mut self) -> io::Result<()> {
        self.calls += 1;
        let is_interrupted = self.set == Some(Fault::Interrupts) && self.calls % 2 == 1;
        if is_interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

/// Takes one of those that are left, or says what there is without.
fn take<E>(left: &mut usize, error: impl FnOnce() -> E) -> Result<(), E> {
    *left = left.checked_sub(1).ok_or_else(error)?;
    Ok(())
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

fn stopped() -> io::Error {
    io::Error::other("injected: the machine stands still")
}
