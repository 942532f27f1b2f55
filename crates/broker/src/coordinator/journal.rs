//! How a state machine's events and snapshots stand in its log.
//!
//! A record an event, its value JSON, its key `event`; a batch is what one command decided. A snapshot
//! is the whole state as JSON, in as many records as it takes: all but the last have the key
//! `snapshot-part`, the last has `snapshot`. What stands between them makes the parts before it void.

use std::sync::Arc;

use serde::Serialize;
use taffrail_log::{NewBatch, Read};
use taffrail_model::Offset;
use taffrail_model::batch::{
    Batch, BatchKind, Batches, Compression, Compressions, RecordFields, RecordSetBuilder,
    RecordView, records_crc,
};

use super::StateMachine;
use crate::partition::{Partition, PartitionReadError};

const EVENT: &[u8] = b"event";
const SNAPSHOT_PART: &[u8] = b"snapshot-part";
const SNAPSHOT: &[u8] = b"snapshot";
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
pub(crate) struct Replay<S> {
    pub(crate) machine: S,
    /// Whether the state is known: from the log's start, or from a snapshot on.
    pub(crate) is_known: bool,
    /// The parts of a snapshot that has not ended yet.
    parts: Vec<u8>,
    /// Where these begin.
    begun: Option<Offset>,
    /// Where the last snapshot begins.
    snapshot: Option<Offset>,
    weight: Weight,
}

impl<S: StateMachine> Replay<S> {
    /// Reads a log from its start.
    pub(crate) fn from_the_start() -> Self {
        Self { is_known: true, ..Self::from_a_snapshot() }
    }

    /// Reads a log from somewhere: events before the first snapshot rest on what is not known.
    pub(crate) fn from_a_snapshot() -> Self {
        let (machine, parts, weight) = (S::default(), Vec::new(), Weight::default());
        Self { machine, is_known: false, parts, begun: None, snapshot: None, weight }
    }

    /// Applies the records of a batch.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Result<(), RecordError> {
        let base_offset = batch.header.base_offset;
        for record in batch.records() {
            let record = record.map_err(|error| not_understood(base_offset, &error))?;
            self.apply_record(&record)?;
        }
        Ok(())
    }

    fn apply_record(&mut self, record: &RecordView<'_>) -> Result<(), RecordError> {
        let value = record.value.unwrap_or_default();
        let (mut parts, begun) = (std::mem::take(&mut self.parts), self.begun.take());
        match record.key {
            Some(SNAPSHOT_PART) => {
                parts.extend_from_slice(value);
                (self.parts, self.begun) = (parts, begun.or(Some(record.offset)));
            }
            Some(SNAPSHOT) => {
                parts.extend_from_slice(value);
                self.machine = parse(record, &parts)?;
                (self.is_known, self.snapshot) = (true, begun.or(Some(record.offset)));
                self.weight = Weight { snapshot: parts.len() as u64, events: 0 };
            }
            Some(EVENT) if self.is_known => {
                self.machine.apply(&parse(record, value)?);
                self.weight.events += value.len() as u64;
            }
            Some(EVENT | NOTHING) => {}
            _ => return Err(not_understood(record.offset, &"unknown kind of record")),
        }
        Ok(())
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    record: &RecordView<'_>,
    json: &[u8],
) -> Result<T, RecordError> {
    serde_json::from_slice(json).map_err(|error| not_understood(record.offset, &error))
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

/// The batches of a snapshot: they must lie behind one another.
pub(crate) fn encode_snapshot(machine: &impl Serialize) -> Vec<NewBatch> {
    let json = to_json(machine);
    let parts = json.chunks(PART_BYTES).collect::<Vec<_>>();
    let count = parts.len();
    let key = |index| if index + 1 == count { SNAPSHOT } else { SNAPSHOT_PART };
    parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| encode([(key(index), part.to_vec())]))
        .collect()
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
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
