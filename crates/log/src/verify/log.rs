//! Inspects a log: each segment, how they follow one another, and what the next start will do.
//!
//! The rules are those of recovery: below the recovery point whatever is invalid is damage; at or
//! above it, in the last segment, it is a torn tail.

use std::path::{Path, PathBuf};

use taffrail_model::{LogId, Offset};

use super::around::{PointsFound, around_log};
use super::checkpoints::inspect_checkpoints;
use super::segment::{Inspected, Wanted, inspect_segment};
use super::{Finding, IndexState, LogReport, Remedy, Severity, Usage};
use crate::delete::{belongs_to, count_left};
use crate::points::Point;
use crate::producers::CHECKPOINTS;
use crate::segment::{
    HEADER_BYTES_MAX, Hole, SegmentHeader, decode_header, parse_segment_name, segment_path,
};
use crate::vfs::{Entry, Vfs, parent, read_bytes};

const RESTORE: &str = "readers are told DATA_LOSS for these offsets and go on behind them; \
                       to have them back, restore the file from a backup while no broker runs; to \
                       give them up, repair";

/// Inspects the log whose directory is `path`.
pub(super) fn inspect_log(
    vfs: &dyn Vfs,
    path: &Path,
    points: &PointsFound,
    usage: &Usage,
) -> LogReport {
    let entries = match vfs.list(path) {
        Ok(entries) => entries,
        Err(error) => {
            let mut log = Inspection::new(path, None, usage).log;
            log.findings.push(Finding {
                severity: Severity::Damage,
                path: path.to_owned(),
                position: None,
                from: None,
                to: None,
                what: format!("it cannot be read: {error}"),
                advice: "look at the disk and at who may read the directory".into(),
                remedy: None,
            });
            return log;
        }
    };
    let name = path.file_name().and_then(|name| LogId::parse(&name.to_string_lossy()));
    let mut bases: Vec<_> = entries.iter().filter_map(|e| parse_segment_name(&e.name)).collect();
    bases.sort_unstable();
    let id = name.or_else(|| stated_id(vfs, path, &bases));
    let mut point = id.and_then(|id| points.point(id));
    let kept_from = |point: Option<Point>| point.unwrap_or_default().first_segment;
    bases.drain(..count_left(&bases, kept_from(point)));
    let (mut segments, mut covered) = inspect_segments(vfs, path, id, &bases);
    for _ in 0..ATTEMPTS_MAX {
        if matches!(usage, Usage::Free) || are_there(vfs, path, &bases) {
            break;
        }
        // Some were compacted meanwhile.
        bases = list_bases(vfs, path).unwrap_or_default();
        bases.drain(..count_left(&bases, kept_from(point)));
        (segments, covered) = inspect_segments(vfs, path, id, &bases);
    }
    bases.retain(|base| !covered.contains(base));
    if let (Usage::InUse { .. }, Some(id), Some(point)) = (usage, id, &mut point) {
        // Segments may have been deleted since the points were read.
        let now = around_log(vfs, path).0.point(id);
        if let Some(now) = now {
            (point.log_start, point.first_segment) = (now.log_start, now.first_segment);
        }
    }
    segments.drain(..count_left(&bases, kept_from(point)));
    let mut inspection = Inspection::new(path, id, usage);
    inspection.log.point = point;
    let first = segments.first().map(|segment| segment.report.base_offset);
    for base in covered {
        let what = "a compacted segment stands for it: the compaction did not end";
        let advice = "nothing to do: the next start removes it";
        inspection.note(segment_path(path, base), what, advice);
    }
    inspection.sort_others(&entries, first.filter(|first| *first <= kept_from(point)));
    let (checkpoints, findings) = inspect_checkpoints(vfs, path, id);
    inspection.log.checkpoints = checkpoints;
    inspection.log.findings.extend(findings);
    inspection.judge(vfs, segments);
    inspection.log
}

/// How often segments are looked at again that are compacted meanwhile.
const ATTEMPTS_MAX: usize = 20;

