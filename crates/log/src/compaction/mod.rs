//! Compacts a log by key: of each key the latest record stays, in the segments that no longer grow.
//!
//! Two passes. The first reads the keys and finds out which records are the last of theirs; the second
//! writes what stays into new segments, each in the place of one or several that follow one another.
//! Offsets and order stay. A record without a key stays, and so do the broker's own batches.
//!
//! A tombstone stays for a while after a compaction that has seen it: whoever has read an older record of
//! its key has that long to come to it. When it may go stands in the record itself.
//!
//! A run is done in small steps, so that whoever does it can pause, share the thread, or give up: nothing
//! is changed before a new segment is whole and on disk, and then one rename changes it. Whoever appends
//! or reads never waits. Memory is bounded however many keys there are.
//! Deliberately absent: when to compact, and how fast.

mod keys;
mod plan;
mod rewrite;
mod switch;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taffrail_model::batch::{Batch, BatchKind};
use taffrail_model::{Offset, Timestamp, limits};

use crate::damage::Damage;
use crate::log::Log;
use crate::reader::LogReader;
use crate::segment::{Hole, Scanned, Scanner, SealedSegment};
use crate::shared::Shared;
use crate::spare::is_full;

pub(crate) use keys::is_key_file;
use keys::{Keys, Room};
use plan::{Group, Span, plan_groups};
use rewrite::Rewrite;

/// How a log is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// Bytes that a segment which it writes has at the most; one that it takes over may have more.
    pub segment_bytes: u64,
    /// How long a tombstone stays after the first compaction that has seen it.
    pub tombstone_age: Duration,
    /// Keys that are in memory at once.
    pub keys_max: usize,
    /// Segments that do not end before this stay as they are: somebody needs each record of them.
    pub before: Offset,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            segment_bytes: limits::COMPACTED_SEGMENT_BYTES,
            tombstone_age: limits::TOMBSTONE_AGE_DEFAULT,
            keys_max: limits::COMPACTION_KEYS_MAX,
            before: Offset::new(u64::MAX),
        }
    }
}

/// What there is to compact in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirt {
    /// Bytes of sealed segments that no compaction has seen.
    pub dirty_bytes: u64,
    /// Bytes of all sealed segments.
    pub sealed_bytes: u64,
    /// When the first tombstone may go that a compaction has seen.
    pub due: Option<Timestamp>,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Bytes that were read, those included that were read twice.
    pub read_bytes: u64,
    /// Bytes of new segments.
    pub written_bytes: u64,
    /// Segments that were replaced.
    pub segments_before: usize,
    /// Segments that stand for these.
    pub segments_after: usize,
    /// Records that went.
    pub removed_records: u64,
    /// Segments that were not looked at, because those before them have too many records.
    pub segments_left_out: usize,
}

/// Why a compaction ended before its end. What it has done by then stays done.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// What is damaged may hold the latest record of a key, or an older one: a person has to look at it.
    #[error("{path} is damaged at byte {position}: {cause}; a log with damage is not compacted")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong.
        cause: String,
    },
    /// There is no room for what stays beside what there is.
    #[error("the disk is full: {path} cannot grow; free some space, and it is compacted later")]
    StorageFull {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("cannot compact {path}: {source}")]
    Io {
        /// The file, or the log's directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Segments were deleted meanwhile.
    #[error("segments were deleted while they were compacted: it is done again later")]
    Outrun,
}

/// What a step of a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It read and wrote so many bytes, and there is more to do.
    Worked {
        /// Bytes that were read or written.
        bytes: u64,
    },
    /// That was all.
    Done(CompactionReport),
}

/// A compaction that is going on. Dropped, it leaves the log as it is by then.
#[derive(Debug)]
pub struct Compaction {
    shared: Arc<Shared>,
    config: CompactionConfig,
    /// When it began; tombstones that it sees for the first time stay from here on.
    now: Timestamp,
    /// Tombstones go whose time is over by this, if the time is believed.
    expired: Option<Timestamp>,
    segments: Vec<Arc<SealedSegment>>,
    /// What the log has lost, if it has lost anything.
    lost: Option<Damage>,
    keys: Keys,
    /// Which records each segment has, by their number in the first pass.
    spans: Vec<Span>,
    phase: Phase,
    done: CompactionReport,
}

#[derive(Debug)]
enum Phase {
    /// Reads the keys of a segment; those before it are read.
    Reading { at: usize, scanner: Option<Scanner> },
    /// Finds out which records are the last of their keys.
    Sorting,
    /// Writes what stays, a group at a time.
    Writing { groups: VecDeque<Group>, rewrite: Option<Box<Rewrite>> },
}

impl LogReader {
    /// What there is to compact.
    pub fn dirt(&self) -> Dirt {
        self.dirt_before(Offset::new(u64::MAX))
    }

