//! What happened, in the order in which the test saw it: JSON lines of invoke, ok, fail, unknown,
//! and of what readers got.
//!
//! Invariant: an `Invoke` is noted before the record leaves, an outcome and a `Read` after they
//! came, so that the order of events is one in which they can have happened.

pub(crate) mod checker;
mod checker_tests;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The reader of what is there in the end.
pub(crate) const LAST_READER: u32 = 0;

/// A record, by who sent it and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct RecordId {
    pub(crate) producer: u32,
    pub(crate) sequence: u64,
}

/// One thing that happened. A place is `topic/partition`, a digest the CRC-32 of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A record is about to be sent.
    Invoke { record: RecordId, place: String, digest: u32 },
    /// It was acknowledged.
    Ok { record: RecordId, offset: u64 },
    /// It was refused: it is surely not there.
    Fail { record: RecordId },
    /// It may or may not be there.
    Unknown { record: RecordId },
    /// A reader got a record; `None` if its value is nobody's.
    Read { reader: u32, place: String, offset: u64, record: Option<RecordId>, digest: u32 },
    /// A reader was told that offsets hold no records.
    Gap { reader: u32, place: String, from: u64, to: u64 },
    /// A reader passed over offsets whose records compaction has removed: of each key a later one stays.
    Superseded { reader: u32, place: String, from: u64, to: u64 },
    /// Records below an offset may be deleted from here on.
    Deletable { place: String, before: u64 },
    /// A reader was told that offsets were deleted.
    Cut { reader: u32, place: String, from: u64, to: u64 },
    /// The last reader has read all of a place.
    End { place: String, start: u64, end: u64 },
    /// What was acknowledged or read in a place, and not synced, may be gone: readers are told of a
    /// gap then. Only in topics that acknowledge before they sync.
    Loss { place: String },
    /// This producer waits for no answers, and its connection may have broken: what it sent before may
    /// come behind what it sends on the next one.
    Unordered { producer: u32 },
    /// For people.
    Note { text: String },
}

/// The events so far. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    events: Arc<Mutex<Vec<Event>>>,
}

impl History {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.add(Event::Note { text: text.into() });
    }

    pub(crate) fn add(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of acknowledged records so far.
    pub(crate) fn acknowledged(&self) -> usize {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| matches!(event, Event::Ok { .. })).count()
    }
}

/// Writes events as JSON lines.
pub(crate) fn write(path: &Path, events: &[Event]) -> io::Result<()> {
    let mut text = String::new();
    for event in events {
        text.push_str(&serde_json::to_string(event)?);
        text.push('\n');
    }
    std::fs::write(path, text)
}

/// Reads what [`write`] wrote.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Event>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Keys that records have, where they have one.
const KEYS: u64 = 30;

/// The key of a record, where it has one.
pub(crate) fn key_of(record: RecordId) -> u64 {
    record.sequence % KEYS
}

/// The value of a record: who it is, and a filling that follows from that.
pub(crate) fn value_of(record: RecordId, bytes: usize) -> Vec<u8> {
    let RecordId { producer, sequence } = record;
    let mut value = format!("{producer} {sequence} ").into_bytes();
    let filling =
        (0..bytes.saturating_sub(value.len())).map(|i| b'a' + ((i as u64 + sequence) % 26) as u8);
    value.extend(filling);
    value
}

/// Who a value says it is.
pub(crate) fn record_of(value: &[u8]) -> Option<RecordId> {
    let mut words = value.splitn(3, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
    let (producer, sequence) = (number()?, number()?);
    Some(RecordId { producer: u32::try_from(producer).ok()?, sequence })
}

/// What a reader got, as an event.
pub(crate) fn read_event(reader: u32, place: String, offset: u64, value: &[u8]) -> Event {
    let (record, digest) = (record_of(value), crc32fast::hash(value));
    Event::Read { reader, place, offset, record, digest }
}
