//! How a state machine's events and snapshots stand in its log.
//!
//! A record an event, its value JSON, its key `event`; a batch is what one command decided. A snapshot
//! is the whole state as JSON, as it was at the record `snapshot-begin`, in as many records as it takes: all
//! but the last have the key `snapshot-part`, the last has `snapshot-end`. Events between them come on top of it.
//! One that has not ended where another begins is void.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use taffrail_log::{NewBatch, Read};
use taffrail_model::Offset;
use taffrail_model::batch::{
    Batch, BatchKind, Batches, Compression, Compressions, RecordFields, RecordSetBuilder,
    records_crc,
};

use super::StateMachine;
use crate::partition::{Partition, PartitionReadError};

const EVENT: &[u8] = b"event";
const SNAPSHOT_BEGIN: &[u8] = b"snapshot-begin";
const SNAPSHOT_PART: &[u8] = b"snapshot-part";
const SNAPSHOT_END: &[u8] = b"snapshot-end";
/// A decision that changed nothing.
const NOTHING: &[u8] = b"nothing";

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Bytes of a part of a snapshot.
const PART_BYTES: usize = 1 << 20;

/// Why a state cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error(transparent)]
    Read(#[from] PartitionReadError),
    #[error(
        "offset {offset} of {topic} cannot be understood: {cause}; was it written by a newer Taffrail?"
    )]
    Record { topic: String, offset: Offset, cause: String },
}

/// What a log says.
#[derive(Debug)]
pub(super) struct Replayed<S> {
    pub(super) machine: S,
    /// The offset of the next event.
    pub(super) next: Offset,
    pub(super) weight: Weight,
    /// Where the last snapshot begins.
    pub(super) snapshot: Option<Offset>,
}

/// What stands in a log, in bytes: the last snapshot, and the events behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) snapshot: u64,
    pub(super) events: u64,
}

/// Reads a state machine's log.
pub(super) async fn replay<S: StateMachine>(
    partition: &Arc<Partition>,
) -> Result<Replayed<S>, JournalError> {
    let mut replay = Replay::<S>::from_the_start();
    let mut next = partition.log_start();
    loop {
        match partition.read(next, READ_BYTES, Compressions::ALL).await? {
            Read::End => {
                let Replay { machine, weight, snapshot, .. } = replay;
                return Ok(Replayed { machine, next, weight, snapshot });
            }
            Read::Gap(gap) => next = gap.to,
            Read::Batches { bytes, next: behind } => {
                for batch in Batches::received(bytes) {
                    let batch = batch.map_err(|error| damaged(partition, next, &error))?;
                    replay.apply(&batch).map_err(|RecordError { offset, cause }| {
                        damaged(partition, offset, &cause)
                    })?;
                }
                next = behind;
            }
        }
    }
}

/// A record that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("offset {offset} cannot be understood: {cause}")]
pub(crate) struct RecordError {
    pub(crate) offset: Offset,
    pub(crate) cause: String,
}

/// A state machine that is being rebuilt from the records of its log.
#[derive(Debug)]
pub(crate) struct Replay<S: StateMachine> {
    pub(crate) machine: S,
    /// Whether the state is known: from the log's start, or from a snapshot on.
    pub(crate) is_known: bool,
    /// A snapshot that has not ended yet.
    begun: Option<Begun<S>>,
    /// Where the last snapshot begins.
    snapshot: Option<Offset>,
    weight: Weight,
}

/// A snapshot that has not ended yet.
#[derive(Debug)]
struct Begun<S: StateMachine> {
    at: Offset,
    parts: Vec<u8>,
    /// What has happened since it began, and its bytes.
    events: Vec<S::Event>,
    event_bytes: u64,
}

impl<S: StateMachine> Replay<S> {
    /// Reads a log from its start.
    pub(crate) fn from_the_start() -> Self {
        Self { is_known: true, ..Self::from_a_snapshot() }
    }

