//! What an inspection finds.

use std::path::PathBuf;

use taffrail_model::{LogId, Offset};

use crate::backup::Manifest;
use crate::points::Point;
use crate::scrub::ScrubState;
use crate::segment::SegmentHeader;

/// What an inspection found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was inspected.
    pub path: PathBuf,
    /// What is said of the directory, if all of a data directory was inspected.
    pub directory: Option<DirectoryReport>,
    /// The logs in it, ascending by path.
    pub logs: Vec<LogReport>,
}

impl Report {
    /// Everything that was found, the directory's own first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        let own = self.directory.iter().flat_map(|directory| &directory.findings);
        own.chain(self.logs.iter().flat_map(|log| &log.findings))
    }

    /// What is kept for people: what repairs put aside, and what recovery cut off.
    pub fn kept(&self) -> impl Iterator<Item = Kept> {
        let own = self.directory.iter().flat_map(|directory| directory.kept.iter().cloned());
        own.chain(self.logs.iter().flat_map(LogReport::kept))
    }

    /// The worst that was found; `None` if nothing was.
    pub fn worst(&self) -> Option<Severity> {
        self.findings().map(|finding| finding.severity).max()
    }
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is lost and nothing is to be done: the next start or read sees to it.
    Note,
    /// Somebody should know and may have to decide something; no record is known to be lost.
    Warning,
    /// Records are lost, or cannot be reached as things are.
    Damage,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file, in bytes, if it is about a place.
    pub position: Option<u64>,
    /// The first offset it is about, if it is about some.
    pub from: Option<Offset>,
    /// The offset behind the last one that it is about.
    pub to: Option<Offset>,
    /// What was found.
    pub what: String,
    /// What to do next.
    pub advice: String,
    /// What a repair can do about it.
    pub remedy: Option<Remedy>,
}

/// What a repair can do about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Give up what this log has lost, and mend the rest.
    AcceptLoss(LogId),
    /// Take this log away.
    Remove(LogId),
}

/// Something that is kept for people, and in nobody's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The file or directory.
    pub path: PathBuf,
    /// What it is.
    pub what: String,
    /// What can be done with it.
    pub advice: String,
}

/// A data directory as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryReport {
    /// What its identity file says.
    pub identity: IdentityState,
    /// Whether a broker uses it.
    pub usage: Usage,
    /// The two copies of the recovery points.
    pub points: Vec<PointsCopy>,
    /// If it is a backup, or was one before it was served: of what, and as of when.
    pub backup: Option<Manifest>,
    /// Whether it was served since.
    pub is_restored: bool,
    /// How far a broker that looks at everything now and then has come.
    pub scrub: ScrubState,
    /// What repairs have put aside.
    pub kept: Vec<Kept>,
    /// Files and directories that are not ours.
    pub unknown: Vec<PathBuf>,
    /// What is wrong with the directory itself.
    pub findings: Vec<Finding>,
}

/// What an identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityState {
    /// It is a data directory.
    Known {
        /// Its identity, 32 hexadecimal digits.
        id: String,
        /// The format of its layout.
        format: u32,
    },
    /// A newer version made it.
    Newer {
        /// The format of its layout.
        format: u32,
    },
    /// It cannot be understood or read.
    Damaged,
    /// There is none.
    Missing,
}

/// Whether a broker uses a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// None does.
    Free,
    /// One does.
    InUse {
        /// What it says of itself.
        holder: String,
    },
    /// That cannot be told here.
    Unknown,
}

/// A copy of the recovery points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointsCopy {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub state: PointsState,
}

/// What a copy of the recovery points holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointsState {
    /// It is sound.
    Sound {
        /// Grows with each change: the copy with the higher one counts.
        generation: u64,
        /// Number of logs in it.
        logs: usize,
    },
    /// It cannot be understood or read.
    Damaged,
    /// It is not there.
    Missing,
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// Its directory.
    pub path: PathBuf,
    /// Its identity, from its directory's name or its segments.
    pub id: Option<LogId>,
    /// What it was called when its last segment was made.
    pub label: Option<String>,
    /// What the recovery points say of it.
    pub point: Option<Point>,
    /// Offset of its first record.
    pub start: Offset,
    /// The offset at which the next start will find its end.
    pub end: Offset,
    /// Batches that are sound.
    pub batches: u64,
    /// Records in these.
    pub records: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// What it remembers of idempotent producers, in two files.
    pub checkpoints: Vec<CheckpointReport>,
    /// Its segments, ascending by base offset.
    pub segments: Vec<SegmentReport>,
    /// What recovery kept aside, and what a stop left half made. Nobody reads it.
    pub leftovers: Vec<PathBuf>,
    /// Files that are not ours.
    pub unknown: Vec<PathBuf>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

impl LogReport {
    /// What recovery cut off, and what a stop left half made.
    fn kept(&self) -> impl Iterator<Item = Kept> {
        self.leftovers.iter().map(|path| {
            let is_aside = path.extension().is_some_and(|ending| ending == "aside");
            let (what, advice) = if is_aside {
                let what = "what an unclean stop left half written behind the last whole batch";
                (
                    what,
                    "none of it was acknowledged as synced: look at it if you like, and delete it",
                )
            } else {
                ("a file that a stop left half made", "it can be deleted while no broker runs")
            };
            Kept { path: path.clone(), what: what.into(), advice: advice.into() }
        })
    }
}

/// A checkpoint of what a log remembers of idempotent producers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub state: CheckpointState,
}

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// It is sound.
    Sound {
        /// The offset below which all batches are counted in: the higher one counts.
        end: Offset,
        /// Number of producers in it.
        producers: usize,
    },
    /// It cannot be understood or read, or belongs to another log.
    Damaged,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub path: PathBuf,
    /// The base offset that its name states, or its header if its name states none.
    pub base_offset: Offset,
    /// The offset behind its last sound batch.
    pub end_offset: Offset,
    /// Bytes of the file.
    pub bytes: u64,
    /// What it says of itself: salt, creation time, gap and so on; `None` if that is damaged.
    pub header: Option<SegmentHeader>,
    /// Whether it is the last one, which grows.
    pub is_active: bool,
    /// Batches that are sound.
    pub batches: u64,
    /// Records in these.
    pub records: u64,
    /// How its index is.
    pub index: IndexState,
}

/// How a segment's index is. It is a cache: none of this loses a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// It says what the segment says.
    Sound,
    /// There is none. An active segment needs none.
    Missing,
    /// It belongs to the segment as it was at another time, or to another one.
    Stale,
    /// It cannot be understood or read, or is wrong.
    Damaged,
}
