//! Work queues: workers share the records of a topic, one by one, until each is settled.
//!
//! Guarantees: what is answered is durable; a record is handed out once its lease is durable, to one worker
//! at a time; only who has the lease settles it; what is not settled in time is handed out again, up to so many
//! attempts, and then parked. The topic stays an ordinary one.
//!
//! Leases, attempts, delays and what is parked are events in `__queues`. When leases end, who works, and
//! what was read ahead is in memory only: after a restart every lease gets its full time anew.

mod ack_id;
mod command;
mod copies;
mod dead_letters;
mod describe;
mod dispatch;
mod error;
mod event;
mod letter;
mod offset_map;
mod parked;
mod policy;
mod record;
mod relief;
mod runs;
mod service;
mod session;
mod state;
mod tally;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use taffrail_model::{Offset, PartitionIndex, Timestamp, TopicName, limits};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::clock;
use crate::coordinator::Coordinator;
use crate::fetch::{self, Position};
use crate::partition::Partition;
use crate::shared::Shared;
use command::{Command, CommandKind, Reply};
use dispatch::Dispatch;
use event::{Start, Topic};
use service::{Service, Told};

pub use command::{QueueRefusal, SettleRefusal};
use dead_letters::{DeadLetters, Desk};
pub use describe::{Crowd, Idle, QueueDescription, QueuePartition, QueueSummary};
pub(crate) use describe::{describe, list};
pub use error::QueueError;
pub use parked::{ParkedPage, ParkedQuery, ParkedRecord, QueuePlace, Selection};
pub(crate) use parked::{discard, list as list_parked, redrive};
use policy::Policy;
pub use policy::{Order as QueueOrder, Policy as QueuePolicy, Retention as QueueRetention};
pub use record::QueueRecord;
pub(crate) use relief::relieve;
pub use session::{QueueCommand, QueueDelivery, QueueEvent, QueueSession, Settle, Verdict};
use state::Queue;
pub(crate) use state::Registry;
pub use tally::QueueTally;
use tally::Tally;

/// How long a topic may keep what queues have settled.
const LET_GO_INTERVAL: Duration = Duration::from_secs(1);

/// All queues.
#[derive(Debug)]
pub(crate) struct Queues {
    registry: Result<Arc<Coordinator<Registry>>, String>,
    running: Mutex<BTreeMap<String, Running>>,
    /// Held while a queue begins to work, and while something is changed that one at work has to be told.
    changing: tokio::sync::Mutex<()>,
    /// Held while topics are told what to keep.
    keeping: tokio::sync::Mutex<()>,
    /// When the broker began to serve.
    begun: OnceLock<Instant>,
}

/// A queue at work.
#[derive(Clone, Debug)]
struct Running {
    /// The queue's number.
    number: u64,
    told: mpsc::UnboundedSender<Told>,
    dead_letters: Arc<Desk>,
    tally: Arc<Tally>,
    /// Something was settled: the topic may have to keep less.
    settled: Arc<Notify>,
    last_worker: Arc<std::sync::atomic::AtomicU64>,
}

/// A queue to be made.
#[derive(Clone, Debug)]
pub struct CreateQueue {
    /// Its name.
    pub name: String,
    /// The topic that it is on.
    pub topic: String,
    /// How it works.
    pub policy: Policy,
    /// Where it begins in each partition.
    pub from: Position,
}

impl Queues {
    /// Reads what is known, if it can be read.
    pub(crate) async fn start(partition: Result<Arc<Partition>, String>, now: Timestamp) -> Self {
        let registry = match partition {
            Ok(partition) => read(partition, now).await.map(Arc::new),
            Err(cause) => Err(cause),
        };
        let registry = registry.inspect_err(|cause| {
            tracing::error!(%cause, "nothing is known of queues: none can be used");
        });
        Self {
            registry,
            running: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
            begun: OnceLock::new(),
        }
    }

