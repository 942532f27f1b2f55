//! Copies what is parked to the dead-letter topic, each record once.
//!
//! One task for each queue at work. It stores which records go into a batch, as which producer and with which
//! sequence; appends the batch; stores that it is there. Whatever stops it in between, it appends the same batch
//! again, which the log takes for what it is. What cannot be copied stays parked, and `describe` says why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use taffrail_log::{NewBatch, Read};
use taffrail_model::batch::{Batches, Compressions, HEADER_BYTES};
use taffrail_model::{
    Offset, PartitionIndex, ProducerEpoch, ProducerId, ProducerStamp, Sequence, TopicName,
    partition_for_key,
};
use tokio::sync::{Notify, mpsc};

use super::command::CommandKind;
use super::copies::{Copies, CopyEnd, WantedCopies};
use super::event::{CopiesId, Places, Topic};
use super::letter::{self, Letter, Sender};
use super::parked::Finder;
use super::state::Queue;
use super::tally::Tally;
use super::window::Parked;
use super::{QueueError, Running, partitions};
use crate::catalog::TopicSettings;
use crate::clock::{self, Stopwatch};
use crate::partition::{AppendRequest, Order, Partition};
use crate::produce::{self, BatchRules, IncomingBatch, ProduceError, Reply};
use crate::shared::Shared;

/// Records that are looked at together.
const RECORDS_MAX: usize = 64;
/// Bytes of a batch of more than one.
const BYTES_MAX: usize = 256 << 10;
/// Bytes that are read at once where a copy is looked for.
const READ_BYTES: usize = 1 << 20;
/// How long to wait after something could not be copied, and how long at the most: looking through much that
/// cannot be copied is not cheap.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Where whoever wants something copied says so, and is told why it is not.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// There may be more to copy.
    pub(super) wake: Notify,
    /// Why something is not copied.
    stuck: Mutex<Option<String>>,
}

impl Desk {
    pub(super) fn stuck(&self) -> Option<String> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether that is news.
    fn note(&self, cause: Option<&str>) -> bool {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = stuck.as_deref() != cause;
        *stuck = cause.map(str::to_owned);
        is_news
    }
}

/// Copies what is parked in a queue.
pub(super) struct DeadLetters {
    shared: Weak<Shared>,
    queue: String,
    number: u64,
    desk: Arc<Desk>,
    tally: Arc<Tally>,
    settled: Arc<Notify>,
    /// Who appends to which topic, once there is something to append. Nobody knows of another start what was
    /// appended since the state was stored that it began with: each is somebody else.
    producer: Option<(ProducerId, String)>,
    /// How far it has looked, and why the last one of what cannot be copied cannot.
    behind: Option<(u32, u64)>,
    cause: Option<String>,
}

/// How far it is.
enum Progress {
    /// There is more to do.
    More,
    /// All is copied, or nothing is to be.
    Done,
    /// The queue is gone.
    Over,
}

/// What is seen of a queue.
struct Seen {
    topic: Topic,
    target: Option<String>,
    under_way: Vec<Batch>,
    parked: Vec<(u32, u64, Parked)>,
}

/// A batch that is under way.
struct Batch {
    copies: Copies,
    /// Its records, in their order there.
    parked: Vec<(u32, u64, Parked)>,
}

