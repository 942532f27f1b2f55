//! Reads several partitions for one request, and waits where there is nothing yet.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use taffrail_log::{Found, Read, ReadError, Unread};
use taffrail_model::batch::Compressions;
use taffrail_model::{Gap, NameError, Offset, PartitionIndex, Timestamp, TopicName, limits};
use tokio::time::sleep;

use crate::partition::{Partition, PartitionReadError, PartitionStatus};
use crate::shared::Shared;

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first record that is still there.
    Earliest,
    /// The high watermark.
    Latest,
    /// This offset.
    Offset(Offset),
    /// The first record with a timestamp at or after this.
    Timestamp(Timestamp),
    /// So many records before the high watermark.
    Last(u64),
}

/// What to read.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// The partitions.
    pub partitions: Vec<FetchPartition>,
    /// Bytes of batches in the answer, at the most, but for the first batch.
    pub bytes_max: usize,
    /// Bytes to wait for.
    pub bytes_min: usize,
    /// How long to wait.
    pub wait_max: Duration,
    /// The message that carries the answer.
    pub message: Message,
    /// Bytes that an error takes in it, at the most.
    pub error_bytes: usize,
}

/// What a message has room for, and what may be in it.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The largest one that the client can receive.
    pub bytes_max: usize,
    /// Bytes of all that stands around batches, at the most, but for errors.
    pub envelope_bytes: usize,
    /// What the client can open itself; all else is opened for it.
    pub accepted: Compressions,
}

impl Message {
    /// Bytes of batches that fit.
    const fn room(self) -> usize {
        self.bytes_max.saturating_sub(self.envelope_bytes)
    }
}

/// A partition to read.
#[derive(Clone, Debug)]
pub struct FetchPartition {
    /// The topic, as the client wrote it.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset to read from.
    pub from: Offset,
}

/// What one partition had.
#[derive(Debug)]
pub struct FetchResult {
    /// Offset of the first record.
    pub log_start: Offset,
    /// End of what readers may see.
    pub high_watermark: Offset,
    /// Where to ask next.
    pub next: Offset,
    /// What was found.
    pub fetched: Result<Fetched, FetchError>,
}

/// What was found.
#[derive(Debug)]
pub enum Fetched {
    /// Whole batches, as they lie on disk.
    Batches(Bytes),
    /// No records exist in this range.
    Gap(Gap),
    /// Nothing yet.
    Nothing,
}

/// An offset that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetFound {
    /// The offset.
    pub offset: Offset,
    /// The timestamp of the record there, if it was looked for by time.
    pub timestamp: Option<Timestamp>,
    /// Offset of the first record.
    pub log_start: Offset,
    /// End of what readers may see.
    pub high_watermark: Offset,
}

/// Why a partition cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a topic's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such topic.
    #[error("there is no topic {topic:?}{}", crate::nearest::did_you_mean(.nearest.as_deref()))]
    UnknownTopic {
        /// What was asked for.
        topic: String,
        /// A topic with a similar name.
        nearest: Option<String>,
    },
    /// The topic has no such partition.
    #[error("topic {topic:?} has partitions 0 to {}, not {partition}", .partitions.saturating_sub(1))]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: PartitionIndex,
        /// How many there are.
        partitions: u32,
    },
    /// There is no such offset.
    #[error("offset {offset} is out of range: the partition has {start} to {end}{}", since_then(*.restored))]
    OffsetOutOfRange {
        /// What was asked for.
        offset: Offset,
        /// Offset of the first record.
        start: Offset,
        /// End of what readers may see.
        end: Offset,
        /// As of when the broker's data was a backup, if it was one and the offset lies behind the end.
        restored: Option<Timestamp>,
    },
    /// The end of the partition is not certain, and the offset lies behind it.
    #[error("the partition is read-only and can be read up to {end}: {cause}")]
    ReadOnly {
        /// End of what readers may see.
        end: Offset,
        /// Why it is read-only.
        cause: String,
    },
    /// Records are damaged or missing.
    #[error(
        "offsets {from} to {to} of partition {partition} of {topic:?} are damaged: {cause}; go on at {to}"
    )]
    DataLoss {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// The first offset that cannot be read.
        from: Offset,
        /// The first one behind it that may be read again.
        to: Offset,
        /// What is wrong, and where.
        cause: String,
    },
    /// The client cannot receive the next batch.
    #[error(
        "the next batch has {batch_bytes} bytes, and the client takes messages of {message_bytes_max}: \
         raise max_message_bytes and what the client can receive, or ask for fewer partitions at once"
    )]
    MessageTooSmall {
        /// Bytes of the batch.
        batch_bytes: usize,
        /// What the client can receive.
        message_bytes_max: usize,
    },
    /// The partition is being checked, after an unclean stop or because it is opened anew.
    #[error("the partition is being checked: retry in a moment")]
    Recovering,
    /// The partition cannot be opened.
    #[error("the partition is offline: {cause}")]
    Offline {
        /// Why.
        cause: String,
    },
    /// The disk refused.
    #[error("{cause}; retry, and look at the disk")]
    Io {
        /// What happened.
        cause: String,
    },
    /// The broker is going away.
    #[error("the broker is stopping: connect again in a moment")]
    Stopping,
}

