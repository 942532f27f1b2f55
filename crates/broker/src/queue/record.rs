//! A record as a worker gets it: slices of the batch that it was appended in.

use bytes::Bytes;
use taffrail_model::batch::{Batch, Batches, RecordView};
use taffrail_model::{Offset, Timestamp};

/// What a record takes besides what it holds, about.
const RECORD_BYTES: usize = 128;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRecord {
    /// Its place in the partition.
    pub offset: Offset,
    /// When the event happened; where the producer did not say, when it was appended.
    pub timestamp: Timestamp,
    /// What it is about.
    pub key: Option<Bytes>,
    /// What it says.
    pub value: Option<Bytes>,
    /// Names and values beside it, in their order.
    pub headers: Vec<(String, Bytes)>,
}

impl QueueRecord {
    /// What it counts for, in bytes.
    pub fn bytes(&self) -> usize {
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        RECORD_BYTES + length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }

    /// A copy that holds nothing else of the batch.
    pub(super) fn detached(&self) -> Self {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), copy(value)));
        Self {
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.as_ref().map(copy),
            value: self.value.as_ref().map(copy),
            headers: headers.collect(),
        }
    }

    fn from_view(view: &RecordView<'_>, payload: &Bytes) -> Self {
        Self {
            offset: view.offset,
            timestamp: view.timestamp,
            key: view.key.map(|key| payload.slice_ref(key)),
            value: view.value.map(|value| payload.slice_ref(value)),
            headers: view
                .headers()
                .map(|header| (header.name.to_owned(), payload.slice_ref(header.value)))
                .collect(),
        }
    }
}

/// The records of batches that are wanted, by their offsets, in order.
pub(super) fn records_of(
    batches: Bytes,
    is_wanted: impl Fn(u64) -> bool,
) -> Result<Vec<QueueRecord>, String> {
    let mut records = Vec::new();
    for batch in Batches::received(batches) {
        let batch: Batch = batch.map_err(|error| error.to_string())?;
        let batch = batch.open().map_err(|error| error.to_string())?;
        for view in batch.records() {
            let view = view.map_err(|error| error.to_string())?;
            if is_wanted(view.offset.get()) {
                records.push(QueueRecord::from_view(&view, &batch.payload));
            }
        }
    }
    Ok(records)
}
