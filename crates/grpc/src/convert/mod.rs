//! From the contract's types to the broker's, and back.

pub(crate) mod group;
pub(crate) mod queue;

use std::ops::Range;
use std::time::Duration;

use taffrail_broker::{
    Acks, BackupSummary, Charge, ConsumeCommand, ConsumeEvent, FetchPartition, FetchRequest,
    FetchResult, Fetched, IncomingBatch, InitProducer, Message, OffsetFound, Outcome,
    PartitionDescription, PartitionStatus, Placement, Position, ProduceBatch, ProducerIdentity,
    Topic, TopicDescription, TopicSettings,
};
use taffrail_model::batch::{Compression, Compressions};
use taffrail_model::{
    Gap, GapReason, Offset, PartitionIndex, ProducerEpoch, ProducerId, ProducerStamp, Sequence,
    Timestamp, limits,
};
use taffrail_proto::v1;

use crate::status::{ERROR_BYTES_MAX, Explain, Explained};

/// Bytes that a message has around the batches of one partition and the topic's name.
const ENVELOPE_BYTES: usize = 128;

pub(crate) fn acks(acks: i32) -> Result<Acks, Explained> {
    match v1::Acks::try_from(acks) {
        Ok(v1::Acks::Committed) => Ok(Acks::Committed),
        Ok(v1::Acks::None) => Ok(Acks::None),
        Err(_) => Err(Explained::invalid("acks is neither ACKS_COMMITTED nor ACKS_NONE")),
    }
}

pub(crate) fn init_producer(request: v1::InitProducerRequest) -> InitProducer {
    let v1::InitProducerRequest { name, producer_id, attempt } = request;
    InitProducer { name, former: ProducerId::new(producer_id), attempt }
}

pub(crate) fn producer(identity: ProducerIdentity) -> v1::InitProducerResponse {
    v1::InitProducerResponse {
        producer_id: identity.id.get(),
        producer_epoch: identity.epoch.get(),
        remembered_batches: limits::PRODUCER_BATCHES_MIN as u32,
    }
}

pub(crate) fn produce_batch(batch: v1::ProduceBatch) -> ProduceBatch {
    use v1::produce_batch::Placement as Placed;
    let placement = match batch.placement {
        Some(Placed::Partition(index)) => Placement::Partition(PartitionIndex::new(index)),
        Some(Placed::PartitionKey(key)) => Placement::Key(key),
        None => Placement::Spread,
    };
    ProduceBatch {
        topic: batch.topic,
        placement,
        batch: incoming(batch.batch.unwrap_or_default()),
        expected_next_offset: batch.expected_next_offset.map(Offset::new),
    }
}

fn incoming(batch: v1::RecordBatch) -> IncomingBatch {
    use v1::record_batch::Payload;
    let (payload, is_compressed) = match batch.payload {
        Some(Payload::Records(payload)) => (payload, false),
        Some(Payload::CompressedRecords(payload)) => (payload, true),
        None => Default::default(),
    };
    IncomingBatch {
        payload,
        records_crc: batch.records_crc,
        compression: batch.compression,
        is_compressed,
        is_control: batch.kind != v1::BatchKind::Data as i32,
        producer: ProducerId::new(batch.producer_id).map(|id| ProducerStamp {
            id,
            epoch: ProducerEpoch::new(batch.producer_epoch),
            sequence: Sequence::new(batch.base_sequence),
        }),
    }
}

pub(crate) fn produce_result(outcome: &Outcome) -> v1::ProduceResult {
    let partition = outcome.partition.map(PartitionIndex::get);
    match &outcome.result {
        Ok(produced) => v1::ProduceResult {
            partition,
            base_offset: produced.place.map(|place| place.base_offset.get()),
            append_time_ms: produced.place.map_or(0, |place| place.append_time.as_millis()),
            high_watermark: produced.high_watermark.get(),
            duplicate: produced.is_duplicate,
            error: None,
        },
        Err(error) => {
            let error = Some(error.explain().into_error());
            v1::ProduceResult { partition, error, ..Default::default() }
        }
    }
}

pub(crate) fn fetch_request(request: v1::FetchRequest) -> Result<FetchRequest, Explained> {
    if request.partitions.is_empty() {
        return Err(Explained::invalid("the request names no partitions: name at least one"));
    }
    if request.partitions.len() > limits::FETCH_PARTITIONS_MAX {
        return Err(Explained::invalid("the request names too many partitions: send several"));
    }
    let partitions = request.partitions.into_iter().map(|partition| FetchPartition {
        topic: partition.topic,
        partition: PartitionIndex::new(partition.partition),
        from: Offset::new(partition.offset),
    });
    let bytes_max = or_default(request.max_bytes, limits::FETCH_BYTES_DEFAULT);
    let message_bytes_max = message_bytes_max(request.max_message_bytes);
    let partitions: Vec<_> = partitions.collect();
    let envelope_bytes = partitions.iter().map(|it| ENVELOPE_BYTES + it.topic.len()).sum();
    Ok(FetchRequest {
        partitions,
        bytes_max,
        bytes_min: request.min_bytes as usize,
        wait_max: Duration::from_millis(u64::from(request.max_wait_ms)),
        message: Message {
            bytes_max: message_bytes_max,
            envelope_bytes,
            accepted: accepted(&request.accepted_compressions),
        },
        error_bytes: ERROR_BYTES_MAX,
    })
}

