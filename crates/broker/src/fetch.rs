//! Reads several partitions for one request, and waits where there is nothing yet.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use taffrail_log::{Found, Read, ReadError};
use taffrail_model::{Gap, NameError, Offset, PartitionIndex, Timestamp, limits};
use tokio::time::sleep;

use crate::broker::Broker;
use crate::consume::Position;
use crate::memory::Charge;
use crate::partition::{Partition, PartitionReadError, PartitionStatus};

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

/// What a message has room for.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The largest one that the client can receive.
    pub bytes_max: usize,
    /// Bytes of all that stands around batches, at the most, but for errors.
    pub envelope_bytes: usize,
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

/// What was read, a result for each partition asked for.
#[derive(Debug)]
pub struct FetchAnswer {
    /// In the order of the request.
    pub results: Vec<FetchResult>,
    /// The memory that they take, to be kept until a message with them is encoded.
    pub charge: Charge,
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
    #[error("offset {offset} is out of range: the partition has {start} to {end}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: Offset,
        /// Offset of the first record.
        start: Offset,
        /// End of what readers may see.
        end: Offset,
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
    /// The partition is being checked after an unclean stop.
    #[error("the partition is being checked after an unclean stop: retry in a moment")]
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
pub(crate) async fn fetch(broker: &Broker, request: &FetchRequest) -> FetchAnswer {
    let mut expiry = pin!(sleep(request.wait_max.min(limits::FETCH_WAIT_MAX)));
    let mut stopping = pin!(broker.stopping());
    loop {
        let partitions: Vec<_> =
            request.partitions.iter().map(|p| broker.partition(&p.topic, p.partition)).collect();
        // Before looking: what moves while we look is not missed.
        let mut moves: FuturesUnordered<_> = partitions
            .iter()
            .flatten()
            .map(|partition| {
                let mut watermark = partition.watch();
                async move { watermark.changed().await.is_ok() }
            })
            .collect();
        let (answer, is_enough) = fetch_once(broker, request, partitions).await;
        if is_enough {
            return answer;
        }
        // Who waits holds nothing.
        drop(answer);
        tokio::select! {
            Some(_) = moves.next() => {}
            () = &mut expiry => break,
            () = &mut stopping => break,
        }
    }
    let partitions =
        request.partitions.iter().map(|p| broker.partition(&p.topic, p.partition)).collect();
    let (answer, _) = fetch_once(broker, request, partitions).await;
    answer
}

/// Reads what there is; also says whether it is worth an answer.
async fn fetch_once(
    broker: &Broker,
    request: &FetchRequest,
    partitions: Vec<Result<Arc<Partition>, FetchError>>,
) -> (FetchAnswer, bool) {
    let mut results = Vec::with_capacity(partitions.len());
    let room = request.message.room();
    let bytes_max = broker.read_memory().share(request.bytes_max.min(room));
    // Before reading, so that those who read at the same time see it.
    let mut charge = broker.read_memory().charge(bytes_max);
    let (mut bytes, mut error_bytes, mut is_enough) = (0, 0, false);
    for (partition, asked) in partitions.into_iter().zip(&request.partitions) {
        let (mut log_start, mut high_watermark) = (Offset::ZERO, Offset::ZERO);
        let left = Left {
            bytes: bytes_max.saturating_sub(bytes),
            room: room.saturating_sub(bytes + error_bytes),
            is_first: bytes == 0,
        };
        let (mut fetched, next) = match partition {
            Ok(partition) => {
                let read = fetch_partition(broker, request, &partition, asked.from, left).await;
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
        if fetched.is_err() {
            if left.room < request.error_bytes && bytes + error_bytes > 0 {
                // It is told when there is room, for it stays.
                fetched = Ok(Fetched::Nothing);
            } else {
                error_bytes += request.error_bytes;
            }
        }
        results.push(FetchResult { log_start, high_watermark, next, fetched });
    }
    charge.resize(bytes);
    (FetchAnswer { results, charge }, is_enough || bytes >= request.bytes_min.max(1))
}

/// What an answer has left.
#[derive(Clone, Copy)]
struct Left {
    /// Of what was asked for.
    bytes: usize,
    /// Of what the message can hold.
    room: usize,
    /// Whether it has no batches yet.
    is_first: bool,
}

async fn fetch_partition(
    broker: &Broker,
    request: &FetchRequest,
    partition: &Partition,
    from: Offset,
    left: Left,
) -> (Result<Fetched, FetchError>, Offset) {
    let bytes_max = left.bytes.min(left.room);
    if bytes_max == 0 && !left.is_first {
        return (Ok(Fetched::Nothing), from);
    }
    let fits = if left.is_first { left.room } else { bytes_max };
    match read(broker, partition, from, bytes_max, request.message).await {
        Ok(Read::Batches { bytes, .. }) if bytes.len() > fits => (Ok(Fetched::Nothing), from),
        Ok(Read::Batches { bytes, next }) => (Ok(Fetched::Batches(bytes)), next),
        Ok(Read::Gap(gap)) => (Ok(Fetched::Gap(gap)), gap.to),
        Ok(Read::End) => (Ok(Fetched::Nothing), from),
        Err(error) => (Err(error), from),
    }
}

/// Reads committed batches that fit into a message.
pub(crate) async fn read(
    broker: &Broker,
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
    message: Message,
) -> Result<Read, FetchError> {
    if broker.is_stopping() {
        return Err(FetchError::Stopping);
    }
    // Before the watermark: a log that is opened in between has one, and then it is the right one.
    partition.readable().map_err(|error| read_error(partition, error))?;
    let end = partition.high_watermark();
    if from > end {
        return Err(out_of_range(partition, from));
    }
    let room = message.room();
    let read = partition.read(from, bytes_max.min(room)).await;
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

/// Why there is nothing at an offset. What a partition that takes no appends has lost at its end may
/// be found again: nobody should begin anew because of that.
fn out_of_range(partition: &Partition, offset: Offset) -> FetchError {
    let (start, end) = (partition.log_start(), partition.high_watermark());
    if end < offset
        && let PartitionStatus::ReadOnly { cause } = partition.status()
    {
        return FetchError::ReadOnly { end, cause };
    }
    FetchError::OffsetOutOfRange { offset, start, end }
}

fn read_error(partition: &Partition, error: PartitionReadError) -> FetchError {
    match error {
        PartitionReadError::Recovering => FetchError::Recovering,
        PartitionReadError::Offline { cause } => FetchError::Offline { cause },
        PartitionReadError::Deleted => {
            FetchError::UnknownTopic { topic: partition.topic.to_string(), nearest: None }
        }
        PartitionReadError::Stopping => FetchError::Stopping,
        PartitionReadError::Log(ReadError::OutOfRange { from, start, .. }) => {
            let end = partition.high_watermark();
            FetchError::OffsetOutOfRange { offset: from, start, end }
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