/// Inspects segments, ascending by base offset, but for those for which a compacted one stands: they are
/// named.
fn inspect_segments(
    vfs: &dyn Vfs,
    path: &Path,
    id: Option<LogId>,
    bases: &[Offset],
) -> (Vec<Inspected>, Vec<Offset>) {
    let (mut segments, mut covered) = (Vec::with_capacity(bases.len()), Vec::new());
    let mut covered_end = Offset::ZERO;
    for (index, base) in bases.iter().enumerate() {
        if *base < covered_end {
            covered.push(*base);
            continue;
        }
        let (path, length_max) = (&segment_path(path, *base), u64::MAX);
        let is_active = index + 1 == bases.len();
        let wanted = Wanted { path, id, base_offset: *base, is_active, length_max };
        let inspected = inspect_segment(vfs, wanted);
        covered_end = inspected.covered_end();
        segments.push(inspected);
    }
    (segments, covered)
}

/// Whether these segments are still there.
fn are_there(vfs: &dyn Vfs, path: &Path, bases: &[Offset]) -> bool {
    let now = list_bases(vfs, path).unwrap_or_default();
    bases.iter().all(|base| now.contains(base))
}

/// The base offsets of the segments of a log, ascending.
fn list_bases(vfs: &dyn Vfs, path: &Path) -> std::io::Result<Vec<Offset>> {
    let entries = vfs.list(path)?;
    let mut bases: Vec<_> = entries.iter().filter_map(|e| parse_segment_name(&e.name)).collect();
    bases.sort_unstable();
    Ok(bases)
}

/// Inspects one segment file as a log of its own; `None` if it is not a segment.
pub(super) fn inspect_file(vfs: &dyn Vfs, path: &Path) -> Option<LogReport> {
    let directory = parent(path);
    let name = path.file_name()?.to_string_lossy();
    let stated = parse_segment_name(&name);
    let (points, usage) = around_log(vfs, directory);
    let siblings = vfs.list(directory).unwrap_or_default();
    let behind = |entry: &Entry| parse_segment_name(&entry.name) > stated;
    let is_active = stated.is_none() || !siblings.iter().any(behind);
    let said = super::dump::dump(vfs, path).ok().map(|dump| dump.header);
    let base_offset = stated.or(said.as_ref().map(|header| header.base_offset))?;
    let id = said.map(|header| header.log_id).or_else(|| owner(vfs, path));
    let length_max = u64::MAX;
    let segment = inspect_segment(vfs, Wanted { path, id, base_offset, is_active, length_max });
    let mut inspection = Inspection::new(directory, id, &usage);
    inspection.log.point = id.and_then(|id| points.point(id)).filter(|_| is_active);
    inspection.is_whole = false;
    inspection.judge(vfs, vec![segment]);
    Some(inspection.log)
}

/// The log that a segment file belongs to by its place: its directory's name says it, or the files
/// beside it do.
pub(super) fn owner(vfs: &dyn Vfs, segment: &Path) -> Option<LogId> {
    let directory = parent(segment);
    let name = directory.file_name().and_then(|name| LogId::parse(&name.to_string_lossy()));
    name.or_else(|| {
        let entries = vfs.list(directory).ok()?;
        let bases: Vec<_> = entries.iter().filter_map(|e| parse_segment_name(&e.name)).collect();
        stated_id(vfs, directory, &bases)
    })
}

/// The log that the first of these segments belongs to whose header says it.
fn stated_id(vfs: &dyn Vfs, directory: &Path, bases: &[Offset]) -> Option<LogId> {
    let header = |base: &Offset| {
        let file = vfs.open_read_only(&segment_path(directory, *base)).ok()?;
        let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).ok()?;
        Some(decode_header(&bytes).ok()?.0.log_id)
    };
    bases.iter().find_map(header)
}

struct Inspection<'a> {
    log: LogReport,
    usage: &'a Usage,
    /// Whether all segments of the log are looked at.
    is_whole: bool,
}

