//! The memory of producers as it was at some offset, in a file beside the segments.
//!
//! ```text
//! magic 8 | log id 16 | end 8 | known from 8 | producers 4
//! producer: id 8 | epoch 4 | last append 8 | batches 4
//! batch:    sequence 4 | records 4 | base offset 8 | append time 8
//! crc 4
//! ```
//!
//! All little-endian. There are two files; a new checkpoint replaces the older one, so that there is
//! one at any moment, and its predecessor if it goes bad. What is behind `end` is read from the log.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use taffrail_model::{LogId, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, limits};

use super::Producers;
use super::memory::{Mark, Producer};
use crate::vfs::{Vfs, beside, read_file, replace_file, write_full};

/// What a file begins with.
pub(crate) const MAGIC: [u8; 8] = *b"TAFFPRD1";
/// The two files.
pub(crate) const COPIES: [&str; 2] = ["producers.a", "producers.b"];
/// Bytes of a producer without its batches, and of each of these.
const PRODUCER_BYTES: usize = 24;
const BATCH_BYTES: usize = 24;
/// More than what can be remembered takes.
const FILE_BYTES_MAX: u64 = (4096
    + limits::PARTITION_BATCHES_MAX * BATCH_BYTES
    + limits::PARTITION_PRODUCERS_MAX
        * (PRODUCER_BYTES + limits::PRODUCER_BATCHES_MIN * BATCH_BYTES))
    as u64;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The log.
    pub(crate) log_id: LogId,
    /// The offset below which all batches are counted in.
    pub(crate) end: Offset,
    /// What was remembered there.
    pub(crate) producers: Producers,
}

/// The checkpoints of a log, and which of the two files is the newer one.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    newest: Option<usize>,
    /// The end of the last one that was stored durably since the log was opened.
    durable_end: Offset,
}

impl Checkpoints {
    /// The newest sound checkpoint of a log that is not behind `end_max`. One that is goes: what it
    /// counts in may be cut off yet, and other batches take its place.
    pub(crate) fn load(
        vfs: &dyn Vfs,
        directory: &Path,
        id: LogId,
        end_max: Offset,
    ) -> (Self, Option<Checkpoint>) {
        let found = COPIES.iter().enumerate().filter_map(|(copy, name)| {
            let path = directory.join(name);
            let checkpoint = read(vfs, &path).ok()??;
            if end_max < checkpoint.end {
                // If it cannot be removed now, it is not believed at the next opening either, or all it
                // counts in is on disk by then.
                let _ = vfs.remove_file(&path);
                return None;
            }
            (checkpoint.log_id == id).then_some((copy, checkpoint))
        });
        match found.max_by_key(|(_, checkpoint)| checkpoint.end) {
            Some((copy, checkpoint)) => {
                let checkpoints = Self { newest: Some(copy), ..Self::default() };
                (checkpoints, Some(checkpoint))
            }
            None => (Self::default(), None),
        }
    }

    /// Stores a checkpoint in the place of the older one; durable on return if that is wanted, and
    /// otherwise there unless the machine loses its power.
    pub(crate) fn store(
        &mut self,
        vfs: &dyn Vfs,
        directory: &Path,
        checkpoint: &Checkpoint,
        is_durable: bool,
    ) -> io::Result<()> {
        let copy = self.newest.map_or(0, |newest| 1 - newest);
        let path = directory.join(COPIES[copy]);
        let bytes = checkpoint.encode();
        if is_durable {
            replace_file(vfs, &path, &bytes)?;
        } else {
            let beside = beside(&path);
            // What was left half written.
            let _ = vfs.remove_file(&beside);
            write_full(vfs.create(&beside)?.as_ref(), 0, &bytes).map_err(|(_, error)| error)?;
            vfs.rename(&beside, &path)?;
        }
        self.newest = Some(copy);
        if is_durable {
            self.durable_end = checkpoint.end;
        }
        Ok(())
    }

    /// The offset below which a checkpoint that is surely durable counts all batches in.
    pub(crate) fn durable_end(&self) -> Offset {
        self.durable_end
    }
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let by_id = self.producers.by_id();
        let mut bytes = Vec::with_capacity(64 + by_id.len() * (PRODUCER_BYTES + BATCH_BYTES));
        bytes.extend(MAGIC);
        bytes.extend(self.log_id.bytes());
        bytes.extend(self.end.get().to_le_bytes());
        bytes.extend(self.producers.known_from().get().to_le_bytes());
        bytes.extend((by_id.len() as u32).to_le_bytes());
        for (id, producer) in by_id {
            bytes.extend(id.get().to_le_bytes());
            bytes.extend(producer.epoch.get().to_le_bytes());
            bytes.extend(producer.last_append.as_millis().to_le_bytes());
            bytes.extend((producer.batches.len() as u32).to_le_bytes());
            for mark in &producer.batches {
                bytes.extend(mark.sequence.get().to_le_bytes());
                bytes.extend(mark.record_count.to_le_bytes());
                bytes.extend(mark.base_offset.get().to_le_bytes());
                bytes.extend(mark.append_time.as_millis().to_le_bytes());
            }
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

/// Reads a checkpoint; `None` if it is damaged.
pub(crate) fn read(vfs: &dyn Vfs, path: &Path) -> io::Result<Option<Checkpoint>> {
    Ok(decode(&read_file(vfs, path, FILE_BYTES_MAX)?))
}

/// Decodes a checkpoint; `None` if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut fields = Fields(body.strip_prefix(&MAGIC)?);
    let log_id = LogId::new(fields.take()?);
    let end = Offset::new(fields.u64()?);
    let known_from = ProducerId::new(fields.u64()?)?;
    let mut by_id = BTreeMap::new();
    for _ in 0..fields.u32()? {
        let id = ProducerId::new(fields.u64()?)?;
        by_id.insert(id, fields.producer()?);
    }
    let producers = Producers::new(by_id, known_from);
    fields.0.is_empty().then_some(Checkpoint { log_id, end, producers })
}

/// What is left to decode.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn timestamp(&mut self) -> Option<Timestamp> {
        self.take().map(|bytes| Timestamp::from_millis(i64::from_le_bytes(bytes)))
    }

    fn producer(&mut self) -> Option<Producer> {
        let epoch = ProducerEpoch::new(self.u32()?);
        let last_append = self.timestamp()?;
        let mut batches = VecDeque::new();
        for _ in 0..self.u32()? {
            batches.push_back(Mark {
                sequence: Sequence::new(self.u32()?),
                record_count: self.u32()?,
                base_offset: Offset::new(self.u64()?),
                append_time: self.timestamp()?,
            });
        }
        Some(Producer { epoch, batches, last_append })
    }
}
