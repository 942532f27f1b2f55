//! Records that are not tried any more: listed, tried again, or forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
/// Bytes of a page, unless its only record has more: it goes into one message.
const PAGE_BYTES: usize = 1 << 20;

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

/// Some of the parked records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParkedPage {
    /// Ascending.
    pub records: Vec<ParkedRecord>,
    /// Whether there are more behind them.
    pub has_more: bool,
}

/// Which parked records are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedQuery {
    /// Those behind this place.
    pub behind: Option<QueuePlace>,
    /// So many at the most.
    pub count_max: usize,
    /// What they hold is not read.
    pub without_records: bool,
}

/// Which parked records are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// So many, from the first on.
    First(usize),
    /// These.
    Places(Vec<QueuePlace>),
}

/// Lists parked records, as many as `PAGE_BYTES` have room for.
pub(crate) async fn list(
    shared: &Shared,
    queue: &str,
    query: ParkedQuery,
) -> Result<ParkedPage, QueueError> {
    let ParkedQuery { behind, count_max, without_records } = query;
    let count_max = count_max.clamp(1, limits::PARKED_MAX);
    let behind = behind.map(|place| (place.partition.get(), place.offset.get()));
    let found = shared.queues.look(queue, |queue| {
        let found = queue.parked_behind(behind).take(count_max + 1);
        let found = found.map(|(partition, offset, parked)| (partition, offset, parked.clone()));
        (queue.topic().clone(), found.collect::<Vec<_>>())
    });
    let (topic, found) = found.await?;
    let served = partitions(shared, &topic).filter(|_| !without_records).unwrap_or_default();
    let mut finder = Finder::new(&served, found.iter().map(|it| (it.0, it.1)));
    let (mut page, mut bytes) = (ParkedPage::default(), 0);
    for (partition, offset, Parked { attempts, reason, at_ms }) in found {
        let record = finder.find(partition, offset).await.unwrap_or_default();
        bytes += reason.len() + record.as_ref().map_or(0, QueueRecord::bytes);
        let is_full = page.records.len() == count_max || PAGE_BYTES < bytes;
        if is_full && !page.records.is_empty() {
            page.has_more = true;
            break;
        }
        let place =
            QueuePlace { partition: PartitionIndex::new(partition), offset: Offset::new(offset) };
        let since = Timestamp::from_millis(at_ms);
        page.records.push(ParkedRecord { place, attempts, reason: reason.into(), since, record });
    }
    Ok(page)
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

/// Finds records one after the other; what lies near the last one is not read again.
pub(super) struct Finder<'a> {
    partitions: &'a BTreeMap<u32, Arc<Partition>>,
    wanted: BTreeSet<(u32, u64)>,
    /// What was read last, and the records there that are wanted.
    partition: u32,
    span: Span,
    records: Vec<QueueRecord>,
}

impl<'a> Finder<'a> {
    /// Finds some of these.
    pub(super) fn new(
        partitions: &'a BTreeMap<u32, Arc<Partition>>,
        wanted: impl IntoIterator<Item = (u32, u64)>,
    ) -> Self {
        let (wanted, records) = (wanted.into_iter().collect(), Vec::new());
        Self { partitions, wanted, partition: 0, span: Span(0, 0), records }
    }

    /// What a record holds; `None` if it is not there any more.
    pub(super) async fn find(
        &mut self,
        partition: u32,
        offset: u64,
    ) -> Result<Option<QueueRecord>, String> {
        let Some(served) = self.partitions.get(&partition) else { return Ok(None) };
        if self.partition != partition || !self.span.offsets().contains(&offset) {
            let is_wanted = |offset| self.wanted.contains(&(partition, offset));
            (self.span, self.records) = read(served, offset, is_wanted).await?;
            self.partition = partition;
        }
        let found = self.records.binary_search_by_key(&offset, |record| record.offset.get()).ok();
        Ok(found.and_then(|index| self.records.get(index)).map(QueueRecord::detached))
    }
}

/// What is wanted of the records from an offset on, of as many as are read at once.
async fn read(
    partition: &Partition,
    from: u64,
    is_wanted: impl Fn(u64) -> bool,
) -> Result<(Span, Vec<QueueRecord>), String> {
    let offset = Offset::new(from);
    match partition.read(offset, READ_BYTES, Compressions::ALL).await {
        Ok(Read::Batches { bytes, next }) => {
            records_of(bytes, is_wanted).map(|records| (Span(from, next.get()), records))
        }
        Ok(Read::Gap(gap)) => Ok((Span(from, gap.to.get()), Vec::new())),
        Ok(Read::End) => Ok((Span(from, from + 1), Vec::new())),
        Err(PartitionReadError::Log(_)) if offset < partition.log_start() => {
            Ok((Span(from, partition.log_start().get()), Vec::new()))
        }
        Err(error) => Err(error.to_string()),
    }
}