impl DeadLetters {
    pub(super) fn new(shared: &Arc<Shared>, queue: String, running: &Running) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            queue,
            number: running.number,
            desk: Arc::clone(&running.dead_letters),
            tally: Arc::clone(&running.tally),
            settled: Arc::clone(&running.settled),
            producer: None,
            behind: None,
            cause: None,
        }
    }

    /// Works until the queue or the broker is gone.
    pub(super) async fn run(mut self) {
        loop {
            let begun = clock::instant();
            let Some(shared) = self.shared.upgrade().filter(|it| !it.is_stopping()) else { return };
            // Through all that is parked, once.
            self.behind = None;
            let passed = loop {
                match self.step(&shared).await {
                    Ok(Progress::More) => {}
                    Ok(Progress::Done) => break Ok(()),
                    Ok(Progress::Over) => return,
                    Err(cause) => break Err(cause),
                }
            };
            drop(shared);
            let cause = passed.err().or(self.cause.take());
            if self.desk.note(cause.as_deref())
                && let Some(cause) = &cause
            {
                tracing::warn!(
                    queue = self.queue,
                    cause,
                    "dead letters are not copied, and stay parked; this is tried again"
                );
            }
            if cause.is_some() {
                // Not more often than is cheap, whatever is parked meanwhile.
                tokio::time::sleep((begun.elapsed() * 10).clamp(RETRY, RETRY_MAX)).await;
            } else {
                self.desk.wake.notified().await;
            }
        }
    }

    /// Does the next thing: ends the batches that are under way, and has others under way.
    async fn step(&mut self, shared: &Shared) -> Result<Progress, String> {
        let registry = shared.queues.registry().map_err(|error| error.to_string())?;
        let seen = registry.look(|queues| {
            let known = queues.get(&self.queue).filter(|queue| queue.number() == self.number);
            known.map(|queue| see(queue, self.behind))
        });
        let seen = seen.await.map_err(|error| QueueError::from(error).to_string())?;
        let Some(Seen { topic, target: to, under_way, parked }) = seen else {
            return Ok(Progress::Over);
        };
        let Some(sources) = partitions(shared, &topic) else { return Ok(Progress::Done) };
        if !under_way.is_empty() && self.end(shared, &topic, &sources, under_way).await? {
            return Ok(Progress::More);
        }
        let (Some(to), Some(last)) = (to, parked.last()) else { return Ok(Progress::Done) };
        let last = (last.0, last.1);
        let (target, to) = target(shared, &to)?;
        let (wanted, left_from) = self.gather(shared, &topic, &sources, &to, parked).await;
        self.behind = left_from.or(Some(last));
        if wanted.is_empty() {
            // None of these can be copied: others may.
            return Ok(Progress::More);
        }
        let producer = match &self.producer {
            Some((producer, topic)) if *topic == target.id => *producer,
            // Nobody remembers what it has appended elsewhere.
            _ => {
                let made = shared.producers.make(shared.now()).await;
                let made = made.map_err(|error| error.to_string())?.id;
                self.producer = Some((made, target.id.clone()));
                made
            }
        };
        let producer = producer.get();
        self.submit(shared, CommandKind::Copy { topic: target, producer, wanted }).await?;
        Ok(Progress::More)
    }

    /// Sees to it that the batches which are under way are there, or are not, and says which. Whether that is so
    /// of all of them.
    async fn end(
        &mut self,
        shared: &Shared,
        topic: &Topic,
        sources: &BTreeMap<u32, Arc<Partition>>,
        under_way: Vec<Batch>,
    ) -> Result<bool, String> {
        let (mut ends, mut count, mut failed) = (Vec::new(), 0, false);
        for Batch { copies: Copies { id, topic: target, from, places }, parked } in under_way {
            let (stamp, partition) = (stamp(id)?, id.partition);
            let letters = letters(sources, parked).await;
            let sender = Sender { queue: &self.queue, topic: &topic.name };
            let batch = letters.map(|letters| letter::batch(sender, &letters, Some(stamp)));
            match append(shared, &target, partition, from, stamp, batch).await {
                Ok(CopyEnd::Copied) => {
                    count += places.iter().map(Places::count).sum::<u64>();
                    ends.push((id, CopyEnd::Copied));
                }
                Ok(CopyEnd::NotCopied) => {
                    // What it was to append is not to be taken for what somebody else appends.
                    self.producer = None;
                    ends.push((id, CopyEnd::NotCopied));
                    self.cause = Some(format!(
                        "partition {partition} of {} did not take what it was to",
                        target.name
                    ));
                    failed = true;
                }
                Err(cause) => {
                    self.cause = Some(format!("partition {partition} of {}: {cause}", target.name));
                    failed = true;
                }
            }
        }
        if !ends.is_empty() {
            self.submit(shared, CommandKind::EndCopies(ends)).await?;
            self.tally.note_copies(count);
            self.settled.notify_one();
        }
        Ok(!failed)
    }

    /// Sorts what is parked into batches that the dead-letter topic takes; and how far, if that is not all.
    async fn gather(
        &mut self,
        shared: &Shared,
        topic: &Topic,
        sources: &BTreeMap<u32, Arc<Partition>>,
        to: &[Arc<Partition>],
        parked: Vec<(u32, u64, Parked)>,
    ) -> (Vec<WantedCopies>, Option<(u32, u64)>) {
        let mut wanted: BTreeMap<u32, WantedCopies> = BTreeMap::new();
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        let mut last = self.behind;
        let mut finder = Finder::new(sources, parked.iter().map(|it| (it.0, it.1)));
        for (partition, offset, parked) in parked {
            let record = finder.find(partition, offset).await;
            let fits = record.and_then(|record| {
                let key = record.as_ref().and_then(|record| record.key.as_deref());
                let count = to.len() as u32;
                let index = key.map_or_else(
                    || PartitionIndex::new(partition.checked_rem(count).unwrap_or(0)),
                    |key| partition_for_key(key, count),
                );
                let target = to.get(index.get() as usize).ok_or("it has no partitions")?;
                let letter = Letter { partition, offset, parked, record };
                let sender = Sender { queue: &self.queue, topic: &topic.name };
                let batch = letter::batch(sender, &[letter], None);
                let (settings, bytes) = (**target.settings.load(), batch.payload.len());
                check(shared, &settings, batch).map_err(|error| error.to_string())?;
                let room = (settings.batch_bytes_max as usize).saturating_sub(HEADER_BYTES);
                Ok((index.get(), target.high_watermark().get(), bytes, room))
            });
            match fits {
                Ok((index, from, bytes, room)) => {
                    let size = sizes.entry(index).or_default();
                    *size += bytes;
                    if room.min(BYTES_MAX.max(bytes)) < *size {
                        return (wanted.into_values().collect(), last);
                    }
                    let new = WantedCopies { partition: index, from, places: Vec::new() };
                    wanted.entry(index).or_insert(new).places.push((partition, offset));
                }
                Err(cause) => {
                    self.cause = Some(format!("offset {offset} of partition {partition}: {cause}"));
                }
            }
            last = Some((partition, offset));
        }
        (wanted.into_values().collect(), None)
    }

    async fn submit(&self, shared: &Shared, kind: CommandKind) -> Result<(), String> {
        let submitted = shared.queues.submit_to(&self.queue, self.number, kind, shared).await;
        submitted.map(drop).map_err(|error| error.to_string())
    }
}

