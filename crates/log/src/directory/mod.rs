//! A data directory: its lock, its identity, its recovery points, and the logs in it.
//!
//! ```text
//! identity                     makes it a data directory; written last when it is set up
//! lock                         held by the one process that uses it
//! recovery-points.a, .b        what is durably known of each log
//! spare                        room for what must be written on a full disk
//! scrub                        how far looking at everything has come
//! backup, restored             says that it is a backup, or was one before it was served
//! logs/<id>/<offset>.log       segments        .index beside sealed ones
//! logs/<id>/producers.a, .b    what is remembered of idempotent producers, as of some offset
//! logs/<id>/*.aside            what recovery cut off; nothing reads it, nothing deletes it
//! logs/<id>.deleted            on its way out
//! logs/<id>.repairing, .repaired, .quarantine-<n>, removed/   see `repair`
//! ```
//!
//! Deliberately absent: knowledge of topics. A log has an opaque id and a label for people.

mod identity;
mod setup;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taffrail_model::{LogId, Offset, ProducerId, Timestamp, limits};

use crate::backup::{Manifest, take_over};
use crate::config::LogConfig;
use crate::log::{Log, LogState};
use crate::points::{Point, Points};
use crate::producers::Crowd;
use crate::progress::Progress;
use crate::recovery::{OpenError, Recovery, RecoveryReport, recover};
use crate::scrub::{self, ScrubState};
use crate::segment::{SegmentCache, SegmentHeader, create_segment, random_salt, segment_path};
use crate::shared::{Segments, Shared};
use crate::spare::{Spare, is_full};
use crate::vfs::{Lock, Vfs, read_file, replace_file};

pub(crate) use crate::backup::{MANIFEST, RESTORED};
pub(crate) use crate::scrub::NAME as SCRUB;
pub(crate) use crate::spare::NAME as SPARE;
pub(crate) use identity::{
    Identity, NAME as IDENTITY, read as read_identity, write as write_identity,
};

pub(crate) const LOGS: &str = "logs";
pub(crate) const LOCK: &str = "lock";
/// The place of what a repair took away.
pub(crate) const REMOVED: &str = "removed";
pub(crate) const DELETED: &str = ".deleted";
/// A log that a repair builds, one that it has built, and, with a number behind, one that it replaced.
pub(crate) const REPAIRING: &str = ".repairing";
pub(crate) const REPAIRED: &str = ".repaired";
pub(crate) const QUARANTINE: &str = ".quarantine-";

/// A log that was opened, and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// What was found, and done about it.
    pub report: RecoveryReport,
}

