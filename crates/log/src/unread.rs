//! How much of a log somebody has not read yet: for the lag of a consumer.
//!
//! Two places are looked up, where that begins and where it ends, each by its segment's name, its index,
//! and the few headers behind the place that the index knows. What lies in between is only counted:
//! the list of segments says how long each is. Payloads are not looked at.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use taffrail_model::batch::{BatchHeader, Batches, HEADER_BYTES};
use taffrail_model::{Offset, Timestamp, limits};

use crate::reader::{LogReader, ReadError, Source};
use crate::segment::{Known, Scanned, Scanner};
use crate::shared::Segments;

/// Bytes that hold the header of each batch between two places of an index.
const WINDOW_BYTES: u64 = limits::INDEX_INTERVAL_BYTES + HEADER_BYTES as u64;

/// What somebody has not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Bytes of its batches, with their headers.
    pub bytes: u64,
    /// When the first of these batches was appended; `None` if there is none.
    pub append_time: Option<Timestamp>,
}

impl LogReader {
    /// What lies between two offsets, or the log's end if that comes first: all batches that
    /// [`LogReader::read`] would return, from the one that holds `from`, or the first one behind it, to
    /// the last one that begins before `limit`.
    ///
    /// Exact where everything is sound. Behind damaged headers it is an estimate: where `from` lies in
    /// them, what counts begins with the next sound batch; where they lie between the place of the index
    /// before `limit` and that, it ends at them; and damaged bytes in between are counted in.
    ///
    /// May wait for the disk: for some 32 KiB at each of the two places, and the index of a sealed
    /// segment, if they are not in memory. That does not grow with the log; counting takes a few
    /// instructions for each segment in between. Behind damaged headers it reads as much as a read would.
    ///
    /// # Errors
    /// If there is no such offset, or a file cannot be read.
    pub fn unread(&self, from: Offset, limit: Offset) -> Result<Unread, ReadError> {
        self.count_unread(from, limit).map_err(|error| self.explain(from, error))
    }

    fn count_unread(&self, from: Offset, limit: Offset) -> Result<Unread, ReadError> {
        let segments = self.segments();
        let (start, end) = (self.start(), segments.active.written().end);
        if from < start || from > end {
            return Err(ReadError::OutOfRange { from, start, end });
        }
        let limit = limit.min(end);
        let nothing = Unread::default();
        if from >= limit {
            return Ok(nothing);
        }
        let Some((first, place)) = find_first(&segments, from, limit)? else { return Ok(nothing) };
        let last = begun(&segments, |base| base < limit);
        let source = Source::at(&segments, last);
        // Counted from the first segment's beginning, to take off at the end what is read.
        let full: u64 = (first..last).map(|at| Source::at(&segments, at).batch_bytes()).sum();
        let end = full + source.position_of(limit)?.saturating_sub(source.header_bytes());
        let skipped = place.position - Source::at(&segments, first).header_bytes();
        let append_time = Some(place.append_time);
        Ok(Unread { bytes: end.saturating_sub(skipped), append_time })
    }
}

/// Where a batch begins, and when it was appended.
struct Place {
    position: u64,
    append_time: Timestamp,
}

/// The last segment whose base offset is one of those that `is_begun` holds for, or the first one; the
/// active one comes behind all others.
fn begun(segments: &Segments, is_begun: impl Fn(Offset) -> bool) -> usize {
    if is_begun(segments.active.header.base_offset) {
        return segments.sealed.len();
    }
    segments.sealed.partition_point(|it| is_begun(it.header.base_offset)).saturating_sub(1)
}

/// The first batch that holds `from` or lies behind it, and begins before `limit`; and its segment.
fn find_first(
    segments: &Segments,
    from: Offset,
    limit: Offset,
) -> Result<Option<(usize, Place)>, ReadError> {
    for at in begun(segments, |base| base <= from)..=segments.sealed.len() {
        let source = Source::at(segments, at);
        if source.header().base_offset >= limit {
            break;
        }
        if source.end() <= from {
            continue;
        }
        if let Some((position, header)) = source.first_behind(from)? {
            let place = Place { position, append_time: header.append_time };
            return Ok((header.base_offset < limit).then_some((at, place)));
        }
    }
    Ok(None)
}

/// Where a walk over headers ends.
enum Walk {
    /// At the header that was looked for.
    Found(u64, BatchHeader),
    /// At what is not the header that should be there.
    Damaged(u64),
    /// At the end.
    End,
}