    /// Reads a log from somewhere: events before the first snapshot rest on what is not known.
    pub(crate) fn from_a_snapshot() -> Self {
        let (machine, weight) = (S::default(), Weight::default());
        Self { machine, is_known: false, begun: None, snapshot: None, weight }
    }

    /// Applies the records of a batch.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Result<(), RecordError> {
        let base_offset = batch.header.base_offset;
        for record in batch.records() {
            let record = record.map_err(|error| not_understood(base_offset, &error))?;
            self.apply_record(record.offset, record.key, record.value.unwrap_or_default())?;
        }
        Ok(())
    }

    fn apply_record(
        &mut self,
        offset: Offset,
        key: Option<&[u8]>,
        value: &[u8],
    ) -> Result<(), RecordError> {
        match key {
            Some(SNAPSHOT_BEGIN) => {
                let (parts, events) = (Vec::new(), Vec::new());
                self.begun = Some(Begun { at: offset, parts, events, event_bytes: 0 });
            }
            Some(SNAPSHOT_PART) => {
                if let Some(begun) = &mut self.begun {
                    begun.parts.extend_from_slice(value);
                }
            }
            Some(SNAPSHOT_END) => {
                if let Some(mut begun) = self.begun.take() {
                    begun.parts.extend_from_slice(value);
                    self.end_snapshot(&begun, offset)?;
                }
            }
            Some(EVENT) if self.is_known || self.begun.is_some() => {
                let event = parse(offset, value)?;
                if self.is_known {
                    self.machine.apply(&event);
                    self.weight.events += value.len() as u64;
                }
                if let Some(begun) = &mut self.begun {
                    begun.events.push(event);
                    begun.event_bytes += value.len() as u64;
                }
            }
            Some(EVENT | NOTHING) => {}
            _ => return Err(not_understood(offset, &"unknown kind of record")),
        }
        Ok(())
    }

    /// The state is what it was when the snapshot began, and what has happened since.
    fn end_snapshot(&mut self, begun: &Begun<S>, end: Offset) -> Result<(), RecordError> {
        self.machine = parse(end, &begun.parts)?;
        for event in &begun.events {
            self.machine.apply(event);
        }
        (self.is_known, self.snapshot) = (true, Some(begun.at));
        self.weight = Weight { snapshot: begun.parts.len() as u64, events: begun.event_bytes };
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(offset: Offset, json: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(json).map_err(|error| not_understood(offset, &error))
}

fn not_understood(offset: Offset, cause: &dyn std::fmt::Display) -> RecordError {
    RecordError { offset, cause: cause.to_string() }
}

fn damaged(partition: &Partition, offset: Offset, cause: &dyn std::fmt::Display) -> JournalError {
    JournalError::Record { topic: partition.topic.to_string(), offset, cause: cause.to_string() }
}

pub(super) fn encode_events(events: &[impl Serialize]) -> NewBatch {
    encode(events.iter().map(|event| (EVENT, to_json(event))))
}

/// What changes nothing.
pub(super) fn encode_nothing() -> NewBatch {
    encode([(NOTHING, Vec::new())])
}

/// The batches of a snapshot.
pub(crate) fn encode_snapshot(machine: &impl Serialize) -> Vec<NewBatch> {
    std::iter::once(encode_begin()).chain(encode_parts(&to_json(machine))).collect()
}

/// A snapshot begins: of what all before it led to.
pub(super) fn encode_begin() -> NewBatch {
    encode([(SNAPSHOT_BEGIN, Vec::new())])
}

/// The batches of a snapshot that has begun, of what is to be read in them.
pub(super) fn encode_parts(text: &[u8]) -> impl Iterator<Item = NewBatch> {
    let mut parts = text.chunks(PART_BYTES).peekable();
    std::iter::from_fn(move || {
        let part = parts.next()?;
        let key = if parts.peek().is_some() { SNAPSHOT_PART } else { SNAPSHOT_END };
        Some(encode([(key, part.to_vec())]))
    })
}

pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("events have string keys and no failing serializer")
}