impl<'a> Inspection<'a> {
    fn new(path: &Path, id: Option<LogId>, usage: &'a Usage) -> Self {
        let log = LogReport {
            path: path.to_owned(),
            id,
            label: None,
            point: None,
            start: Offset::ZERO,
            end: Offset::ZERO,
            batches: 0,
            records: 0,
            bytes: 0,
            checkpoints: Vec::new(),
            segments: Vec::new(),
            leftovers: Vec::new(),
            unknown: Vec::new(),
            findings: Vec::new(),
        };
        Self { log, usage, is_whole: true }
    }

    /// Sorts what is not a segment of the log, such as what a deletion has left in front of its first
    /// one.
    fn sort_others(&mut self, entries: &[Entry], first: Option<Offset>) {
        let has_segment = |stem: &str| entries.iter().any(|e| e.name == format!("{stem}.log"));
        for Entry { name, is_directory } in entries {
            let ending = Path::new(name).extension().unwrap_or_default();
            let is_index = name.strip_suffix(".index").is_some_and(has_segment);
            let is_deleted = belongs_to(name).zip(first).is_some_and(|(base, first)| base < first);
            if *is_directory {
                self.log.unknown.push(self.log.path.join(name));
            } else if is_deleted {
                let what = "the log begins behind it: it was deleted, and the deletion did not end";
                let advice = "nothing to do: the next deletion removes it, or the next start";
                self.note(self.log.path.join(name), what, advice);
            } else if ending == "new" || ending == "aside" {
                self.log.leftovers.push(self.log.path.join(name));
            } else if !is_index
                && parse_segment_name(name).is_none()
                && !CHECKPOINTS.contains(&name.as_str())
            {
                self.log.unknown.push(self.log.path.join(name));
            }
        }
    }

    /// Says something of a file that is on its way out.
    fn note(&mut self, path: PathBuf, what: &str, advice: &str) {
        let (what, advice) = (what.into(), advice.into());
        let (severity, remedy) = (Severity::Note, None);
        let (position, from, to) = (None, None, None);
        self.log.findings.push(Finding {
            severity,
            path,
            position,
            from,
            to,
            what,
            advice,
            remedy,
        });
    }

    /// Judges segments, ascending by base offset, as recovery would.
    fn judge(&mut self, vfs: &dyn Vfs, mut segments: Vec<Inspected>) {
        let point = self.log.point.unwrap_or_default();
        let first = segments.first().map_or(Offset::ZERO, |segment| segment.report.base_offset);
        self.log.start = self.log.point.map_or(first, |point| point.log_start);
        // A gap that the first header records is no loss.
        let told_from = segments.first().map_or(first, |segment| previous_end(segment).min(first));
        if self.is_whole && self.log.start < told_from {
            let what = "the segments that held these offsets are missing";
            let path = self.log.path.clone();
            self.damage(path, None, self.log.start, told_from, what.into(), RESTORE);
        }
        let last_sound = segments.iter().rposition(|segment| segment.report.header.is_some());
        let mut recovery_point = point.recovery_point;
        if let Some(last) = last_sound.and_then(|at| segments.get(at)) {
            let covered_end = last.covered_end();
            recovery_point = recovery_point.max(covered_end).max(last.synced_end);
        }
        let bases: Vec<_> = segments.iter().map(|segment| segment.report.base_offset).collect();
        let previous_ends: Vec<_> = segments.iter().map(previous_end).collect();
        for (at, segment) in segments.iter_mut().enumerate() {
            self.log.findings.append(&mut segment.findings);
            let is_last = at + 1 == bases.len();
            // What the segment should reach: the next one says, or else the recovery point.
            let next = previous_ends.get(at + 1).copied();
            let end_min = next.unwrap_or(if self.is_whole && segment.report.is_active {
                recovery_point
            } else {
                segment.report.end_offset.max(segment.covered_end())
            });
            self.log.end = self.log.end.max(segment.report.end_offset);
            if segment.report.header.is_none() {
                self.judge_header(
                    segment,
                    last_sound.is_some() && is_last,
                    recovery_point,
                    end_min,
                );
                continue;
            }
            self.judge_salvaged(segment);
            self.judge_owner(segment);
            if last_sound == Some(at) && segment.report.is_active {
                self.judge_tail(vfs, segment, recovery_point);
            }
            self.judge_batches(segment, end_min);
            self.judge_index(segment);
        }
        for segment in segments {
            self.add(segment);
        }
    }

