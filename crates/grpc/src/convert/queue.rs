//! Work queues, between the contract and the broker.

use std::time::Duration;

use axum::body::Bytes;
use taffrail_broker::{
    CreateQueue, Idle, ParkedQuery, ParkedRecord, Position, QueueCommand, QueueDelivery,
    QueueDescription, QueueEvent, QueueOrder, QueuePartition, QueuePlace, QueuePolicy, QueueRecord,
    QueueRetention, QueueSummary, QueueTally, Selection, Settle, SettleRefusal, Verdict,
};
use taffrail_model::{Offset, PartitionIndex, Timestamp, limits};
use taffrail_proto::v1;

use super::position;
use crate::status::{Explain as _, Explained};

/// Bytes of a reason, for people.
const REASON_BYTES_MAX: usize = 1_000;
/// Longest delay of a record that failed.
const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Places that a request names, at the most.
const PLACES_MAX: usize = 10_000;
/// Parked records that are listed where the request does not say.
const PARKED_DEFAULT: usize = 100;

pub(crate) fn create(request: v1::CreateQueueRequest) -> Result<CreateQueue, Explained> {
    let v1::CreateQueueRequest { queue, topic, settings, from } = request;
    let from = if from.is_some() { position(from)? } else { Position::Earliest };
    let policy = change(settings.unwrap_or_default())?(QueuePolicy::default());
    Ok(CreateQueue { name: queue, topic, policy, from })
}

/// Sets what is set.
pub(crate) fn change(
    settings: v1::QueueSettings,
) -> Result<impl FnOnce(QueuePolicy) -> QueuePolicy + Send, Explained> {
    let millis = |value: Option<u32>| value.map(|value| Duration::from_millis(value.into()));
    let order = match v1::QueueOrder::try_from(settings.order) {
        Ok(v1::QueueOrder::Unspecified) => None,
        Ok(v1::QueueOrder::None) => Some(QueueOrder::None),
        Ok(v1::QueueOrder::PerKey) => Some(QueueOrder::PerKey),
        Err(_) => return Err(Explained::invalid("there is no such order: say none or per-key")),
    };
    let retention = match v1::QueueRetention::try_from(settings.retention) {
        Ok(v1::QueueRetention::Unspecified) => None,
        Ok(v1::QueueRetention::Hold) => Some(QueueRetention::Hold),
        Ok(v1::QueueRetention::Copy) => Some(QueueRetention::Copy),
        Err(_) => return Err(Explained::invalid("there is no such retention: say hold or copy")),
    };
    let dead_letters = settings.dead_letter_topic.map(|it| Some(it).filter(|it| !it.is_empty()));
    Ok(move |policy: QueuePolicy| QueuePolicy {
        lease: millis(settings.lease_ms).unwrap_or(policy.lease),
        attempts_max: settings.max_attempts.unwrap_or(policy.attempts_max),
        backoff_min: millis(settings.min_backoff_ms).unwrap_or(policy.backoff_min),
        backoff_max: millis(settings.max_backoff_ms).unwrap_or(policy.backoff_max),
        order: order.unwrap_or(policy.order),
        window: settings.max_outstanding.unwrap_or(policy.window),
        parked_max: settings.max_parked.unwrap_or(policy.parked_max),
        dead_letters: dead_letters.unwrap_or(policy.dead_letters),
        retention: retention.unwrap_or(policy.retention),
    })
}

fn settings(policy: &QueuePolicy) -> v1::QueueSettings {
    let order = match policy.order {
        QueueOrder::None => v1::QueueOrder::None,
        QueueOrder::PerKey => v1::QueueOrder::PerKey,
    };
    let retention = match policy.retention {
        QueueRetention::Hold => v1::QueueRetention::Hold,
        QueueRetention::Copy => v1::QueueRetention::Copy,
    };
    v1::QueueSettings {
        lease_ms: Some(millis(policy.lease)),
        max_attempts: Some(policy.attempts_max),
        min_backoff_ms: Some(millis(policy.backoff_min)),
        max_backoff_ms: Some(millis(policy.backoff_max)),
        order: order.into(),
        max_outstanding: Some(policy.window),
        max_parked: Some(policy.parked_max),
        dead_letter_topic: Some(policy.dead_letters.clone().unwrap_or_default()),
        retention: retention.into(),
    }
}

