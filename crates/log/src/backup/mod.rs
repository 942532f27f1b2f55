//! Copies a directory's logs into another one while they are written: a backup that a broker can serve.
//!
//! A backup is a data directory of its own. It is built beside its place, whole and durable, and put there
//! by a rename; a backup that was there before goes last, and lends its files to the new one where nothing
//! has changed. Segments that no longer change are linked where that can be, else copied; of the one that
//! grows what is durable is copied. Every file that is new in it is read once more and verified.
//!
//! Whoever serves a backup makes it a restored directory, which says so from then on: offsets behind its
//! end were given out once, and are given out again.
//! Deliberately absent: which logs belong together, and in which order they are to be copied.

mod manifest;
mod restore;
mod segments;

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use taffrail_model::{LogId, Timestamp};

use crate::directory::{Directory, LOGS, write_identity};
use crate::points::{Point, write_points};
use crate::reader::LogReader;
use crate::spare::is_full;
use crate::vfs::{Vfs, parent};

pub use manifest::Manifest;
pub(crate) use manifest::{MANIFEST, RESTORED, read_manifest, take_over};
pub use restore::{RestoreError, Restored, restore};

/// What the name of a backup in the making has behind the one it will get.
const MAKING: &str = ".making";
/// What the name of the backup before has, while it goes.
const BEFORE: &str = ".before";

/// A backup in the making. Dropped without [`Backup::finish`], nothing of it is left.
#[derive(Debug)]
pub struct Backup {
    vfs: Arc<dyn Vfs>,
    /// Where it will be.
    path: PathBuf,
    /// Where it is made.
    making: PathBuf,
    /// Where the one before is, whose files may be shared.
    before: Option<PathBuf>,
    manifest: Manifest,
    points: BTreeMap<LogId, Point>,
    report: BackupReport,
    is_finished: bool,
}

/// What a backup holds, and what it took to make it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Logs in it.
    pub logs: u64,
    /// Segments in it.
    pub segments: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes of these that were copied; the others are shared with the directory, or with the backup
    /// before.
    pub copied_bytes: u64,
    /// Bytes that were read once more.
    pub verified_bytes: u64,
    /// Places that are damaged in what was copied, because they are in the directory.
    pub damaged: u64,
}

impl BackupReport {
    fn add(&mut self, more: &Self) {
        self.logs += more.logs;
        self.segments += more.segments;
        self.bytes += more.bytes;
        self.copied_bytes += more.copied_bytes;
        self.verified_bytes += more.verified_bytes;
        self.damaged += more.damaged;
    }
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It would be within what it is a backup of.
    #[error("{path} lies within the data directory, or around it: name a place beside it")]
    Within {
        /// The place.
        path: PathBuf,
    },
    /// It must be said where, whoever says it.
    #[error(
        "{path} is not an absolute path: name the place as the broker's machine does, from / and without .."
    )]
    Relative {
        /// The place.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{path} is not empty, and no backup: name a place that is free, or an earlier backup")]
    NotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// There is the backup of another directory.
    #[error(
        "{path} is a backup of the data directory {found}, not of this one: name another place"
    )]
    OfAnother {
        /// The place.
        path: PathBuf,
        /// What it is a backup of.
        found: String,
    },
    /// A broker has served it.
    #[error(
        "{path} was a backup, and a broker has served it since: it may hold what is nowhere else; \
         name another place"
    )]
    Served {
        /// The place.
        path: PathBuf,
    },
    /// Its disk has no room.
    #[error("the disk is full: {path} cannot grow; nothing is left of the backup")]
    StorageFull {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}; nothing is left of the backup")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Whoever made it does not want it any more.
    #[error("the broker is stopping; nothing is left of the backup")]
    GivenUp,
}

impl Directory {
    /// Begins a backup at a place where there is nothing, or an earlier backup of this directory.
    ///
    /// # Errors
    /// If there is something else, or the disk refuses.
    pub fn begin_backup(&self, path: &Path, now: Timestamp) -> Result<Backup, BackupError> {
        let is_plain = !path.components().any(|part| part == Component::ParentDir);
        // Whatever it ends with, its name is what stands behind the last separator.
        let path: PathBuf = path.components().collect();
        if !path.is_absolute() || !is_plain {
            return Err(BackupError::Relative { path });
        }
        if path.starts_with(self.path()) || self.path().starts_with(&path) {
            return Err(BackupError::Within { path });
        }
        let vfs = Arc::clone(self.vfs());
        let (making, gone) = (with_ending(&path, MAKING), with_ending(&path, BEFORE));
        settle(vfs.as_ref(), &path, &gone)?;
        let before = self.find_before(&path)?;
        for left in [&making, &gone] {
            remove_if_there(vfs.as_ref(), left).map_err(|source| failed(left, source))?;
        }
        let backup = Backup {
            vfs,
            path,
            making,
            before,
            manifest: Manifest { source: self.id().to_owned(), taken: now },
            points: BTreeMap::new(),
            report: BackupReport::default(),
            is_finished: false,
        };
        for directory in [&backup.making, &backup.making.join(LOGS)] {
            let created = backup.vfs.create_directory(directory);
            created.map_err(|source| failed(directory, source))?;
        }
        Ok(backup)
    }