    fn add(&mut self, segment: Inspected) {
        let report = segment.report;
        self.log.batches += report.batches;
        self.log.records += report.records;
        self.log.bytes += report.bytes;
        if let Some(header) = &report.header {
            self.log.label = Some(header.label.clone());
        }
        self.log.segments.push(report);
    }

    /// A segment whose header is damaged.
    fn judge_header(
        &mut self,
        segment: &Inspected,
        may_be_torn: bool,
        recovery_point: Offset,
        end_min: Offset,
    ) {
        let Some(cause) = &segment.header_error else { return };
        let (path, from) = (segment.report.path.clone(), segment.report.base_offset);
        if may_be_torn && recovery_point <= from {
            let what = format!("{cause}: a stop came while the segment was being made");
            self.torn(path, 0, from, what);
            return;
        }
        let what = format!("{cause}: its batches cannot be told from other bytes");
        self.damage(path, Some(0), from, end_min.max(from), what, RESTORE);
    }

    /// A segment whose header is damaged, and could be restored.
    fn judge_salvaged(&mut self, segment: &Inspected) {
        let Some(cause) = &segment.header_error else { return };
        self.log.findings.push(Finding {
            severity: Severity::Warning,
            path: segment.report.path.clone(),
            position: Some(0),
            from: None,
            to: None,
            what: format!("{cause}: what it said is known from elsewhere, so no record is lost"),
            advice: "it is served as it is; a repair writes the header anew".into(),
            remedy: self.log.id.map(Remedy::AcceptLoss),
        });
    }

    /// Whose segment it is.
    fn judge_owner(&mut self, segment: &Inspected) {
        let Some(SegmentHeader { log_id, base_offset, .. }) = &segment.report.header else {
            return;
        };
        let path = &segment.report.path;
        let (from, to) = (segment.report.base_offset, segment.report.end_offset);
        if self.log.id.is_some_and(|id| id != *log_id) {
            let what = format!("it belongs to log {log_id}");
            let advice = "move it back to where it belongs: until then the log does not open";
            self.damage(path.clone(), None, from, to, what, advice);
        }
        if *base_offset != from {
            let what = format!("its header says that it begins at offset {base_offset}");
            let advice = "give it back the name that fits, 20 digits of that number and .log";
            self.damage(path.clone(), None, from, to, what, advice);
        }
    }

    /// The end of the last segment: what lies behind the first invalid batch at or above the recovery
    /// point goes.
    fn judge_tail(&mut self, vfs: &dyn Vfs, segment: &mut Inspected, recovery_point: Offset) {
        let Some(torn) = segment.holes.iter().find(|hole| recovery_point <= hole.from) else {
            return;
        };
        let (position, from, bytes) = (torn.position, torn.from, segment.report.bytes);
        let what = format!("the last {} bytes are not whole: {}", bytes - position, torn.cause);
        let path = segment.report.path.clone();
        let base_offset = segment.report.base_offset;
        let (id, length_max) = (self.log.id, position);
        let header_error = segment.header_error.take();
        *segment = inspect_segment(
            vfs,
            Wanted { path: &path, id, base_offset, is_active: true, length_max },
        );
        segment.header_error = header_error;
        self.log.end = segment.report.end_offset;
        self.torn(path, position, from, what);
    }

