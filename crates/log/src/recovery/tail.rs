//! Finds the end of a log's last segment, and makes sure that all before it is on disk.

use std::io;
use std::sync::Arc;

use taffrail_model::batch::BatchHeader;
use taffrail_model::{LeaderEpoch, Offset, Timestamp};

use super::RecoveryReport;
use super::aside::{cut, keep_aside, rewrite};
use super::last::LastSegment;
use super::remembered::Remembered;
use crate::damage::Damage;
use crate::error::ReadOnly;
use crate::index::{Index, decode, index_path};
use crate::segment::{Hole, Scanned, Scanner};
use crate::spare::Spare;
use crate::vfs::{Vfs, read_file};

/// What is known of the last segment.
pub(super) struct Tail {
    pub(super) index: Index,
    /// Where its last valid batch ends.
    pub(super) position: u64,
    /// The offset at which the log ends.
    pub(super) end: Offset,
    pub(super) epoch: LeaderEpoch,
    pub(super) append_time: Timestamp,
    pub(super) read_only: Option<ReadOnly>,
    /// Whether something lay behind the end that was, or should have been, cut off.
    pub(super) was_torn: bool,
    synced_end: Offset,
    holes: Vec<Hole>,
    /// Why not all of it could be read, if that is so.
    failure: Option<io::Error>,
}

impl Tail {
    /// What is not known to be on disk stays as it is and is not served.
    fn uncertain(self, recovery_point: Offset, why: ReadOnly) -> Self {
        Self { end: recovery_point, holes: Vec::new(), read_only: Some(why), ..self }
    }

    /// Whether what lies behind the last valid batch is damaged.
    fn ends_in_a_hole(&self) -> bool {
        self.holes.last().is_some_and(|hole| self.position <= hole.position)
    }
}

/// What the last segment should be like.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// Everything below it was on disk.
    pub(super) recovery_point: Offset,
    /// What it should reach at least.
    pub(super) end_min: Offset,
    /// Whether the log was closed in order.
    pub(super) is_clean: bool,
}

/// Recovers the last segment; `before_cut` hears where it is about to end. What cannot be read is not
/// taken for invalid: nothing is cut then, and the log takes nothing.
pub(super) fn recover_tail(
    vfs: &Arc<dyn Vfs>,
    spare: &Spare,
    last: &LastSegment,
    Expected { recovery_point, end_min, is_clean }: Expected,
    before_cut: impl Fn(Offset) -> io::Result<()>,
    remembered: &mut Remembered,
    report: &mut RecoveryReport,
) -> Tail {
    if is_clean && let Some(tail) = trust_clean(vfs.as_ref(), last, recovery_point) {
        report.was_clean = true;
        if remembered.end() < tail.end {
            // What cannot be read is not counted in, and that is noticed.
            let _ = remembered.catch_up_with(last);
        }
        return tail;
    }
    let before = remembered.clone();
    let mut tail = scan(last, last.length, remembered);
    report.scanned_bytes = last.length;
    let recovery_point = recovery_point.max(tail.synced_end);
    let end_min = end_min.max(tail.synced_end);
    let torn = tail.holes.iter().find(|hole| recovery_point <= hole.from);
    let torn = torn.map(|hole| (hole.position, hole.from)).filter(|_| tail.failure.is_none());
    if let Some((position, end)) = torn {
        let outcome = before_cut(end)
            .and_then(|()| spare.lend(|| keep_aside(vfs.as_ref(), last, position)))
            .map(|aside| report.moved_aside.push(aside))
            .and_then(|()| cut(last, position));
        *remembered = before;
        tail = scan(last, position, remembered);
        tail.was_torn = true;
        if let Err(error) = outcome {
            let what = format!("what lies behind byte {position} of {}", last.path.display());
            let what = format!("{what} cannot be kept aside and cut off");
            let bytes = last.length - position;
            tail.read_only = Some(ReadOnly::failed(&what, &error, bytes));
        }
    }
    if let Some(error) = tail.failure.take() {
        let cause = format!("{} cannot be read: {error}", last.path.display());
        // Whoever reads finds out what of it can be.
        tail.position = last.length;
        return tail.uncertain(recovery_point, ReadOnly::because(cause));
    }
    if recovery_point < tail.end {
        let from = tail.index.floor(recovery_point).map_or(last.header_bytes, |e| e.position);
        if let Err(error) = rewrite(last, from, tail.position) {
            let what = format!("{} cannot be written again", last.path.display());
            // As after any failed sync: it may be gone although it is still seen.
            tail.was_torn = true;
            let read_only = ReadOnly::failed(&what, &error, tail.position - from);
            return tail.uncertain(recovery_point, read_only);
        }
        report.rewritten_bytes = tail.position - from;
    }
    report.damage.extend(damage(last, &tail, end_min));
    if tail.end < recovery_point || tail.ends_in_a_hole() {
        let (from, to) = (tail.end, recovery_point.max(tail.end));
        let what = format!("offsets {from} to {to} were on disk and are damaged or missing");
        let cause =
            format!("{what}: restore them from a backup, or give them up with `taffrail repair`");
        tail.read_only = Some(ReadOnly::because(cause));
        // None of these offsets is given out again, and who reads them is told.
        tail.end = to;
    }
    tail
}

