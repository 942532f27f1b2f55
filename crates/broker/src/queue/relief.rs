//! Gives up what the topic's retention would delete, where the queue is to have it copied: it is parked, and so
//! goes to the dead-letter topic, and then the topic need not keep it any more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use taffrail_log::Read;
use taffrail_model::Offset;
use taffrail_model::batch::Compressions;
use tokio::sync::Notify;

use super::command::{CommandKind, Lease};
use super::event::Span;
use super::policy::Retention;
use super::record::records_of;
use super::service::Told;
use super::state::Queue;
use super::{QueueError, partitions};
use crate::partition::Partition;
use crate::shared::Shared;

/// Bytes that are looked through at once.
const READ_BYTES: usize = 1 << 20;
/// How long to wait until it is looked again whether retention would delete something.
const PAUSE: Duration = Duration::from_secs(1);
const REASON: &str = "retention would have deleted it";

/// Relieves topics as long as the broker lives, whenever one is pressed.
pub(crate) async fn relieve(shared: Weak<Shared>, pressed: Arc<Notify>) {
    let Some(stop) = shared.upgrade().map(|shared| shared.stop()) else { return };
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = pressed.notified() => {}
            () = &mut stop => return,
        }
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = relieve_all(&shared).await {
            tracing::warn!(%error, "what retention would delete is not copied for queues; it stays, and this is tried again");
        }
        drop(shared);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn relieve_all(shared: &Arc<Shared>) -> Result<(), QueueError> {
    let looked = shared.queues.registry()?.look(|queues| {
        let copying = queues.all().filter(|(_, it)| it.policy().retention == Retention::Copy);
        let copying = copying.map(|(name, queue)| (name.clone(), queue.topic().clone()));
        copying.collect::<Vec<_>>()
    });
    for (name, topic) in looked.await? {
        for (index, partition) in partitions(shared, &topic).unwrap_or_default() {
            if let Some(before) = partition.pressed_to() {
                give_up(shared, &name, index, &partition, before).await?;
            }
        }
        shared.queues.copy_dead_letters(shared, &name).await?;
    }
    Ok(())
}

/// Gives up what nobody has of a partition, up to an offset.
async fn give_up(
    shared: &Shared,
    name: &str,
    index: u32,
    partition: &Partition,
    before: Offset,
) -> Result<(), QueueError> {
    loop {
        let end = |queue: &Queue| queue.partitions().get(&index).map(|it| it.runs().end());
        let Some(known) = shared.queues.look(name, end).await? else { return Ok(()) };
        let looked = if before.get() <= known {
            Lease { partition: index, end: before.get(), ..Lease::default() }
        } else {
            look_through(partition, index, known, before.get())
                .await
                .map_err(QueueError::Request)?
        };
        let is_last = before.get() <= looked.end;
        let end = looked.end;
        let kind = CommandKind::GiveUp { looked, reason: REASON };
        let spans = shared.queues.submit(name, kind, shared).await?.spans;
        if let Some(running) = shared.queues.running().get(name) {
            let _ = running.told.send(Told::GivenUp { partition: index, end, spans });
        }
        if is_last || end <= known {
            return Ok(());
        }
    }
}

/// Which records there are from an offset on, as many as are read at once.
async fn look_through(
    partition: &Partition,
    index: u32,
    from: u64,
    before: u64,
) -> Result<Lease, String> {
    let read = partition.read(Offset::new(from), READ_BYTES, Compressions::ALL).await;
    let (end, offsets) = match read {
        Ok(Read::Batches { bytes, next }) => {
            let records = records_of(bytes, Span(from, next.get()))?;
            (next.get(), records.into_iter().map(|record| record.offset.get()).collect())
        }
        Ok(Read::Gap(gap)) => (gap.to.get(), Vec::new()),
        Ok(Read::End) => (from, Vec::new()),
        Err(_) if Offset::new(from) < partition.log_start() => {
            (partition.log_start().get(), Vec::new())
        }
        Err(error) => return Err(error.to_string()),
    };
    let end = end.min(before);
    let mut missing = Vec::new();
    let mut next = from;
    for offset in offsets.iter().copied().filter(|offset| *offset < end).chain([end]) {
        if next < offset {
            missing.push(Span(next, offset));
        }
        next = offset + 1;
    }
    Ok(Lease { partition: index, end, missing, offsets })
}
