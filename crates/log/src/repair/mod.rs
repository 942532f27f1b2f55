//! Repairs a data directory while no broker uses it.
//!
//! Acts only when told, deletes nothing, and says where the old is kept. A log is built anew beside its
//! place; once it is whole and durable the two are exchanged:
//!
//! ```text
//! logs/<id>.repairing       being built: worth nothing yet
//! logs/<id>.repaired        whole, on its way to its place
//! logs/<id>.quarantine-<n>  the log as it was; nothing reads it, nothing deletes it
//! removed/<id>              what was taken away because nothing names it
//! ```
//!
//! Deliberately absent: which logs there should be, and what the broker keeps in its own. Neither
//! recovery points nor what is remembered of producers are changed: the gaps in the segments' headers
//! say to recovery what it must not believe of them.

mod build;
mod error;
mod plan;
mod replace;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_model::{LogId, Offset};

use crate::directory::{
    DELETED, DirectoryError, Identity, LOGS, QUARANTINE, REMOVED, REPAIRED, REPAIRING,
    read_identity, take_lock,
};
use crate::points::{self, Point};
use crate::segment::random_salt;
use crate::verify::{Usage, around};
use crate::vfs::{Lock, Vfs};
use build::{Places, build, exchange};
use error::io_at;
use plan::{Known, plan};
use sources::{Source, read_sources};

pub use error::RepairError;
pub use plan::LogPlan;
pub use replace::Walked;

/// A data directory that no broker uses.
#[derive(Debug)]
pub struct Repair {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    points: BTreeMap<LogId, Point>,
    lock: Option<Box<dyn Lock>>,
}

impl Repair {
    /// Looks at a data directory. Nothing is changed, not even the lock.
    ///
    /// # Errors
    /// If it is not one, or a broker uses it.
    pub fn look(vfs: Arc<dyn Vfs>, path: &Path) -> Result<Self, RepairError> {
        Self::open(vfs, path, false)
    }

    /// Takes a data directory for itself, so that it can be changed.
    ///
    /// # Errors
    /// If it is not one, or a broker uses it.
    pub fn hold(vfs: Arc<dyn Vfs>, path: &Path) -> Result<Self, RepairError> {
        Self::open(vfs, path, true)
    }

    /// Looks at a data directory that somebody may be using just now. Nothing is changed.
    ///
    /// # Errors
    /// If it is not one.
    pub fn peek(vfs: Arc<dyn Vfs>, path: &Path) -> Result<Self, RepairError> {
        Self::check_identity(vfs.as_ref(), path)?;
        let points = load_points(vfs.as_ref(), path)?;
        Ok(Self { vfs, path: path.to_owned(), points, lock: None })
    }

    fn open(vfs: Arc<dyn Vfs>, path: &Path, locks: bool) -> Result<Self, RepairError> {
        Self::check_identity(vfs.as_ref(), path)?;
        let lock = if locks { Some(take_lock(vfs.as_ref(), path)?) } else { None };
        if lock.is_none()
            && let Usage::InUse { holder } = around::usage(vfs.as_ref(), path)
        {
            return Err(DirectoryError::Locked { path: path.to_owned(), holder }.into());
        }
        let points = load_points(vfs.as_ref(), path)?;
        Ok(Self { vfs, path: path.to_owned(), points, lock })
    }