/// What is damaged or missing of a segment that should reach `end_min` at least.
fn damage(last: &LastSegment, tail: &Tail, end_min: Offset) -> Vec<Damage> {
    let of = |from, to, position, cause| {
        let path = last.path.clone();
        Damage { from, to, path, position, cause }
    };
    let holes = tail.holes.iter().map(|hole| {
        let to = hole.to.unwrap_or(end_min.max(hole.from));
        of(hole.from, to, hole.position, hole.cause.clone())
    });
    let mut damage: Vec<_> = holes.collect();
    let reached = damage.last().map_or(tail.end, |last| last.to.max(tail.end));
    if reached < end_min {
        damage.push(of(reached, end_min, tail.position, "the file ends too early".into()));
    }
    damage
}

/// The end of a segment that was closed cleanly, from its index and the last few batches; `None` if
/// these do not say what the recovery point says.
fn trust_clean(vfs: &dyn Vfs, last: &LastSegment, recovery_point: Offset) -> Option<Tail> {
    let bytes = read_file(vfs, &index_path(&last.path), last.length).ok()?;
    let file = decode(&bytes)?;
    let belongs = file.salt == last.header.salt
        && file.base_offset == last.header.base_offset
        && file.segment_bytes == last.length
        && file.end_offset == recovery_point;
    if !belongs {
        return None;
    }
    let begin = (last.header_bytes, last.header.base_offset);
    let (position, offset) =
        file.index.last().map_or(begin, |entry| (entry.position, entry.offset));
    let tail = scan_from(last, last.length, position, offset, file.index, |_| {});
    let is_whole = tail.failure.is_none() && tail.holes.is_empty();
    let ends_there = tail.position == last.length && tail.end == recovery_point;
    (is_whole && ends_there).then_some(tail)
}

/// Reads a segment up to `length`.
fn scan(last: &LastSegment, length: u64, remembered: &mut Remembered) -> Tail {
    let (position, offset) = (last.header_bytes, last.header.base_offset);
    scan_from(last, length, position, offset, Index::default(), |header| remembered.note(header))
}

/// Reads a segment from `position` on; `index` already knows the batch there, or nothing.
fn scan_from(
    last: &LastSegment,
    length: u64,
    position: u64,
    offset: Offset,
    mut index: Index,
    mut note: impl FnMut(&BatchHeader),
) -> Tail {
    let is_known = index.last().is_some();
    let mut tail = Tail {
        index: Index::default(),
        position,
        end: offset,
        epoch: LeaderEpoch::ZERO,
        append_time: last.header.created,
        synced_end: Offset::ZERO,
        holes: Vec::new(),
        failure: None,
        read_only: None,
        was_torn: false,
    };
    let mut scanner = Scanner::new(Arc::clone(&last.file), &last.header, length, position, offset);
    loop {
        match scanner.next() {
            Ok(Some(Scanned::Batch { position, header, .. })) => {
                note(&header);
                if !is_known {
                    index.note(position, &header);
                }
                tail.position = position + header.total_bytes() as u64;
                tail.end = header.end_offset();
                tail.epoch = tail.epoch.max(header.leader_epoch);
                tail.append_time = tail.append_time.max(header.append_time);
                tail.synced_end = tail.synced_end.max(header.synced_end);
            }
            Ok(Some(Scanned::Hole(hole))) => {
                tail.synced_end = tail.synced_end.max(hole.synced_end);
                tail.holes.push(hole);
            }
            Ok(None) => {
                if !tail.ends_in_a_hole() {
                    // It stands for these, whether or not there are records left.
                    tail.end = tail.end.max(last.header.covered_end());
                }
                break;
            }
            Err(error) => {
                tail.failure = Some(error);
                break;
            }
        }
    }
    tail.index = index;
    tail
}