/// Answers a fetch.
pub(crate) async fn fetch(shared: &Shared, request: &FetchRequest) -> Vec<FetchResult> {
    let mut expiry = pin!(sleep(request.wait_max.min(limits::FETCH_WAIT_MAX)));
    let mut stopping = pin!(shared.stopping());
    loop {
        let partitions = find_all(shared, request);
        // Before looking: what moves while we look is not missed.
        let mut moves: FuturesUnordered<_> = partitions
            .iter()
            .flatten()
            .map(|partition| {
                let mut watermark = partition.watch();
                async move { watermark.changed().await.is_ok() }
            })
            .collect();
        let (answer, is_enough) = fetch_once(shared, request, partitions).await;
        if is_enough {
            return answer;
        }
        // Who waits holds nothing.
        drop(answer);
        tokio::select! {
            biased;
            Some(_) = moves.next() => {}
            () = &mut expiry => break,
            () = &mut stopping => break,
        }
    }
    let partitions = find_all(shared, request);
    let (answer, _) = fetch_once(shared, request, partitions).await;
    answer
}

/// The partition that a client means.
pub(crate) fn partition(
    shared: &Shared,
    topic: &str,
    partition: PartitionIndex,
) -> Result<Arc<Partition>, FetchError> {
    let name = TopicName::parse(topic)?;
    let topics = shared.topics.load();
    let served = topics.get(&name).ok_or_else(|| FetchError::UnknownTopic {
        topic: topic.to_owned(),
        nearest: topics.nearest(&name),
    })?;
    let found = served.partitions.get(partition.get() as usize);
    found.cloned().ok_or_else(|| FetchError::UnknownPartition {
        topic: topic.to_owned(),
        partition,
        partitions: served.topic.partitions,
    })
}

fn find_all(shared: &Shared, request: &FetchRequest) -> Vec<Result<Arc<Partition>, FetchError>> {
    request.partitions.iter().map(|it| partition(shared, &it.topic, it.partition)).collect()
}

