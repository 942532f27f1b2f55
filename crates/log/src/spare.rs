//! Room that is kept back for what must work on a full disk: to delete, to stop, to start, and to
//! move a torn tail aside.
//!
//! It is a file that nobody reads. Who must write and finds the disk full gives it up and writes once
//! more; from then on who may be refused is, until the room is there again. So what is given up goes
//! to those it was kept for.
//! Deliberately absent: who these are.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::vfs::{File, Vfs, write_full};

pub(crate) const NAME: &str = "spare";

/// Bytes that are written at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// The room that a directory keeps back.
#[derive(Debug)]
pub(crate) struct Spare {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    /// Whether it should be there and is not, because the disk is full.
    is_missing: AtomicBool,
    /// Held while the file changes.
    changing: Mutex<()>,
}

impl Spare {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, directory: &Path) -> Self {
        let path = directory.join(NAME);
        Self { vfs, path, is_missing: AtomicBool::new(false), changing: Mutex::new(()) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it should be there and is not, because the disk is full.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_missing.load(Ordering::Acquire)
    }

    /// Keeps so many bytes back, if there are not as many already. What does not fit is still kept
    /// as far as it does.
    ///
    /// # Errors
    /// If the disk is full, or fails otherwise.
    pub(crate) fn keep(&self, bytes: u64) -> io::Result<()> {
        let _one = match self.changing.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            // It was just given up, and whoever writes in its room may take long.
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::StorageFull.into()),
        };
        let kept = self.fill(bytes);
        match &kept {
            Ok(()) => self.is_missing.store(false, Ordering::Release),
            Err(error) if is_full(error) => self.is_missing.store(true, Ordering::Release),
            Err(_) => {}
        }
        kept
    }

    /// Writes what must be written: if the disk is full, once more in the room that was kept back.
    pub(crate) fn lend<T>(&self, write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.lend_where(write, is_full)
    }

    /// The same for an error of which `is_full` says whether it is for want of room.
    pub(crate) fn lend_where<T, E>(
        &self,
        mut write: impl FnMut() -> Result<T, E>,
        is_full: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        match write() {
            Err(error) if is_full(&error) => {
                // Held while it is written: nobody else takes the room back, and whoever comes
                // second finds what is left of it.
                let _one = self.lock();
                if self.vfs.remove_file(&self.path).is_ok() {
                    self.is_missing.store(true, Ordering::Release);
                }
                write()
            }
            written => written,
        }
    }

    fn fill(&self, bytes: u64) -> io::Result<()> {
        let file = self.open()?;
        let mut length = file.length()?;
        while length < bytes {
            let chunk = vec![0; CHUNK_BYTES.min(bytes - length) as usize];
            write_full(file.as_ref(), length, &chunk).map_err(|(_, error)| error)?;
            length += chunk.len() as u64;
        }
        Ok(())
    }

    fn open(&self) -> io::Result<Arc<dyn File>> {
        match self.vfs.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.vfs.create(&self.path),
            opened => opened,
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