    fn check_identity(vfs: &dyn Vfs, path: &Path) -> Result<(), RepairError> {
        let not_one = |cause: String| RepairError::NotOne { path: path.to_owned(), cause };
        match read_identity(vfs, path).map_err(io_at(path))? {
            Some(Identity::Known { .. }) => Ok(()),
            Some(Identity::Newer(format)) => {
                Err(not_one(format!("it has format {format}: use a newer Taffrail")))
            }
            Some(Identity::Damaged) => {
                let cause = "its identity is damaged: restore that file from a backup first";
                Err(not_one(cause.into()))
            }
            None => Err(not_one("it has no identity".into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a log lies.
    pub fn place(&self, log: LogId) -> PathBuf {
        self.places(log).log
    }

    /// The logs that lie in it, or of which the recovery points know.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn logs(&self) -> Result<BTreeSet<LogId>, RepairError> {
        let logs = self.path.join(LOGS);
        let entries = self.vfs.list(&logs).map_err(io_at(&logs))?;
        let on_disk = entries.iter().filter_map(|entry| LogId::parse(&entry.name));
        Ok(on_disk.chain(self.points.keys().copied()).collect())
    }

    /// Whether a log lies in its place.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn has_log(&self, log: LogId) -> Result<bool, RepairError> {
        self.is_there(&self.places(log).log)
    }

    /// Whether the recovery points say how far a log went.
    pub fn is_known(&self, log: LogId) -> bool {
        self.points.contains_key(&log)
    }

    /// What accepting the losses of a log would make of it. Reads all of it, and changes nothing.
    /// `label` is what it is called if no segment says it.
    ///
    /// # Errors
    /// If there is no such log, nothing is wrong with it, or it cannot be read.
    pub fn plan(&self, log: LogId, label: &str) -> Result<LogPlan, RepairError> {
        let places = self.places(log);
        if self.is_built(log)? {
            let (lost, restored, segments) = (Vec::new(), Vec::new(), Vec::new());
            let (label, end) = (label.to_owned(), Offset::ZERO);
            let (kept, is_built) = (None, true);
            return Ok(LogPlan { log, label, lost, restored, end, kept, is_built, segments });
        }
        let sources = self.sources(log)?;
        let known = Known {
            log,
            directory: &places.log,
            point: self.points.get(&log).copied(),
            label,
            salt: random_salt(self.vfs.as_ref()),
        };
        let mut plan = plan(&known, sources)?;
        if self.is_there(&places.log)? {
            plan.kept = Some(self.free_place(LOGS, &format!("{log}{QUARANTINE}"), 1)?);
        }
        Ok(plan)
    }

    /// Makes the log what the plan says. On return that is durable, and what was there is kept.
    ///
    /// # Errors
    /// If the disk refuses. Then the log is as it was, or the same repair ends what was begun.
    pub fn accept_loss(&self, plan: &LogPlan) -> Result<(), RepairError> {
        assert!(self.lock.is_some(), "a directory is held before it is changed");
        if plan.is_built {
            return self.finish(plan.log);
        }
        let places = self.places(plan.log);
        build(self.vfs.as_ref(), &places, plan)?;
        exchange(self.vfs.as_ref(), &places, plan.kept.as_deref())
    }

    /// Whether a repair of the log was interrupted when all but its last step was done.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn is_built(&self, log: LogId) -> Result<bool, RepairError> {
        let places = self.places(log);
        Ok(self.is_there(&places.repaired)? && !self.is_there(&places.log)?)
    }

    /// Takes the last step of a repair that was interrupted: see [`Self::is_built`].
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(&self, log: LogId) -> Result<(), RepairError> {
        assert!(self.lock.is_some(), "a directory is held before it is changed");
        exchange(self.vfs.as_ref(), &self.places(log), None)
    }

    /// Where a log would be kept that is taken away, behind where it is. What a deletion left of it goes
    /// before the log itself.
    ///
    /// # Errors
    /// If it is not there.
    pub fn plan_removal(&self, log: LogId) -> Result<(PathBuf, PathBuf), RepairError> {
        let logs = self.path.join(LOGS);
        for name in [format!("{log}{DELETED}"), log.to_string()] {
            let place = logs.join(&name);
            if self.is_there(&place)? {
                return Ok((place, self.free_place(REMOVED, &name, 0)?));
            }
        }
        Err(RepairError::NotThere { log })
    }

    /// Takes a log away, to where [`Self::plan_removal`] says. Durable on return.
    ///
    /// # Errors
    /// If it is not there, or the disk refuses.
    pub fn remove(&self, log: LogId) -> Result<(), RepairError> {
        assert!(self.lock.is_some(), "a directory is held before it is changed");
        let (from, to) = self.plan_removal(log)?;
        let (logs, removed) = (self.path.join(LOGS), self.path.join(REMOVED));
        let vfs = self.vfs.as_ref();
        match vfs.create_directory(&removed) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_at(&removed)(error));
            }
            _ => vfs.sync_directory(&self.path).map_err(io_at(&self.path))?,
        }
        vfs.rename(&from, &to).map_err(io_at(&from))?;
        vfs.sync_directory(&removed).map_err(io_at(&removed))?;
        vfs.sync_directory(&logs).map_err(io_at(&logs))
    }

    fn sources(&self, log: LogId) -> Result<Vec<Source>, RepairError> {
        let point = self.points.get(&log).copied().unwrap_or_default();
        read_sources(self.vfs.as_ref(), &self.places(log).log, log, point.first_segment)
    }

    fn places(&self, log: LogId) -> Places {
        let place = |ending: &str| self.path.join(LOGS).join(format!("{log}{ending}"));
        Places { log: place(""), repairing: place(REPAIRING), repaired: place(REPAIRED) }
    }

    fn is_there(&self, directory: &Path) -> Result<bool, RepairError> {
        match self.vfs.list(directory) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_at(directory)(error)),
        }
    }

    /// A name that is not taken, in a directory of this one: `name` with a number from `first` on, but
    /// for 0.
    fn free_place(&self, directory: &str, name: &str, first: u32) -> Result<PathBuf, RepairError> {
        for number in first..u32::MAX {
            let number = if number == 0 { String::new() } else { number.to_string() };
            let dot = if first == 0 && !number.is_empty() { "." } else { "" };
            let place = self.path.join(directory).join(format!("{name}{dot}{number}"));
            if !self.is_there(&place)? {
                return Ok(place);
            }
        }
        unreachable!("some number is free")
    }
}

/// What is durably known of each log. A copy that cannot be read is not the same as none: it may say how
/// far a log went.
fn load_points(vfs: &dyn Vfs, path: &Path) -> Result<BTreeMap<LogId, Point>, RepairError> {
    let newest = points::load(vfs, path).map_err(|(path, source)| io_at(&path)(source))?;
    Ok(newest.unwrap_or_default().entries)
}
