//! Decides what a log becomes that has lost something.
//!
//! Pure: takes what lies on disk and what the recovery points say, returns the segments of the repaired
//! log; `build` makes them. Batches stay byte for byte as they are, and so do segments that nothing is
//! missing in or before. Behind each hole a new segment begins, whose header records the gap. The log
//! ends where it surely ended, never below the recovery point.

use std::path::{Path, PathBuf};

use taffrail_model::batch::Salt;
use taffrail_model::{GapReason, LogId, Offset, Timestamp};

use super::error::RepairError;
use super::sources::{Contents, Piece, Source};
use crate::damage::Damage;
use crate::points::Point;
use crate::segment::SegmentHeader;

/// What a repair makes of a log.
#[derive(Debug)]
pub struct LogPlan {
    /// The log.
    pub log: LogId,
    /// What it is called; empty if nothing says it.
    pub label: String,
    /// The offsets that become a gap.
    pub lost: Vec<Damage>,
    /// Segments whose damaged header is written anew; nothing of them is lost.
    pub restored: Vec<PathBuf>,
    /// The offset at which the repaired log ends.
    pub end: Offset,
    /// Where the log is kept as it is now; `None` if there is nothing of it.
    pub kept: Option<PathBuf>,
    /// Whether a repair that was interrupted has done all but the last step.
    pub is_built: bool,
    pub(super) segments: Vec<NewSegment>,
}

/// A segment of the repaired log.
#[derive(Debug)]
pub(super) struct NewSegment {
    pub(super) header: SegmentHeader,
    /// Its batches; `None`: it has none.
    pub(super) batches: Option<Range>,
    /// Whether the file of its batches, as it is, is the segment.
    pub(super) is_same: bool,
}

/// Some bytes of a segment file.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) path: PathBuf,
    pub(super) position: u64,
    pub(super) end_position: u64,
}

/// What is known of a log that is to be repaired.
pub(super) struct Known<'a> {
    pub(super) log: LogId,
    pub(super) directory: &'a Path,
    pub(super) point: Option<Point>,
    /// What it is called, if no segment says it.
    pub(super) label: &'a str,
    /// For a segment that is new.
    pub(super) salt: Salt,
}

/// What becomes of a log whose files hold this.
///
/// # Errors
/// If nothing is wrong with it, or its files contradict one another.
pub(super) fn plan(known: &Known<'_>, mut sources: Vec<Source>) -> Result<LogPlan, RepairError> {
    let log = known.log;
    if sources.is_empty() && known.point.is_none() {
        return Err(RepairError::NotThere { log });
    }
    let point = known.point.unwrap_or_default();
    let (recovery_point, was_torn) = cut_torn(&mut sources, point.recovery_point);
    let label = label(&sources).unwrap_or(known.label).to_owned();
    let start = start(&sources, known.point);
    let mut planning = Planning::new(known.directory, &sources, start);
    for source in &sources {
        planning.take(source, &label)?;
    }
    if planning.at < recovery_point {
        planning.lose(recovery_point);
    }
    if !planning.has_work {
        return Err(RepairError::Sound { log });
    }
    let previous_end = planning.reached;
    // Where something is missing at the end, offsets up to the reserved end may have been read.
    let is_certain = point.is_clean && !was_torn;
    let end_min = if is_certain { recovery_point } else { recovery_point.max(point.reserved_end) };
    let end = planning.at.max(end_min);
    if previous_end < end || planning.segments.is_empty() {
        let header = SegmentHeader {
            salt: known.salt,
            compacted: None,
            base_offset: end,
            previous_end,
            gap_reason: (previous_end < end).then_some(GapReason::Quarantine),
            created: created(&sources),
            log_id: log,
            label: label.clone(),
        };
        planning.segments.push(NewSegment { header, batches: None, is_same: false });
    }
    let Planning { mut segments, lost, .. } = planning;
    if let Some(last) = segments.last_mut() {
        // It will grow, and what is kept of the old log must not.
        last.is_same = false;
    }
    let growing = sources.last().map(|source| &source.path);
    for segment in &mut segments {
        // Nobody may have synced what it holds: it is written again.
        segment.is_same &= segment.batches.as_ref().map(|range| &range.path) != growing;
    }
    let restored = sources.iter().filter(|source| source.is_restored());
    let restored = restored.map(|source| source.path.clone()).collect();
    Ok(LogPlan { log, label, lost, restored, end, kept: None, is_built: false, segments })
}

/// Takes what a stop left half written off the end, as the next start would. Also says where the
/// recovery point is, and whether there was anything.
pub(super) fn cut_torn(sources: &mut [Source], recovery_point: Offset) -> (Offset, bool) {
    let last = sources.iter_mut().rev().find_map(|source| {
        let covered_end = source.covered_end();
        source.contents.as_mut().ok().map(|contents| (covered_end, contents))
    });
    let Some((covered_end, contents)) = last else { return (recovery_point, false) };
    let recovery_point = recovery_point.max(covered_end).max(contents.synced_end);
    let torn = contents.holes.iter().find(|hole| recovery_point <= hole.from);
    let Some(position) = torn.map(|hole| hole.position) else { return (recovery_point, false) };
    contents.cut(position);
    (recovery_point, true)
}