/// Reads what there is; also says whether it is worth an answer.
async fn fetch_once(
    shared: &Shared,
    request: &FetchRequest,
    partitions: Vec<Result<Arc<Partition>, FetchError>>,
) -> (Vec<FetchResult>, bool) {
    let mut results = Vec::with_capacity(partitions.len());
    let room = request.message.room();
    // An error of another partition can be told beside them, unless the first batch needs it all.
    let kept = if partitions.len() > 1 { request.error_bytes } else { 0 };
    let bytes_max = request.bytes_max.min(room.saturating_sub(kept));
    let bytes_max = shared.read_memory.share(bytes_max);
    // Before reading, so that those who read at the same time see it. What is read is counted again
    // where it is encoded.
    let _charge = shared.read_memory.charge(bytes_max);
    let (mut bytes, mut is_enough) = (0, false);
    for (partition, asked) in partitions.into_iter().zip(&request.partitions) {
        let (mut log_start, mut high_watermark) = (Offset::ZERO, Offset::ZERO);
        let (fetched, next) = match partition {
            Ok(partition) => {
                let bytes_max = bytes_max.saturating_sub(bytes);
                let is_first = bytes == 0;
                let left =
                    Left { bytes_max, fits: if is_first { room } else { bytes_max }, is_first };
                let read = fetch_partition(shared, request, &partition, asked.from, left).await;
                (log_start, high_watermark) = (partition.log_start(), partition.high_watermark());
                read
            }
            Err(error) => (Err(error), asked.from),
        };
        is_enough |= match &fetched {
            // More than fits into this answer is there: nothing is gained by waiting.
            Ok(Fetched::Batches(more)) => {
                bytes += more.len();
                next < high_watermark
            }
            Ok(Fetched::Nothing) => bytes > 0 && next < high_watermark,
            Ok(Fetched::Gap(_)) | Err(_) => true,
        };
        results.push(FetchResult { log_start, high_watermark, next, fetched });
    }
    leave_out_errors(&mut results, room.saturating_sub(bytes), request.error_bytes);
    (results, is_enough || bytes >= request.bytes_min.max(1))
}

/// Leaves out the errors for which there is no room beside the batches: they stay, and are told in an
/// answer that has room. One that is alone is told in any case.
fn leave_out_errors(results: &mut [FetchResult], mut room: usize, error_bytes: usize) {
    let mut is_empty = !results.iter().any(|r| matches!(r.fetched, Ok(Fetched::Batches(_))));
    for result in results.iter_mut().filter(|result| result.fetched.is_err()) {
        if room < error_bytes && !is_empty {
            result.fetched = Ok(Fetched::Nothing);
        }
        room = room.saturating_sub(error_bytes);
        is_empty = false;
    }
}

/// What an answer has left.
#[derive(Clone, Copy)]
struct Left {
    /// Bytes to read at the most, but for one batch.
    bytes_max: usize,
    /// Bytes that one batch may have.
    fits: usize,
    /// Whether it has no batches yet.
    is_first: bool,
}

async fn fetch_partition(
    shared: &Shared,
    request: &FetchRequest,
    partition: &Partition,
    from: Offset,
    Left { bytes_max, fits, is_first }: Left,
) -> (Result<Fetched, FetchError>, Offset) {
    if fits == 0 && !is_first {
        return (Ok(Fetched::Nothing), from);
    }
    match read(shared, partition, from, bytes_max, request.message).await {
        Ok(Read::Batches { bytes, .. }) if bytes.len() > fits => (Ok(Fetched::Nothing), from),
        Ok(Read::Batches { bytes, next }) => (Ok(Fetched::Batches(bytes)), next),
        Ok(Read::Gap(gap)) => (Ok(Fetched::Gap(gap)), gap.to),
        Ok(Read::End) => (Ok(Fetched::Nothing), from),
        Err(error) => (Err(error), from),
    }
}

/// Reads committed batches that fit into a message.
pub(crate) async fn read(
    shared: &Shared,
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
    message: Message,
) -> Result<Read, FetchError> {
    if shared.is_stopping() {
        return Err(FetchError::Stopping);
    }
    // Before the watermark: a log that is opened in between has one, and then it is the right one.
    partition.readable_at(from).map_err(|error| read_error(partition, error))?;
    let end = partition.high_watermark();
    if from > end {
        return Err(out_of_range(partition, from));
    }
    let room = message.room();
    let read = partition.read(from, bytes_max.min(room), message.accepted).await;
    match read.map_err(|error| read_error(partition, error))? {
        Read::Batches { bytes, .. } if bytes.len() > room => {
            let (batch_bytes, message_bytes_max) = (bytes.len(), message.bytes_max);
            Err(FetchError::MessageTooSmall { batch_bytes, message_bytes_max })
        }
        read @ (Read::Batches { .. } | Read::Gap(_) | Read::End) => Ok(read),
    }
}

