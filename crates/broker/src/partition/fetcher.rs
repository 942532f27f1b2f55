//! Reads a partition, never beyond the high watermark: from memory where the tail is, on a reader
//! thread otherwise.

use bytes::{Bytes, BytesMut};
use taffrail_log::{Found, LogReader, Read, ReadError, ReadRequest, Unread};
use taffrail_model::batch::{Batches, Compressions, OpenError, Salt};
use taffrail_model::{Offset, Timestamp};

use super::{LogState, Partition, Unopened};
use crate::metrics::add;

/// Why nothing can be read from a partition.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartitionReadError {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error("the partition is being checked: retry in a moment")]
    Recovering,
    #[error("the partition is offline: {cause}")]
    Offline { cause: String },
    #[error("offsets {from} to {to} are gone: {cause}")]
    Gone { from: Offset, to: Offset, cause: String },
    #[error("the topic was deleted")]
    Deleted,
    #[error("the broker is stopping: connect again in a moment")]
    Stopping,
}

impl Partition {
    /// Reads committed batches from `from` on, some `bytes_max` of them. What is compressed in a way that is
    /// not `accepted` is opened.
    pub(crate) async fn read(
        &self,
        from: Offset,
        bytes_max: usize,
        accepted: Compressions,
    ) -> Result<Read, PartitionReadError> {
        let (reader, limit) = self.reader_and_limit()?;
        let request = ReadRequest { from, limit, bytes_max };
        let read = if let Some(read) = reader.read_tail(&request) {
            add(&self.threads.metrics.tail_reads, 1);
            read
        } else {
            add(&self.threads.metrics.disk_reads, 1);
            self.on_reader_thread(move || reader.read(&request)).await??
        };
        if let Read::Batches { bytes, .. } = &read {
            add(&self.threads.metrics.fetches, 1);
            add(&self.threads.metrics.fetched_bytes, bytes.len() as u64);
        }
        match read {
            Read::Batches { bytes, .. } if !is_accepted(&bytes, accepted) => {
                self.on_reader_thread(move || open(&bytes, accepted, bytes_max)).await?
            }
            read @ (Read::Batches { .. } | Read::Gap(_) | Read::End) => Ok(read),
        }
    }

    /// The first committed record with a timestamp at or after `timestamp`.
    pub(crate) async fn find_timestamp(
        &self,
        timestamp: Timestamp,
    ) -> Result<Option<Found>, PartitionReadError> {
        let (reader, limit) = self.reader_and_limit()?;
        Ok(self.on_reader_thread(move || reader.find_timestamp(timestamp, limit)).await??)
    }

    /// What lies between `from` and the high watermark.
    pub(crate) async fn unread(&self, from: Offset) -> Result<Unread, PartitionReadError> {
        let (reader, limit) = self.reader_and_limit()?;
        if from >= limit {
            return Ok(Unread::default());
        }
        Ok(self.on_reader_thread(move || reader.unread(from, limit)).await??)
    }

    /// As of when what is served was a backup, if it was one.
    pub(crate) fn restored(&self) -> Option<Timestamp> {
        self.threads.restored
    }

    /// Whether the partition can be read at all.
    pub(crate) fn readable(&self) -> Result<(), PartitionReadError> {
        self.reader().map(drop)
    }

    /// Whether the partition can be read from an offset on.
    pub(crate) fn readable_at(&self, from: Offset) -> Result<(), PartitionReadError> {
        self.readable().map_err(|error| self.lost_at(from).unwrap_or(error))
    }

    /// A reader, and the end of what may be read with it. The log may be opened anew meanwhile: what was
    /// committed before and after is surely committed.
    fn reader_and_limit(&self) -> Result<(LogReader, Offset), PartitionReadError> {
        let before = self.high_watermark();
        let reader = self.reader()?;
        Ok((reader, before.min(self.high_watermark())))
    }

    fn reader(&self) -> Result<LogReader, PartitionReadError> {
        if self.is_deleted() {
            return Err(PartitionReadError::Deleted);
        }
        match &**self.log.load() {
            LogState::Open(open) | LogState::Unopened(_, Some(open)) => Ok(open.reader.clone()),
            LogState::Unopened(Unopened { cause, .. }, None) => {
                Err(PartitionReadError::Offline { cause: cause.clone() })
            }
            LogState::Opening(_) => Err(PartitionReadError::Recovering),
        }
    }

    /// What to say of an offset that was on disk, where the log is gone.
    fn lost_at(&self, from: Offset) -> Option<PartitionReadError> {
        let state = self.log.load();
        let LogState::Unopened(Unopened { cause, lost, .. }, _) = &**state else { return None };
        let to = lost.contains(&from).then_some(lost.end)?;
        Some(PartitionReadError::Gone { from, to, cause: cause.clone() })
    }

    async fn on_reader_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PartitionReadError> {
        self.threads.on_reader_thread(work).await.ok_or(PartitionReadError::Stopping)
    }
}

/// Whether batches can be taken as they are.
fn is_accepted(bytes: &Bytes, accepted: Compressions) -> bool {
    let mut batches = Batches::received(bytes.clone());
    // What cannot be walked over is not for us to judge.
    accepted == Compressions::ALL
        || batches.all(|it| it.map_or(true, |it| accepted.contains(it.header.compression)))
}

/// Opens what is not accepted: one batch, and as many more as `bytes_max` leave room for.
fn open(
    bytes: &Bytes,
    accepted: Compressions,
    bytes_max: usize,
) -> Result<Read, PartitionReadError> {
    let (mut opened, mut next) = (BytesMut::new(), Offset::ZERO);
    for batch in Batches::received(bytes.clone()).map_while(Result::ok) {
        let (from, to) = (batch.header.base_offset, batch.header.end_offset());
        let batch = if accepted.contains(batch.header.compression) {
            batch
        } else {
            let gone = |cause: OpenError| {
                let cause = format!("the batch cannot be opened: {cause}");
                PartitionReadError::Gone { from, to, cause }
            };
            batch.open().map_err(gone)?
        };
        if !opened.is_empty() && bytes_max < opened.len() + batch.header.total_bytes() {
            break;
        }
        opened.extend_from_slice(&batch.header.encode(Salt::new(0)));
        opened.extend_from_slice(&batch.payload);
        next = to;
    }
    Ok(Read::Batches { bytes: opened.freeze(), next })
}
