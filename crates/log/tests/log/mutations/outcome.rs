//! What becomes of a log: what opening it says, and what can be read and found in it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use taffrail_log::{
    Directory, Found, Known, Log, OpenError, Opened, Read, ReadError, ReadRequest, SequenceError,
};
use taffrail_model::batch::Batches;
use taffrail_model::{Gap, Offset, Timestamp};

use super::image::{History, producer_ids_end};
use crate::given::NOW;
use crate::model::ModelBatch;

/// What becomes of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What lies where, from the log's start to its end.
    pub(super) pieces: Vec<Piece>,
    pub(super) end: u64,
    /// Offsets that are not given out again, as opening says.
    pub(super) skipped: Option<Gap>,
    pub(super) moved_aside: Vec<PathBuf>,
    /// Ranges that opening found damaged or missing.
    pub(super) damage: Vec<(u64, u64)>,
    pub(super) is_read_only: bool,
    /// What is said of the batches of idempotent producers, should they be sent again.
    pub(super) found: Vec<Result<Known, SequenceError>>,
}

/// A part of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The batch that begins here, as it was appended.
    Batch { base: u64 },
    /// Offsets that a read refuses.
    Lost { from: u64, to: u64 },
    /// Offsets that a read passes over.
    Gap { from: u64, to: u64 },
}

impl Outcome {
    /// Opens a log and reads all of it.
    pub(super) fn of(directory: &Directory, history: &History) -> Result<(Log, Self), OpenError> {
        let opened = directory.open_log(history.id, history.config, producer_ids_end())?;
        let Opened { mut log, report } = opened;
        let pieces = read(&log, history, 1 << 20);
        // Once more, one batch at a time, from what is known now.
        assert_eq!(read(&log, history, 1), pieces);
        let damage = report.damage.iter().map(|it| (it.from.get(), it.to.get()));
        let mut outcome = Self {
            pieces,
            end: log.end().get(),
            skipped: report.skipped,
            moved_aside: report.moved_aside,
            damage: damage.collect(),
            is_read_only: log.read_only().is_some(),
            found: Vec::new(),
        };
        outcome.check_times(&log, history);
        outcome.find(&mut log, history);
        Ok((log, outcome))
    }

    /// All but what is said of batches that are sent again.
    pub(super) fn without_memory(&self) -> Self {
        Self { found: Vec::new(), ..self.clone() }
    }

    /// The base offsets of the batches that can be read.
    pub(super) fn readable(&self) -> BTreeSet<u64> {
        let bases = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Batch { base } => Some(*base),
            Piece::Lost { .. } | Piece::Gap { .. } => None,
        });
        bases.collect()
    }

    /// The ranges that a read refuses; those that touch are one.
    pub(super) fn lost(&self) -> Vec<(u64, u64)> {
        joined(self.pieces.iter().filter_map(|piece| match piece {
            Piece::Lost { from, to } => Some((*from, *to)),
            Piece::Batch { .. } | Piece::Gap { .. } => None,
        }))
    }

    pub(super) fn is_lost(&self, offset: u64) -> bool {
        self.lost().iter().any(|(from, to)| (*from..*to).contains(&offset))
    }

    pub(super) fn has_damage(&self) -> bool {
        self.is_read_only || !self.lost().is_empty() || !self.damage.is_empty()
    }

    /// Looking for a time finds the first record that can be read and is late enough.
    #[track_caller]
    fn check_times(&self, log: &Log, history: &History) {
        let readable = self.readable();
        let batches = history.batches.iter().filter(|batch| readable.contains(&batch.base));
        let records: Vec<Found> = batches.flat_map(ModelBatch::records).collect();
        let reader = log.reader();
        for time in [i64::MIN, 3, 5, 6, 8, 20, 31, 78, NOW.as_millis(), NOW.as_millis() + 1] {
            let time = Timestamp::from_millis(time);
            let found = reader.find_timestamp(time, log.end()).expect("it reads");
            let expected = records.iter().find(|record| record.timestamp >= time).copied();
            assert_eq!(found, expected, "at {time}");
        }
    }

    /// Sends each batch of an idempotent producer again: one that can be read, or is lost, is never
    /// taken for new, and one that is not there never for a duplicate.
    #[track_caller]
    fn find(&mut self, log: &mut Log, history: &History) {
        let readable = self.readable();
        for sent in history.batches.iter().filter(|sent| sent.batch.producer.is_some()) {
            let found = log.begin(NOW).find(&sent.batch);
            let (is_there, is_lost) = (readable.contains(&sent.base), self.is_lost(sent.base));
            match found {
                Ok(Known::New) => assert!(!is_there && !is_lost, "{} was appended", sent.base),
                Ok(Known::Duplicate { place, below }) => {
                    assert!(is_there || is_lost, "{} is not there", sent.base);
                    assert!(sent.base < below.get());
                    assert!(place.is_none_or(|place| place.base_offset.get() == sent.base));
                }
                // Nobody knows: the client makes a new producer id.
                Err(SequenceError::Unknown { .. }) => {}
                Err(_) => assert!(!is_there, "{} is there: {found:?}", sent.base),
            }
            self.found.push(found);
        }
    }
}

/// Reads everything in a log; each batch that is read must be one that was appended there.
#[track_caller]
fn read(log: &Log, history: &History, bytes_max: usize) -> Vec<Piece> {
    let reader = log.reader();
    let (mut from, limit) = (reader.start(), reader.end());
    assert_eq!(from, Offset::ZERO, "nothing was ever deleted");
    let mut pieces = Vec::new();
    while from < limit {
        let before = from;
        match reader.read(&ReadRequest { from, limit, bytes_max }) {
            Ok(Read::Batches { bytes, next }) => {
                for found in Batches::received(bytes) {
                    let found = found.expect("what is read are batches");
                    let base = found.header.base_offset;
                    assert_eq!(base, from, "none is passed over");
                    history.at(base.get()).expect("it was appended").check(&found);
                    pieces.push(Piece::Batch { base: base.get() });
                    from = found.header.end_offset();
                }
                assert_eq!(from, next);
            }
            Ok(Read::Gap(gap)) => {
                assert_eq!(gap.from, from);
                pieces.push(Piece::Gap { from: from.get(), to: gap.to.get() });
                from = gap.to;
            }
            Err(ReadError::DataLoss { from: first, to, .. }) => {
                assert_eq!(first, from);
                pieces.push(Piece::Lost { from: from.get(), to: to.get() });
                from = to;
            }
            other => panic!("at {from}: {other:?}"),
        }
        assert!(before < from && from <= limit, "from {before} to {from} of {limit}");
    }
    pieces
}

/// Ranges, ascending; those that touch become one.
pub(super) fn joined(ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<_> = ranges.into_iter().filter(|(from, to)| from < to).collect();
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match joined.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}
