//! Records that are not tried any more: listed, tried again, or forgotten.

use taffrail_log::Read;
use taffrail_model::batch::Compressions;
use taffrail_model::{Offset, PartitionIndex, Timestamp, limits};

use super::command::CommandKind;
use super::event::Span;
use super::record::{QueueRecord, records_of};
use super::service::Told;
use super::state::Queue;
use super::window::Parked;
use super::{QueueError, partitions};
use crate::partition::{Partition, PartitionReadError};
use crate::shared::Shared;

/// Bytes that are read to find a record.
const READ_BYTES: usize = 64 << 10;

/// A record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueuePlace {
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset.
    pub offset: Offset,
}

/// A record that is not tried any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Where it is.
    pub place: QueuePlace,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it is parked.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// What it holds; `None` if it is not there any more, or cannot be read.
    pub record: Option<QueueRecord>,
}

/// Which parked records are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// So many, from the first on.
    First(usize),
    /// These.
    Places(Vec<QueuePlace>),
}

/// Lists parked records behind a place, some `count_max` of them, ascending.
pub(crate) async fn list(
    shared: &Shared,
    queue: &str,
    behind: Option<QueuePlace>,
    count_max: usize,
) -> Result<Vec<ParkedRecord>, QueueError> {
    let count_max = count_max.min(limits::PARKED_MAX);
    let behind = behind.map(|place| (place.partition.get(), place.offset.get()));
    let found = shared.queues.look(queue, |queue| {
        let found = queue.parked_behind(behind).take(count_max);
        let found = found.map(|(partition, offset, parked)| (partition, offset, parked.clone()));
        (queue.topic().clone(), found.collect::<Vec<_>>())
    });
    let (topic, found) = found.await?;
    let served = partitions(shared, &topic).unwrap_or_default();
    let mut listed = Vec::with_capacity(found.len());
    for (partition, offset, Parked { attempts, reason, at_ms }) in found {
        let place =
            QueuePlace { partition: PartitionIndex::new(partition), offset: Offset::new(offset) };
        let record = match served.get(&partition) {
            Some(served) => read(served, place.offset).await.unwrap_or_default(),
            None => None,
        };
        let since = Timestamp::from_millis(at_ms);
        listed.push(ParkedRecord { place, attempts, reason: reason.into(), since, record });
    }
    Ok(listed)
}

/// Lets parked records be tried again, from the first attempt on; how many were parked.
pub(crate) async fn redrive(
    shared: &Shared,
    queue: &str,
    selection: Selection,
) -> Result<u64, QueueError> {
    let _changing = shared.queues.changing.lock().await;
    let mut count = 0;
    for (partition, spans) in select(shared, queue, selection).await? {
        let kind = CommandKind::Redrive { partition, spans };
        let spans = shared.queues.submit(queue, kind, shared).await?.spans;
        count += spans.iter().map(|span| span.1 - span.0).sum::<u64>();
        if let Some(running) = shared.queues.running().get(queue) {
            let _ = running.told.send(Told::Redriven { partition, spans });
        }
    }
    Ok(count)
}

/// Forgets parked records; how many were parked.
pub(crate) async fn discard(
    shared: &Shared,
    queue: &str,
    selection: Selection,
) -> Result<u64, QueueError> {
    let mut count = 0;
    for (partition, spans) in select(shared, queue, selection).await? {
        let kind = CommandKind::Discard { partition, spans };
        let spans = shared.queues.submit(queue, kind, shared).await?.spans;
        count += spans.iter().map(|span| span.1 - span.0).sum::<u64>();
    }
    let topic = shared.queues.look(queue, |queue| queue.topic().clone()).await?;
    shared.queues.keep(shared, &topic).await;
    Ok(count)
}

/// The parked records that are meant, by partition.
async fn select(
    shared: &Shared,
    queue: &str,
    selection: Selection,
) -> Result<Vec<(u32, Vec<Span>)>, QueueError> {
    let mut places: Vec<(u32, u64)> = match selection {
        Selection::Places(places) => {
            places.into_iter().map(|it| (it.partition.get(), it.offset.get())).collect()
        }
        Selection::First(count) => {
            let places = |queue: &Queue| {
                let being_copied = queue.being_copied();
                let parked = queue.parked_behind(None).map(|it| (it.0, it.1));
                parked.filter(|place| !being_copied.contains(place)).take(count).collect()
            };
            shared.queues.look(queue, places).await?
        }
    };
    // There is no record at the last number that there is.
    places.retain(|(_, offset)| *offset < u64::MAX);
    places.sort_unstable();
    places.dedup();
    let by_partition = places.chunk_by(|one, other| one.0 == other.0);
    let spans = by_partition.filter_map(|chunk| {
        let (partition, _) = chunk.first()?;
        Some((*partition, Span::gather(chunk.iter().map(|(_, offset)| *offset))))
    });
    Ok(spans.collect())
}

/// What a record holds; `None` if it is not there any more.
pub(super) async fn read(
    partition: &Partition,
    offset: Offset,
) -> Result<Option<QueueRecord>, String> {
    match partition.read(offset, READ_BYTES, Compressions::ALL).await {
        Ok(Read::Batches { bytes, .. }) => {
            let span = Span(offset.get(), offset.get() + 1);
            records_of(bytes, span).map(|mut records| records.pop())
        }
        Ok(Read::Gap(_) | Read::End) => Ok(None),
        Err(PartitionReadError::Log(_)) if offset < partition.log_start() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