/// What a client can open, of what there is here.
fn accepted(codes: &[i32]) -> Compressions {
    let known = codes.iter().filter_map(|code| u8::try_from(*code).ok());
    known.filter_map(Compression::from_code).collect()
}

pub(crate) fn fetch_result(asked: &FetchPartition, result: FetchResult) -> v1::FetchResult {
    let mut answer = v1::FetchResult {
        topic: asked.topic.clone(),
        partition: asked.partition.get(),
        log_start: result.log_start.get(),
        high_watermark: result.high_watermark.get(),
        next_offset: result.next.get(),
        ..Default::default()
    };
    match result.fetched {
        Ok(Fetched::Batches(bytes)) => answer.data = bytes,
        Ok(Fetched::Gap(missing)) => answer.gap = Some(gap(missing)),
        Ok(Fetched::Nothing) => {}
        Err(error) => answer.error = Some(error.explain().into_error()),
    }
    answer
}

pub(crate) fn gap(missing: Gap) -> v1::Gap {
    let reason = match missing.reason {
        GapReason::Retention => v1::GapReason::Retention,
        GapReason::Compaction => v1::GapReason::Compaction,
        GapReason::Quarantine => v1::GapReason::Quarantine,
        GapReason::PowerLoss => v1::GapReason::PowerLoss,
    };
    v1::Gap { from: missing.from.get(), to: missing.to.get(), reason: reason as i32 }
}

pub(crate) fn position(position: Option<v1::Position>) -> Result<Position, Explained> {
    use v1::position::At;
    match position.and_then(|position| position.at) {
        Some(At::Earliest(_)) => Ok(Position::Earliest),
        Some(At::Latest(_)) => Ok(Position::Latest),
        Some(At::Offset(offset)) => Ok(Position::Offset(Offset::new(offset))),
        Some(At::TimestampMs(millis)) => Ok(Position::Timestamp(Timestamp::from_millis(millis))),
        Some(At::Last(records)) => Ok(Position::Last(records)),
        None => Err(Explained::invalid(
            "no position: say earliest, latest, an offset, a timestamp, or the last n",
        )),
    }
}

pub(crate) fn offset_result(
    topic: String,
    partition: u32,
    found: Result<OffsetFound, Explained>,
) -> v1::OffsetResult {
    match found {
        Ok(found) => v1::OffsetResult {
            topic,
            partition,
            offset: found.offset.get(),
            timestamp_ms: found.timestamp.map(Timestamp::as_millis),
            log_start: found.log_start.get(),
            high_watermark: found.high_watermark.get(),
            error: None,
        },
        Err(error) => {
            let error = Some(error.into_error());
            v1::OffsetResult { topic, partition, error, ..Default::default() }
        }
    }
}

pub(crate) fn consume_command(request: v1::ConsumeRequest) -> Result<ConsumeCommand, Explained> {
    use v1::consume_request::Command;
    let empty = || Explained::invalid("the request has no command");
    Ok(match request.command.ok_or_else(empty)? {
        Command::Subscribe(subscribe) => ConsumeCommand::Subscribe {
            subscription: subscribe.subscription,
            topic: subscribe.topic,
            partition: PartitionIndex::new(subscribe.partition),
            position: position(subscribe.position)?,
            resume: subscribe.resume,
            message: Message {
                bytes_max: message_bytes_max(subscribe.max_message_bytes),
                envelope_bytes: ENVELOPE_BYTES,
                accepted: accepted(&subscribe.accepted_compressions),
            },
            reader: subscribe.reader.map(group::reader),
        },
        Command::Grant(grant) => ConsumeCommand::Grant { bytes: grant.bytes },
        Command::Seek(seek) => ConsumeCommand::Seek {
            subscription: seek.subscription,
            new_subscription: seek.new_subscription,
            position: position(seek.position)?,
        },
        Command::Pause(pause) => ConsumeCommand::Pause { subscription: pause.subscription },
        Command::Resume(resume) => ConsumeCommand::Resume { subscription: resume.subscription },
        Command::Unsubscribe(end) => ConsumeCommand::Unsubscribe { subscription: end.subscription },
    })
}