/// How to open a data directory.
#[derive(Debug)]
pub struct DirectoryOptions<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Whether an empty directory may be made a data directory.
    pub init: bool,
    /// The logs that a new data directory begins with: id and label.
    pub first_logs: &'a [(LogId, &'a str)],
    /// The time.
    pub now: Timestamp,
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct Directory {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    id: String,
    points: Arc<Points>,
    cache: Arc<SegmentCache>,
    crowd: Crowd,
    /// Logs that could not be opened, or only read-only, for want of room, and how much they want.
    wanting: Mutex<BTreeMap<LogId, u64>>,
    /// Of what it was a backup, if it was one.
    restored: Option<Manifest>,
    _lock: Box<dyn Lock>,
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is there, empty, and may be the mount point of a disk that is not mounted.
    #[error(
        "{path} exists and is empty: if it is meant to be a new data directory, say --init; \
         if a disk should be mounted there, mount it"
    )]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// A set-up did not end.
    #[error(
        "the set-up of {path} was interrupted before it held any data: say --init to do it again"
    )]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{path} is not a data directory of Taffrail: it holds {entry:?}; name another one")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        entry: String,
    },
    /// Another process uses it.
    #[error("{path} is in use by {holder}: stop that broker first, or name another directory")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the other process says of itself.
        holder: String,
    },
    /// A newer version made it.
    #[error("{path} has format {found}, which this version cannot read: use a newer Taffrail")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its identity cannot be understood.
    #[error(
        "{path} is damaged: it does not say what it belongs to; restore it from a backup \
         (`taffrail inspect` shows what else is there)"
    )]
    Identity {
        /// The identity file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl Directory {
    /// Opens a data directory, setting it up if there is none at all.
    ///
    /// On return it is locked, and every log's epoch is raised durably.
    ///
    /// # Errors
    /// If it is in use, holds something else, is of a newer format, or is empty and `init` is not
    /// said; nothing is changed then.
    pub fn open(vfs: Arc<dyn Vfs>, options: &DirectoryOptions<'_>) -> Result<Self, DirectoryError> {
        let path = options.path;
        let io = |source| DirectoryError::Io { path: path.join(IDENTITY), source };
        setup::prepare(&vfs, options)?;
        let lock = take_lock(vfs.as_ref(), path)?;
        let id = match read_identity(vfs.as_ref(), path).map_err(io)? {
            Some(Identity::Known { id, .. }) => id,
            Some(Identity::Newer(found)) => {
                return Err(DirectoryError::Newer { path: path.to_owned(), found });
            }
            Some(Identity::Damaged) | None => {
                return Err(DirectoryError::Identity { path: path.join(IDENTITY) });
            }
        };
        let restored = take_over(vfs.as_ref(), path).map_err(io)?;
        let spare = Arc::new(Spare::new(Arc::clone(&vfs), path));
        let points = Arc::new(
            Points::open(Arc::clone(&vfs), spare, path)
                .map_err(|(path, source)| DirectoryError::Io { path, source })?,
        );
        Ok(Self {
            vfs,
            path: path.to_owned(),
            id,
            points,
            cache: Arc::default(),
            crowd: Crowd::default(),
            wanting: Mutex::default(),
            restored,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity, 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn vfs(&self) -> &Arc<dyn Vfs> {
        &self.vfs
    }

    /// Of what it was a backup before it was served, and when that was taken, if it was one.
    pub fn restored(&self) -> Option<&Manifest> {
        self.restored.as_ref()
    }

    /// Random bytes for the identity of something new in it.
    pub fn random_id<const N: usize>(&self) -> [u8; N] {
        let mut id = [0; N];
        for chunk in id.chunks_mut(16) {
            chunk.copy_from_slice(&self.vfs.random()[..chunk.len()]);
        }
        id
    }

    /// The logs that lie in it, whether or not anybody knows them.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn logs(&self) -> io::Result<Vec<LogId>> {
        let entries = self.vfs.list(&self.path.join(LOGS))?;
        Ok(entries.iter().filter_map(|entry| LogId::parse(&entry.name)).collect())
    }

    /// The logs of which a deletion that did not end has left something.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn half_deleted(&self) -> io::Result<Vec<LogId>> {
        let entries = self.vfs.list(&self.path.join(LOGS))?;
        let names = entries.iter().filter_map(|entry| entry.name.strip_suffix(DELETED));
        Ok(names.filter_map(LogId::parse).collect())
    }

    /// What is durably known of a log.
    pub fn point(&self, id: LogId) -> Option<Point> {
        self.points.known(id)
    }

    /// Creates a log. On return it and its first segment are durable.
    ///
    /// # Errors
    /// If there is one already, or the disk refuses.
    pub fn create_log(
        &self,
        id: LogId,
        label: &str,
        config: LogConfig,
        now: Timestamp,
    ) -> io::Result<Log> {
        let path = self.log_path(id);
        let active = create_log_files(self.vfs.as_ref(), &path, id, label, now)?;
        let epoch = self.points.created(id);
        let active = Arc::new(active);
        let segments = Segments { sealed: Vec::new(), active, lost: Vec::new() };
        let progress = Progress::at(Offset::ZERO, Offset::ZERO);
        let shared = Arc::new(Shared::new(
            id,
            path,
            label.to_owned(),
            epoch,
            Arc::clone(&self.vfs),
            Arc::clone(&self.cache),
            Arc::clone(&self.points),
            self.crowd.clone(),
            segments,
            progress,
            false,
        ));
        Ok(Log::new(shared, config, LogState { append_time: now, ..LogState::default() }))
    }

    /// Opens a log: checks what the last stop may have left behind, repairs what may be repaired,
    /// and says what it found. Whatever idempotent producers there were before have ids below
    /// `producer_ids_end`.
    ///
    /// # Errors
    /// If the log is not there, is not the one it should be, or cannot be read.
    pub fn open_log(
        &self,
        id: LogId,
        config: LogConfig,
        producer_ids_end: ProducerId,
    ) -> Result<Opened, OpenError> {
        self.cache.forget(id);
        let was_wanting = self.wanting().remove(&id).is_some();
        let opened = self.open_log_now(id, config, producer_ids_end);
        let wanted = match &opened {
            Ok(opened) => opened.log.wanted_bytes(),
            Err(OpenError::Io { source, .. }) if is_full(source) => Some(0),
            Err(_) => None,
        };
        if let Some(bytes) = wanted {
            // Tried in vain with so much room: whatever sets the limit, there must be more.
            let enough = if was_wanting { bytes.max(self.free_bytes()) } else { bytes };
            self.wanting().insert(id, enough);
        }
        opened
    }

    fn open_log_now(
        &self,
        id: LogId,
        config: LogConfig,
        producer_ids_end: ProducerId,
    ) -> Result<Opened, OpenError> {
        let path = self.log_path(id);
        let note_loss = || {
            self.points.may_have_lost(id);
            let what = "before anything is cut off, the recovery points must be written";
            self.points.persist().map_err(|e| io::Error::new(e.kind(), format!("{what}: {e}")))
        };
        let recovery =
            recover(&self.vfs, &self.cache, &self.points, &path, id, producer_ids_end, note_loss)
                .map_err(|error| self.explain_missing(id, error))?;
        let Recovery { segments, label, start, end, epoch, .. } = recovery;
        let Recovery { state, may_have_lost, has_leftovers, report, .. } = recovery;
        let epoch = self
            .points
            .opened(id, epoch, start, end, may_have_lost)
            .map_err(|source| OpenError::Io { path: self.path.clone(), source })?;
        let shared = Arc::new(Shared::new(
            id,
            path,
            label,
            epoch,
            Arc::clone(&self.vfs),
            Arc::clone(&self.cache),
            Arc::clone(&self.points),
            self.crowd.clone(),
            segments,
            Progress::at(start, end),
            has_leftovers,
        ));
        Ok(Opened { log: Log::new(shared, config, state), report })
    }

    /// How far looking at everything has come.
    pub fn scrub_state(&self) -> ScrubState {
        scrub::load(self.vfs.as_ref(), &self.path)
    }

    /// Writes down how far looking at everything has come.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn store_scrub_state(&self, state: &ScrubState) -> io::Result<()> {
        let path = self.path.join(scrub::NAME);
        replace_file(self.vfs.as_ref(), &path, &state.encode())
    }

    /// When the broker was last seen before this opening, to within an hour, if that is known.
    pub fn last_seen(&self) -> Option<Timestamp> {
        self.points.last_seen()
    }

    /// Takes note of the time of day, for [`Self::last_seen`] of the next opening.
    pub fn tell_time(&self, now: Timestamp) {
        self.points.tell_time(now);
    }

    /// Deletes a log and everything in it. May be called again after it was interrupted.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn delete_log(&self, id: LogId) -> io::Result<()> {
        let path = self.log_path(id);
        let logs = self.path.join(LOGS);
        let doomed = logs.join(format!("{id}{DELETED}"));
        // An earlier deletion may have been interrupted, and the log created again since.
        remove_if_there(self.vfs.as_ref(), &doomed)?;
        match self.points.spare().lend(|| self.vfs.rename(&path, &doomed)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.vfs.sync_directory(&logs)?,
        }
        self.cache.forget(id);
        remove_if_there(self.vfs.as_ref(), &doomed)?;
        // What a repair was making of it when it was interrupted.
        for ending in [REPAIRED, REPAIRING] {
            remove_if_there(self.vfs.as_ref(), &logs.join(format!("{id}{ending}")))?;
        }
        self.vfs.sync_directory(&logs)?;
        self.points.removed(id);
        self.wanting().remove(&id);
        Ok(())
    }

    /// The logs that take no appends for want of room when they were opened, and for which there is
    /// some now: they may be opened anew. Cheap if there are none.
    pub fn logs_with_room(&self) -> Vec<LogId> {
        let wanting = self.wanting().clone();
        if wanting.is_empty() {
            return Vec::new();
        }
        let free = self.free_bytes();
        // What other logs write meanwhile needs some too.
        let fits = |bytes: u64| bytes.saturating_add(limits::ROOM_MARGIN_BYTES) <= free;
        wanting.into_iter().filter(|(_, bytes)| fits(*bytes)).map(|(id, _)| id).collect()
    }

    /// Makes the recovery points durable, if they changed.
    ///
    /// # Errors
    /// If they cannot be written: what is known on disk stays as it was.
    pub fn persist_points(&self) -> io::Result<()> {
        self.points.persist()
    }

    /// Keeps so many bytes back for what must be written when the disk is full: deleting, stopping,
    /// starting, moving a torn tail aside. Where they are given up, logs take no appends until they
    /// are kept back again. Cheap if they are.
    ///
    /// # Errors
    /// If the disk is full, or fails otherwise.
    pub fn keep_spare(&self, bytes: u64) -> io::Result<()> {
        self.points.spare().keep(bytes)
    }

    /// Makes sure that what is kept back for a full disk is there.
    ///
    /// # Errors
    /// If it is not, the file that cannot be as long as it should.
    pub fn check_spare(&self) -> Result<(), PathBuf> {
        let spare = self.points.spare();
        if spare.is_missing() { Err(spare.path().to_owned()) } else { Ok(()) }
    }

    fn free_bytes(&self) -> u64 {
        self.vfs.free_bytes(&self.path).unwrap_or_default()
    }

    fn wanting(&self) -> MutexGuard<'_, BTreeMap<LogId, u64>> {
        self.wanting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log that is missing may be so because a repair was interrupted.
    fn explain_missing(&self, id: LogId, error: OpenError) -> OpenError {
        let is_there = |ending: &str| {
            let place = self.path.join(LOGS).join(format!("{id}{ending}"));
            self.vfs.list(&place).is_ok()
        };
        if let OpenError::Missing { path } = &error
            && [REPAIRED, REPAIRING].into_iter().any(is_there)
        {
            return OpenError::Interrupted { path: path.clone() };
        }
        error
    }

    fn log_path(&self, id: LogId) -> PathBuf {
        self.path.join(LOGS).join(id.to_string())
    }
}