/// No time here is longer than weeks.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) fn summary(summary: QueueSummary) -> v1::QueueSummary {
    let QueueSummary { name, topic, created, parked } = summary;
    v1::QueueSummary { queue: name, topic, created_ms: created.as_millis(), parked }
}

pub(crate) fn description(described: QueueDescription) -> v1::DescribeQueueResponse {
    let (idle, until) = match described.idle {
        None => (v1::QueueIdle::Unspecified, None),
        Some(Idle::NoTopic) => (v1::QueueIdle::NoTopic, None),
        Some(Idle::Empty) => (v1::QueueIdle::Empty, None),
        Some(Idle::NoWorker) => (v1::QueueIdle::NoWorker, None),
        Some(Idle::NoCredit) => (v1::QueueIdle::NoCredit, None),
        Some(Idle::AllLeased) => (v1::QueueIdle::AllLeased, None),
        Some(Idle::Delayed { until }) => (v1::QueueIdle::Delayed, Some(until)),
        Some(Idle::WindowFull) => (v1::QueueIdle::WindowFull, None),
        Some(Idle::KeysBlocked) => (v1::QueueIdle::KeysBlocked, None),
        Some(Idle::ParkedFull) => (v1::QueueIdle::ParkedFull, None),
    };
    v1::DescribeQueueResponse {
        queue: described.name,
        topic: described.topic,
        created_ms: described.created.as_millis(),
        settings: Some(settings(&described.policy)),
        partitions: described.partitions.into_iter().map(partition).collect(),
        workers: described.crowd.workers,
        workers_with_credit: described.crowd.with_credit,
        idle: idle.into(),
        idle_until_ms: until.map_or(0, Timestamp::as_millis),
        uncopied_cause: described.uncopied.unwrap_or_default(),
        tally: Some(tally(described.tally)),
        trouble: described.crowd.trouble.unwrap_or_default(),
    }
}

fn partition(partition: QueuePartition) -> v1::QueuePartition {
    let QueuePartition { fresh, ready, leased, delayed, parked, first_open, .. } = partition;
    v1::QueuePartition {
        partition: partition.partition.get(),
        fresh,
        ready,
        leased,
        delayed,
        parked,
        first_open,
        delayed_until_ms: partition.delayed_until.map(Timestamp::as_millis),
        oldest_age_ms: u64::try_from(partition.age.as_millis()).unwrap_or(u64::MAX),
    }
}

fn tally(tally: QueueTally) -> v1::QueueTally {
    let QueueTally { delivered, redelivered, acknowledged, failed, expired, parked, copied, rates } =
        tally;
    v1::QueueTally {
        delivered,
        redelivered,
        acknowledged,
        failed,
        expired,
        parked,
        copied,
        appended_per_second: rates.map(|(appended, _)| appended),
        acknowledged_per_second: rates.map(|(_, acknowledged)| acknowledged),
    }
}

pub(crate) fn command(request: v1::ReceiveRequest) -> Result<QueueCommand, Explained> {
    use v1::receive_request::Command;
    Ok(match request.command.ok_or_else(|| Explained::invalid("the request has no command"))? {
        Command::Open(open) => QueueCommand::Open { queue: open.queue },
        Command::Grant(grant) => QueueCommand::Grant {
            records: grant.records.into(),
            bytes: if grant.bytes == 0 { u64::MAX } else { grant.bytes },
        },
        Command::Settle(settle) => {
            let count = settle.settlements.len();
            if !(1..=limits::SETTLES_MAX).contains(&count) {
                let cause =
                    format!("{count} records are settled: send 1 to {}", limits::SETTLES_MAX);
                return Err(Explained::invalid(&cause));
            }
            let settles = settle.settlements.into_iter().map(settlement);
            QueueCommand::Settle(settles.collect::<Result<_, _>>()?)
        }
    })
}

