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
mod describe;
mod dispatch;
mod error;
mod event;
mod parked;
mod policy;
mod record;
mod runs;
mod service;
mod session;
mod state;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taffrail_model::{Offset, PartitionIndex, TopicName, limits};
use tokio::sync::mpsc;

use crate::coordinator::Coordinator;
use crate::fetch::{self, Position};
use crate::partition::Partition;
use crate::shared::Shared;
use command::{Command, CommandKind, Reply};
use event::{Start, Topic};
use service::{Service, Told};

pub use command::{QueueRefusal, SettleRefusal};
pub use describe::{Crowd, Idle, QueueDescription, QueuePartition, QueueSummary};
pub(crate) use describe::{describe, list};
pub use error::QueueError;
pub use parked::{ParkedRecord, QueuePlace, Selection};
pub(crate) use parked::{discard, list as list_parked, redrive};
use policy::Policy;
pub use policy::{Order as QueueOrder, Policy as QueuePolicy};
pub use record::QueueRecord;
pub use session::{QueueCommand, QueueDelivery, QueueEvent, QueueSession, Settle, Verdict};
use state::Queue;
pub(crate) use state::Registry;

/// All queues.
#[derive(Debug)]
pub(crate) struct Queues {
    registry: Result<Arc<Coordinator<Registry>>, String>,
    running: Mutex<BTreeMap<String, Running>>,
    /// Held while a queue begins to work, and while something is changed that one at work has to be told.
    changing: tokio::sync::Mutex<()>,
    /// Held while topics are told what to keep.
    keeping: tokio::sync::Mutex<()>,
}

/// A queue at work.
#[derive(Clone, Debug)]
struct Running {
    /// The queue's number.
    number: u64,
    told: mpsc::UnboundedSender<Told>,
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
    pub(crate) async fn start(partition: Result<Arc<Partition>, String>) -> Self {
        let registry = match partition {
            Ok(partition) => Coordinator::start(partition).await.map_err(|it| it.to_string()),
            Err(cause) => Err(cause),
        };
        let registry = registry.map(|(registry, _)| Arc::new(registry)).inspect_err(|cause| {
            tracing::error!(%cause, "nothing is known of queues: none can be used");
        });
        Self {
            registry,
            running: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
        }
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
        let queue = command.queue.clone();
        let topic = |queues: &Registry| queues.get(&queue).map(|queue| queue.topic().clone());
        let (reply, topic) = self.registry()?.submit(command, shared.now(), topic).await?;
        if let Some(topic) = topic {
            self.keep(shared, &topic).await;
        }
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

    /// What is known of a queue.
    async fn known(&self, name: &str) -> Result<Queue, QueueError> {
        Ok(self.registry()?.look(|queues| queues.known(name).cloned()).await??)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue at work: begins it, if it is not.
    async fn at_work(&self, shared: &Shared, name: &str) -> Result<Running, QueueError> {
        if let Some(running) = self.running().get(name) {
            return Ok(running.clone());
        }
        let _changing = self.changing.lock().await;
        if let Some(running) = self.running().get(name) {
            // Somebody else was faster.
            return Ok(running.clone());
        }
        let registry = Arc::clone(self.registry()?);
        let known = self.known(name).await?;
        let topic = known.topic();
        let partitions = partitions(shared, topic)
            .ok_or_else(|| QueueError::NoTopic { queue: name.into(), topic: topic.name.clone() })?;
        let (told, inbox) = mpsc::unbounded_channel();
        let running = Running { number: known.number(), told, last_worker: Arc::default() };
        let (clock, name) = (Arc::clone(&shared.clock), name.to_owned());
        let service = Service::new(name.clone(), &known, partitions, registry, clock, inbox);
        tokio::spawn(service.run());
        self.running().insert(name, running.clone());
        Ok(running)
    }
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
    let topics = shared.topics.load_full();
    let served = topics.get(&parsed).ok_or(QueueError::Stopping)?;
    let mut starts = Vec::new();
    for (index, partition) in (0..).zip(&served.partitions) {
        let found = fetch::find(partition, from).await?;
        starts.push(Start { partition: index, offset: found.offset.get() });
    }
    let topic = Topic { name: topic, id: served.topic.id.to_string() };
    shared.queues.submit(&name, CommandKind::Create { topic, policy, starts }, shared).await?;
    Ok(())
}

/// Changes how a queue works: what `change` makes of how it does.
pub(crate) async fn alter(
    shared: &Shared,
    name: &str,
    change: impl FnOnce(Policy) -> Policy,
) -> Result<(), QueueError> {
    let _changing = shared.queues.changing.lock().await;
    let policy = change(shared.queues.known(name).await?.policy().clone());
    policy.check().map_err(QueueError::Request)?;
    shared.queues.submit(name, CommandKind::Alter { policy: policy.clone() }, shared).await?;
    if let Some(running) = shared.queues.running().get(name) {
        let _ = running.told.send(Told::Altered { policy });
    }
    Ok(())
}

/// Deletes a queue, and what is parked in it.
pub(crate) async fn delete(shared: &Shared, name: &str) -> Result<(), QueueError> {
    let _changing = shared.queues.changing.lock().await;
    let topic = shared.queues.known(name).await?.topic().clone();
    shared.queues.submit(name, CommandKind::Delete, shared).await?;
    shared.queues.keep(shared, &topic).await;
    if let Some(running) = shared.queues.running().remove(name) {
        let _ = running.told.send(Told::Deleted);
    }
    Ok(())
}

/// Has topics keep what queues need of them, and queues look at all partitions that topics have.
pub(crate) async fn follow(shared: &Shared) {
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
    }
    let topics = shared.topics.load_full();
    for served in topics.all() {
        let (name, id) = (served.topic.name.to_string(), served.topic.id.to_string());
        shared.queues.keep(shared, &Topic { name, id }).await;
    }
}

/// Has a queue look at all partitions of its topic.
async fn grow(shared: &Shared, name: &str, topic: &Topic) -> Result<(), QueueError> {
    let Some(served) = partitions(shared, topic) else { return Ok(()) };
    let _changing = shared.queues.changing.lock().await;
    if served.len() <= shared.queues.known(name).await?.partitions().len() {
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
