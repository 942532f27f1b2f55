//! Decides whether a batch of an idempotent producer is the next one, or one that is there already.
//!
//! Pure: time comes in as an argument.

use std::collections::{BTreeMap, VecDeque};

use taffrail_model::batch::BatchHeader;
use taffrail_model::{
    Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence, Timestamp, limits,
};

use crate::batch::Appended;

/// Of all producers, the part that goes when there are too many.
const FORGOTTEN_SHARE: usize = 8;

/// What a log remembers of idempotent producers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    /// Number of batches that are remembered, of all of them.
    batches: usize,
    /// Whoever is below this and not remembered may have been forgotten.
    known_from: ProducerId,
}

/// What is remembered of one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) epoch: ProducerEpoch,
    /// Its last batches in this epoch, in order.
    pub(crate) batches: VecDeque<Mark>,
    /// When its last one was appended.
    pub(crate) last_append: Timestamp,
}

/// A batch that a producer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) sequence: Sequence,
    pub(crate) record_count: u32,
    pub(crate) base_offset: Offset,
    pub(crate) append_time: Timestamp,
}

/// Whether a batch is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is not.
    New,
    /// It is.
    Duplicate {
        /// Where, if that is remembered.
        place: Option<Appended>,
        /// The offset below which it is.
        below: Offset,
    },
}

/// Why a batch of an idempotent producer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// What should precede it is not there.
    #[error(
        "sequence {found} of producer {id} where {expected} is next: something that it sent before \
         is missing; make a new producer id, and begin at sequence 0"
    )]
    Gap {
        /// The producer.
        id: ProducerId,
        /// The next sequence.
        expected: Sequence,
        /// What the batch begins with.
        found: Sequence,
    },
    /// Somebody has its identity in a later epoch.
    #[error(
        "epoch {found} of producer {id} is over, epoch {current} has begun: stop this producer"
    )]
    Fenced {
        /// The producer.
        id: ProducerId,
        /// The epoch that has begun.
        current: ProducerEpoch,
        /// The batch's.
        found: ProducerEpoch,
    },
    /// Nothing is remembered of it, so nobody can say whether the batch is in the log.
    #[error(
        "the partition remembers nothing of producer {id}: make a new producer id, and begin at \
         sequence 0"
    )]
    Unknown {
        /// The producer.
        id: ProducerId,
    },
}

impl Default for Producers {
    /// Of an empty log.
    fn default() -> Self {
        Self::new(BTreeMap::new(), ProducerId::FIRST)
    }
}

impl Producers {
    pub(super) fn new(by_id: BTreeMap<ProducerId, Producer>, known_from: ProducerId) -> Self {
        let batches = by_id.values().map(|producer| producer.batches.len()).sum();
        Self { by_id, batches, known_from }
    }

    pub(crate) fn by_id(&self) -> &BTreeMap<ProducerId, Producer> {
        &self.by_id
    }

    pub(crate) fn known_from(&self) -> ProducerId {
        self.known_from
    }

    /// The latest producer that anything is known of: one that is remembered, or was forgotten.
    pub(crate) fn last(&self) -> Option<ProducerId> {
        let forgotten = Some(self.known_from).filter(|id| *id != ProducerId::LAST);
        self.by_id.last_key_value().map(|(id, _)| *id).max(forgotten)
    }

    /// Number of producers that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a batch is the next one of its producer, or is there already.
    pub(crate) fn find(
        &mut self,
        stamp: &ProducerStamp,
        record_count: u32,
        now: Timestamp,
    ) -> Result<Known, SequenceError> {
        let ProducerStamp { id, epoch, sequence } = *stamp;
        self.expire(id, now);
        let Some(producer) = self.by_id.get(&id) else {
            let is_first = sequence == Sequence::ZERO && self.known_from <= id;
            return if is_first { Ok(Known::New) } else { Err(SequenceError::Unknown { id }) };
        };
        if epoch < producer.epoch {
            let current = producer.epoch;
            return Err(SequenceError::Fenced { id, current, found: epoch });
        }
        let is_raised = producer.epoch < epoch;
        let expected = if is_raised { Sequence::ZERO } else { producer.next() };
        if sequence == expected {
            return Ok(Known::New);
        }
        let duplicate = if is_raised { None } else { producer.duplicate(sequence, record_count) };
        duplicate.ok_or(SequenceError::Gap { id, expected, found: sequence })
    }