/// Finds the offset that a position means.
pub(crate) async fn find(
    partition: &Partition,
    position: Position,
) -> Result<OffsetFound, FetchError> {
    partition.readable().map_err(|error| read_error(partition, error))?;
    let (log_start, high_watermark) = (partition.log_start(), partition.high_watermark());
    let mut timestamp = None;
    let offset = match position {
        Position::Earliest => log_start,
        Position::Latest => high_watermark,
        Position::Offset(offset) if (log_start..=high_watermark).contains(&offset) => offset,
        Position::Offset(offset) => return Err(out_of_range(partition, offset)),
        Position::Last(records) => high_watermark.back(records).max(log_start),
        Position::Timestamp(at) => {
            let found = partition.find_timestamp(at).await;
            match found.map_err(|error| read_error(partition, error))? {
                Some(Found { offset, timestamp: at }) => {
                    timestamp = Some(at);
                    offset
                }
                None => high_watermark,
            }
        }
    };
    Ok(OffsetFound { offset, timestamp, log_start, high_watermark })
}

/// What of a partition lies behind an offset.
pub(crate) async fn unread(partition: &Partition, from: Offset) -> Result<Unread, FetchError> {
    partition.readable_at(from).map_err(|error| read_error(partition, error))?;
    if from > partition.high_watermark() {
        return Err(out_of_range(partition, from));
    }
    partition.unread(from).await.map_err(|error| read_error(partition, error))
}

/// Why there is nothing at an offset. What a partition that takes no appends has lost at its end may
/// be found again, by being opened anew: nobody should begin anew because of that.
pub(crate) fn out_of_range(partition: &Partition, offset: Offset) -> FetchError {
    // First: the watermark of an open log is known before the log is there.
    let status = partition.status();
    let (start, end) = (partition.log_start(), partition.high_watermark());
    match status {
        PartitionStatus::Recovering => FetchError::Recovering,
        PartitionStatus::ReadOnly { cause } if end < offset => FetchError::ReadOnly { end, cause },
        PartitionStatus::Offline { cause } => FetchError::Offline { cause },
        PartitionStatus::ReadOnly { .. } | PartitionStatus::Online => {
            // Otherwise it was opened anew in between.
            let is_out = !(start..=end).contains(&offset);
            if is_out {
                let restored = partition.restored().filter(|_| end < offset);
                FetchError::OffsetOutOfRange { offset, start, end, restored }
            } else {
                FetchError::Recovering
            }
        }
    }
}

fn read_error(partition: &Partition, error: PartitionReadError) -> FetchError {
    match error {
        PartitionReadError::Recovering => FetchError::Recovering,
        PartitionReadError::Gone { from, to, cause } => FetchError::DataLoss {
            topic: partition.topic.to_string(),
            partition: partition.index,
            from,
            to,
            cause,
        },
        PartitionReadError::Offline { cause } => FetchError::Offline { cause },
        PartitionReadError::Deleted => {
            FetchError::UnknownTopic { topic: partition.topic.to_string(), nearest: None }
        }
        PartitionReadError::Stopping => FetchError::Stopping,
        PartitionReadError::Log(ReadError::OutOfRange { from, .. }) => {
            out_of_range(partition, from)
        }
        PartitionReadError::Log(ReadError::DataLoss { from, to, path, position, cause }) => {
            FetchError::DataLoss {
                topic: partition.topic.to_string(),
                partition: partition.index,
                from,
                to,
                cause: format!("{cause} (byte {position} of {})", path.display()),
            }
        }
        PartitionReadError::Log(error @ ReadError::Io { .. }) => {
            FetchError::Io { cause: error.to_string() }
        }
    }
}

/// What to say to whoever has read what a restored broker does not have.
fn since_then(restored: Option<Timestamp>) -> String {
    restored.map_or(String::new(), |taken| {
        format!(
            "; the broker was restored from a backup that was taken at {taken} (Unix milliseconds): \
             what came later is not there, and its offsets are given out again"
        )
    })
}