/// What there is to do: the batches that are under way, and the first of what is parked behind a place and in
/// none of them.
fn see(queue: &Queue, behind: Option<(u32, u64)>) -> Seen {
    let under_way = queue.copier.iter().flat_map(|copier| &copier.under_way);
    let under_way = under_way.map(|copies| {
        let spots = copies.places.iter().flat_map(Places::all);
        let parked = spots.filter_map(|(partition, offset)| {
            let parked = queue.partitions().get(&partition)?.parked().get(offset)?;
            Some((partition, offset, parked.clone()))
        });
        Batch { copies: copies.clone(), parked: parked.collect() }
    });
    let under_way = under_way.collect();
    let target = queue.policy().dead_letters.clone();
    let being_copied = queue.being_copied();
    let parked = queue.parked_behind(behind);
    let parked = parked.filter(|it| !being_copied.contains(&(it.0, it.1)));
    let parked = parked.map(|(partition, offset, parked)| (partition, offset, parked.clone()));
    let parked = parked.take(if target.is_some() { RECORDS_MAX } else { 0 }).collect();
    Seen { topic: queue.topic().clone(), target, under_way, parked }
}

/// Appends a batch that may be there already.
async fn append(
    shared: &Shared,
    target: &Topic,
    partition: u32,
    from: u64,
    stamp: ProducerStamp,
    batch: Result<IncomingBatch, String>,
) -> Result<CopyEnd, String> {
    let Some(to) = partitions(shared, target).and_then(|mut it| it.remove(&partition)) else {
        return Ok(CopyEnd::NotCopied);
    };
    let settings = **to.settings.load();
    // It could be read, and was taken, when it was stored: since then it may have been appended.
    let Some(batch) = batch.ok().and_then(|batch| check(shared, &settings, batch).ok()) else {
        return find(&to, from, stamp).await;
    };
    let (sender, mut stored) = mpsc::unbounded_channel();
    to.submit(AppendRequest {
        batch: Ok(batch),
        expected: None,
        fence: None,
        order: Order { lane: Arc::default(), number: 1, resumes_after: 0 },
        reply: Reply::new(sender),
        charge: None,
        arrived: Stopwatch::start(),
    });
    match stored.recv().await.map(|outcome| outcome.result) {
        // Whatever the topic counts as committed: what was parked was on disk.
        Some(Ok(_)) => to.sync().await.map(|()| CopyEnd::Copied),
        Some(Err(ProduceError::Sequence(error))) => {
            tracing::warn!(topic = target.name, partition, %error, "a dead letter is looked for where it should be");
            find(&to, from, stamp).await
        }
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the broker is stopping".into()),
    }
}