    /// The earlier backup at a place, if there is one.
    fn find_before(&self, path: &Path) -> Result<Option<PathBuf>, BackupError> {
        let vfs = self.vfs().as_ref();
        let path = path.to_owned();
        let entries = match vfs.list(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(&path, source)),
        };
        if entries.is_empty() {
            return Ok(None);
        }
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        if has(RESTORED) {
            return Err(BackupError::Served { path });
        }
        if !has(MANIFEST) {
            return Err(BackupError::NotEmpty { path });
        }
        let manifest = read_manifest(vfs, &path.join(MANIFEST));
        match manifest.map_err(|source| failed(&path, source))? {
            Some(Manifest { source, .. }) if source == self.id() => Ok(Some(path)),
            Some(Manifest { source, .. }) => Err(BackupError::OfAnother { path, found: source }),
            None => Err(BackupError::NotEmpty { path }),
        }
    }
}

impl Backup {
    /// Copies a log as it is now, all that is durable of it. `pace` hears of the bytes that were read or
    /// written, and says whether to go on.
    ///
    /// # Errors
    /// If a file cannot be read or written, or `pace` says no.
    pub fn add(
        &mut self,
        log: &LogReader,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), BackupError> {
        let id = log.shared().id;
        let from = self.before.as_ref().map(|before| before.join(LOGS).join(id.to_string()));
        let to = self.making.join(LOGS).join(id.to_string());
        self.vfs.create_directory(&to).map_err(|source| failed(&to, source))?;
        let copied = segments::copy(log.shared(), from.as_deref(), &to, pace)?;
        self.report.add(&copied.report);
        self.points.insert(id, copied.point);
        Ok(())
    }

    /// Puts the backup in its place, durably.
    ///
    /// # Errors
    /// If the disk refuses. Then what was there before is there, under its name or one that the next
    /// backup finds.
    pub fn finish(mut self, now: Timestamp) -> Result<BackupReport, BackupError> {
        let vfs = Arc::clone(&self.vfs);
        let vfs = vfs.as_ref();
        let (making, path) = (self.making.clone(), self.path.clone());
        let gone = with_ending(&path, BEFORE);
        let finish = || {
            write_points(vfs, &making, &self.points, now)?;
            write_identity(vfs, &making)?;
            self.manifest.write(vfs, &making)?;
            vfs.sync_directory(&making.join(LOGS))?;
            vfs.sync_directory(&making)?;
            let is_there = vfs.list(&path).is_ok();
            if is_there {
                vfs.rename(&path, &gone)?;
                // Both must not be on their way at once: a power loss could leave neither in its place.
                vfs.sync_directory(parent(&path))?;
            }
            vfs.rename(&making, &path)?;
            vfs.sync_directory(parent(&path))
        };
        if let Err(source) = finish() {
            // Where that fails too, the next backup does it.
            let _ = settle(vfs, &path, &gone);
            return Err(failed(&path, source));
        }
        self.is_finished = true;
        // If it cannot be removed, the next backup does it.
        let _ = remove_if_there(vfs, &gone);
        Ok(self.report)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = remove_if_there(self.vfs.as_ref(), &self.making);
        }
    }
}

/// Ends what an earlier backup has begun that was interrupted between its last two steps: what was there
/// before is there again.
fn settle(vfs: &dyn Vfs, path: &Path, gone: &Path) -> Result<(), BackupError> {
    let is_there = |path: &Path| match vfs.list(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(failed(path, source)),
    };
    if is_there(gone)? && !is_there(path)? {
        vfs.rename(gone, path).map_err(|source| failed(path, source))?;
        vfs.sync_directory(parent(path)).map_err(|source| failed(path, source))?;
    }
    Ok(())
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn remove_if_there(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    match vfs.remove_directory(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(path: &Path, source: io::Error) -> BackupError {
    let path = path.to_owned();
    if is_full(&source) {
        return BackupError::StorageFull { path };
    }
    BackupError::Io { path, source }
}
