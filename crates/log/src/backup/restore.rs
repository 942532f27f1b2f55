//! Copies a backup to where a broker is to serve it: the backup stays what it is.

use std::io;
use std::path::{Path, PathBuf};

use super::{MANIFEST, Manifest, RESTORED, read_manifest, remove_if_there, with_ending};
use crate::directory::LOCK;
use crate::spare::is_full;
use crate::verify::{InspectError, Severity, inspect};
use crate::vfs::{Vfs, parent, read_bytes, write_full};

/// What the name of a place has behind it while it is filled.
const RESTORING: &str = ".restoring";
/// Bytes that are copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the backup says of itself.
    pub backup: Manifest,
    /// Files that were copied.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Places that are damaged in them.
    pub damaged: u64,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no backup.
    #[error("{path} is no backup: name a directory that `taffrail backup` has made")]
    NoBackup {
        /// The place.
        path: PathBuf,
    },
    /// It was one.
    #[error(
        "{path} was a backup, and a broker has served it since: it is a data directory of its own; \
         name another backup"
    )]
    Served {
        /// The place.
        path: PathBuf,
    },
    /// A broker uses the directory, or another restore fills it.
    #[error("{path} is in use: nothing was changed; name a place that is free")]
    InUse {
        /// The place.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{path} is no empty directory: nothing was changed; name a place that is free")]
    NotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// Nothing can be put in its place.
    #[error("{path} is a mount point, and cannot be replaced: name a directory in it")]
    MountPoint {
        /// The place.
        path: PathBuf,
    },
    /// Another backup took its place.
    #[error("{path} was replaced while it was copied: nothing is left of the copy; say it again")]
    Replaced {
        /// The backup.
        path: PathBuf,
    },
    /// It would be a part of the backup, or hold it.
    #[error("{path} lies within the backup, or around it: name a place beside it")]
    Within {
        /// The place.
        path: PathBuf,
    },
    /// Its disk has no room.
    #[error("the disk is full: {path} cannot grow; nothing is left of what was copied")]
    StorageFull {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}; nothing is left of what was copied")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was copied cannot be read.
    #[error("{0}; nothing is left of what was copied")]
    Inspect(#[from] InspectError),
}

/// Copies the backup at `from` to `to`, where there is nothing or an empty directory, and reads the copy
/// once more. Durable on return. `progress` hears how many bytes were copied. Both are to be named without
/// links and `..`.
///
/// # Errors
/// If there is no backup, the place is not free, or the disk refuses: then nothing is left of the copy.
pub fn restore(
    vfs: &dyn Vfs,
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Restored, RestoreError> {
    // Whatever it ends with, its name is what stands behind the last separator.
    let to: PathBuf = to.components().collect();
    let backup = find_backup(vfs, from)?;
    if to.starts_with(from) || from.starts_with(&to) {
        return Err(RestoreError::Within { path: to });
    }
    let restoring = with_ending(&to, RESTORING);
    if is_in_use(vfs, &restoring) {
        return Err(RestoreError::InUse { path: restoring });
    }
    let clear = || remove_if_there(vfs, &restoring).map_err(|source| failed(&restoring, source));
    clear()?;
    let restored = Restored { backup, files: 0, bytes: 0, damaged: 0 };
    let place = Place { vfs, to: &to, restoring: &restoring };
    let is_there = place.check_free()?;
    // Where somebody else has made it meanwhile, it is theirs.
    place.create()?;
    let filled = place.probe(is_there).and_then(|()| place.fill(from, restored, progress));
    if filled.is_err() {
        // What stays is removed by the next one.
        let _ = clear();
    }
    filled
}

/// Where a backup is restored.
struct Place<'a> {
    vfs: &'a dyn Vfs,
    to: &'a Path,
    /// Where it is made.
    restoring: &'a Path,
}

impl Place<'_> {
    /// Whether there is an empty directory already; an error if there is anything else.
    fn check_free(&self) -> Result<bool, RestoreError> {
        let path = self.to.to_owned();
        match self.vfs.list(self.to) {
            Ok(entries) if entries.is_empty() => Ok(true),
            Ok(_) if is_in_use(self.vfs, self.to) => Err(RestoreError::InUse { path }),
            Ok(_) => Err(RestoreError::NotEmpty { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(RestoreError::NotEmpty { path })
            }
            Err(source) => Err(failed(self.to, source)),
        }
    }

    fn create(&self) -> Result<(), RestoreError> {
        let created = self.vfs.create_directory(self.restoring);
        created.map_err(|source| failed(self.restoring, source))
    }

    /// Tries whether what is there can be replaced, before much is copied for nothing.
    fn probe(&self, is_there: bool) -> Result<(), RestoreError> {
        if !is_there {
            return Ok(());
        }
        match self.vfs.rename(self.restoring, self.to) {
            Ok(()) => self.create(),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                Err(RestoreError::MountPoint { path: self.to.to_owned() })
            }
            Err(source) => Err(failed(self.to, source)),
        }
    }

    /// Copies the backup, reads the copy, and puts it in its place.
    fn fill(
        &self,
        from: &Path,
        mut restored: Restored,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Restored, RestoreError> {
        let Self { vfs, to, restoring } = *self;
        let lock = restoring.join(LOCK);
        let Some(_held) = vfs.lock(&lock).map_err(|source| failed(&lock, source))? else {
            return Err(RestoreError::InUse { path: restoring.to_owned() });
        };
        self.copy_entries(from, restoring, &mut restored, progress)?;
        let report = inspect(vfs, restoring)?;
        let is_damage = |severity: Severity| severity == Severity::Damage;
        restored.damaged = report.findings().filter(|it| is_damage(it.severity)).count() as u64;
        // Logs of one backup do not go with those of another.
        if !matches!(find_backup(vfs, from), Ok(backup) if backup == restored.backup) {
            return Err(RestoreError::Replaced { path: from.to_owned() });
        }
        vfs.rename(restoring, to).map_err(|source| failed(to, source))?;
        if let Err(source) = vfs.sync_directory(parent(to)) {
            // It may or may not be there after a power loss: it is not.
            let _ = vfs.rename(to, restoring);
            return Err(failed(to, source));
        }
        Ok(restored)
    }

    /// Copies what is in a directory to another one that is there, durably.
    fn copy_entries(
        &self,
        from: &Path,
        to: &Path,
        restored: &mut Restored,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RestoreError> {
        let vfs = self.vfs;
        for entry in vfs.list(from).map_err(|source| failed(from, source))? {
            let (from, to) = (from.join(&entry.name), to.join(&entry.name));
            if entry.is_directory {
                vfs.create_directory(&to).map_err(|source| failed(&to, source))?;
                self.copy_entries(&from, &to, restored, progress)?;
            } else if entry.name != LOCK {
                self.copy_file(&from, &to, restored, progress)?;
            }
        }
        vfs.sync_directory(to).map_err(|source| failed(to, source))
    }

    fn copy_file(
        &self,
        from: &Path,
        to: &Path,
        restored: &mut Restored,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RestoreError> {
        let unread = |source| failed(from, source);
        let unwritten = |source| failed(to, source);
        let source = self.vfs.open_read_only(from).map_err(unread)?;
        let length = source.length().map_err(unread)?;
        let copy = self.vfs.create(to).map_err(unwritten)?;
        let mut position = 0;
        while position < length {
            let wanted = (length - position).min(COPY_BYTES) as usize;
            let bytes = read_bytes(source.as_ref(), position, wanted).map_err(unread)?;
            if bytes.is_empty() {
                return Err(unread(io::ErrorKind::UnexpectedEof.into()));
            }
            let written = write_full(copy.as_ref(), position, &bytes);
            written.map_err(|(_, error)| unwritten(error))?;
            position += bytes.len() as u64;
            restored.bytes += bytes.len() as u64;
            progress(restored.bytes);
        }
        restored.files += 1;
        copy.sync_data().map_err(unwritten)
    }
}

fn find_backup(vfs: &dyn Vfs, path: &Path) -> Result<Manifest, RestoreError> {
    let found = match read_manifest(vfs, &path.join(MANIFEST)) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
        found => found.map_err(|source| failed(path, source))?,
    };
    let was_one = matches!(read_manifest(vfs, &path.join(RESTORED)), Ok(Some(_)));
    let path = path.to_owned();
    match found {
        Some(backup) => Ok(backup),
        None if was_one => Err(RestoreError::Served { path }),
        None => Err(RestoreError::NoBackup { path }),
    }
}

/// Whether somebody holds the lock of a directory.
fn is_in_use(vfs: &dyn Vfs, directory: &Path) -> bool {
    matches!(vfs.is_locked(&directory.join(LOCK)), Ok(Some(true)))
}

fn failed(path: &Path, source: io::Error) -> RestoreError {
    let path = path.to_owned();
    if is_full(&source) {
        return RestoreError::StorageFull { path };
    }
    RestoreError::Io { path, source }
}
