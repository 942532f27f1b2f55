//! The recovery points: what is durably known of each log, in one small file.
//!
//! ```text
//! magic 8 | generation 8 | boot id 16 | last seen 8 | entries 4
//! entry: log id 16 | recovery point 8 | leader epoch 4 | reserved end 8 | log start 8 |
//!        first segment 8 | flags 1
//! crc 4
//! ```
//!
//! All little-endian; the flags are given below. There are two copies, each replaced as a whole; the
//! sound one of the higher generation counts. Written at most a second after a change and at a
//! clean stop, and before a log that was there before takes its first write.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use taffrail_model::{LeaderEpoch, LogId, Offset, Timestamp};

use crate::spare::Spare;
use crate::vfs::{Vfs, read_file, replace_file};

/// What a copy begins with.
pub(crate) const MAGIC: [u8; 8] = *b"TAFFRPT1";
pub(crate) const COPIES: [&str; 2] = ["recovery-points.a", "recovery-points.b"];
const FIXED_BYTES: usize = 44;
/// How much older what they say of the time may be than what was told.
const TIME_STEP: Duration = Duration::from_secs(60 * 60);
const ENTRY_BYTES: usize = 53;
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Flags of an entry.
const CLEAN: u8 = 1;
const MAY_HAVE_LOST: u8 = 2;
/// Of a machine that does not say.
const UNKNOWN_BOOT_ID: [u8; 16] = [0; 16];

/// What to do where no copy is sound.
const DAMAGED: &str = "it is damaged, and no copy of it is sound: restore one from a backup; or move both \
     away, and only the segments say what was on disk: in topics of durability=page_cache offsets may \
     then be used twice, and records below a log's start may be back";

/// What is durably known of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The offset below which everything was on disk.
    pub recovery_point: Offset,
    /// The last opening.
    pub leader_epoch: LeaderEpoch,
    /// No offset at or above this was ever given out.
    pub reserved_end: Offset,
    /// Offset of the first record that is kept.
    pub log_start: Offset,
    /// Where the first segment begins that is kept.
    pub first_segment: Offset,
    /// Whether the log was closed after everything was synced.
    pub is_clean: bool,
    /// Whether offsets may have been given out that are gone, and are not skipped yet: the machine was
    /// started anew, a sync failed, or something was about to be cut off.
    pub may_have_lost: bool,
}

/// The recovery points of all logs in a directory.
#[derive(Debug)]
pub(crate) struct Points {
    vfs: Arc<dyn Vfs>,
    directory: PathBuf,
    boot_id: [u8; 16],
    spare: Arc<Spare>,
    /// When the broker was last seen before this opening, if that is known.
    last_seen: Option<Timestamp>,
    state: Mutex<State>,
    /// Held while the copies are written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<LogId, Point>,
    /// What was known of the logs that nobody opened yet, before their epochs were raised.
    unopened: BTreeMap<LogId, Point>,
    /// Grows with each change.
    generation: u64,
    /// The generation that both copies hold.
    durable_generation: u64,
    /// The time that was told last.
    now: Timestamp,
    /// The time that is worth to be written.
    seen: Timestamp,
}