/// The dead-letter topic as it is now, and its partitions.
fn target(shared: &Shared, name: &str) -> Result<(Topic, Vec<Arc<Partition>>), String> {
    let parsed = TopicName::parse(name).map_err(|error| error.to_string())?;
    let topics = shared.topics.load();
    let served = topics.get(&parsed).ok_or_else(|| {
        format!(
            "there is no dead-letter topic {name:?}: create it, or alter the queue to use another one"
        )
    })?;
    if served.topic.settings.cleanup.compacts() {
        return Err(format!(
            "the dead-letter topic {name:?} is compacted, which would take one of two letters with the same \
             key: set its cleanup to delete, or alter the queue to use another one"
        ));
    }
    let topic = Topic { name: name.to_owned(), id: served.topic.id.to_string() };
    Ok((topic, served.partitions.clone()))
}

/// The records of a batch that is under way.
async fn letters(
    sources: &BTreeMap<u32, Arc<Partition>>,
    parked: Vec<(u32, u64, Parked)>,
) -> Result<Vec<Letter>, String> {
    let mut finder = Finder::new(sources, parked.iter().map(|it| (it.0, it.1)));
    let mut letters = Vec::new();
    for (partition, offset, parked) in parked {
        let record = finder.find(partition, offset).await?;
        letters.push(Letter { partition, offset, parked, record });
    }
    Ok(letters)
}

fn stamp(id: CopiesId) -> Result<ProducerStamp, String> {
    let producer = ProducerId::new(id.producer).ok_or("no producer has this number")?;
    let (epoch, sequence) = (ProducerEpoch::ZERO, Sequence::new(id.sequence));
    Ok(ProducerStamp { id: producer, epoch, sequence })
}

/// What is appended of a batch, if the topic takes it.
fn check(
    shared: &Shared,
    settings: &TopicSettings,
    batch: IncomingBatch,
) -> Result<NewBatch, ProduceError> {
    let rules = BatchRules {
        bytes_max: settings.batch_bytes_max,
        needs_keys: settings.cleanup.compacts(),
        timestamp_ahead: shared.config.timestamp_ahead,
        now: shared.now(),
    };
    produce::check(&batch, &rules)
}

/// Whether a batch is in a partition, at an offset or behind it. Nothing of its producer is on its way there.
async fn find(to: &Partition, from: u64, stamp: ProducerStamp) -> Result<CopyEnd, String> {
    let mut next = Offset::new(from).max(to.log_start());
    loop {
        match to.read(next, READ_BYTES, Compressions::ALL).await {
            Ok(Read::Batches { bytes, next: behind }) => {
                let bytes: Bytes = bytes;
                for batch in Batches::received(bytes) {
                    let batch = batch.map_err(|error| error.to_string())?;
                    if batch.header.producer == Some(stamp) {
                        return Ok(CopyEnd::Copied);
                    }
                }
                next = behind;
            }
            Ok(Read::Gap(gap)) => next = gap.to,
            Ok(Read::End) => return Ok(CopyEnd::NotCopied),
            Err(error) => return Err(error.to_string()),
        }
    }
}
