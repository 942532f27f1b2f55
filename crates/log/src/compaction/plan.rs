//! Which segments are written anew, and which of them together. Pure.

use std::sync::Arc;

use taffrail_model::{Offset, Timestamp, limits};

use crate::segment::SealedSegment;

/// Segments that one new segment may take the place of, at the most.
const GROUP_SEGMENTS_MAX: usize = 64;

/// The records of a segment, by their numbers in the first pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// Segments, one behind the other, in whose place one new segment goes.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) segments: Vec<(Arc<SealedSegment>, Span)>,
    /// About how many bytes stay.
    bytes: u64,
    /// How many there are: no more than that stay, whichever records they are.
    pub(super) bytes_before: u64,
    /// Whether it is worth it.
    is_due: bool,
}

/// Groups what follows one another while about `bytes_max` stay of it, and keeps the groups of which
/// something goes, or that become one. Those without a span are left alone. `count_last` says how many
/// records of a span stay.
pub(super) fn plan_groups(
    segments: &[Arc<SealedSegment>],
    spans: &[Span],
    count_last: impl Fn(Span) -> u32,
    bytes_max: u64,
    expired: Option<Timestamp>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (segment, span) in segments.iter().zip(spans) {
        let stay = count_last(*span);
        let bytes = segment.length * u64::from(stay) / u64::from(span.count).max(1);
        let is_due = match segment.header.compacted {
            None => true,
            Some(compacted) => {
                let is_over = compacted.due.zip(expired).is_some_and(|(due, now)| due <= now);
                stay < span.count || is_over
            }
        };
        let member = (Arc::clone(segment), *span);
        match groups.last_mut().filter(|group| group.takes(segment, bytes, bytes_max)) {
            Some(group) => {
                group.segments.push(member);
                group.bytes += bytes;
                group.bytes_before += segment.length;
                group.is_due = true;
            }
            None => {
                let bytes_before = segment.length;
                groups.push(Group { segments: vec![member], bytes, bytes_before, is_due });
            }
        }
    }
    groups.retain(|group| group.is_due);
    groups
}

impl Group {
    /// Drops the segments that the log does not have any more.
    pub(super) fn keep(&mut self, sealed: &[Arc<SealedSegment>]) {
        self.segments.retain(|(segment, _)| sealed.iter().any(|it| Arc::ptr_eq(it, segment)));
    }

    /// Whether the log has all of its segments.
    pub(super) fn is_in(&self, sealed: &[Arc<SealedSegment>]) -> bool {
        let has = |segment: &Arc<SealedSegment>| sealed.iter().any(|it| Arc::ptr_eq(it, segment));
        self.segments.iter().all(|(segment, _)| has(segment))
    }

    /// Where the new segment begins.
    pub(super) fn base_offset(&self) -> Offset {
        self.segments.first().map_or(Offset::ZERO, |(segment, _)| segment.header.base_offset)
    }

    /// Where it ends.
    pub(super) fn end_offset(&self) -> Offset {
        self.segments.last().map_or(Offset::ZERO, |(segment, _)| segment.end_offset)
    }

    /// Whether a segment may go with it, of which about so many bytes stay.
    fn takes(&self, next: &SealedSegment, bytes: u64, bytes_max: u64) -> bool {
        // An index counts offsets from the segment's first in 32 bits.
        let offsets = next.end_offset.since(self.base_offset());
        self.segments.len() < GROUP_SEGMENTS_MAX
            && self.bytes + bytes <= bytes_max
            && self.bytes_before + next.length <= limits::SEGMENT_BYTES_MAX
            && u32::try_from(offsets).is_ok()
            // A gap, or what is lost, stays between two segments.
            && next.header.previous_end == next.header.base_offset
            && self.end_offset() == next.header.base_offset
    }
}
