//! What each error is called on the wire: one reason, one code, the numbers a caller needs.
//!
//! docs/errors.md is this file as a table. No `_` arm: a new error does not compile until it has a
//! name here.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use taffrail_broker::{
    BackupError, BackupFailure, CatalogError, DeleteRecordsError, FetchError, GroupError,
    GroupRefusal, InitProducerError, ProduceError, QueueError, QueueRefusal, SequenceError,
    SettingError, SettleRefusal, SubscriptionError,
};
use taffrail_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DOMAIN: &str = "taffrail";

/// Bytes of an error in an answer, at the most: its texts are cut, and it has few of them.
pub(crate) const ERROR_BYTES_MAX: usize = 4 << 10;
const MESSAGE_BYTES_MAX: usize = 1 << 10;
const VALUE_BYTES_MAX: usize = 256;

/// When to try again what was refused for being too much.
const RETRY_SOON: Duration = Duration::from_millis(50);
/// When to try again what needs somebody or something to finish first.
const RETRY_LATER: Duration = Duration::from_secs(1);

/// An error as it goes over the wire.
#[derive(Debug)]
pub(crate) struct Explained {
    reason: &'static str,
    code: Code,
    message: String,
    metadata: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
}

impl Explained {
    fn new(reason: &'static str, code: Code, message: &dyn Display) -> Self {
        let (message, metadata) = (cut(message, MESSAGE_BYTES_MAX), Vec::new());
        Self { reason, code, message, metadata, retry_after: None }
    }

    /// A request that makes no sense.
    pub(crate) fn invalid(message: &str) -> Self {
        Self::new("INVALID_REQUEST", Code::InvalidArgument, &message)
    }

    /// A command about a subscription that makes no sense.
    pub(crate) fn rejected(message: &str) -> Self {
        Self::new("INVALID_SUBSCRIPTION", Code::InvalidArgument, &message)
    }

    fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.metadata.push((name, cut(&value, VALUE_BYTES_MAX)));
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// For one part of an answer.
    pub(crate) fn into_error(self) -> v1::Error {
        let metadata = self.metadata.into_iter().map(|(name, value)| (name.to_owned(), value));
        v1::Error {
            reason: self.reason.to_owned(),
            message: self.message,
            metadata: metadata.collect(),
            retry_after_ms: self.retry_after.map(|after| after.as_millis() as u32),
        }
    }