    /// From now on leases count that there were before.
    pub(crate) fn begin(&self) -> Instant {
        *self.begun.get_or_init(clock::instant)
    }

    fn registry(&self) -> Result<&Arc<Coordinator<Registry>>, QueueError> {
        self.registry.as_ref().map_err(|cause| QueueError::Damaged { cause: cause.clone() })
    }

    async fn submit(
        &self,
        queue: &str,
        kind: CommandKind,
        shared: &Shared,
    ) -> Result<Reply, QueueError> {
        self.decide(Command { queue: queue.to_owned(), number: None, kind }, shared).await
    }

    /// The same, if the queue is still the one that has this number.
    async fn submit_to(
        &self,
        queue: &str,
        number: u64,
        kind: CommandKind,
        shared: &Shared,
    ) -> Result<Reply, QueueError> {
        self.decide(Command { queue: queue.to_owned(), number: Some(number), kind }, shared).await
    }

    async fn decide(&self, command: Command, shared: &Shared) -> Result<Reply, QueueError> {
        let (reply, ()) = self.registry()?.submit(command, shared.now(), |_| ()).await?;
        Ok(reply)
    }

    /// Has a topic keep what queues need of it. One look after another, so that none that is older wins; where
    /// nothing can be seen, all stays as it is.
    async fn keep(&self, shared: &Shared, topic: &Topic) {
        let _keeping = self.keeping.lock().await;
        let Some(served) = partitions(shared, topic) else { return };
        let count = served.len() as u32;
        let Ok(registry) = self.registry() else { return };
        let Ok(needed) = registry.look(|queues| queues.needed(topic, count)).await else { return };
        for (partition, from) in served.into_values().zip(needed) {
            partition.keep_from(Offset::new(from));
        }
    }

    /// What `look` sees of a queue.
    async fn look<T>(&self, name: &str, look: impl FnOnce(&Queue) -> T) -> Result<T, QueueError> {
        Ok(self.registry()?.look(|queues| queues.known(name).map(look)).await??)
    }

