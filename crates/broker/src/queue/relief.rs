//! Gives up what the topic's retention would delete, where the queue is to have it copied: it is parked, and so
//! goes to the dead-letter topic, and then the topic need not keep it any more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use taffrail_log::Read;
use taffrail_model::Offset;
use taffrail_model::batch::Compressions;
use tokio::sync::Notify;

use super::command::{CommandKind, LookedThrough};
use super::event::Span;
use super::policy::Retention;
use super::record::records_of;
use super::service::Told;
use super::state::{Queue, Registry};
use super::{QueueError, partitions};
use crate::partition::Partition;
use crate::shared::Shared;

/// Bytes that are looked through at once.
const READ_BYTES: usize = 1 << 20;
/// How long to wait until it is looked again whether retention would delete something.
const PAUSE: Duration = Duration::from_secs(1);
/// How long where one is pressed.
const RETRY: Duration = Duration::from_secs(10);
/// Parked records of a queue beyond which nothing more is given up before some are copied.
const PARKED_MAX: usize = 20_000;
const REASON: &str = "retention would have deleted it";

/// Relieves topics as long as the broker lives, whenever one is pressed, and again as long as one is.
pub(crate) async fn relieve(shared: Weak<Shared>, pressed: Arc<Notify>) {
    let Some(stop) = shared.upgrade().map(|shared| shared.stop()) else { return };
    tokio::pin!(stop);
    let mut wait = Duration::MAX;
    loop {
        tokio::select! {
            // Woken, or the time is over.
            _ = tokio::time::timeout(wait, pressed.notified()) => {}
            () = &mut stop => return,
        }
        let Some(shared) = shared.upgrade() else { return };
        let pressure = relieve_all(&shared).await;
        drop(shared);
        wait = match pressure {
            Pressure::None => Duration::MAX,
            Pressure::Eased => Duration::ZERO,
            Pressure::Stays => RETRY,
        };
        tokio::time::sleep(PAUSE).await;
    }
}

/// How topics are after something was done about it, for all that anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pressure {
    None,
    Stays,
    Eased,
}

/// Relieves each topic a little.
async fn relieve_all(shared: &Arc<Shared>) -> Pressure {
    let copying = |queues: &Registry| {
        let copying = queues.all().filter(|(_, it)| it.policy().retention == Retention::Copy);
        let copying = copying.map(|(name, it)| (name.clone(), it.number(), it.topic().clone()));
        copying.collect::<Vec<_>>()
    };
    let Ok(registry) = shared.queues.registry() else { return Pressure::None };
    let Ok(queues) = registry.look(copying).await else { return Pressure::Stays };
    let mut pressure = Pressure::None;
    for (name, number, topic) in queues {
        for (index, partition) in partitions(shared, &topic).unwrap_or_default() {
            if partition.pressed_to().is_none() {
                continue;
            }
            let eased = match give_up(shared, &name, number, index, &partition).await {
                Ok(0) => Pressure::Stays,
                Ok(_) => Pressure::Eased,
                Err(error) => {
                    tracing::warn!(queue = name, partition = index, %error, "what retention would delete is not copied, and stays; this is tried again");
                    Pressure::Stays
                }
            };
            pressure = pressure.max(eased);
        }
        if let Err(error) = shared.queues.copy_dead_letters(shared, &name).await {
            tracing::debug!(queue = name, %error, "dead letters are not copied");
        }
    }
    pressure
}

/// Gives up what nobody has of a partition, as far as retention would delete it, and as long as not too much
/// waits to be copied; how many records that are.
async fn give_up(
    shared: &Arc<Shared>,
    name: &str,
    number: u64,
    index: u32,
    partition: &Partition,
) -> Result<u64, QueueError> {
    let mut count = 0;
    while let Some(before) = partition.pressed_to() {
        let before = before.get();
        let seen = |queue: &Queue| {
            let known = queue.partitions().get(&index).map(|it| it.runs().end());
            known.filter(|_| queue.number() == number && queue.parked() < PARKED_MAX)
        };
        let Some(known) = shared.queues.look(name, seen).await? else { break };
        let start = partition.log_start().get();
        let looked = if before <= known {
            LookedThrough { partition: index, start, end: before, ..LookedThrough::default() }
        } else {
            let read = look_through(partition, known.max(start), before).await;
            LookedThrough { partition: index, start, ..read.map_err(QueueError::Request)? }
        };
        let end = looked.end;
        // It counts what is given up.
        let running = shared.queues.at_work(shared, name).await?;
        // Nobody redrives them in between.
        let _changing = shared.queues.changing.lock().await;
        let kind = CommandKind::GiveUp { looked, reason: REASON };
        let spans = shared.queues.submit_to(name, number, kind, shared).await?.spans;
        count += spans.iter().map(|span| span.1 - span.0).sum::<u64>();
        // One that is gone has nothing to note.
        let _ = running.told.send(Told::GivenUp { partition: index, end, spans });
        if before <= end || end <= known {
            break;
        }
    }
    Ok(count)
}

/// Which records there are from an offset on, as many as are read at once.
async fn look_through(
    partition: &Partition,
    from: u64,
    before: u64,
) -> Result<LookedThrough, String> {
    let read = partition.read(Offset::new(from), READ_BYTES, Compressions::ALL).await;
    let (end, offsets) = match read {
        Ok(Read::Batches { bytes, next }) => {
            let records = records_of(bytes, |offset| (from..next.get()).contains(&offset))?;
            (next.get(), records.into_iter().map(|record| record.offset.get()).collect())
        }
        Ok(Read::Gap(gap)) => (gap.to.get(), Vec::new()),
        Ok(Read::End) => (from, Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let end = end.min(before);
    let (mut missing, mut next) = (Vec::new(), from);
    for offset in offsets.iter().copied().filter(|offset| *offset < end).chain([end]) {
        if next < offset {
            missing.push(Span(next, offset));
        }
        next = offset + 1;
    }
    Ok(LookedThrough { end, missing, offsets, ..LookedThrough::default() })
}