    fn torn(&mut self, path: PathBuf, position: u64, from: Offset, what: String) {
        let in_use = matches!(self.usage, Usage::InUse { .. });
        let (severity, advice) = if in_use {
            (Severity::Note, "a broker uses it and may be writing just now: look again, or stop it")
        } else if self.log.point.is_none() {
            let advice = "no recovery point says whether these bytes were acknowledged; the next \
                          start takes them for a torn tail, keeps them aside and goes on";
            (Severity::Warning, advice)
        } else {
            (Severity::Note, "nothing to do: they are moved aside at the next start, and kept")
        };
        let (position, from) = (Some(position), Some(from));
        let advice = advice.into();
        let (to, remedy) = (None, None);
        self.log.findings.push(Finding {
            severity,
            path,
            position,
            from,
            to,
            what,
            advice,
            remedy,
        });
    }

    /// What is damaged in a segment that should reach `end_min`, and what is missing behind it.
    fn judge_batches(&mut self, segment: &Inspected, end_min: Offset) {
        let path = &segment.report.path;
        let mut reached = segment.report.end_offset;
        for hole in &segment.holes {
            let to = hole.to.unwrap_or(end_min.max(hole.from));
            if to == hole.from {
                self.surplus(path.clone(), hole);
                continue;
            }
            reached = reached.max(to);
            let what = format!("damaged: {}", hole.cause);
            self.damage(path.clone(), Some(hole.position), hole.from, to, what, RESTORE);
        }
        if reached < end_min {
            let what = "the file ends too early, or the one behind it is missing";
            let position = Some(segment.position);
            self.damage(path.clone(), position, reached, end_min, what.into(), RESTORE);
        }
        if end_min < segment.report.end_offset && !segment.report.is_active {
            let what = "the next segment begins before this one ends";
            let advice = "one of the two files does not belong here: compare both with a backup";
            let (from, to) = (end_min, segment.report.end_offset);
            self.damage(path.clone(), Some(segment.position), from, to, what.into(), advice);
        }
    }

    /// Bytes that are not batches where no record is missing.
    fn surplus(&mut self, path: PathBuf, hole: &Hole) {
        let bytes = hole.end_position - hole.position;
        self.log.findings.push(Finding {
            severity: Severity::Warning,
            path,
            position: Some(hole.position),
            from: Some(hole.from),
            to: Some(hole.from),
            what: format!("{bytes} bytes are no batch, and no record is missing: {}", hole.cause),
            advice: "nothing is lost: readers pass over them; look at what wrote to the file"
                .into(),
            remedy: None,
        });
    }

    fn judge_index(&mut self, segment: &Inspected) {
        let what = match segment.report.index {
            IndexState::Sound => return,
            IndexState::Missing => "it has no index",
            IndexState::Stale => "its index is that of another time",
            IndexState::Damaged => "its index is damaged",
        };
        if segment.report.is_active {
            return;
        }
        self.log.findings.push(Finding {
            severity: Severity::Note,
            path: segment.report.path.clone(),
            position: None,
            from: None,
            to: None,
            what: what.into(),
            advice: "nothing to do: it is made anew when it is needed".into(),
            remedy: None,
        });
    }

    fn damage(
        &mut self,
        path: PathBuf,
        position: Option<u64>,
        from: Offset,
        to: Offset,
        what: String,
        advice: &str,
    ) {
        // What stands in a wrong place has to be put right by a person first.
        let is_lost = advice == RESTORE && self.is_whole;
        let remedy = self.log.id.filter(|_| is_lost).map(Remedy::AcceptLoss);
        let (severity, advice) = (Severity::Damage, advice.into());
        let (from, to) = (Some(from), Some(to));
        self.log.findings.push(Finding {
            severity,
            path,
            position,
            from,
            to,
            what,
            advice,
            remedy,
        });
    }
}

/// Where the log ended before a segment.
fn previous_end(segment: &Inspected) -> Offset {
    let header = segment.report.header.as_ref();
    header.map_or(segment.report.base_offset, |header| header.previous_end)
}
