//! Reads a log: shared slices of what lies on disk.
//!
//! Readers take the list of segments as it is and never wait for the writer. What a read returns
//! are whole batches, byte for byte as they were appended; what is missing or damaged is named with
//! its exact range and never passed over in silence.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use taffrail_model::batch::Batch;
use taffrail_model::{Gap, GapReason, Offset, Timestamp, limits};

use crate::damage::Damage;
use crate::segment::{ActiveSegment, Known, Scanned, Scanner, SealedSegment, SegmentHeader};
use crate::shared::{Segments, Shared};
use crate::trim::{ReadRequest, Trim, trim};
use crate::vfs::{File, read_bytes};

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Whole batches, as they lie on disk.
    Batches {
        /// One behind the other.
        bytes: Bytes,
        /// The offset behind the last one.
        next: Offset,
    },
    /// There are no records in this range, and the log knows why.
    Gap(Gap),
    /// `from` has reached `limit`.
    End,
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log has no such offset.
    #[error("offset {from} is outside of the log, which has {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        from: Offset,
        /// Offset of the first record.
        start: Offset,
        /// The offset behind the last one.
        end: Offset,
    },
    /// Records that should be there are damaged or missing.
    #[error("offsets {from} to {to} are damaged at byte {position} of {path}: {cause}")]
    DataLoss {
        /// The first offset that cannot be read.
        from: Offset,
        /// The first one behind it that may be read again.
        to: Offset,
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong.
        cause: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
}

