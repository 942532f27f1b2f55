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
use crate::partition::{Partition, PartitionReadError};

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
    /// The largest message that the client can receive.
    pub message_bytes_max: usize,
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
    /// Whole batches.
    Batches {
        /// As they lie on disk.
        bytes: Bytes,
        /// The memory that they hold.
        charge: Charge,
    },
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
         raise max_message_bytes, and what the client can receive"
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
pub(crate) async fn fetch(broker: &Broker, request: &FetchRequest) -> Vec<FetchResult> {
    let mut stopping = broker.stopping();
    let mut expiry = pin!(sleep(request.wait_max.min(limits::FETCH_WAIT_MAX)));
    let partitions: Vec<_> =
        request.partitions.iter().map(|p| broker.partition(&p.topic, p.partition)).collect();
    loop {
        // Before looking: what moves while we look is not missed.
        let mut moves: FuturesUnordered<_> = partitions
            .iter()
            .flatten()
            .map(|partition| {
                let mut watermark = partition.watch();
                watermark.mark_unchanged();
                async move { watermark.changed().await.is_ok() }
            })
            .collect();
        let (results, is_enough) = fetch_once(broker, request, &partitions).await;
        if is_enough {
            return results;
        }
        tokio::select! {
            Some(_) = moves.next() => {}
            () = &mut expiry => return results,
            _ = stopping.changed() => return results,
        }
    }
}

/// Reads what there is; also says whether it is worth an answer.
async fn fetch_once(
    broker: &Broker,
    request: &FetchRequest,
    partitions: &[Result<Arc<Partition>, FetchError>],
) -> (Vec<FetchResult>, bool) {
    let mut results = Vec::with_capacity(partitions.len());
    let (mut bytes, mut is_enough) = (0, false);
    for (partition, asked) in partitions.iter().zip(&request.partitions) {
        let Ok(partition) = partition else {
            // Found again, since errors are not copied.
            let error = broker.partition(&asked.topic, asked.partition).err();
            let error = error.unwrap_or(FetchError::Recovering);
            results.push(FetchResult {
                log_start: Offset::ZERO,
                high_watermark: Offset::ZERO,
                next: asked.from,
                fetched: Err(error),
            });
            is_enough = true;
            continue;
        };
        let room =
            Room { bytes_max: request.bytes_max.saturating_sub(bytes), is_first: bytes == 0 };
        let (fetched, next) = fetch_partition(broker, request, partition, asked.from, room).await;
        match &fetched {
            Ok(Fetched::Batches { bytes: more, .. }) => bytes += more.len(),
            Ok(Fetched::Nothing) => {}
            Ok(Fetched::Gap(_)) | Err(_) => is_enough = true,
        }
        results.push(FetchResult {
            log_start: partition.log_start(),
            high_watermark: partition.high_watermark(),
            next,
            fetched,
        });
    }
    (results, is_enough || bytes >= request.bytes_min.max(1))
}

/// What an answer has left.
#[derive(Clone, Copy)]
struct Room {
    bytes_max: usize,
    is_first: bool,
}

async fn fetch_partition(
    broker: &Broker,
    request: &FetchRequest,
    partition: &Partition,
    from: Offset,
    room: Room,
) -> (Result<Fetched, FetchError>, Offset) {
    if room.bytes_max == 0 && !room.is_first {
        return (Ok(Fetched::Nothing), from);
    }
    match read(broker, partition, from, room.bytes_max, request.message_bytes_max).await {
        Ok(Read::Batches { bytes, .. }) if !room.is_first && bytes.len() > room.bytes_max => {
            (Ok(Fetched::Nothing), from)
        }
        Ok(Read::Batches { bytes, next }) => {
            let charge = broker.memory().charge(bytes.len()).await;
            (Ok(Fetched::Batches { bytes, charge }), next)
        }
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
    message_bytes_max: usize,
) -> Result<Read, FetchError> {
    if broker.is_stopping() {
        return Err(FetchError::Stopping);
    }
    let end = partition.high_watermark();
    if from > end {
        partition.readable().map_err(|error| read_error(partition, error))?;
        let start = partition.log_start();
        return Err(FetchError::OffsetOutOfRange { offset: from, start, end });
    }
    let room = message_bytes_max.saturating_sub(limits::MESSAGE_ENVELOPE_BYTES as usize);
    let read = partition.read(from, bytes_max.min(room)).await;
    match read.map_err(|error| read_error(partition, error))? {
        Read::Batches { bytes, .. } if bytes.len() > room => {
            Err(FetchError::MessageTooSmall { batch_bytes: bytes.len(), message_bytes_max })
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
        Position::Offset(offset) => {
            let (start, end) = (log_start, high_watermark);
            return Err(FetchError::OffsetOutOfRange { offset, start, end });
        }
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

fn read_error(partition: &Partition, error: PartitionReadError) -> FetchError {
    match error {
        PartitionReadError::Recovering => FetchError::Recovering,
        PartitionReadError::Offline { cause } => FetchError::Offline { cause },
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