impl Points {
    /// Loads the points, and raises the epoch and takes back the clean mark of every log, durably:
    /// from here on an end without a clean stop is seen as one.
    ///
    /// # Errors
    /// With the file or directory that they are about.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        spare: Arc<Spare>,
        directory: &Path,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let Copy { generation, boot_id: last_boot_id, last_seen, entries: mut unopened } =
            load(vfs.as_ref(), directory)?.unwrap_or_default();
        let boot_id = vfs.boot_id().unwrap_or(UNKNOWN_BOOT_ID);
        if boot_id == UNKNOWN_BOOT_ID || boot_id != last_boot_id {
            let open = unopened.values_mut().filter(|point| !point.is_clean);
            open.for_each(|point| point.may_have_lost = true);
        }
        let entries = unopened.iter().map(|(id, point)| {
            let leader_epoch = point.leader_epoch.next();
            (*id, Point { leader_epoch, is_clean: false, ..*point })
        });
        let state = State {
            entries: entries.collect(),
            unopened,
            generation: generation + 1,
            durable_generation: generation,
            now: last_seen,
            seen: last_seen,
        };
        let points = Self {
            boot_id,
            spare,
            last_seen: (last_seen != Timestamp::default()).then_some(last_seen),
            directory: directory.to_owned(),
            state: Mutex::new(state),
            writing: Mutex::new(()),
            vfs,
        };
        points.persist().map_err(|error| (directory.to_owned(), error))?;
        Ok(points)
    }

    /// The room for when the disk is full.
    pub(crate) fn spare(&self) -> &Spare {
        &self.spare
    }

    /// What is known of a log, from the last run if nobody has opened it in this one.
    pub(crate) fn known(&self, id: LogId) -> Option<Point> {
        let state = self.state();
        state.unopened.get(&id).or_else(|| state.entries.get(&id)).copied()
    }

    /// When the broker was last seen before this opening, if that is known.
    pub(crate) fn last_seen(&self) -> Option<Timestamp> {
        self.last_seen
    }

    /// Takes note of the time of day. It is written with the next change, and by itself now and then.
    pub(crate) fn tell_time(&self, now: Timestamp) {
        let mut state = self.state();
        state.now = now;
        if now.since(state.seen).max(state.seen.since(now)) >= TIME_STEP {
            state.seen = now;
            state.generation += 1;
        }
    }

    /// Notes, durably, that no offset at or above `end` is given out.
    pub(crate) fn reserve(&self, id: LogId, end: Offset) -> io::Result<()> {
        self.change(id, |point| {
            let changed = point.reserved_end < end;
            point.reserved_end = point.reserved_end.max(end);
            changed
        });
        self.persist()
    }

    /// Notes, durably, that a log begins at `start`, in the segment that begins at `first_segment`. If
    /// that fails it may be durable all the same.
    pub(crate) fn start_at(
        &self,
        id: LogId,
        start: Offset,
        first_segment: Offset,
    ) -> io::Result<()> {
        self.change(id, |point| {
            let changed = point.log_start < start || point.first_segment < first_segment;
            point.log_start = point.log_start.max(start);
            point.first_segment = point.first_segment.max(first_segment);
            changed
        });
        self.persist()
    }

    /// Notes a log that was just created, and returns its epoch. That may be on disk late: without an
    /// entry the next opening takes the epoch from the batches, and where there are none, nobody has
    /// seen one.
    pub(crate) fn created(&self, id: LogId) -> LeaderEpoch {
        let leader_epoch = LeaderEpoch::ZERO.next();
        let mut state = self.state();
        state.generation += 1;
        state.entries.insert(id, Point { leader_epoch, ..Point::default() });
        leader_epoch
    }

    /// Notes that a log is open in an epoch above `epoch_seen` and above that of every opening
    /// before, and returns the epoch. It is durable on return, and the clean mark taken back.
    pub(crate) fn opened(
        &self,
        id: LogId,
        epoch_seen: LeaderEpoch,
        log_start: Offset,
        recovery_point: Offset,
        may_have_lost: bool,
    ) -> io::Result<LeaderEpoch> {
        let (epoch, is_raised) = {
            let mut state = self.state();
            let before = state.entries.get(&id).copied().unwrap_or_default();
            let is_first = state.unopened.remove(&id).is_some();
            let is_raised = !is_first || before.leader_epoch <= epoch_seen;
            let seen = before.leader_epoch.max(epoch_seen);
            let point = Point {
                leader_epoch: if is_raised { seen.next() } else { before.leader_epoch },
                is_clean: false,
                may_have_lost,
                log_start: before.log_start.max(log_start),
                recovery_point: before.recovery_point.max(recovery_point),
                ..before
            };
            state.generation += u64::from(point != before);
            state.entries.insert(id, point);
            (point.leader_epoch, is_raised)
        };
        // All else may wait: to have it on disk late only means to check too much.
        if is_raised {
            self.persist()?;
        }
        Ok(epoch)
    }

    /// Notes that everything below `end` is on disk.
    pub(crate) fn reached(&self, id: LogId, end: Offset) {
        self.change(id, |point| {
            let changed = point.recovery_point < end;
            point.recovery_point = point.recovery_point.max(end);
            changed
        });
    }

    /// Notes that a log was closed with everything below `end` on disk and nothing above it.
    pub(crate) fn closed(&self, id: LogId, end: Offset) {
        self.change(id, |point| {
            point.recovery_point = end;
            point.is_clean = true;
            true
        });
    }

    /// Notes that what was written to a log may be gone, and read before. An opening that does not come
    /// to its end leaves that to the next one.
    pub(crate) fn may_have_lost(&self, id: LogId) {
        if let Some(point) = self.state().unopened.get_mut(&id) {
            point.may_have_lost = true;
        }
        self.change(id, |point| !mem::replace(&mut point.may_have_lost, true));
    }

    /// Forgets a log.
    pub(crate) fn removed(&self, id: LogId) {
        let mut state = self.state();
        state.unopened.remove(&id);
        if state.entries.remove(&id).is_some() {
            state.generation += 1;
        }
    }

    /// Makes every change so far durable. Callers that meet share the work.
    pub(crate) fn persist(&self) -> io::Result<()> {
        let wanted = self.state().generation;
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, bytes) = {
            let state = self.state();
            if state.durable_generation >= wanted {
                return Ok(());
            }
            (state.generation, encode(state.generation, self.boot_id, state.now, &state.entries))
        };
        for name in COPIES {
            let path = self.directory.join(name);
            self.spare.lend(|| replace_file(self.vfs.as_ref(), &path, &bytes))?;
        }
        self.state().durable_generation = generation;
        Ok(())
    }

    fn change(&self, id: LogId, change: impl FnOnce(&mut Point) -> bool) {
        let mut state = self.state();
        // A log that was deleted is not noted again by somebody who still has it open.
        if state.entries.get_mut(&id).is_some_and(change) {
            state.generation += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the points of logs that nobody has opened in this directory, durably.
pub(crate) fn write_points(
    vfs: &dyn Vfs,
    directory: &Path,
    entries: &BTreeMap<LogId, Point>,
    now: Timestamp,
) -> io::Result<()> {
    let bytes = encode(1, UNKNOWN_BOOT_ID, now, entries);
    COPIES.iter().try_for_each(|name| replace_file(vfs, &directory.join(name), &bytes))
}

/// The newest sound copy. Each copy holds all that was promised to be durable, so one is enough;
/// without one, a copy that is there and cannot be read or understood is an error, and not the same as
/// none.
pub(crate) fn load(vfs: &dyn Vfs, directory: &Path) -> Result<Option<Copy>, (PathBuf, io::Error)> {
    let mut newest: Option<Copy> = None;
    let mut unreadable = None;
    for name in COPIES {
        let path = directory.join(name);
        match read(vfs, &path) {
            Ok(bytes) => match decode(&bytes) {
                Some(copy) => {
                    newest = newest.into_iter().chain([copy]).max_by_key(|copy| copy.generation);
                }
                None => unreadable = Some((path, io::Error::other(DAMAGED))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unreadable = Some((path, error)),
        }
    }
    match (newest, unreadable) {
        (None, Some(error)) => Err(error),
        (newest, _) => Ok(newest),
    }
}

/// Reads a copy, whatever it holds.
pub(crate) fn read(vfs: &dyn Vfs, path: &Path) -> io::Result<Bytes> {
    read_file(vfs, path, FILE_BYTES_MAX)
}

fn encode(
    generation: u64,
    boot_id: [u8; 16],
    last_seen: Timestamp,
    entries: &BTreeMap<LogId, Point>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIXED_BYTES + entries.len() * ENTRY_BYTES + 4);
    bytes.extend(MAGIC);
    bytes.extend(generation.to_le_bytes());
    bytes.extend(boot_id);
    bytes.extend(last_seen.as_millis().to_le_bytes());
    bytes.extend((entries.len() as u32).to_le_bytes());
    for (id, point) in entries {
        bytes.extend(id.bytes());
        bytes.extend(point.recovery_point.get().to_le_bytes());
        bytes.extend(point.leader_epoch.get().to_le_bytes());
        bytes.extend(point.reserved_end.get().to_le_bytes());
        bytes.extend(point.log_start.get().to_le_bytes());
        bytes.extend(point.first_segment.get().to_le_bytes());
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let lost = flag(point.may_have_lost, MAY_HAVE_LOST);
        bytes.push(flag(point.is_clean, CLEAN) | lost);
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// What a copy holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Grows with each change.
    pub(crate) generation: u64,
    /// The start of the machine in which it was written.
    pub(crate) boot_id: [u8; 16],
    /// When the broker was last seen; 1970 if it never told the time.
    pub(crate) last_seen: Timestamp,
    /// What is known of each log.
    pub(crate) entries: BTreeMap<LogId, Point>,
}

/// Decodes a copy; `None` if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Copy> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (fixed, entries) = body.split_at_checked(FIXED_BYTES)?;
    let count = u32::from_le_bytes(*fixed.last_chunk()?) as usize;
    if !fixed.starts_with(&MAGIC) || entries.len() != count * ENTRY_BYTES {
        return None;
    }
    let generation = get_u64(fixed, 8)?;
    let boot_id = *fixed.get(16..)?.first_chunk()?;
    let entries = entries.chunks_exact(ENTRY_BYTES).map(|entry| {
        let point = Point {
            recovery_point: Offset::new(get_u64(entry, 16)?),
            leader_epoch: LeaderEpoch::new(u32::from_le_bytes(*entry.get(24..)?.first_chunk()?)),
            reserved_end: Offset::new(get_u64(entry, 28)?),
            log_start: Offset::new(get_u64(entry, 36)?),
            first_segment: Offset::new(get_u64(entry, 44)?),
            is_clean: *entry.last()? & CLEAN != 0,
            may_have_lost: *entry.last()? & MAY_HAVE_LOST != 0,
        };
        Some((LogId::new(*entry.first_chunk()?), point))
    });
    let last_seen = Timestamp::from_millis(get_u64(fixed, 32)? as i64);
    Some(Copy { generation, boot_id, last_seen, entries: entries.collect::<Option<_>>()? })
}

fn get_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_points_are_not_believed() {
        let point = Point {
            recovery_point: Offset::new(5),
            leader_epoch: LeaderEpoch::new(2),
            reserved_end: Offset::new(1 << 20),
            log_start: Offset::new(2),
            first_segment: Offset::new(1),
            is_clean: true,
            may_have_lost: true,
        };
        let entries = BTreeMap::from([(LogId::new([1; 16]), point)]);
        let last_seen = Timestamp::from_millis(77);
        let bytes = encode(9, [3; 16], last_seen, &entries);
        let copy = Copy { generation: 9, boot_id: [3; 16], last_seen, entries };
        assert_eq!(decode(&bytes), Some(copy));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit} went unnoticed");
        }
    }
}