    /// Takes note of a batch that is being appended. Nothing of its producer is forgotten for it, since
    /// it may have to be taken back: see [`Self::trim`].
    pub(crate) fn note(&mut self, stamp: &ProducerStamp, mark: Mark) {
        let is_new = !self.by_id.contains_key(&stamp.id);
        if is_new && self.by_id.len() >= limits::PARTITION_PRODUCERS_MAX {
            self.make_room();
        }
        let producer = self.by_id.entry(stamp.id).or_default();
        self.batches -= producer.batches.len();
        if producer.epoch != stamp.epoch {
            producer.batches.clear();
            producer.epoch = stamp.epoch;
        }
        producer.batches.push_back(mark);
        producer.last_append = mark.append_time;
        self.batches += producer.batches.len();
    }

    /// Forgets the oldest batches of a producer, of which more are remembered than should be; only the
    /// fewest are kept where `is_crowded`.
    pub(crate) fn trim(&mut self, id: ProducerId, is_crowded: bool) {
        let is_full = is_crowded || self.batches > limits::PARTITION_BATCHES_MAX;
        let batches_max =
            if is_full { limits::PRODUCER_BATCHES_MIN } else { limits::PRODUCER_BATCHES_MAX };
        if let Some(producer) = self.by_id.get_mut(&id) {
            let excess = producer.batches.len().saturating_sub(batches_max);
            producer.batches.drain(..excess);
            self.batches -= excess;
        }
    }

    /// Takes note of a batch that is in the log.
    pub(crate) fn note_header(&mut self, header: &BatchHeader) {
        let Some(stamp) = &header.producer else { return };
        let mark = Mark {
            sequence: stamp.sequence,
            record_count: header.last_offset_delta.saturating_add(1),
            base_offset: header.base_offset,
            append_time: header.append_time,
        };
        self.note(stamp, mark);
        self.trim(stamp.id, false);
    }

    /// Number of batches that are remembered.
    pub(crate) fn batches(&self) -> usize {
        self.batches
    }

    /// Whoever is not below `ids_end` was never made before, and so cannot have been forgotten.
    pub(crate) fn know_from(&mut self, ids_end: ProducerId) {
        self.known_from = self.known_from.min(ids_end);
    }

    /// Takes back what was noted of batches at and above `end`, which are not in the log after all.
    pub(crate) fn cut(&mut self, end: Offset) {
        for producer in self.by_id.values_mut() {
            while producer.batches.back().is_some_and(|mark| end <= mark.base_offset) {
                producer.batches.pop_back();
                self.batches -= 1;
            }
        }
    }

    /// Forgets everybody; whoever is below `id` was there before.
    pub(crate) fn forget_all(&mut self, id: ProducerId) {
        self.by_id.clear();
        self.batches = 0;
        self.forget_below(id);
    }

    /// From now on whoever is below `id` and not remembered may have been forgotten.
    fn forget_below(&mut self, id: ProducerId) {
        self.known_from = self.known_from.max(id);
    }

    fn expire(&mut self, id: ProducerId, now: Timestamp) {
        let is_over =
            |producer: &Producer| now.since(producer.last_append) >= limits::PRODUCER_EXPIRY;
        if self.by_id.get(&id).is_some_and(is_over) {
            self.forget(id);
        }
    }

    /// Forgets those that have been silent for longest.
    fn make_room(&mut self) {
        let mut silent: Vec<_> =
            self.by_id.iter().map(|(id, producer)| (producer.last_append, *id)).collect();
        let count = (silent.len() / FORGOTTEN_SHARE).max(1);
        silent.select_nth_unstable(count - 1);
        for (_, id) in silent.into_iter().take(count) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ProducerId) {
        let forgotten = self.by_id.remove(&id);
        self.batches -= forgotten.map_or(0, |producer| producer.batches.len());
        // An id comes from the disk, or from a client: it may be the last there is.
        self.forget_below(ProducerId::new(id.get().saturating_add(1)).unwrap_or(ProducerId::LAST));
    }
}

impl Producer {
    /// The sequence that its next batch begins with.
    fn next(&self) -> Sequence {
        self.batches.back().map_or(Sequence::ZERO, Mark::next)
    }

    /// The batch that was appended as this one, if it was.
    fn duplicate(&self, sequence: Sequence, record_count: u32) -> Option<Known> {
        let same = |mark: &&Mark| mark.sequence == sequence && mark.record_count == record_count;
        if let Some(mark) = self.batches.iter().rev().find(same) {
            let place = mark.place();
            return Some(Known::Duplicate { place: Some(place), below: place.end_offset });
        }
        let oldest = self.batches.front()?;
        let is_older = sequence.is_before(oldest.sequence)
            && !oldest.sequence.is_before(sequence.advance(record_count));
        is_older.then_some(Known::Duplicate { place: None, below: oldest.base_offset })
    }
}

