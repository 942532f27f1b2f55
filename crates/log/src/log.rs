//! A log: appends go in at the end, and offsets come out.
//!
//! One writer owns the [`Log`]; readers and syncers are handed out and work beside it.
//! Invariants: `start <= durable end <= written end`; an offset is given out once; a batch is wholly
//! in the file before the log's end moves over it; the old segment is synced before the first write
//! to a new one. Only opening or creating a directory's log makes one.

use std::io;
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use taffrail_model::batch::{BatchHeader, HEADER_BYTES, Salt};
use taffrail_model::{LeaderEpoch, LogId, Offset, ProducerId, Timestamp, limits};

use crate::batch::{Appended, NewBatch, whole_batches};
use crate::config::LogConfig;
use crate::error::{AppendError, ReadOnly};
use crate::producers::{Checkpoint, Checkpoints, CrowdShare, Producers};
use crate::reader::LogReader;
use crate::segment::{
    ActiveSegment, Group, SegmentHeader, create_segment, random_salt, segment_path, write_index,
};
use crate::shared::{Segments, Shared};
use crate::spare::is_full;
use crate::sync::{LogSyncer, SyncError, sync_active};
use crate::vfs::write_full;

/// Bytes that are allocated at once for what is written in small pieces.
const CHUNK_BYTES: usize = 256 << 10;

/// What a log's writer alone knows of it.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    /// Its last append time.
    pub(crate) append_time: Timestamp,
    /// Why it takes no appends, if that is so.
    pub(crate) read_only: Option<ReadOnly>,
    /// What is remembered of idempotent producers.
    pub(crate) producers: Producers,
    pub(crate) checkpoints: Checkpoints,
}

/// A log and the right to append to it.
#[derive(Debug)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    config: LogConfig,
    pub(crate) read_only: Option<ReadOnly>,
    append_time: Timestamp,
    /// No offset at or above this is given out without being reserved first.
    reserved_end: Offset,
    /// What is remembered of idempotent producers, those included whose batches are being appended.
    pub(crate) producers: Producers,
    pub(crate) checkpoints: Checkpoints,
    /// What all logs of the directory remember of producers.
    crowd: CrowdShare,
    /// Whether it may use what is kept back for when the disk is full.
    may_use_spare: bool,
    chunk: BytesMut,
}

impl Log {
    pub(crate) fn new(shared: Arc<Shared>, config: LogConfig, state: LogState) -> Self {
        shared.limit_tail(config.tail_bytes_max);
        let reserved_end = shared.points.known(shared.id).unwrap_or_default().reserved_end;
        let LogState { append_time, read_only, producers, checkpoints } = state;
        let mut crowd = shared.crowd.share();
        crowd.count(producers.batches());
        Self {
            shared,
            config,
            read_only,
            append_time,
            reserved_end,
            producers,
            checkpoints,
            crowd,
            may_use_spare: false,
            chunk: BytesMut::new(),
        }
    }

    /// Its identity.
    pub fn id(&self) -> LogId {
        self.shared.id
    }