    /// What there is to compact in segments that end before an offset.
    pub fn dirt_before(&self, before: Offset) -> Dirt {
        let mut dirt = Dirt::default();
        let segments = self.segments();
        for segment in segments.sealed.iter().take_while(|segment| segment.end_offset <= before) {
            dirt.sealed_bytes += segment.length;
            match segment.header.compacted {
                None => dirt.dirty_bytes += segment.length,
                Some(compacted) => dirt.due = dirt.due.into_iter().chain(compacted.due).min(),
            }
        }
        dirt
    }
}

impl Log {
    /// Begins to compact the segments that no longer grow. It goes on without the log, beside whoever
    /// appends. `now` is clamped so that it is not before what was appended; without `is_believed` no
    /// tombstone is old enough to go.
    pub fn begin_compaction(
        &self,
        config: CompactionConfig,
        now: Timestamp,
        is_believed: bool,
    ) -> Compaction {
        let shared = Arc::clone(&self.shared);
        let now_there = shared.segments.load();
        let segments = now_there.sealed.iter().take_while(|it| it.end_offset <= config.before);
        let (segments, lost) = (segments.cloned().collect(), now_there.lost.first().cloned());
        drop(now_there);
        Compaction {
            keys: Keys::in_memory(config.keys_max),
            now: self.append_time(now),
            expired: is_believed.then_some(now),
            shared,
            config,
            segments,
            lost,
            spans: Vec::new(),
            phase: Phase::Reading { at: 0, scanner: None },
            done: CompactionReport::default(),
        }
    }
}

impl Compaction {
    /// Does a little: some MiB at the most, or one sync.
    ///
    /// # Errors
    /// If it cannot go on: then it is over.
    pub fn step(&mut self) -> Result<Step, CompactionError> {
        if let Some(Damage { path, position, cause, .. }) = &self.lost {
            let (path, position, cause) = (path.clone(), *position, cause.clone());
            return Err(CompactionError::Damaged { path, position, cause });
        }
        let done = match &mut self.phase {
            Phase::Reading { .. } => self.read(),
            Phase::Sorting => self.sort(),
            Phase::Writing { .. } => self.write(),
        };
        done.map_err(|error| self.explain(error))
    }

    /// A file that is not there was taken by retention, if its segment is not in the log any more.
    fn explain(&self, error: CompactionError) -> CompactionError {
        let CompactionError::Io { path, source } = &error else { return error };
        let is_segment = path.parent() == Some(&self.shared.path);
        let is_gone = || self.shared.segments.load().sealed.iter().all(|it| it.path != *path);
        let is_missing = source.kind() == io::ErrorKind::NotFound && is_segment;
        if is_missing && is_gone() { CompactionError::Outrun } else { error }
    }

    /// Reads some keys.
    fn read(&mut self) -> Result<Step, CompactionError> {
        let Phase::Reading { at, scanner } = &mut self.phase else { unreachable!("in this phase") };
        let Some(segment) = self.segments.get(*at) else {
            self.phase = Phase::Sorting;
            return Ok(Step::Worked { bytes: 0 });
        };
        let failed = |source| failed(&segment.path, source);
        let scanner = match scanner {
            Some(scanner) => scanner,
            None => {
                self.spans.push(Span { first: self.keys.count(), count: 0 });
                scanner.insert(scan(segment).map_err(failed)?)
            }
        };
        let mut bytes = 0;
        while bytes < limits::COMPACTION_STEP_BYTES {
            let batch = match scanner.next().map_err(failed)? {
                Some(Scanned::Batch { header, payload, .. }) => Batch { header, payload },
                Some(Scanned::Hole(hole)) => return Err(damaged(segment, hole)),
                None if segment.header.compacted.is_none()
                    && scanner.reached() < segment.end_offset =>
                {
                    return Err(ends_early(segment));
                }
                None => {
                    let span = self.spans.last_mut().expect("each segment has one");
                    span.count = self.keys.count() - span.first;
                    self.phase = Phase::Reading { at: *at + 1, scanner: None };
                    break;
                }
            };
            bytes += batch.header.total_bytes() as u64;
            if !is_thinned(&batch) {
                continue;
            }
            let batch = open(segment, &batch)?;
            for record in batch.records() {
                let record = record.map_err(|cause| damaged_records(segment, &batch, &cause))?;
                match self.keys.note(record.key).map_err(|error| self.keys.failed(error))? {
                    Room::Enough => {}
                    Room::TooManyKeys => return self.begin_anew(),
                    Room::TooManyRecords => {
                        // What supersedes something here is there all the same.
                        self.spans.pop();
                        self.done.segments_left_out = self.segments.len() - self.spans.len();
                        self.phase = Phase::Sorting;
                        return Ok(Step::Worked { bytes });
                    }
                }
            }
        }
        self.done.read_bytes += bytes;
        Ok(Step::Worked { bytes })
    }