    /// Has what is parked in a queue copied, if there is anything to copy.
    async fn copy_dead_letters(&self, shared: &Arc<Shared>, name: &str) -> Result<(), QueueError> {
        let is_due = |queues: &Registry| queues.get(name).is_some_and(Queue::has_dead_letters);
        if self.registry()?.look(is_due).await? {
            self.at_work(shared, name).await?.dead_letters.wake.notify_one();
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue at work: begins it, if it is not.
    async fn at_work(&self, shared: &Arc<Shared>, name: &str) -> Result<Running, QueueError> {
        if let Some(running) = self.running().get(name) {
            return Ok(running.clone());
        }
        let _changing = self.changing.lock().await;
        if let Some(running) = self.running().get(name) {
            // Somebody else was faster.
            return Ok(running.clone());
        }
        let registry = Arc::clone(self.registry()?);
        let known = self.look(name, Queue::clone).await?;
        let topic = known.topic();
        let partitions = partitions(shared, topic)
            .ok_or_else(|| QueueError::NoTopic { queue: name.into(), topic: topic.name.clone() })?;
        let (told, inbox) = mpsc::unbounded_channel();
        let (clock, name, number) = (Arc::clone(&shared.clock), name.to_owned(), known.number());
        let running = Running {
            number,
            told,
            dead_letters: Arc::default(),
            tally: Arc::default(),
            settled: Arc::default(),
            last_worker: Arc::default(),
        };
        let dispatch =
            Dispatch::new(&known, self.begin(), clock::instant(), shared.now().as_millis());
        let service =
            Service::new(name.clone(), dispatch, partitions, registry, clock, inbox, &running);
        let beside = futures_util::future::join(
            DeadLetters::new(shared, name.clone(), &running).run(),
            let_go(Arc::downgrade(shared), topic.clone(), Arc::clone(&running.settled)),
        );
        tokio::spawn(service.run(beside));
        self.running().insert(name, running.clone());
        Ok(running)
    }
}

/// Reads what is known of queues. Where that was a backup, no lease that may have been given out since comes
/// again.
async fn read(partition: Arc<Partition>, now: Timestamp) -> Result<Coordinator<Registry>, String> {
    let restored = partition.restored();
    let (registry, _) = Coordinator::start(partition).await.map_err(|error| error.to_string())?;
    if let Some(at) = restored {
        let kind = CommandKind::Restore { at_ms: at.as_millis() };
        let command = Command { queue: String::new(), number: None, kind };
        let stored = registry.submit(command, now, |_| ()).await;
        stored.map_err(|error| QueueError::from(error).to_string())?;
    }
    Ok(registry)
}

/// Makes a queue.
pub(crate) async fn create(shared: &Shared, request: CreateQueue) -> Result<(), QueueError> {
    let CreateQueue { name, topic, policy, from } = request;
    check_name(&name)?;
    policy.check().map_err(QueueError::Request)?;
    let parsed = TopicName::parse(&topic).map_err(fetch::FetchError::from)?;
    if parsed.is_internal() {
        return Err(QueueError::Internal { topic });
    }
    // Says what is wrong with the name.
    fetch::partition(shared, &topic, PartitionIndex::new(0))?;
    let _changing = shared.queues.changing.lock().await;
    let topics = shared.topics.load_full();
    let served = topics.get(&parsed).ok_or(QueueError::Stopping)?;
    let mut starts = Vec::new();
    for (index, partition) in (0..).zip(&served.partitions) {
        let found = fetch::find(partition, from).await?;
        starts.push(Start { partition: index, offset: found.offset.get() });
    }
    check_dead_letters(shared, &topic, &policy)?;
    let topic = Topic { name: topic, id: served.topic.id.to_string() };
    let kind = CommandKind::Create { topic: topic.clone(), policy, starts };
    shared.queues.submit(&name, kind, shared).await?;
    shared.queues.keep(shared, &topic).await;
    Ok(())
}

/// Changes how a queue works: what `change` makes of how it does.
pub(crate) async fn alter(
    shared: &Arc<Shared>,
    name: &str,
    change: impl FnOnce(Policy) -> Policy,
) -> Result<(), QueueError> {
    let changing = shared.queues.changing.lock().await;
    let known = |queue: &Queue| (queue.topic().clone(), queue.policy().clone());
    let (topic, former) = shared.queues.look(name, known).await?;
    let policy = change(former.clone());
    policy.check().map_err(QueueError::Request)?;
    if policy.dead_letters != former.dead_letters {
        check_dead_letters(shared, &topic.name, &policy)?;
    }
    shared.queues.submit(name, CommandKind::Alter { policy: policy.clone() }, shared).await?;
    if let Some(running) = shared.queues.running().get(name) {
        let _ = running.told.send(Told::Altered { policy });
    }
    drop(changing);
    for partition in partitions(shared, &topic).unwrap_or_default().into_values() {
        partition.say_pressed();
    }
    if let Err(error) = shared.queues.copy_dead_letters(shared, name).await {
        tracing::debug!(queue = name, %error, "dead letters are not copied");
    }
    Ok(())
}

/// Whether records of a topic can be copied to where they are to be.
fn check_dead_letters(shared: &Shared, topic: &str, policy: &Policy) -> Result<(), QueueError> {
    let Some(dead_letters) = &policy.dead_letters else { return Ok(()) };
    let parsed = TopicName::parse(dead_letters).map_err(fetch::FetchError::from)?;
    if parsed.is_internal() {
        return Err(QueueError::Internal { topic: dead_letters.clone() });
    }
    if dead_letters == topic {
        return Err(QueueError::Request(format!(
            "dead letters of a queue on {topic:?} cannot go to that topic, where they would be tried again: \
             name another one"
        )));
    }
    // Says what is wrong with the name.
    let partition = fetch::partition(shared, dead_letters, PartitionIndex::new(0))?;
    if partition.settings.load().cleanup.compacts() {
        return Err(QueueError::Request(format!(
            "{dead_letters:?} is compacted, which would take one of two dead letters with the same key: set its \
             cleanup to delete, or name another topic"
        )));
    }
    Ok(())
}

/// Deletes a queue, and what is parked in it.
pub(crate) async fn delete(shared: &Shared, name: &str) -> Result<(), QueueError> {
    let _changing = shared.queues.changing.lock().await;
    let topic = shared.queues.look(name, |queue| queue.topic().clone()).await?;
    shared.queues.submit(name, CommandKind::Delete, shared).await?;
    shared.queues.keep(shared, &topic).await;
    if let Some(running) = shared.queues.running().remove(name) {
        let _ = running.told.send(Told::Deleted);
    }
    Ok(())
}

/// Has topics keep what queues need of them, and queues look at all partitions that topics have.
pub(crate) async fn follow(shared: &Arc<Shared>) {
    let looked = async {
        let looked = shared.queues.registry()?.look(|queues| {
            let all = queues.all();
            let all = all.map(|(name, queue)| (name.clone(), queue.topic().clone()));
            all.collect::<Vec<_>>()
        });
        Ok::<_, QueueError>(looked.await?)
    };
    let queues = match looked.await {
        Ok(queues) => queues,
        Err(error) => {
            return tracing::error!(%error, "nothing is known of queues: retention deletes nothing of new topics");
        }
    };
    for (name, topic) in queues {
        if let Err(error) = grow(shared, &name, &topic).await {
            tracing::warn!(queue = name, %error, "a queue does not look at new partitions; the next change tells it");
        }
        if let Err(error) = shared.queues.copy_dead_letters(shared, &name).await {
            tracing::debug!(queue = name, %error, "dead letters are not copied");
        }
    }
    let topics = shared.topics.load_full();
    for served in topics.all() {
        let (name, id) = (served.topic.name.to_string(), served.topic.id.to_string());
        shared.queues.keep(shared, &Topic { name, id }).await;
    }
}

/// Has a topic let go of what a queue has settled: not each time, which would cost more than that is worth.
async fn let_go(shared: Weak<Shared>, topic: Topic, settled: Arc<Notify>) {
    loop {
        settled.notified().await;
        tokio::time::sleep(LET_GO_INTERVAL).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.queues.keep(&shared, &topic).await;
    }
}

/// Has a queue look at all partitions of its topic.
async fn grow(shared: &Shared, name: &str, topic: &Topic) -> Result<(), QueueError> {
    let Some(served) = partitions(shared, topic) else { return Ok(()) };
    let _changing = shared.queues.changing.lock().await;
    if served.len() <= shared.queues.look(name, |queue| queue.partitions().len()).await? {
        return Ok(());
    }
    let starts = served.keys().map(|index| Start { partition: *index, offset: 0 }).collect();
    shared.queues.submit(name, CommandKind::Grow { starts }, shared).await?;
    if let Some(running) = shared.queues.running().get(name) {
        for (index, partition) in served {
            let _ = running.told.send(Told::Grown { index, partition });
        }
    }
    Ok(())
}

/// The partitions of a queue's topic, if that is still there.
fn partitions(shared: &Shared, topic: &Topic) -> Option<BTreeMap<u32, Arc<Partition>>> {
    let topics = shared.topics.load();
    let served = topics.get(&TopicName::parse(&topic.name).ok()?)?;
    let is_same = served.topic.id.to_string() == topic.id;
    is_same.then(|| (0..).zip(served.partitions.iter().cloned()).collect())
}

/// Refuses what cannot be a queue's name.
fn check_name(name: &str) -> Result<(), QueueError> {
    let max = limits::QUEUE_NAME_BYTES_MAX;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=max).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(QueueError::Name { name: name.chars().take(max).collect(), max })
}