fn encode(records: impl IntoIterator<Item = (&'static [u8], Vec<u8>)>) -> NewBatch {
    let mut builder = RecordSetBuilder::default();
    for (key, value) in records {
        builder.push(&RecordFields {
            key: Some(key),
            value: Some(&value),
            headers: &[],
            timestamp: None,
        });
    }
    let record_count = builder.record_count();
    let payload = builder.finish();
    NewBatch {
        records_crc: records_crc(&payload),
        payload,
        record_count,
        max_timestamp: None,
        has_unstamped: true,
        compression: Compression::None,
        kind: BatchKind::Data,
        producer: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use taffrail_model::Timestamp;

    use super::*;
    use crate::coordinator::Decision;

    /// What was said, one behind the other.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    struct Said(Vec<u32>);

    impl StateMachine for Said {
        type Command = u32;
        type Reply = ();
        type Refusal = ();
        type Event = u32;

        fn decide(&self, command: u32, _now: Timestamp) -> Decision<Self> {
            Ok(((), vec![command]))
        }

        fn apply(&mut self, event: &u32) {
            self.0.push(*event);
        }
    }

    /// A log, and where the last snapshot that has ended begins.
    #[derive(Default)]
    struct Written {
        records: Vec<(&'static [u8], Vec<u8>)>,
        said: Said,
        /// Where one that has not ended began, and what is still to be written of it.
        begun: Option<(usize, Vec<u8>)>,
        snapshot: Option<usize>,
    }

    impl Written {
        /// Says something, begins a snapshot, or writes some bytes of one.
        fn step(&mut self, step: u32) {
            let at = self.records.len();
            match (step % 4, self.begun.take()) {
                (0 | 1, begun) => {
                    self.records.push((EVENT, to_json(&step)));
                    self.said.apply(&step);
                    self.begun = begun;
                }
                (2, _) => {
                    self.records.push((SNAPSHOT_BEGIN, Vec::new()));
                    self.begun = Some((at, to_json(&self.said)));
                }
                (_, Some((began, mut rest))) => {
                    let part: Vec<_> = rest.drain(..rest.len().min(8)).collect();
                    if rest.is_empty() {
                        self.records.push((SNAPSHOT_END, part));
                        self.snapshot = Some(began);
                    } else {
                        self.records.push((SNAPSHOT_PART, part));
                        self.begun = Some((began, rest));
                    }
                }
                (_, None) => self.records.push((NOTHING, Vec::new())),
            }
        }

        fn replay_from(&self, start: usize, mut replay: Replay<Said>) -> Replay<Said> {
            for (index, (key, value)) in self.records.iter().enumerate().skip(start) {
                let applied = replay.apply_record(Offset::new(index as u64), Some(key), value);
                applied.expect("it can be understood");
            }
            replay
        }
    }

    proptest! {
        #[test]
        fn a_state_is_what_was_said_wherever_its_snapshots_stand(
            steps in prop::collection::vec(0_u32..1_000, 0..60),
            chance in 0_usize..60,
        ) {
            let mut written = Written::default();
            for step in steps {
                written.step(step);
            }
            let whole = written.replay_from(0, Replay::from_the_start());
            prop_assert_eq!(&whole.machine, &written.said);
            prop_assert_eq!(whole.snapshot.map(|at| at.get() as usize), written.snapshot);
            // What lies before the last snapshot is not needed.
            let start = chance % (written.records.len() + 1);
            let rest = written.replay_from(start, Replay::from_a_snapshot());
            prop_assert_eq!(rest.is_known, written.snapshot.is_some_and(|at| start <= at));
            if rest.is_known {
                prop_assert_eq!(&rest.machine, &written.said);
                prop_assert_eq!(rest.weight, whole.weight);
            }
        }
    }
}
