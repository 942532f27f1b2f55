//! A queue, for people and for programs.

use serde_json::{Value, json};
use taffrail_client::proto::{
    DescribeQueueResponse, QueueIdle, QueueOrder, QueuePartition, QueueRetention, QueueSettings,
    QueueTally,
};

use crate::duration;
use crate::output::table;

pub(super) fn text(described: &DescribeQueueResponse) -> String {
    let settings = described.settings.clone().unwrap_or_default();
    let rows = described.partitions.iter().map(|it| {
        let counts = [it.fresh, it.ready, it.leased, it.delayed, it.parked, it.first_open];
        let counts = counts.iter().map(u64::to_string);
        std::iter::once(it.partition.to_string()).chain(counts).collect()
    });
    let heads = ["PARTITION", "NEW", "READY", "LEASED", "DELAYED", "PARKED", "FIRST OPEN"];
    let (queue, topic) = (&described.queue, &described.topic);
    let (workers, with_credit) = (described.workers, described.workers_with_credit);
    let mut lines = vec![
        format!("{queue} on {topic}: {}", rules(&settings)),
        format!("workers: {workers}, {with_credit} of them take more"),
        done(&described.tally.unwrap_or_default()),
    ];
    if let Some(age) =
        described.partitions.iter().map(|it| it.oldest_age_ms).max().filter(|it| *it > 0)
    {
        lines.push(format!("the oldest record that is not settled is {} old", duration::text(age)));
    }
    if !described.uncopied_cause.is_empty() {
        lines.push(format!("dead letters are not copied: {}", described.uncopied_cause));
    }
    if !described.trouble.is_empty() {
        lines.push(format!("trouble: {}", described.trouble));
    }
    lines.extend(why(described).map(|why| format!("nothing is handed out: {why}")));
    lines.push(table(&heads, &[0, 1, 2, 3, 4, 5, 6], rows.collect()));
    lines.join("\n")
}

fn rules(settings: &QueueSettings) -> String {
    let time = |millis: Option<u32>| duration::text(millis.unwrap_or(0).into());
    let (lease, attempts) = (time(settings.lease_ms), settings.max_attempts());
    let (min, max) = (time(settings.min_backoff_ms), time(settings.max_backoff_ms));
    let order = order(settings.order());
    let dead_letters = match settings.dead_letter_topic() {
        "" => String::new(),
        topic if settings.retention() == QueueRetention::Copy => {
            format!(", dead letters and what retention deletes to {topic}")
        }
        topic => format!(", dead letters to {topic}"),
    };
    format!(
        "lease {lease}, {attempts} attempts, backoff {min} to {max}, order {order}{dead_letters}"
    )
}

/// What it has done since the broker was started.
fn done(tally: &QueueTally) -> String {
    let QueueTally { delivered, redelivered, acknowledged, failed, expired, .. } = tally;
    let text = format!(
        "since the broker was started: {delivered} attempts, {redelivered} of them again; {acknowledged} \
         acknowledged, {failed} failed, {expired} leases ended"
    );
    let (Some(came), Some(went)) = (tally.appended_per_second, tally.acknowledged_per_second)
    else {
        return text;
    };
    format!("{text}; {came:.1}/s come in, {went:.1}/s are acknowledged")
}

fn order(order: QueueOrder) -> &'static str {
    match order {
        QueueOrder::Unspecified | QueueOrder::None => "none",
        QueueOrder::PerKey => "per-key",
    }
}

fn why(described: &DescribeQueueResponse) -> Option<String> {
    Some(match described.idle() {
        QueueIdle::Unspecified => return None,
        QueueIdle::NoTopic => "the topic was deleted: delete the queue too".into(),
        QueueIdle::Empty => "all is settled".into(),
        QueueIdle::NoWorker => "nobody works on it: `taffrail queue receive`".into(),
        QueueIdle::NoCredit => "the workers hold as many records as they take".into(),
        QueueIdle::AllLeased => "all that is left is being worked on".into(),
        QueueIdle::Delayed => {
            format!(
                "all that is left is tried again later, first at {}",
                timestamp(described.idle_until_ms)
            )
        }
        QueueIdle::WindowFull => {
            "max_outstanding records are leased, delayed or passed over".into()
        }
        QueueIdle::ParkedFull => {
            "max_parked records are parked: `taffrail queue redrive` or `discard` some, or give the queue a \
             dead-letter topic"
                .into()
        }
        QueueIdle::KeysBlocked => "all that could be waits for a record of the same key".into(),
    })
}

/// A name for programs, if there is something to say.
fn idle_name(idle: QueueIdle) -> Option<&'static str> {
    (idle != QueueIdle::Unspecified).then(|| idle.as_str_name().trim_start_matches("QUEUE_IDLE_"))
}

fn timestamp(millis: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(millis);
    moment.map_or_else(|_| millis.to_string(), |moment| moment.to_string())
}

pub(super) fn json(described: &DescribeQueueResponse) -> Value {
    let settings = described.settings.clone().unwrap_or_default();
    json!({
        "queue": described.queue,
        "topic": described.topic,
        "created_ms": described.created_ms,
        "settings": {
            "lease_ms": settings.lease_ms,
            "max_attempts": settings.max_attempts,
            "min_backoff_ms": settings.min_backoff_ms,
            "max_backoff_ms": settings.max_backoff_ms,
            "order": order(settings.order()),
            "max_outstanding": settings.max_outstanding,
            "max_parked": settings.max_parked,
            "retention": match settings.retention() {
                QueueRetention::Unspecified | QueueRetention::Hold => "hold",
                QueueRetention::Copy => "copy",
            },
            "dead_letter_topic": Some(settings.dead_letter_topic()).filter(|it| !it.is_empty()),
        },
        "workers": described.workers,
        "workers_with_credit": described.workers_with_credit,
        "idle": idle_name(described.idle()),
        "idle_until_ms": (described.idle_until_ms != 0).then_some(described.idle_until_ms),
        "uncopied_cause": Some(&described.uncopied_cause).filter(|it| !it.is_empty()),
        "trouble": Some(&described.trouble).filter(|it| !it.is_empty()),
        "tally": tally_json(&described.tally.unwrap_or_default()),
        "partitions": described.partitions.iter().map(partition_json).collect::<Vec<_>>(),
    })
}

fn tally_json(tally: &QueueTally) -> Value {
    json!({
        "delivered": tally.delivered,
        "redelivered": tally.redelivered,
        "acknowledged": tally.acknowledged,
        "failed": tally.failed,
        "expired": tally.expired,
        "parked": tally.parked,
        "copied": tally.copied,
        "appended_per_second": tally.appended_per_second,
        "acknowledged_per_second": tally.acknowledged_per_second,
    })
}

fn partition_json(it: &QueuePartition) -> Value {
    json!({
        "partition": it.partition,
        "fresh": it.fresh,
        "ready": it.ready,
        "leased": it.leased,
        "delayed": it.delayed,
        "parked": it.parked,
        "first_open": it.first_open,
        "delayed_until_ms": it.delayed_until_ms,
        "oldest_age_ms": it.oldest_age_ms,
    })
}
