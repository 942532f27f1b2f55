//! How a state machine's events and snapshots stand in its log.
//!
//! A record an event, its value JSON, its key `event`; a snapshot is one record with the key
//! `snapshot` and the whole state as its value. A batch is what one command decided.

use std::sync::Arc;

use serde::Serialize;
use taffrail_log::{NewBatch, Read};
use taffrail_model::Offset;
use taffrail_model::batch::{
    Batch, BatchKind, Batches, RecordFields, RecordSetBuilder, RecordView, records_crc,
};

use super::StateMachine;
use crate::partition::{Partition, PartitionReadError};

const EVENT: &[u8] = b"event";
const SNAPSHOT: &[u8] = b"snapshot";
/// A decision that changed nothing.
const NOTHING: &[u8] = b"nothing";

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

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

/// Reads a state machine's log; also says where it ends, and how many events follow the snapshot.
pub(super) async fn replay<S: StateMachine>(
    partition: &Arc<Partition>,
) -> Result<(S, Offset, u64), JournalError> {
    let mut machine = S::default();
    let mut events = 0;
    let mut next = partition.log_start();
    loop {
        match partition.read(next, READ_BYTES).await? {
            Read::End => return Ok((machine, next, events)),
            Read::Gap(gap) => next = gap.to,
            Read::Batches { bytes, next: behind } => {
                for batch in Batches::received(bytes) {
                    let batch = batch.map_err(|error| damaged(partition, next, &error))?;
                    let applied = apply_batch(&batch, &mut machine).map_err(
                        |RecordError { offset, cause }| damaged(partition, offset, &cause),
                    )?;
                    let before = if applied.has_snapshot { 0 } else { events };
                    events = before + applied.events;
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

/// What a batch did to a state machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    /// Whether there was a snapshot, so that nothing before counts.
    pub(crate) has_snapshot: bool,
    /// Events behind the last snapshot, or all.
    events: u64,
}

/// Applies the records of a batch.
pub(crate) fn apply_batch<S: StateMachine>(
    batch: &Batch,
    machine: &mut S,
) -> Result<Applied, RecordError> {
    let mut applied = Applied::default();
    let base_offset = batch.header.base_offset;
    for record in batch.records() {
        let record = record.map_err(|error| not_understood(base_offset, &error))?;
        match record.key {
            Some(SNAPSHOT) => {
                *machine = parse(&record)?;
                applied = Applied { has_snapshot: true, events: 0 };
            }
            Some(EVENT) => {
                machine.apply(&parse(&record)?);
                applied.events += 1;
            }
            Some(NOTHING) => {}
            _ => return Err(not_understood(record.offset, &"unknown kind of record")),
        }
    }
    Ok(applied)
}

fn parse<T: serde::de::DeserializeOwned>(record: &RecordView<'_>) -> Result<T, RecordError> {
    serde_json::from_slice(record.value.unwrap_or_default())
        .map_err(|error| not_understood(record.offset, &error))
}

fn not_understood(offset: Offset, cause: &dyn std::fmt::Display) -> RecordError {
    RecordError { offset, cause: cause.to_string() }
}

fn damaged(partition: &Partition, offset: Offset, cause: &dyn std::fmt::Display) -> JournalError {
    JournalError::Record { topic: partition.topic.to_string(), offset, cause: cause.to_string() }
}

pub(super) fn encode_events(events: &[impl Serialize]) -> NewBatch {
    if events.is_empty() {
        return encode([(NOTHING, Vec::new())]);
    }
    encode(events.iter().map(|event| (EVENT, to_json(event))))
}

pub(crate) fn encode_snapshot(machine: &impl Serialize) -> NewBatch {
    encode([(SNAPSHOT, to_json(machine))])
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
        kind: BatchKind::Data,
        producer: None,
    }
}