    /// The number of this opening.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.shared.epoch
    }

    /// The offset that the next record gets.
    pub fn end(&self) -> Offset {
        self.shared.segments.load().active.written().end
    }

    /// Why it takes no appends, if that is so.
    pub fn read_only(&self) -> Option<&str> {
        let cause = self.read_only.as_ref().map(|read_only| read_only.cause.as_str());
        cause.or_else(|| self.shared.poisoned())
    }

    /// For how many bytes there was no room when it was opened, if it takes no appends for that alone.
    pub(crate) fn wanted_bytes(&self) -> Option<u64> {
        self.read_only.as_ref()?.wanted_bytes
    }

    /// A reader of this log.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// A syncer of this log.
    pub fn syncer(&self) -> LogSyncer {
        LogSyncer::new(Arc::clone(&self.shared))
    }

    /// Keeps the log in another way from now on. Where offsets are to be reserved from now on, all
    /// that were given out are on return.
    ///
    /// # Errors
    /// If they cannot be: then none are reserved, and all else is kept as `config` says.
    pub fn configure(&mut self, config: LogConfig) -> Result<(), AppendError> {
        let begins = config.reserves_offsets && !self.config.reserves_offsets;
        let reserved = if begins { self.reserve(0) } else { Ok(()) };
        self.config = config;
        self.config.reserves_offsets &= reserved.is_ok();
        self.shared.limit_tail(config.tail_bytes_max);
        reserved
    }

    /// Lets it use what the directory keeps back for when the disk is full, and write when that is
    /// given up: only for a log without which nothing can be deleted.
    pub fn allow_spare(&mut self) {
        self.may_use_spare = true;
    }

    /// The time at which something is appended that comes in at `now`: append times never fall.
    pub(crate) fn append_time(&self, now: Timestamp) -> Timestamp {
        self.append_time.max(now)
    }

    /// Appends batches that came in at `now`, with one write for each segment that they go to. Where
    /// fewer are in the log than there are, the error says why.
    pub(crate) fn write_all(
        &mut self,
        batches: &[NewBatch],
        now: Timestamp,
    ) -> (Vec<Appended>, Option<AppendError>) {
        let mut appended = Vec::with_capacity(batches.len());
        if let Err(error) = self.check_writable() {
            return (appended, Some(error));
        }
        let records = batches.iter().map(|batch| u64::from(batch.record_count)).sum();
        if self.config.reserves_offsets
            && let Err(error) = self.reserve(records)
        {
            return (appended, Some(error));
        }
        self.append_time = now;
        while let Some(rest) = batches.get(appended.len()..).filter(|rest| !rest.is_empty()) {
            let fitting = self.fitting(rest);
            let result = match rest.get(..fitting).filter(|fitting| !fitting.is_empty()) {
                Some(group) => self.write(group, &mut appended),
                None => self.roll(),
            };
            if let Err(error) = result {
                return (appended, Some(error));
            }
        }
        (appended, None)
    }

    /// Seals the active segment if it has records, and begins the next one.
    ///
    /// # Errors
    /// If the segment cannot be synced or the next one cannot be created: then the log is as it was
    /// and it may be tried again, or it is poisoned.
    pub fn roll(&mut self) -> Result<(), AppendError> {
        self.check_writable()?;
        let shared = Arc::clone(&self.shared);
        let _one = shared.sync.lock().unwrap_or_else(PoisonError::into_inner);
        sync_active(&shared)
            .map_err(|SyncError::Poisoned { cause }| AppendError::Poisoned { cause })?;
        let segments = shared.segments.load_full();
        let end = segments.active.written().end;
        if end == segments.active.header.base_offset {
            return Ok(());
        }
        let header = SegmentHeader {
            salt: random_salt(shared.vfs.as_ref()),
            compacted: None,
            base_offset: end,
            previous_end: end,
            gap_reason: None,
            created: self.append_time,
            log_id: shared.id,
            label: shared.label.clone(),
        };
        self.checkpoint(end, true)
            .map_err(|error| AppendError::writing(shared.path.clone(), error))?;
        let path = segment_path(&shared.path, end);
        let active = create_segment(shared.vfs.as_ref(), path.clone(), header)
            .map_err(|error| AppendError::writing(path, error))?;
        if let Err(error) = shared.vfs.sync_directory(&shared.path) {
            // The new segment is there and may be found by the next opening: what would be appended
            // to the old one now would be hidden behind it.
            shared.poison(format!("syncing {} failed: {error}", shared.path.display()));
            return self.check_writable();
        }
        let sealed = segments.active.seal(Arc::clone(&shared.vfs), Arc::clone(&shared.cache));
        // A cache: if it cannot be written, it is rebuilt when it is wanted.
        let index = segments.active.index_file();
        let _ = write_index(shared.vfs.as_ref(), &segments.active.path, &index);
        let (sealed, active) = (Arc::new(sealed), Arc::new(active));
        // Those in front of it may be taken away meanwhile.
        shared.segments.rcu(|now| {
            let mut next = Segments::clone(now);
            next.sealed.push(Arc::clone(&sealed));
            next.active = Arc::clone(&active);
            next
        });
        Ok(())
    }

    /// Seals the active segment if it has records and is as old as one may become. Says when to ask
    /// again: before that none will be.
    ///
    /// # Errors
    /// As [`Self::roll`].
    pub fn roll_if_old(&mut self, now: Timestamp) -> Result<Option<Timestamp>, AppendError> {
        let Some(age) = self.config.segment_age else { return Ok(None) };
        let active = Arc::clone(&self.shared.segments.load().active);
        let due = active.header.created.plus(age);
        let is_empty = active.written().end == active.header.base_offset;
        if !is_empty && now < due {
            return Ok(Some(due));
        }
        if !is_empty {
            self.roll()?;
        }
        Ok(Some(now.plus(age)))
    }

    /// Syncs everything and leaves a clean mark, so that the next opening need not check.
    ///
    /// The mark is durable once the directory's points are.
    ///
    /// # Errors
    /// If the sync fails: the log is not marked clean.
    pub fn close(mut self) -> Result<(), SyncError> {
        let end = self.syncer().sync()?;
        if self.read_only.is_none() {
            let active = Arc::clone(&self.shared.segments.load().active);
            let index = active.index_file();
            let _ = write_index(self.shared.vfs.as_ref(), &active.path, &index);
            // What it would save to read is read again without it.
            let _ = self.checkpoint(end, false);
            self.shared.points.closed(self.shared.id, end);
        }
        Ok(())
    }

    /// Remembers no more of these producers than should be, now that it is known what is in the log.
    pub(crate) fn trim_producers(&mut self, producers: &[ProducerId]) {
        if producers.is_empty() {
            return;
        }
        let is_crowded = self.crowd.is_crowded();
        for id in producers {
            self.producers.trim(*id, is_crowded);
        }
        self.crowd.count(self.producers.batches());
    }

    /// Stores what is remembered of producers that sent something below `end`.
    pub(crate) fn checkpoint(&mut self, end: Offset, is_durable: bool) -> io::Result<()> {
        let mut producers = self.producers.clone();
        producers.cut(end);
        let checkpoint = Checkpoint { log_id: self.shared.id, end, producers };
        let (vfs, directory) = (self.shared.vfs.as_ref(), &self.shared.path);
        self.checkpoints.store(vfs, directory, &checkpoint, is_durable)
    }

    /// Reserves the offsets that so many records need; the next step is taken before half of this one
    /// is used. One small write for each half a million records.
    fn reserve(&mut self, records: u64) -> Result<(), AppendError> {
        let end = self.end().advance(records);
        if end.advance(limits::RESERVED_OFFSETS / 2) <= self.reserved_end {
            return Ok(());
        }
        let wanted = end.advance(limits::RESERVED_OFFSETS);
        match self.shared.points.reserve(self.shared.id, wanted) {
            Ok(()) => self.reserved_end = wanted,
            // What was reserved before still suffices.
            Err(_) if end <= self.reserved_end => {}
            Err(error) => return Err(AppendError::writing(self.shared.path.clone(), error)),
        }
        Ok(())
    }

    pub(crate) fn check_writable(&self) -> Result<(), AppendError> {
        if let Some(cause) = self.shared.poisoned() {
            return Err(AppendError::Poisoned { cause: cause.to_owned() });
        }
        if let Some(ReadOnly { cause, .. }) = &self.read_only {
            return Err(AppendError::ReadOnly { cause: cause.clone() });
        }
        let spare = self.shared.points.spare();
        if spare.is_missing() && !self.may_use_spare {
            return Err(AppendError::StorageFull { path: spare.path().to_owned() });
        }
        Ok(())
    }

    /// How many of `batches` still go into the active segment.
    fn fitting(&self, batches: &[NewBatch]) -> usize {
        let mut before = 0;
        let fits = |batch: &&NewBatch| {
            let fits = !self.must_roll(before, batch, self.append_time);
            before += batch.total_bytes() as u64;
            fits
        };
        batches.iter().take_while(fits).count()
    }

    /// Whether a batch that is appended behind so many bytes of others goes into the next segment; a
    /// segment takes at least one.
    pub(crate) fn must_roll(&self, bytes_before: u64, batch: &NewBatch, now: Timestamp) -> bool {
        let segments = self.shared.segments.load();
        let active = &segments.active;
        let written = active.written();
        let is_empty = written.end == active.header.base_offset;
        let age = now.since(active.header.created);
        if !is_empty && self.config.segment_age.is_some_and(|age_max| age_max <= age) {
            return true;
        }
        // An index counts positions in 32 bits, and a segment is one protobuf message.
        let segment_bytes = self.config.segment_bytes.min(limits::SEGMENT_BYTES_MAX);
        let end = written.position + bytes_before + batch.total_bytes() as u64;
        segment_bytes < end && !(is_empty && bytes_before == 0)
    }

    /// Writes batches to the active segment with one write.
    fn write(
        &mut self,
        batches: &[NewBatch],
        appended: &mut Vec<Appended>,
    ) -> Result<(), AppendError> {
        let active = Arc::clone(&self.shared.segments.load().active);
        let written = active.written();
        let (bytes, headers) = self.encode(batches, active.header.salt, written.end);
        let write = || write_full(active.file.as_ref(), written.position, &bytes);
        let outcome = if self.may_use_spare {
            self.shared.points.spare().lend_where(write, |(_, error)| is_full(error))
        } else {
            write()
        };
        let in_file = match &outcome {
            Ok(()) => bytes.len(),
            Err((in_file, _)) => *in_file,
        };
        let whole = whole_batches(&headers, in_file);
        let (headers, whole_bytes) = (&headers[..whole.count], whole.bytes);
        if let Some(last) = headers.last() {
            let group = Group {
                position: written.position,
                base_offset: written.end,
                end_offset: last.end_offset(),
                bytes: bytes.slice(..whole_bytes),
            };
            active.note(group, headers, self.shared.tail_bytes_max());
            self.shared.progress.wrote(whole_bytes as u64);
            appended.extend(headers.iter().map(|header| Appended {
                base_offset: header.base_offset,
                end_offset: header.end_offset(),
                append_time: header.append_time,
            }));
        }
        let Err((_, error)) = outcome else { return Ok(()) };
        self.cut(&active);
        Err(AppendError::writing(active.path.clone(), error))
    }

    /// Cuts a batch that was written in part off the file, durably, or poisons the log.
    fn cut(&self, active: &ActiveSegment) {
        let _one = self.shared.sync.lock().unwrap_or_else(PoisonError::into_inner);
        let position = active.written().position;
        let cut = active.file.set_length(position).and_then(|()| active.file.sync_data());
        if let Err(error) = cut {
            let path = active.path.display();
            self.shared.poison(format!("cutting {path} back to byte {position} failed: {error}"));
        }
    }

    /// Lays batches one behind the other, with the headers that they get.
    fn encode(
        &mut self,
        batches: &[NewBatch],
        salt: Salt,
        mut offset: Offset,
    ) -> (Bytes, Vec<BatchHeader>) {
        let total: usize = batches.iter().map(NewBatch::total_bytes).sum();
        if self.chunk.capacity() < total {
            let chunk_bytes = CHUNK_BYTES.min(self.shared.tail_bytes_max() / 4);
            self.chunk = BytesMut::with_capacity(total.max(chunk_bytes));
        }
        let synced_end = self.shared.durable_end();
        let mut headers = Vec::with_capacity(batches.len());
        for batch in batches {
            let header = self.header(batch, offset, synced_end);
            self.chunk.extend_from_slice(&header.encode(salt));
            self.chunk.extend_from_slice(&batch.payload);
            offset = header.end_offset();
            headers.push(header);
        }
        let bytes = self.chunk.split().freeze();
        if self.chunk.capacity() < HEADER_BYTES {
            // Even empty it would keep what it was split from.
            self.chunk = BytesMut::new();
        }
        (bytes, headers)
    }

    fn header(&self, batch: &NewBatch, base_offset: Offset, synced_end: Offset) -> BatchHeader {
        assert!(batch.record_count > 0, "a batch has records");
        let (bytes, bytes_max) = (batch.total_bytes(), limits::BATCH_BYTES_MAX as usize);
        assert!(bytes <= bytes_max, "a batch of {bytes} bytes, at most {bytes_max} are allowed");
        assert!(synced_end <= base_offset, "synced end {synced_end} > {base_offset}");
        let unstamped = batch.has_unstamped.then_some(self.append_time);
        BatchHeader {
            base_offset,
            last_offset_delta: batch.record_count - 1,
            leader_epoch: self.shared.epoch,
            producer: batch.producer,
            append_time: self.append_time,
            max_timestamp: batch.max_timestamp.max(unstamped).unwrap_or(self.append_time),
            compression: batch.compression,
            kind: batch.kind,
            records_crc: batch.records_crc,
            synced_end,
            payload_bytes: batch.payload.len() as u32,
        }
    }
}