/// What is said of an event, and the memory that its records take.
pub(crate) fn consume_event(event: ConsumeEvent) -> (v1::ConsumeResponse, Option<Charge>) {
    use v1::consume_response::Event;
    let failed = |subscription, error: Explained| {
        Event::Error(v1::SubscriptionError { subscription, error: Some(error.into_error()) })
    };
    let mut counted = None;
    let event = match event {
        ConsumeEvent::Subscribed { subscription, offset, log_start, high_watermark } => {
            Event::Subscribed(v1::Subscribed {
                subscription,
                offset: offset.get(),
                log_start: log_start.get(),
                high_watermark: high_watermark.get(),
            })
        }
        ConsumeEvent::Delivery { subscription, high_watermark, bytes, charge } => {
            counted = Some(charge);
            Event::Delivery(v1::Delivery {
                subscription,
                high_watermark: high_watermark.get(),
                charged_bytes: bytes.len() as u64,
                data: bytes,
            })
        }
        ConsumeEvent::Gap { subscription, gap: missing } => {
            Event::Gap(v1::SubscriptionGap { subscription, gap: Some(gap(missing)) })
        }
        ConsumeEvent::Failed { subscription, error } => failed(subscription, error.explain()),
        ConsumeEvent::Rejected { subscription, cause } => {
            failed(subscription, Explained::rejected(cause))
        }
        ConsumeEvent::Heartbeat { now, subscriptions, credit_bytes } => {
            let partitions = subscriptions.into_iter().map(|stands| v1::PartitionState {
                subscription: stands.subscription,
                log_start: stands.log_start.get(),
                high_watermark: stands.high_watermark.get(),
                next_offset: stands.next.get(),
            });
            Event::Heartbeat(v1::Heartbeat {
                broker_time_ms: now.as_millis(),
                partitions: partitions.collect(),
                credit_bytes,
            })
        }
    };
    (v1::ConsumeResponse { event: Some(event) }, counted)
}

pub(crate) fn topic(topic: &Topic) -> v1::Topic {
    let settings = TopicSettings::values(&topic.overrides).into_iter().map(|setting| v1::Setting {
        name: setting.name.to_owned(),
        value: setting.value,
        is_default: setting.is_default,
    });
    v1::Topic {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        partitions: topic.partitions,
        settings: settings.collect(),
        created_ms: topic.created.as_millis(),
    }
}

pub(crate) fn description(description: &TopicDescription) -> v1::DescribeTopicResponse {
    v1::DescribeTopicResponse {
        topic: Some(topic(&description.topic)),
        partitions: description.partitions.iter().map(partition).collect(),
    }
}

pub(crate) fn partition(partition: &PartitionDescription) -> v1::Partition {
    let error = |reason: &str, message: &str| {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Some(v1::Error { reason, message, ..Default::default() })
    };
    let (status, error) = match &partition.status {
        PartitionStatus::Online => (v1::PartitionStatus::Online, None),
        PartitionStatus::Recovering => (v1::PartitionStatus::Recovering, None),
        PartitionStatus::ReadOnly { cause } => {
            (v1::PartitionStatus::ReadOnly, error("PARTITION_READ_ONLY", cause))
        }
        PartitionStatus::Offline { cause } => {
            (v1::PartitionStatus::Offline, error("PARTITION_OFFLINE", cause))
        }
    };
    v1::Partition {
        partition: partition.partition.get(),
        status: status as i32,
        log_start: partition.log_start.get(),
        high_watermark: partition.high_watermark.get(),
        log_end: partition.log_end.get(),
        size_bytes: partition.size_bytes,
        leader_epoch: partition.leader_epoch,
        error,
        segments: partition.segments,
        damaged: partition.damaged.iter().map(offset_range).collect(),
    }
}

fn offset_range(range: &Range<Offset>) -> v1::OffsetRange {
    v1::OffsetRange { from: range.start.get(), to: range.end.get() }
}

fn message_bytes_max(asked: u32) -> usize {
    let asked = or_default(asked, limits::MESSAGE_BYTES_DEFAULT);
    asked.min(limits::MESSAGE_BYTES_MAX as usize)
}

/// In proto3 a number that is not set is 0.
fn or_default(value: u32, default: u32) -> usize {
    (if value == 0 { default } else { value }) as usize
}

/// What a backup holds.
pub(crate) fn backup_summary(summary: BackupSummary) -> v1::BackupSummary {
    let BackupSummary { report, taken, skipped } = summary;
    v1::BackupSummary {
        taken_ms: taken.as_millis(),
        logs: report.logs,
        segments: report.segments,
        bytes: report.bytes,
        copied_bytes: report.copied_bytes,
        verified_bytes: report.verified_bytes,
        damaged: report.damaged,
        skipped,
    }
}