/// Where the log begins.
pub(super) fn start(sources: &[Source], point: Option<Point>) -> Offset {
    let told_from = sources.first().map(|first| match &first.contents {
        Ok(contents) => contents.header.previous_end.min(first.base_offset),
        Err(_) => first.base_offset,
    });
    let log_start = point.map(|point| point.log_start);
    log_start.into_iter().chain(told_from).min().unwrap_or_default()
}

/// What the log is called.
fn label(sources: &[Source]) -> Option<&str> {
    let headers = sources.iter().rev().filter_map(|source| source.contents.as_ref().ok());
    headers.map(|contents| contents.header.label.as_str()).find(|label| !label.is_empty())
}

/// When its last segment was made.
fn created(sources: &[Source]) -> Timestamp {
    let headers = sources.iter().filter_map(|source| source.contents.as_ref().ok());
    headers.map(|contents| contents.header.created).max().unwrap_or_default()
}

/// A repaired log in the making.
struct Planning<'a> {
    directory: &'a Path,
    sources: &'a [Source],
    segments: Vec<NewSegment>,
    lost: Vec<Damage>,
    /// Where the log stands: what is below is in a segment, or lost.
    at: Offset,
    /// The offset behind the last record that is not lost.
    reached: Offset,
    /// Whether something is wrong that a repair puts right.
    has_work: bool,
}

impl<'a> Planning<'a> {
    fn new(directory: &'a Path, sources: &'a [Source], start: Offset) -> Self {
        let is_wrong = |source: &Source| source.is_restored() || source.is_damaged();
        let has_work = sources.is_empty() || sources.iter().any(is_wrong);
        let (segments, lost) = (Vec::new(), Vec::new());
        Self { directory, sources, segments, lost, at: start, reached: start, has_work }
    }

    /// Takes over what is sound of a segment.
    fn take(&mut self, source: &Source, label: &str) -> Result<(), RepairError> {
        let Ok(contents) = &source.contents else { return Ok(()) };
        for piece in &contents.pieces {
            if piece.from < self.at {
                let (path, at) = (source.path.clone(), self.at);
                let cause = format!("it begins before offset {at}, where what precedes it ends");
                return Err(RepairError::Misplaced { path, cause });
            }
            self.take_piece(source, contents, *piece, label);
        }
        Ok(())
    }

    fn take_piece(&mut self, source: &Source, contents: &Contents, piece: Piece, label: &str) {
        let Piece { position, end_position, from, to, is_first } = piece;
        let old = &contents.header;
        // A gap that is recorded in front of the segment is no loss.
        let told_from = if is_first { old.previous_end } else { from };
        if self.at < told_from {
            self.lose(told_from);
        }
        let base_offset = if is_first { old.base_offset } else { from };
        let is_recorded = is_first && self.reached == old.previous_end;
        let lost = (self.reached < base_offset).then_some(GapReason::Quarantine);
        let mut header = SegmentHeader {
            base_offset,
            previous_end: self.reached,
            gap_reason: if is_recorded { old.gap_reason } else { lost },
            label: label.to_owned(),
            ..old.clone()
        };
        let header_bytes = header.encode().len() as u64;
        if let Some(compacted) = &mut header.compacted {
            (compacted.end, compacted.bytes) = (to, header_bytes + end_position - position);
        }
        let is_same = header == *old
            && contents.header_error.is_none()
            && contents.holes.is_empty()
            && end_position == contents.length;
        let path = source.path.clone();
        let batches = Some(Range { path, position, end_position });
        self.segments.push(NewSegment { header, batches, is_same });
        (self.at, self.reached) = (to, to);
    }

    /// Notes that what should be between here and `to` is lost, and why.
    fn lose(&mut self, to: Offset) {
        let from = self.at;
        let causes = self.sources.iter().filter_map(|source| source.loss(from, to));
        let missing = || (self.directory.to_owned(), 0, "no file holds them".to_owned());
        let (path, position, cause) = causes.into_iter().next().unwrap_or_else(missing);
        self.lost.push(Damage { from, to, path, position, cause });
        (self.at, self.has_work) = (to, true);
    }
}

impl Source {
    fn is_restored(&self) -> bool {
        self.contents.as_ref().is_ok_and(|contents| contents.header_error.is_some())
    }

    fn is_damaged(&self) -> bool {
        self.contents.as_ref().map_or(true, |contents| !contents.holes.is_empty())
    }

    /// Where and why it does not hold what should be between two offsets.
    fn loss(&self, from: Offset, to: Offset) -> Option<(PathBuf, u64, String)> {
        let (position, cause) = match &self.contents {
            Ok(contents) => {
                let is_here = |at: Offset| from <= at && at < to;
                let hole = contents.holes.iter().find(|hole| is_here(hole.from))?;
                (hole.position, hole.cause.clone())
            }
            Err(cause) => {
                (from <= self.base_offset && self.base_offset < to).then_some((0, cause.clone()))?
            }
        };
        Some((self.path.clone(), position, cause))
    }
}
