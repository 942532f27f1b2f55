//! What a producer sends.

use taffrail_model::batch::{HeaderView, RecordFields};
use taffrail_model::{PartitionIndex, Timestamp};

/// A record to send; borrowed, its bytes are copied once, into the batch.
///
/// Where it goes: to the partition it names, else to that of its key, else where the producer's
/// current batch without keys goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    pub(super) fields: RecordFields<'a>,
    pub(super) partition: Option<PartitionIndex>,
}

impl<'a> Record<'a> {
    /// A record that says `value`, without key, headers and timestamp.
    pub fn value(value: &'a [u8]) -> Self {
        Self { fields: RecordFields { value: Some(value), ..Default::default() }, partition: None }
    }

    /// A record about `key` that says nothing: its earlier records are void.
    pub fn tombstone(key: &'a [u8]) -> Self {
        Self { fields: RecordFields { key: Some(key), ..Default::default() }, partition: None }
    }

    /// Sets what it is about.
    pub fn key(mut self, key: &'a [u8]) -> Self {
        self.fields.key = Some(key);
        self
    }

    /// Sets names and values beside it.
    pub fn headers(mut self, headers: &'a [HeaderView<'a>]) -> Self {
        self.fields.headers = headers;
        self
    }

    /// Sets when the event happened; without it, that is when it is appended.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.fields.timestamp = Some(timestamp);
        self
    }

    /// Sets the partition it goes to, whatever its key.
    pub fn partition(mut self, partition: PartitionIndex) -> Self {
        self.partition = Some(partition);
        self
    }
}

impl<'a> From<RecordFields<'a>> for Record<'a> {
    fn from(fields: RecordFields<'a>) -> Self {
        Self { fields, partition: None }
    }
}