    /// Reads the keys once more, sorted into files: there are too many to have them in memory at once.
    fn begin_anew(&mut self) -> Result<Step, CompactionError> {
        let bytes: u64 = self.segments.iter().map(|segment| segment.length).sum();
        let offsets = self.segments.iter().map(|it| it.end_offset.since(it.header.base_offset));
        let records_max = offsets.sum::<u64>().min(bytes / limits::RECORD_BYTES_FLOOR);
        let vfs = Arc::clone(&self.shared.vfs);
        let free = vfs.free_bytes(&self.shared.path).unwrap_or(u64::MAX);
        if free < keys::file_bytes(records_max) + limits::COMPACTION_ROOM_BYTES {
            return Err(CompactionError::StorageFull { path: self.shared.path.clone() });
        }
        let keys = Keys::in_files(vfs, &self.shared.path, self.config.keys_max, records_max);
        self.keys = keys.map_err(|source| failed(&self.shared.path, source))?;
        self.spans.clear();
        self.phase = Phase::Reading { at: 0, scanner: None };
        Ok(Step::Worked { bytes: 0 })
    }

    /// Sorts out some of the keys, and plans what to do once all are.
    fn sort(&mut self) -> Result<Step, CompactionError> {
        if let Some(bytes) = self.keys.sort().map_err(|error| self.keys.failed(error))? {
            return Ok(Step::Worked { bytes });
        }
        let groups = plan_groups(
            &self.segments,
            &self.spans,
            |span| self.keys.count_last(span),
            self.config.segment_bytes,
            self.expired,
        );
        // What a group stands for goes from the disk once it is done, and no sooner than nobody holds it.
        self.segments = Vec::new();
        self.phase = Phase::Writing { groups: groups.into(), rewrite: None };
        Ok(Step::Worked { bytes: 0 })
    }

    /// Writes some of what stays.
    fn write(&mut self) -> Result<Step, CompactionError> {
        let Phase::Writing { groups, rewrite } = &mut self.phase else {
            unreachable!("in this phase")
        };
        let Some(going_on) = rewrite else {
            let Some(mut group) = groups.pop_front() else { return Ok(Step::Done(self.done)) };
            // Retention may have taken the first ones.
            group.keep(&self.shared.segments.load().sealed);
            if group.segments.is_empty() {
                return Ok(Step::Worked { bytes: 0 });
            }
            let horizon = self.now.plus(self.config.tombstone_age);
            let begun = Rewrite::begin(&self.shared, group, self.expired, horizon)?;
            *rewrite = Some(Box::new(begun));
            return Ok(Step::Worked { bytes: 0 });
        };
        let is_outrun = |group: &Group| !group.is_in(&self.shared.segments.load().sealed);
        match going_on.step(&self.keys) {
            Ok(Some(bytes)) => return Ok(Step::Worked { bytes }),
            Ok(None) => {}
            Err(_) if is_outrun(&going_on.group) => {
                groups.push_front(going_on.group.clone());
                *rewrite = None;
                return Ok(Step::Worked { bytes: 0 });
            }
            Err(error) => return Err(error),
        }
        let rewrite = rewrite.take().expect("it was there");
        let group = rewrite.group.clone();
        // An older record that was not taken out is not to outlive the tombstone behind it.
        self.expired = self.expired.filter(|_| !rewrite.has_kept_more);
        let written = match rewrite.finish(&self.shared) {
            Err(CompactionError::Outrun) if is_outrun(&group) => {
                groups.push_front(group);
                return Ok(Step::Worked { bytes: 0 });
            }
            finished => finished?,
        };
        self.done.read_bytes += written.read_bytes;
        self.done.written_bytes += written.written_bytes;
        self.done.segments_before += written.segments_before;
        self.done.segments_after += 1;
        self.done.removed_records += written.removed_records;
        Ok(Step::Worked { bytes: 0 })
    }
}

/// Whether records may be taken out of a batch: not of the broker's own.
fn is_thinned(batch: &Batch) -> bool {
    batch.header.kind == BatchKind::Data
}

/// A batch with its records as they are.
fn open(segment: &SealedSegment, batch: &Batch) -> Result<Batch, CompactionError> {
    let opened = batch.open();
    opened.map_err(|cause| damaged_records(segment, batch, &cause))
}

/// Reads a segment from its first batch on.
fn scan(segment: &SealedSegment) -> io::Result<Scanner> {
    let (header, base) = (&segment.header, segment.header.base_offset);
    Ok(Scanner::new(segment.open()?, header, segment.length, segment.header_bytes, base))
}

fn failed(path: &std::path::Path, source: io::Error) -> CompactionError {
    let path = path.to_owned();
    if is_full(&source) {
        return CompactionError::StorageFull { path };
    }
    CompactionError::Io { path, source }
}

fn damaged(segment: &SealedSegment, Hole { position, cause, .. }: Hole) -> CompactionError {
    CompactionError::Damaged { path: segment.path.clone(), position, cause }
}

fn ends_early(segment: &SealedSegment) -> CompactionError {
    let cause = "it ends too early, or the segment behind it is missing".into();
    CompactionError::Damaged { path: segment.path.clone(), position: segment.length, cause }
}

fn damaged_records(
    segment: &SealedSegment,
    batch: &Batch,
    cause: &dyn std::error::Error,
) -> CompactionError {
    let cause = format!("the batch at offset {}: {cause}", batch.header.base_offset);
    CompactionError::Damaged { path: segment.path.clone(), position: 0, cause }
}