    /// For a call as a whole.
    pub(crate) fn into_status(self) -> Status {
        let metadata: HashMap<_, _> =
            self.metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, metadata);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

/// A text that may quote what a client wrote, or a path: cut where it is too long.
pub(crate) fn cut(text: &dyn Display, bytes_max: usize) -> String {
    let mut text = text.to_string();
    if text.len() > bytes_max {
        let room = bytes_max - '…'.len_utf8();
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Something that has a name on the wire.
pub(crate) trait Explain {
    fn explain(&self) -> Explained;
}

impl Explain for ProduceError {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::Name(_) => new("INVALID_TOPIC_NAME", Code::InvalidArgument),
            Self::UnknownTopic { topic, .. } => {
                new("UNKNOWN_TOPIC", Code::NotFound).with("topic", topic)
            }
            Self::UnknownPartition { topic, partition, partitions } => {
                new("UNKNOWN_PARTITION", Code::NotFound)
                    .with("topic", topic)
                    .with("partition", partition)
                    .with("partitions", partitions)
            }
            Self::InternalTopic { topic } => {
                new("INTERNAL_TOPIC", Code::PermissionDenied).with("topic", topic)
            }
            Self::BatchTooLarge { found, max } => {
                new("BATCH_TOO_LARGE", Code::InvalidArgument).with("found", found).with("max", max)
            }
            Self::OpensTooLarge { max } => {
                new("BATCH_TOO_LARGE", Code::InvalidArgument).with("max", max)
            }
            Self::Unopened { .. } | Self::PayloadMismatch { .. } => {
                new("INVALID_RECORDS", Code::InvalidArgument)
            }
            Self::UnsupportedCompression { compression } => {
                new("UNSUPPORTED_COMPRESSION", Code::InvalidArgument)
                    .with("compression", compression)
            }
            Self::ControlBatch => new("CONTROL_BATCH", Code::InvalidArgument),
            Self::NumberOrder { .. } | Self::Unplaced => {
                new("INVALID_REQUEST", Code::InvalidArgument)
            }
            Self::Sequence(SequenceError::Gap { id, expected, found }) => {
                new("SEQUENCE_GAP", Code::FailedPrecondition)
                    .with("producer_id", id)
                    .with("expected", expected)
                    .with("found", found)
            }
            Self::Sequence(SequenceError::Fenced { id, current, found }) => {
                new("PRODUCER_FENCED", Code::FailedPrecondition)
                    .with("producer_id", id)
                    .with("epoch", current)
                    .with("found", found)
            }
            Self::Sequence(SequenceError::Unknown { id }) => {
                new("UNKNOWN_PRODUCER_STATE", Code::FailedPrecondition).with("producer_id", id)
            }
            Self::NameLost { id } => {
                new("PRODUCER_FENCED", Code::FailedPrecondition).with("producer_id", id)
            }
            Self::ProducersDamaged { .. } => {
                new("DATA_LOSS", Code::DataLoss).with("topic", "__producers")
            }
            Self::CorruptBatch { found, computed } => new("CORRUPT_BATCH", Code::InvalidArgument)
                .with("found", found)
                .with("computed", computed),
            Self::KeyMissing { count, .. } => {
                new("KEY_MISSING", Code::InvalidArgument).with("records", count)
            }
            Self::InvalidRecords(_) => new("INVALID_RECORDS", Code::InvalidArgument),
            Self::TimestampAhead { found, now, ahead_ms } => {
                new("TIMESTAMP_AHEAD", Code::InvalidArgument)
                    .with("found", found)
                    .with("now", now)
                    .with("ahead_ms", ahead_ms)
            }
            Self::OffsetMismatch { expected, actual } => {
                new("OFFSET_MISMATCH", Code::FailedPrecondition)
                    .with("expected", expected)
                    .with("actual", actual)
            }
            Self::PrecedingFailed { refused } => {
                new("PRECEDING_FAILED", Code::Aborted).with("refused", refused)
            }
            Self::Overloaded { limit, .. } => {
                new("OVERLOADED", Code::ResourceExhausted).with("limit", limit).retry(RETRY_SOON)
            }
            Self::Recovering => new("PARTITION_RECOVERING", Code::Unavailable).retry(RETRY_SOON),
            Self::ReadOnly { cause } => {
                new("PARTITION_READ_ONLY", Code::FailedPrecondition).with("cause", cause)
            }
            Self::Offline { cause } => {
                new("PARTITION_OFFLINE", Code::FailedPrecondition).with("cause", cause)
            }
            Self::StorageFull { path } => new("STORAGE_FULL", Code::ResourceExhausted)
                .with("path", path.display())
                .retry(RETRY_LATER),
            Self::Io { path, .. } => {
                new("STORAGE_ERROR", Code::Internal).with("path", path.display())
            }
            Self::ResultUnknown { .. } => new("RESULT_UNKNOWN", Code::Unknown),
            Self::Stopping => new("STOPPING", Code::Unavailable).retry(RETRY_LATER),
        }
    }
}

impl Explain for InitProducerError {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::NameTooLong { found, max } => new("INVALID_PRODUCER_NAME", Code::InvalidArgument)
                .with("found", found)
                .with("max", max),
            Self::Fenced { name, id } => new("PRODUCER_FENCED", Code::FailedPrecondition)
                .with("name", name)
                .with("producer_id", id),
            Self::Full { max } => new("LIMIT_REACHED", Code::ResourceExhausted).with("max", max),
            Self::Storage(error) => error.explain(),
            Self::Damaged { .. } => new("DATA_LOSS", Code::DataLoss).with("topic", "__producers"),
        }
    }
}

impl Explain for FetchError {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::Name(_) => new("INVALID_TOPIC_NAME", Code::InvalidArgument),
            Self::UnknownTopic { topic, .. } => {
                new("UNKNOWN_TOPIC", Code::NotFound).with("topic", topic)
            }
            Self::UnknownPartition { topic, partition, partitions } => {
                new("UNKNOWN_PARTITION", Code::NotFound)
                    .with("topic", topic)
                    .with("partition", partition)
                    .with("partitions", partitions)
            }
            Self::OffsetOutOfRange { offset, start, end, restored } => {
                let out = new("OFFSET_OUT_OF_RANGE", Code::OutOfRange)
                    .with("offset", offset)
                    .with("start", start)
                    .with("end", end);
                match restored {
                    Some(taken) => out.with("restored_ms", taken),
                    None => out,
                }
            }
            Self::DataLoss { topic, partition, from, to, .. } => new("DATA_LOSS", Code::DataLoss)
                .with("topic", topic)
                .with("partition", partition)
                .with("from", from)
                .with("to", to),
            Self::ReadOnly { end, cause } => new("PARTITION_READ_ONLY", Code::FailedPrecondition)
                .with("end", end)
                .with("cause", cause),
            Self::MessageTooSmall { batch_bytes, message_bytes_max } => {
                new("MESSAGE_TOO_SMALL", Code::InvalidArgument)
                    .with("batch_bytes", batch_bytes)
                    .with("max_message_bytes", message_bytes_max)
            }
            Self::Recovering => new("PARTITION_RECOVERING", Code::Unavailable).retry(RETRY_SOON),
            Self::Offline { cause } => {
                new("PARTITION_OFFLINE", Code::FailedPrecondition).with("cause", cause)
            }
            Self::Io { .. } => new("STORAGE_ERROR", Code::Internal),
            Self::Stopping => new("STOPPING", Code::Unavailable).retry(RETRY_LATER),
        }
    }
}