impl Source {
    /// The segment at a place of the list, the active one behind all others.
    pub(crate) fn at(segments: &Segments, at: usize) -> Self {
        match segments.sealed.get(at) {
            Some(sealed) => Self::Sealed(Arc::clone(sealed)),
            None => Self::Active(Arc::clone(&segments.active)),
        }
    }

    /// Bytes of all its batches.
    fn batch_bytes(&self) -> u64 {
        self.length().saturating_sub(self.header_bytes())
    }

    /// When its last batch was appended, past no damage; `None` if it has none that can be found.
    pub(crate) fn last_append(&self) -> Result<Option<Timestamp>, ReadError> {
        let last = Cell::new(None);
        let note = |header: &BatchHeader| {
            last.set(Some(header.append_time));
            false
        };
        match self.walk(self.known()?.as_deref(), self.end(), note)? {
            Walk::Damaged(_) => Ok(None),
            Walk::Found(..) | Walk::End => Ok(last.get()),
        }
    }

    /// Where the first batch that holds `from` or lies behind it begins, past any damage; `None` if
    /// there is none.
    fn first_behind(&self, from: Offset) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        let known = self.known()?;
        let known = known.as_deref();
        match self.walk(known, from, |header| from < header.end_offset())? {
            Walk::Found(position, header) => return Ok(Some((position, header))),
            Walk::End => return Ok(None),
            Walk::Damaged(_) => {}
        }
        let (position, expected) = self.floor(known, from);
        let (file, length) = (self.file()?, self.length());
        let mut scanner = Scanner::new(file, self.header(), length, position, expected);
        while let Some(scanned) = scanner.next().map_err(|error| self.io(error))? {
            if let Scanned::Batch { position, header, .. } = scanned
                && from < header.end_offset()
            {
                return Ok(Some((position, header)));
            }
        }
        Ok(None)
    }

    /// Where the batches end that begin before `limit`.
    pub(crate) fn position_of(&self, limit: Offset) -> Result<u64, ReadError> {
        if self.end() <= limit {
            return Ok(self.length());
        }
        let known = self.known()?;
        // The last batch that begins before it says where that is: the next one may be on disk only.
        Ok(match self.walk(known.as_deref(), limit, |header| limit <= header.end_offset())? {
            Walk::Found(position, header) if header.base_offset < limit => {
                position + header.total_bytes() as u64
            }
            Walk::Found(position, _) | Walk::Damaged(position) => position,
            Walk::End => self.length(),
        })
    }

    /// Walks over headers from the place of the index before `offset` on, up to the one that is wanted.
    /// In memory, where the end of the segment is.
    fn walk(
        &self,
        known: Option<&Known>,
        offset: Offset,
        is_wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Walk, ReadError> {
        let (mut position, mut expected) = self.floor(known, offset);
        let mut window = (position, Bytes::new());
        if let Self::Active(active) = self
            && let Some(group) = active.tail(offset, 1).into_iter().next()
        {
            if position < group.position {
                (position, expected) = (group.position, group.base_offset);
            }
            window = (group.position, group.bytes);
        }
        let length = self.length();
        while position < length {
            let header = match self.header_at(known, &mut window, position, length)? {
                Some(header) if self.follows(&header, expected) => header,
                _ => return Ok(Walk::Damaged(position)),
            };
            if is_wanted(&header) {
                return Ok(Walk::Found(position, header));
            }
            position += header.total_bytes() as u64;
            expected = header.end_offset();
        }
        Ok(Walk::End)
    }

    /// Whether a batch may stand where one with the base offset `expected` should.
    fn follows(&self, header: &BatchHeader, expected: Offset) -> bool {
        let base = header.base_offset;
        base == expected || self.header().compacted.is_some() && expected < base
    }

    /// The header at a position, out of a window that begins somewhere before it, or the next one;
    /// `None` if there is none.
    fn header_at(
        &self,
        known: Option<&Known>,
        window: &mut (u64, Bytes),
        position: u64,
        length: u64,
    ) -> Result<Option<BatchHeader>, ReadError> {
        let behind = window.0 + window.1.len() as u64;
        if behind < position + HEADER_BYTES as u64 {
            let wanted = WINDOW_BYTES.min(length - position) as usize;
            *window = (position, self.bytes(known, position, wanted)?.0);
        }
        let skip = ((position - window.0) as usize).min(window.1.len());
        Ok(Batches::verified(window.1.slice(skip..), self.header().salt).peek().ok().flatten())
    }
}