/// Reads a log. Cheap to clone; keeps working while the log grows, rolls, and is cut short.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The files as they are now. Whoever asks for the log's start behind it gets one that is not before
    /// that of the list.
    pub(crate) fn segments(&self) -> Arc<Segments> {
        self.shared.segments.load_full()
    }

    /// Offset of the first record.
    pub fn start(&self) -> Offset {
        self.shared.log_start()
    }

    /// The offset behind the last record that was written.
    pub fn end(&self) -> Offset {
        self.shared.segments.load().active.written().end
    }

    /// Bytes of all segments, and their number.
    pub fn size(&self) -> (u64, usize) {
        let segments = self.shared.segments.load();
        let sealed: u64 = segments.sealed.iter().map(|segment| segment.length).sum();
        (sealed + segments.active.written().position, segments.sealed.len() + 1)
    }

    /// The offsets that are known to be damaged or missing: what opening the log found, and what
    /// reading it came upon since.
    pub fn damage(&self) -> Vec<Range<Offset>> {
        self.shared.damage.ranges()
    }

    /// Keeps at most so many bytes of the log's end in memory, from now on.
    pub fn limit_tail(&self, bytes_max: usize) {
        self.shared.limit_tail(bytes_max);
    }

    /// Reads from memory alone; `None` if the disk is needed. Never blocks.
    pub fn read_tail(&self, request: &ReadRequest) -> Option<Read> {
        if request.from >= request.limit {
            return (request.from == request.limit).then_some(Read::End);
        }
        let active = Arc::clone(&self.shared.segments.load().active);
        if request.from < active.header.base_offset.max(self.start()) {
            return None;
        }
        let groups = active.tail(request.from, request.bytes_max);
        let (first, rest) = groups.split_first()?;
        let joined = if rest.is_empty() {
            first.bytes.clone()
        } else {
            let mut joined = BytesMut::with_capacity(groups.iter().map(|g| g.bytes.len()).sum());
            for group in &groups {
                joined.extend_from_slice(&group.bytes);
            }
            joined.freeze()
        };
        match trim(&joined, &active.header, first.base_offset, request, false) {
            Trim::Found { range, next } => Some(Read::Batches { bytes: joined.slice(range), next }),
            Trim::Partial { .. } | Trim::Damaged | Trim::Nothing => None,
        }
    }

    /// Reads from wherever it lies. May wait for the disk.
    ///
    /// # Errors
    /// If there is no such offset, if what lies there is damaged, or if it cannot be read.
    pub fn read(&self, request: &ReadRequest) -> Result<Read, ReadError> {
        self.read_anywhere(request).map_err(|error| self.explain(request.from, error))
    }

    /// What was deleted while somebody read it is not damaged, and not missing.
    pub(crate) fn explain(&self, from: Offset, error: ReadError) -> ReadError {
        let start = self.start();
        if from < start {
            return ReadError::OutOfRange { from, start, end: self.end() };
        }
        if let ReadError::DataLoss { from, to, .. } = &error {
            self.shared.damage.note(*from, *to);
        }
        error
    }

    fn read_anywhere(&self, request: &ReadRequest) -> Result<Read, ReadError> {
        let segments = self.shared.segments.load_full();
        let (start, end) = (self.shared.log_start(), segments.active.written().end);
        let from = request.from;
        if from < start || from > end {
            return Err(ReadError::OutOfRange { from, start, end });
        }
        // A segment that could not be read to its end when the log was opened may hold more than that.
        let request = &ReadRequest { limit: request.limit.min(end), ..*request };
        if from >= request.limit {
            return Ok(Read::End);
        }
        if let Some(read) = self.read_tail(request) {
            return Ok(read);
        }
        let Some(source) = Source::holding(&segments, from) else {
            return Self::missing(&segments, request);
        };
        match source.read(request)? {
            Some(read) => Ok(read),
            None => Self::missing(&segments, request),
        }
    }

    /// The first record below `limit` with a timestamp at or after `timestamp`, as Kafka defines
    /// it: in the order of offsets, which need not be that of time. May wait for the disk.
    ///
    /// # Errors
    /// If a segment that may hold it cannot be read. Damaged ranges are passed over.
    pub fn find_timestamp(
        &self,
        timestamp: Timestamp,
        limit: Offset,
    ) -> Result<Option<Found>, ReadError> {
        let segments = self.shared.segments.load_full();
        let (start, end) = (self.shared.log_start(), segments.active.written().end);
        let limit = limit.min(end);
        for source in Source::all(&segments) {
            if source.end() <= start {
                continue;
            }
            match source.find_timestamp(timestamp, start) {
                Ok(Some(found)) => return Ok((found.offset < limit).then_some(found)),
                Ok(None) => {}
                // It was deleted meanwhile.
                Err(_) if source.end() <= self.start() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What to say of an offset that no segment holds.
    fn missing(segments: &Segments, request: &ReadRequest) -> Result<Read, ReadError> {
        let from = request.from;
        let place = Source::holding(segments, from).filter(Source::is_compacted);
        if let Some(to) = place.map(|place| place.end().min(request.limit)) {
            return Ok(Read::Gap(Gap { from, to, reason: GapReason::Compaction }));
        }
        let next = Source::all(segments).find(|source| source.header().base_offset > from);
        let gap = next.as_ref().and_then(|source| source.header().gap());
        if let Some(gap) = gap.filter(|gap| gap.from <= from) {
            return Ok(Read::Gap(Gap { from, ..gap }));
        }
        let end = segments.active.written().end;
        let to = next.as_ref().map_or(end, |next| next.header().base_offset);
        if let Some(lost) = segments.lost.iter().find(|lost| lost.from <= from && from < lost.to) {
            let Damage { to, path, position, cause, .. } = lost.clone();
            return Err(ReadError::DataLoss { from, to, path, position, cause });
        }
        let before = Source::all(segments).take_while(|s| s.header().base_offset <= from).last();
        let (path, position, cause) = match (before, next) {
            (Some(source), _) => (source.path(), source.length(), "no batch behind it holds them"),
            (None, Some(source)) => (source.path(), 0, "no segment before it holds them"),
            (None, None) => (segments.active.path.clone(), 0, "no segment holds them"),
        };
        Err(ReadError::DataLoss { from, to, path, position, cause: cause.into() })
    }
}

/// A segment to read from.
pub(crate) enum Source {
    Sealed(Arc<SealedSegment>),
    Active(Arc<ActiveSegment>),
}

impl Source {
    fn all(segments: &Segments) -> impl Iterator<Item = Self> {
        let sealed = segments.sealed.iter().map(|segment| Self::Sealed(Arc::clone(segment)));
        sealed.chain(std::iter::once(Self::Active(Arc::clone(&segments.active))))
    }

    fn holding(segments: &Segments, offset: Offset) -> Option<Self> {
        if offset >= segments.active.header.base_offset {
            return Some(Self::Active(Arc::clone(&segments.active)));
        }
        let behind = segments.sealed.partition_point(|s| s.header.base_offset <= offset);
        let segment = segments.sealed.get(behind.checked_sub(1)?)?;
        (offset < segment.end_offset).then(|| Self::Sealed(Arc::clone(segment)))
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        match self {
            Self::Sealed(segment) => &segment.header,
            Self::Active(segment) => &segment.header,
        }
    }

    fn is_compacted(&self) -> bool {
        self.header().compacted.is_some()
    }

    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Sealed(segment) => segment.path.clone(),
            Self::Active(segment) => segment.path.clone(),
        }
    }

    pub(crate) fn end(&self) -> Offset {
        match self {
            Self::Sealed(segment) => segment.end_offset,
            Self::Active(segment) => segment.written().end,
        }
    }

    /// Where its batches begin.
    pub(crate) fn header_bytes(&self) -> u64 {
        match self {
            Self::Sealed(segment) => segment.header_bytes,
            Self::Active(segment) => segment.header_bytes,
        }
    }

    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Sealed(segment) => segment.length,
            Self::Active(segment) => segment.written().position,
        }
    }

    pub(crate) fn io(&self, source: io::Error) -> ReadError {
        ReadError::Io { path: self.path(), source }
    }

    /// What is known of a sealed segment.
    pub(crate) fn known(&self) -> Result<Option<Arc<Known>>, ReadError> {
        match self {
            Self::Sealed(segment) => segment.known().map(Some).map_err(|error| self.io(error)),
            Self::Active(_) => Ok(None),
        }
    }

    /// Where to begin to look for `offset`: a position, and the base offset of the batch there.
    pub(crate) fn floor(&self, known: Option<&Known>, offset: Offset) -> (u64, Offset) {
        let entry = match self {
            Self::Sealed(_) => known.and_then(|known| known.index.floor(offset)),
            Self::Active(segment) => segment.floor(offset),
        };
        let begin = (self.header_bytes(), self.header().base_offset);
        entry.map_or(begin, |entry| (entry.position, entry.offset))
    }

    /// Reads a range; the second value says whether it is known to be sound.
    pub(crate) fn bytes(
        &self,
        known: Option<&Known>,
        position: u64,
        length: usize,
    ) -> Result<(Bytes, bool), ReadError> {
        let is_sound =
            known.is_some_and(|known| known.is_verified(&(position..position + length as u64)));
        let read = match self {
            Self::Sealed(segment) if is_sound => segment.mapped(position, length),
            Self::Sealed(segment) => {
                segment.open().and_then(|file| read_bytes(file.as_ref(), position, length))
            }
            Self::Active(segment) => read_bytes(segment.file.as_ref(), position, length),
        };
        Ok((read.map_err(|error| self.io(error))?, is_sound))
    }

    /// The batches that hold `request.from` and what follows; `None` if the segment has none.
    fn read(&self, request: &ReadRequest) -> Result<Option<Read>, ReadError> {
        let length = self.length();
        let known = self.known()?;
        let known = known.as_deref();
        let (mut position, mut expected) = self.floor(known, request.from);
        let mut wanted = request.bytes_max.saturating_add(limits::INDEX_INTERVAL_BYTES as usize);
        while position < length {
            let window = (wanted as u64).min(length - position) as usize;
            let (bytes, is_sound) = self.bytes(known, position, window)?;
            match trim(&bytes, self.header(), expected, request, !is_sound) {
                Trim::Found { range, next } => {
                    if let (Some(known), false) = (known, is_sound) {
                        let verified = position + range.start as u64..position + range.end as u64;
                        known.mark_verified(verified);
                    }
                    return Ok(Some(Read::Batches { bytes: bytes.slice(range), next }));
                }
                // What is wanted is not wholly in the window: move there, and read all of it.
                Trim::Partial { skipped, expected: next, batch_bytes } if bytes.len() == window => {
                    position += skipped as u64;
                    if position == length {
                        return Ok(None);
                    }
                    if position + batch_bytes as u64 > length {
                        return self.read_carefully(known, request);
                    }
                    expected = next;
                    wanted = wanted.max(batch_bytes);
                }
                Trim::Nothing if bytes.len() == window => return Ok(None),
                Trim::Partial { .. } | Trim::Damaged | Trim::Nothing => {
                    return self.read_carefully(known, request);
                }
            }
        }
        Ok(None)
    }

    /// One batch, past any damage in front of it; or the damage, exactly.
    fn read_carefully(
        &self,
        known: Option<&Known>,
        request: &ReadRequest,
    ) -> Result<Option<Read>, ReadError> {
        let (position, expected) = self.floor(known, request.from);
        let file = self.file()?;
        let length = self.length();
        let mut scanner =
            Scanner::new(Arc::clone(&file), self.header(), length, position, expected);
        while let Some(scanned) = scanner.next().map_err(|error| self.io(error))? {
            match scanned {
                Scanned::Batch { header, .. } if header.end_offset() <= request.from => {}
                Scanned::Batch { header, .. } if header.base_offset >= request.limit => {
                    // What compaction has removed in front of it is a gap.
                    return Ok((!self.is_compacted()).then_some(Read::End));
                }
                Scanned::Batch { position, header, .. } => {
                    let bytes = read_bytes(file.as_ref(), position, header.total_bytes())
                        .map_err(|error| self.io(error))?;
                    return Ok(Some(Read::Batches { bytes, next: header.end_offset() }));
                }
                Scanned::Hole(hole) if hole.to.is_some_and(|to| to <= request.from) => {}
                Scanned::Hole(hole) => {
                    return Err(ReadError::DataLoss {
                        from: hole.from.max(request.from),
                        to: hole.to.unwrap_or(self.end()),
                        path: self.path(),
                        position: hole.position,
                        cause: hole.cause,
                    });
                }
            }
        }
        Ok(None)
    }

    pub(crate) fn file(&self) -> Result<Arc<dyn File>, ReadError> {
        match self {
            Self::Sealed(segment) => segment.open().map_err(|error| self.io(error)),
            Self::Active(segment) => Ok(Arc::clone(&segment.file)),
        }
    }

    fn find_timestamp(
        &self,
        timestamp: Timestamp,
        start: Offset,
    ) -> Result<Option<Found>, ReadError> {
        let max_timestamp = match self {
            Self::Sealed(segment) => segment.max_timestamp().map_err(|error| self.io(error))?,
            Self::Active(segment) => segment.max_timestamp(),
        };
        if max_timestamp < timestamp {
            return Ok(None);
        }
        let entry = match self {
            Self::Sealed(_) => {
                self.known()?.and_then(|known| known.index.floor_timestamp(timestamp))
            }
            Self::Active(segment) => segment.floor_timestamp(timestamp),
        };
        let Some(entry) = entry else { return Ok(None) };
        let file = self.file()?;
        let (length, header) = (self.length(), self.header());
        let mut scanner = Scanner::new(file, header, length, entry.position, entry.offset);
        while let Some(scanned) = scanner.next().map_err(|error| self.io(error))? {
            let Scanned::Batch { header, payload, .. } = scanned else { continue };
            if header.max_timestamp < timestamp || header.end_offset() <= start {
                continue;
            }
            // What cannot be opened was never taken.
            let Ok(batch) = Batch { header, payload }.open() else {
                continue;
            };
            let reached = batch
                .records()
                .map_while(Result::ok)
                .find(|record| record.timestamp >= timestamp && record.offset >= start);
            if let Some(record) = reached {
                let (offset, timestamp) = (record.offset, record.timestamp);
                return Ok(Some(Found { offset, timestamp }));
            }
        }
        Ok(None)
    }
}