impl Explain for SubscriptionError {
    fn explain(&self) -> Explained {
        match self {
            Self::Fetch(error) => error.explain(),
            Self::Group(error) => error.explain(),
        }
    }
}

impl Explain for GroupError {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::Refused(refusal) => refusal.explain(),
            Self::Name { name, .. } => {
                new("INVALID_GROUP_NAME", Code::InvalidArgument).with("group", name)
            }
            Self::Request(_) => new("INVALID_REQUEST", Code::InvalidArgument),
            Self::Partition(error) => error.explain(),
            Self::Internal { topic } => {
                new("INTERNAL_TOPIC", Code::PermissionDenied).with("topic", topic)
            }
            Self::OtherTopic { topic, expected, found } => new("UNKNOWN_TOPIC", Code::NotFound)
                .with("topic", topic)
                .with("expected", expected)
                .with("found", found),
            Self::Storage(error) => error.explain(),
            Self::Damaged { .. } => new("DATA_LOSS", Code::DataLoss).with("topic", "__groups"),
        }
    }
}

impl Explain for QueueError {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::Refused(refusal) => refusal.explain(),
            Self::Name { name, .. } => {
                new("INVALID_QUEUE_NAME", Code::InvalidArgument).with("queue", name)
            }
            Self::Request(_) => new("INVALID_REQUEST", Code::InvalidArgument),
            Self::Partition(error) => error.explain(),
            Self::Internal { topic } => {
                new("INTERNAL_TOPIC", Code::PermissionDenied).with("topic", topic)
            }
            Self::NoTopic { queue, topic } => {
                new("UNKNOWN_TOPIC", Code::NotFound).with("topic", topic).with("queue", queue)
            }
            Self::Storage(error) => error.explain(),
            Self::Damaged { .. } => new("DATA_LOSS", Code::DataLoss).with("topic", "__queues"),
            Self::Stopping => new("STOPPING", Code::Unavailable).retry(RETRY_LATER),
        }
    }
}

impl Explain for QueueRefusal {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::UnknownQueue { queue } => {
                new("UNKNOWN_QUEUE", Code::NotFound).with("queue", queue)
            }
            Self::Exists { queue } => new("QUEUE_EXISTS", Code::AlreadyExists).with("queue", queue),
            Self::Full { max } => {
                new("TOO_MANY_QUEUES", Code::ResourceExhausted).with("limit", max)
            }
        }
    }
}

impl Explain for SettleRefusal {
    fn explain(&self) -> Explained {
        let new = |reason| Explained::new(reason, Code::FailedPrecondition, self);
        match self {
            Self::LeaseExpired => new("LEASE_EXPIRED"),
            Self::AlreadySettled => new("ALREADY_SETTLED"),
            Self::Unknown => new("UNKNOWN_ACK_ID"),
        }
    }
}

impl Explain for GroupRefusal {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::UnknownGroup { group } => {
                new("UNKNOWN_GROUP", Code::NotFound).with("group", group)
            }
            Self::UnknownMember { group, member } => {
                new("UNKNOWN_MEMBER", Code::NotFound).with("group", group).with("member_id", member)
            }
            Self::FencedInstance { group, member, instance } => {
                new("FENCED_INSTANCE", Code::FailedPrecondition)
                    .with("group", group)
                    .with("member_id", member)
                    .with("instance_id", instance)
            }
            Self::StaleMember { group, member, epoch, owner } => {
                let stale = new("STALE_MEMBER", Code::FailedPrecondition)
                    .with("group", group)
                    .with("member_id", member)
                    .with("epoch", epoch);
                match owner {
                    Some((owner, since)) => stale.with("owner", owner).with("owner_epoch", since),
                    None => stale,
                }
            }
            Self::HasMembers { group, members } => {
                new("GROUP_HAS_MEMBERS", Code::FailedPrecondition)
                    .with("group", group)
                    .with("members", members)
            }
            Self::Full { max, .. } => {
                new("LIMIT_REACHED", Code::ResourceExhausted).with("max", max)
            }
        }
    }
}