fn settlement(settlement: v1::Settlement) -> Result<Settle, Explained> {
    use v1::settlement::Verdict as Said;
    let missing =
        || Explained::invalid("a settlement says nothing: ack, nack, release, extend, reject");
    let delay = |millis: u32| Duration::from_millis(millis.into());
    let verdict = match settlement.verdict.ok_or_else(missing)? {
        Said::Ack(_) => Verdict::Acknowledge,
        Said::Nack(nack) => {
            let delay = nack.delay_ms.map(delay);
            if delay.is_some_and(|delay| DELAY_MAX < delay) {
                return Err(Explained::invalid("a delay is longer than 7 days: say a shorter one"));
            }
            Verdict::Retry { delay }
        }
        Said::Release(_) => Verdict::Release,
        Said::Extend(extend) => Verdict::Extend { time: extend.lease_ms.map(delay) },
        Said::Reject(reject) => {
            Verdict::Reject { reason: crate::status::cut(&reject.reason, REASON_BYTES_MAX) }
        }
    };
    Ok(Settle { ack_id: settlement.ack_id, verdict })
}

pub(crate) fn event(event: QueueEvent) -> Result<v1::ReceiveResponse, Explained> {
    use v1::receive_response::Event;
    let event = match event {
        QueueEvent::Opened { topic } => Event::Opened(v1::QueueOpened { topic }),
        QueueEvent::Deliveries(deliveries) => {
            let deliveries = deliveries.into_iter().map(delivery).collect();
            Event::Deliveries(v1::QueueDeliveries { deliveries })
        }
        QueueEvent::Settled(results) => {
            let results = results.into_iter().map(settle_result).collect();
            Event::Settled(v1::RecordsSettled { results })
        }
        QueueEvent::Failed(error) => return Err(error.explain()),
    };
    Ok(v1::ReceiveResponse { event: Some(event) })
}

fn delivery(delivery: QueueDelivery) -> v1::QueueDelivery {
    let QueueDelivery { ack_id, partition, record: held, attempt, lease } = delivery;
    v1::QueueDelivery {
        ack_id,
        partition: partition.get(),
        offset: held.offset.get(),
        record: Some(record(&held)),
        attempt,
        lease_ms: millis(lease),
    }
}

fn settle_result((ack_id, result): (Bytes, Result<(), SettleRefusal>)) -> v1::SettleResult {
    let error = result.err().map(|refusal| refusal.explain().into_error());
    v1::SettleResult { ack_id, error }
}

fn record(record: &QueueRecord) -> v1::Record {
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| v1::Header { name: name.clone(), value: value.clone() });
    v1::Record {
        key: record.key.clone(),
        value: record.value.clone(),
        headers: headers.collect(),
        timestamp_ms: record.timestamp.as_millis(),
        ..Default::default()
    }
}

fn place(place: v1::RecordPlace) -> QueuePlace {
    QueuePlace {
        partition: PartitionIndex::new(place.partition),
        offset: Offset::new(place.offset),
    }
}

/// The queue, and which of its parked records.
pub(crate) fn list_parked(
    request: v1::ListParkedRequest,
) -> Result<(String, ParkedQuery), Explained> {
    let v1::ListParkedRequest { queue, behind, max_records, without_records } = request;
    let count_max = match max_records as usize {
        0 => PARKED_DEFAULT,
        count if count <= limits::PARKED_MAX => count,
        _ => {
            return Err(Explained::invalid(
                "max_records is above 1,000: ask again behind the last",
            ));
        }
    };
    Ok((queue, ParkedQuery { behind: behind.map(place), count_max, without_records }))
}

pub(crate) fn parked(parked: ParkedRecord) -> v1::ParkedRecord {
    let ParkedRecord { place, attempts, reason, since, record: held } = parked;
    let place = v1::RecordPlace { partition: place.partition.get(), offset: place.offset.get() };
    v1::ParkedRecord {
        place: Some(place),
        record: held.as_ref().map(record),
        attempts,
        reason,
        parked_ms: since.as_millis(),
    }
}

pub(crate) fn selection(selection: Option<v1::ParkedSelection>) -> Result<Selection, Explained> {
    use v1::parked_selection::Selection as Said;
    match selection.and_then(|it| it.selection) {
        Some(Said::First(count)) => {
            Ok(Selection::First(usize::try_from(count).unwrap_or(usize::MAX)))
        }
        Some(Said::Places(places)) if (1..=PLACES_MAX).contains(&places.places.len()) => {
            Ok(Selection::Places(places.places.into_iter().map(place).collect()))
        }
        Some(Said::Places(_)) => Err(Explained::invalid("name 1 to 10,000 places at once")),
        None => Err(Explained::invalid("say which parked records: the first n, or places")),
    }
}