fn remove_if_there(vfs: &dyn Vfs, directory: &Path) -> io::Result<()> {
    match vfs.remove_directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Creates a log's directory and its first segment, durably.
fn create_log_files(
    vfs: &dyn Vfs,
    path: &Path,
    id: LogId,
    label: &str,
    now: Timestamp,
) -> io::Result<crate::segment::ActiveSegment> {
    vfs.create_directory(path)?;
    let header = SegmentHeader {
        salt: random_salt(vfs),
        compacted: None,
        base_offset: Offset::ZERO,
        previous_end: Offset::ZERO,
        gap_reason: None,
        created: now,
        log_id: id,
        label: label.to_owned(),
    };
    let active = create_segment(vfs, segment_path(path, Offset::ZERO), header)?;
    vfs.sync_directory(path)?;
    vfs.sync_directory(crate::vfs::parent(path))?;
    Ok(active)
}

pub(crate) fn take_lock(vfs: &dyn Vfs, directory: &Path) -> Result<Box<dyn Lock>, DirectoryError> {
    let path = directory.join(LOCK);
    match vfs.lock(&path) {
        Ok(Some(lock)) => {
            // A courtesy to whoever is refused; the lock holds without it.
            let _ = lock.annotate(&format!("process {}", std::process::id()));
            Ok(lock)
        }
        Ok(None) => {
            let note = read_file(vfs, &path, 4096).unwrap_or_default();
            let holder = match String::from_utf8_lossy(&note).trim() {
                "" => "another process".to_owned(),
                note => note.to_owned(),
            };
            Err(DirectoryError::Locked { path: directory.to_owned(), holder })
        }
        Err(source) => Err(DirectoryError::Io { path, source }),
    }
}