impl Explain for DeleteRecordsError {
    fn explain(&self) -> Explained {
        match self {
            Self::Topic(error) => error.explain(),
            Self::Partition(error) => error.explain(),
            Self::OutOfRange { before, start, end } => {
                Explained::new("OFFSET_OUT_OF_RANGE", Code::OutOfRange, self)
                    .with("offset", before)
                    .with("start", start)
                    .with("end", end)
            }
            Self::Storage { .. } => Explained::new("STORAGE_ERROR", Code::Internal, self),
        }
    }
}

impl Explain for BackupFailure {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::Backup(BackupError::Within { path } | BackupError::Relative { path }) => {
                new("INVALID_DIRECTORY", Code::InvalidArgument).with("directory", path.display())
            }
            Self::Backup(
                BackupError::NotEmpty { path }
                | BackupError::OfAnother { path, .. }
                | BackupError::Served { path },
            ) => new("DIRECTORY_NOT_FREE", Code::FailedPrecondition)
                .with("directory", path.display()),
            Self::Backup(BackupError::StorageFull { path }) => {
                new("STORAGE_FULL", Code::ResourceExhausted)
                    .with("path", path.display())
                    .retry(RETRY_LATER)
            }
            Self::Backup(BackupError::Io { path, .. }) => {
                new("STORAGE_ERROR", Code::Internal).with("path", path.display())
            }
            Self::Recovering { topic, .. } => new("PARTITION_RECOVERING", Code::Unavailable)
                .with("topic", topic)
                .retry(RETRY_SOON),
            Self::Backup(BackupError::GivenUp) | Self::Stopping => {
                new("STOPPING", Code::Unavailable).retry(RETRY_LATER)
            }
        }
    }
}

impl Explain for CatalogError {
    fn explain(&self) -> Explained {
        let new = |reason, code| Explained::new(reason, code, self);
        match self {
            Self::Name(_) => new("INVALID_TOPIC_NAME", Code::InvalidArgument),
            Self::UnknownPartition { topic, partition, partitions } => {
                new("UNKNOWN_PARTITION", Code::NotFound)
                    .with("topic", topic)
                    .with("partition", partition)
                    .with("partitions", partitions)
            }
            Self::InternalName(topic) | Self::OpenedAtStart(topic) => {
                new("INTERNAL_TOPIC", Code::PermissionDenied).with("topic", topic)
            }
            Self::TopicExists(topic) => {
                new("TOPIC_EXISTS", Code::AlreadyExists).with("topic", topic)
            }
            Self::UnknownTopic { topic, .. } => {
                new("UNKNOWN_TOPIC", Code::NotFound).with("topic", topic)
            }
            Self::PartitionCount { found, max } => {
                new("INVALID_PARTITION_COUNT", Code::InvalidArgument)
                    .with("found", found)
                    .with("max", max)
            }
            Self::FewerPartitions { topic, found } => {
                new("INVALID_PARTITION_COUNT", Code::InvalidArgument)
                    .with("topic", topic)
                    .with("found", found)
            }
            Self::Full { found, max, .. } => {
                new("LIMIT_REACHED", Code::ResourceExhausted).with("found", found).with("max", max)
            }
            Self::Setting(SettingError::Unknown { name, .. }) => {
                new("UNKNOWN_SETTING", Code::InvalidArgument).with("name", name)
            }
            Self::Setting(
                SettingError::Value { name, .. } | SettingError::RetentionOfCompacted { name },
            ) => new("INVALID_SETTING", Code::InvalidArgument).with("name", name),
            Self::Setting(
                SettingError::BatchExceedsSegment { .. }
                | SettingError::SegmentExceedsRetention { .. },
            ) => new("INVALID_SETTING", Code::InvalidArgument).with("name", "segment.bytes"),
            Self::Setting(SettingError::SegmentOutlivesRetention { .. }) => {
                new("INVALID_SETTING", Code::InvalidArgument).with("name", "segment.ms")
            }
            Self::Setting(SettingError::BatchExceedsRequest { .. }) => {
                new("INVALID_SETTING", Code::InvalidArgument).with("name", "max.batch.bytes")
            }
            Self::Recovering(topic) => new("PARTITION_RECOVERING", Code::Unavailable)
                .with("topic", topic)
                .retry(RETRY_SOON),
            Self::Files { topic, source } if source.kind() == std::io::ErrorKind::StorageFull => {
                new("STORAGE_FULL", Code::ResourceExhausted).with("topic", topic).retry(RETRY_LATER)
            }
            Self::Files { topic, .. } => new("STORAGE_ERROR", Code::Internal).with("topic", topic),
            Self::Storage(error) => error.explain(),
            Self::Damaged { .. } => new("DATA_LOSS", Code::DataLoss).with("topic", "__catalog"),
        }
    }
}
