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
mod dispatch_tests;
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
        Self { registry, running: Mutex::default(), changing: tokio::sync::Mutex::default() }
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
        let command = Command { queue: queue.to_owned(), kind };
        let look = |queues: &Registry| {
            let topic = queues.get(queue)?.topic().clone();
            let needed = queues.needed(&topic);
            Some((topic, needed))
        };
        let (reply, needed) = self.registry()?.submit(command, shared.now(), look).await?;
        if let Some((topic, needed)) = needed {
            let served = partitions(shared, &topic).unwrap_or_default();
            keep(&served.into_values().collect::<Vec<_>>(), &needed);
        }
        Ok(reply)
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
    let needed = shared.queues.registry()?.look(|queues| queues.needed(&topic)).await?;
    let served = partitions(shared, &topic).unwrap_or_default();
    keep(&served.into_values().collect::<Vec<_>>(), &needed);
    if let Some(running) = shared.queues.running().remove(name) {
        let _ = running.told.send(Told::Deleted);
    }
    Ok(())
}

/// Has topics keep what queues need of them, and queues look at all partitions that topics have.
pub(crate) async fn follow(shared: &Shared) {
    let queues = look_at_all(shared).await.unwrap_or_else(|error| {
        tracing::error!(%error, "nothing is known of queues: topics do not keep what these need");
        Vec::new()
    });
    let topics = shared.topics.load_full();
    for served in topics.all() {
        let id = served.topic.id.to_string();
        let needed = queues.iter().find(|known| known.topic.id == id).map(|known| &known.needed);
        keep(&served.partitions, needed.unwrap_or(&BTreeMap::new()));
    }
    for Known { name, topic, partitions: known, .. } in queues {
        let Some(served) = partitions(shared, &topic).filter(|served| known < served.len()) else {
            continue;
        };
        let _changing = shared.queues.changing.lock().await;
        let starts = served.keys().map(|index| Start { partition: *index, offset: 0 }).collect();
        let grown = shared.queues.submit(&name, CommandKind::Grow { starts }, shared).await;
        if let Err(error) = grown {
            tracing::warn!(queue = name, %error, "a queue does not look at new partitions; the next change tells it");
            continue;
        }
        if let Some(running) = shared.queues.running().get(&name) {
            for (index, partition) in served {
                let _ = running.told.send(Told::Grown { index, partition });
            }
        }
    }
}

/// A queue, and what all queues on its topic need.
struct Known {
    name: String,
    topic: Topic,
    partitions: usize,
    needed: BTreeMap<u32, u64>,
}

async fn look_at_all(shared: &Shared) -> Result<Vec<Known>, QueueError> {
    let looked = shared.queues.registry()?.look(|queues| {
        let all = queues.all().map(|(name, queue)| Known {
            name: name.clone(),
            topic: queue.topic().clone(),
            partitions: queue.partitions().len(),
            needed: queues.needed(queue.topic()),
        });
        all.collect()
    });
    Ok(looked.await?)
}

/// Has the partitions of a topic keep what queues need of them.
fn keep(partitions: &[Arc<Partition>], needed: &BTreeMap<u32, u64>) {
    for partition in partitions {
        let from = needed.get(&partition.index.get()).copied().unwrap_or(u64::MAX);
        partition.keep_from(Offset::new(from));
    }
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