impl Mark {
    fn next(&self) -> Sequence {
        self.sequence.advance(self.record_count)
    }

    fn place(&self) -> Appended {
        Appended {
            base_offset: self.base_offset,
            end_offset: self.base_offset.advance(u64::from(self.record_count)),
            append_time: self.append_time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn stamp(id: u64, epoch: u32, sequence: u32) -> ProducerStamp {
        ProducerStamp {
            id: ProducerId::new(id).expect("not 0"),
            epoch: ProducerEpoch::new(epoch),
            sequence: Sequence::new(sequence),
        }
    }

    /// Appends batches of a producer: their sequences and record counts, at the offsets that follow.
    fn append(producers: &mut Producers, id: u64, epoch: u32, batches: &[(u32, u32)]) {
        for (sequence, record_count) in batches {
            let stamp = stamp(id, epoch, *sequence);
            let known = producers.find(&stamp, *record_count, NOW);
            assert_eq!(known, Ok(Known::New), "{stamp:?}");
            let mark = Mark {
                sequence: stamp.sequence,
                record_count: *record_count,
                base_offset: Offset::new(u64::from(*sequence)),
                append_time: NOW,
            };
            producers.note(&stamp, mark);
            producers.trim(stamp.id, false);
        }
    }

    /// What is said of a batch: `new`, `at OFFSET`, `below OFFSET`, `gap`, `fenced`, `unknown`.
    fn said(producers: &mut Producers, stamp: ProducerStamp, records: u32) -> String {
        match producers.find(&stamp, records, NOW) {
            Ok(Known::New) => "new".into(),
            Ok(Known::Duplicate { place: Some(place), .. }) => format!("at {}", place.base_offset),
            Ok(Known::Duplicate { place: None, below }) => format!("below {below}"),
            Err(SequenceError::Gap { .. }) => "gap".into(),
            Err(SequenceError::Fenced { .. }) => "fenced".into(),
            Err(SequenceError::Unknown { .. }) => "unknown".into(),
        }
    }

    #[test]
    fn sequences_wrap_behind_the_last_one() {
        let mut producers = Producers::default();
        let almost = u32::MAX - 4;
        append(&mut producers, 1, 0, &[(0, almost), (almost, 3), (u32::MAX - 1, 4), (2, 5)]);
        for (sequence, records, expected) in [
            (7, 1, "new"),
            (2, 5, "at 2"),
            (u32::MAX - 1, 4, "at 4294967294"),
            (almost, 3, "at 4294967291"),
            (3, 4, "gap"),
            (8, 1, "gap"),
        ] {
            assert_eq!(
                said(&mut producers, stamp(1, 0, sequence), records),
                expected,
                "{sequence}"
            );
        }
    }

    #[test]
    fn what_is_older_than_what_is_remembered_is_a_duplicate_without_a_place() {
        let mut producers = Producers::default();
        let count = limits::PRODUCER_BATCHES_MAX as u32 + 10;
        let batches: Vec<_> = (0..count).map(|batch| (2 * batch, 2)).collect();
        append(&mut producers, 1, 0, &batches);
        assert_eq!(said(&mut producers, stamp(1, 0, 18), 2), "below 20");
        assert_eq!(said(&mut producers, stamp(1, 0, 20), 2), "at 20");
        assert_eq!(said(&mut producers, stamp(1, 0, 18), 3), "gap", "half of it would be new");
    }

    #[test]
    fn with_many_producers_fewer_batches_of_each_are_remembered() {
        let mut producers = Producers::default();
        let each = limits::PRODUCER_BATCHES_MAX as u32;
        let batches: Vec<_> = (0..each).map(|batch| (batch, 1)).collect();
        let busy = (limits::PARTITION_BATCHES_MAX / limits::PRODUCER_BATCHES_MAX) as u64;
        for id in 1..=2 * busy {
            append(&mut producers, id, 0, &batches);
        }
        let oldest = each - limits::PRODUCER_BATCHES_MIN as u32;
        let (first, last) = (busy / 2, 2 * busy);
        assert_eq!(said(&mut producers, stamp(first, 0, 0), 1), "at 0");
        assert_eq!(said(&mut producers, stamp(last, 0, oldest), 1), format!("at {oldest}"));
        assert_eq!(said(&mut producers, stamp(last, 0, oldest - 1), 1), format!("below {oldest}"));
        let most = limits::PARTITION_BATCHES_MAX
            + busy as usize * limits::PRODUCER_BATCHES_MIN
            + limits::PRODUCER_BATCHES_MAX;
        assert!(producers.batches <= most, "{} are remembered", producers.batches);
        let counted: usize = producers.by_id.values().map(|it| it.batches.len()).sum();
        assert_eq!(producers.batches, counted);
    }

    #[test]
    fn whoever_is_forgotten_is_never_taken_for_somebody_new() {
        let mut producers = Producers::default();
        let many = limits::PARTITION_PRODUCERS_MAX as u64;
        (1..=many).for_each(|id| append(&mut producers, id, 0, &[(0, 1)]));
        assert_eq!(said(&mut producers, stamp(1, 0, 0), 1), "at 0");
        append(&mut producers, many + 1, 0, &[(0, 1)]);
        let forgotten = many / FORGOTTEN_SHARE as u64;
        for id in 1..=forgotten {
            assert_eq!(said(&mut producers, stamp(id, 0, 0), 1), "unknown");
        }
        assert_eq!(said(&mut producers, stamp(forgotten + 1, 0, 0), 1), "at 0");
        assert_eq!(said(&mut producers, stamp(many + 2, 0, 0), 1), "new");
    }

    #[test]
    fn whoever_is_silent_for_long_is_forgotten() {
        let mut producers = Producers::default();
        append(&mut producers, 5, 0, &[(0, 1)]);
        let later = NOW.plus(limits::PRODUCER_EXPIRY);
        let early = Timestamp::from_millis(later.as_millis() - 1);
        assert!(matches!(producers.find(&stamp(5, 0, 1), 1, early), Ok(Known::New)));
        for sequence in [0, 1] {
            let found = producers.find(&stamp(5, 0, sequence), 1, later);
            assert!(matches!(found, Err(SequenceError::Unknown { .. })), "{found:?}");
        }
        assert_eq!(said(&mut producers, stamp(4, 0, 0), 1), "unknown");
        assert_eq!(said(&mut producers, stamp(6, 0, 0), 1), "new");
    }

    #[test]
    fn even_the_last_id_there_is_can_be_forgotten() {
        let mut producers = Producers::default();
        append(&mut producers, u64::MAX, 0, &[(0, 1)]);
        let later = NOW.plus(limits::PRODUCER_EXPIRY);
        let found = producers.find(&stamp(u64::MAX, 0, 1), 1, later);
        assert!(matches!(found, Err(SequenceError::Unknown { .. })), "{found:?}");
        assert_eq!(said(&mut producers, stamp(7, 0, 0), 1), "unknown");
    }

    #[test]
    fn what_is_not_in_the_log_after_all_is_taken_back() {
        let mut producers = Producers::default();
        append(&mut producers, 1, 0, &[(0, 3), (3, 3), (6, 3)]);
        append(&mut producers, 2, 0, &[(8, 1)].map(|(_, records)| (0, records)));
        producers.cut(Offset::new(3));
        assert_eq!(said(&mut producers, stamp(1, 0, 3), 3), "new");
        assert_eq!(said(&mut producers, stamp(1, 0, 6), 3), "gap");
        assert_eq!(said(&mut producers, stamp(1, 0, 0), 3), "at 0");
        let counted: usize = producers.by_id.values().map(|it| it.batches.len()).sum();
        assert_eq!(producers.batches, counted);
    }

    #[test]
    fn what_is_taken_back_costs_nobody_what_was_before() {
        let mut producers = Producers::default();
        append(&mut producers, 1, 0, &[(0, 1), (1, 1)]);
        let many = 2 * limits::PRODUCER_BATCHES_MAX as u32;
        for sequence in 2..many {
            let mark = Mark {
                sequence: Sequence::new(sequence),
                record_count: 1,
                base_offset: Offset::new(u64::from(sequence)),
                append_time: NOW,
            };
            producers.note(&stamp(1, 0, sequence), mark);
        }
        producers.cut(Offset::new(2));
        producers.trim(ProducerId::FIRST, false);
        assert_eq!(said(&mut producers, stamp(1, 0, 2), 1), "new");
        assert_eq!(said(&mut producers, stamp(1, 0, 0), 1), "at 0");
    }

    #[test]
    fn an_epoch_ends_when_a_later_one_begins() {
        let mut producers = Producers::default();
        append(&mut producers, 1, 3, &[(0, 1), (1, 1)]);
        assert_eq!(said(&mut producers, stamp(1, 2, 2), 1), "fenced");
        assert_eq!(said(&mut producers, stamp(1, 4, 2), 1), "gap");
        assert_eq!(said(&mut producers, stamp(1, 4, 0), 1), "new");
        append(&mut producers, 1, 4, &[(0, 1)]);
        assert_eq!(said(&mut producers, stamp(1, 3, 2), 1), "fenced");
        assert_eq!(said(&mut producers, stamp(1, 4, 0), 1), "at 0");
    }
}
