//! What stands in a queue, and why nothing is handed out where that is so.

use std::time::Duration;

use taffrail_model::{Offset, PartitionIndex, Timestamp};
use tokio::sync::oneshot;

use super::policy::Policy;
use super::service::Told;
use super::state::Queue;
use super::tally::QueueTally;
use super::window::{Status, Window};
use super::{QueueError, partitions};
use crate::shared::Shared;

/// A queue among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSummary {
    /// Its name.
    pub name: String,
    /// The topic that it is on.
    pub topic: String,
    /// When it was made.
    pub created: Timestamp,
    /// Records that are parked.
    pub parked: u64,
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDescription {
    /// Its name.
    pub name: String,
    /// The topic that it is on.
    pub topic: String,
    /// When it was made.
    pub created: Timestamp,
    /// How it works.
    pub policy: Policy,
    /// Its partitions, ascending.
    pub partitions: Vec<QueuePartition>,
    /// Who works on it.
    pub crowd: Crowd,
    /// Why nothing is handed out, where that is so.
    pub idle: Option<Idle>,
    /// Why dead letters are not copied, where that is so.
    pub uncopied: Option<String>,
    /// What it has done since the broker was started.
    pub tally: QueueTally,
}

/// What stands in one partition of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePartition {
    /// The partition.
    pub partition: PartitionIndex,
    /// Records that were never handed out.
    pub fresh: u64,
    /// Records that are to be handed out again, or were passed over.
    pub ready: u64,
    /// Records that somebody works on.
    pub leased: u64,
    /// Records that wait until they are tried again.
    pub delayed: u64,
    /// Records that are not tried any more.
    pub parked: u64,
    /// The first record that is not settled, or the end.
    pub first_open: u64,
    /// When the first one that is delayed is tried again.
    pub delayed_until: Option<Timestamp>,
    /// How long the first one that is not settled has been in the log.
    pub age: Duration,
}

/// Who works on a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// How many there are.
    pub workers: u64,
    /// How many of them may be sent more.
    pub with_credit: u64,
    /// Whether something can be handed out.
    pub has_free: bool,
    /// Why something cannot be read, or no lease be stored, where that is so; it is tried again.
    pub trouble: Option<String>,
}

/// Why nothing is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The topic was deleted.
    NoTopic,
    /// All is settled.
    Empty,
    /// Nobody works on it.
    NoWorker,
    /// Nobody who works on it can take more.
    NoCredit,
    /// All that is not settled is being worked on.
    AllLeased,
    /// All that is not being worked on waits until then.
    Delayed {
        /// When the first is tried again.
        until: Timestamp,
    },
    /// So many are leased, delayed or passed over that nothing new is handed out.
    WindowFull,
    /// All that could be handed out waits for others of the same key.
    KeysBlocked,
    /// So many are parked that nothing is handed out.
    ParkedFull,
}

impl Window {
    fn describe(&self, partition: u32, end: u64, now: Timestamp) -> QueuePartition {
        let mut described = QueuePartition {
            partition: PartitionIndex::new(partition),
            fresh: end.saturating_sub(self.runs().end()),
            parked: self.parked().len() as u64,
            first_open: self.runs().start(),
            ..QueuePartition::default()
        };
        for (range, status) in self.runs().iter() {
            let count = range.end - range.start;
            match status {
                Status::Ready { .. } => described.ready += count,
                Status::Leased { .. } => described.leased += count,
                Status::Delayed { delay, .. } => {
                    described.delayed += count;
                    let until = now.plus(delay.rest(now.as_millis()));
                    let first = described.delayed_until.get_or_insert(until);
                    *first = until.min(*first);
                }
                Status::Settled => {}
            }
        }
        described
    }
}

/// Lists the queues, ascending by name.
pub(crate) async fn list(shared: &Shared) -> Result<Vec<QueueSummary>, QueueError> {
    let looked = shared.queues.registry()?.look(|queues| {
        let summaries = queues.all().map(|(name, queue)| {
            let parked = queue.parked() as u64;
            QueueSummary {
                name: name.clone(),
                topic: queue.topic().name.clone(),
                created: Timestamp::from_millis(queue.created_ms()),
                parked,
            }
        });
        summaries.collect()
    });
    Ok(looked.await?)
}

/// Describes a queue.
pub(crate) async fn describe(shared: &Shared, name: &str) -> Result<QueueDescription, QueueError> {
    let now = shared.now();
    // A copy costs little, and what is counted in it holds nobody up.
    let queue = shared.queues.look(name, Queue::clone).await?;
    let served = partitions(shared, queue.topic());
    let end = |index: &u32| {
        let served = served.as_ref().and_then(|it| it.get(index));
        served.map_or(0, |partition| partition.high_watermark().get())
    };
    let described = queue.partitions().iter();
    let described = described.map(|(index, window)| window.describe(*index, end(index), now));
    let mut partitions: Vec<_> = described.collect();
    let ends: u64 = queue.partitions().keys().map(end).sum();
    for described in &mut partitions {
        let served = served.as_ref().and_then(|it| it.get(&described.partition.get()));
        if let Some(served) = served
            && let Ok(unread) = served.unread(Offset::new(described.first_open)).await
        {
            let appended = unread.append_time;
            described.age = appended.map_or(Duration::ZERO, |at| shared.now().since(at));
        }
    }
    let running = shared.queues.running().get(name).cloned();
    let crowd = shared.queues.crowd(name).await;
    let idle = if served.is_none() {
        Some(Idle::NoTopic)
    } else {
        idle(&partitions, &crowd, queue.policy())
    };
    Ok(QueueDescription {
        name: name.to_owned(),
        topic: queue.topic().name.clone(),
        created: Timestamp::from_millis(queue.created_ms()),
        policy: queue.policy().clone(),
        partitions,
        crowd,
        idle,
        uncopied: running.as_ref().and_then(|it| it.dead_letters.stuck()),
        tally: running.map_or_else(QueueTally::default, |it| it.tally.get(ends)),
    })
}

impl super::Queues {
    /// Who works on a queue, if anybody does.
    async fn crowd(&self, name: &str) -> Crowd {
        let Some(running) = self.running().get(name).cloned() else { return Crowd::default() };
        let (answer, crowd) = oneshot::channel();
        let _ = running.told.send(Told::Look { answer });
        crowd.await.unwrap_or_default()
    }
}

/// Why nothing is handed out.
fn idle(partitions: &[QueuePartition], crowd: &Crowd, policy: &Policy) -> Option<Idle> {
    let sum = |of: fn(&QueuePartition) -> u64| partitions.iter().map(of).sum::<u64>();
    let (fresh, ready) = (sum(|it| it.fresh), sum(|it| it.ready));
    let (leased, delayed) = (sum(|it| it.leased), sum(|it| it.delayed));
    let until = partitions.iter().filter_map(|it| it.delayed_until).min();
    if fresh + ready + leased + delayed == 0 {
        return Some(Idle::Empty);
    }
    if crowd.workers == 0 {
        return Some(Idle::NoWorker);
    }
    if fresh + ready == 0 {
        return Some(match until {
            Some(until) if leased == 0 => Idle::Delayed { until },
            _ => Idle::AllLeased,
        });
    }
    if u64::from(policy.parked_max) <= sum(|it| it.parked) {
        return Some(Idle::ParkedFull);
    }
    if crowd.with_credit == 0 {
        return Some(Idle::NoCredit);
    }
    if crowd.has_free {
        return None;
    }
    let window = u64::from(policy.window);
    let is_full =
        |it: &QueuePartition| it.fresh == 0 || window <= it.ready + it.leased + it.delayed;
    if ready > 0 {
        return Some(Idle::KeysBlocked);
    }
    partitions.iter().all(is_full).then_some(Idle::WindowFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_queue_up_is_named() {
        let until = Timestamp::from_millis(7);
        let none = QueuePartition::default();
        let fresh = QueuePartition { fresh: 9, ..none };
        let leased = QueuePartition { leased: 3, ..none };
        let delayed = QueuePartition { delayed: 1, delayed_until: Some(until), ..none };
        let full = QueuePartition { fresh: 9, leased: 3, delayed: 1, ..none };
        let ready = QueuePartition { ready: 2, leased: 1, ..none };
        let parked = QueuePartition { fresh: 9, parked: 3, ..none };
        let policy = Policy { window: 4, parked_max: 6, ..Policy::default() };
        let nobody = Crowd::default();
        let busy = Crowd { workers: 2, ..nobody.clone() };
        let willing = Crowd { with_credit: 1, ..busy.clone() };
        let served = Crowd { has_free: true, ..willing.clone() };
        for (partitions, crowd, expected) in [
            (vec![none, none], &willing, Some(Idle::Empty)),
            (vec![fresh], &nobody, Some(Idle::NoWorker)),
            (vec![fresh], &busy, Some(Idle::NoCredit)),
            (vec![none, leased], &willing, Some(Idle::AllLeased)),
            (vec![none, delayed], &willing, Some(Idle::Delayed { until })),
            (vec![leased, delayed], &willing, Some(Idle::AllLeased)),
            (vec![full], &willing, Some(Idle::WindowFull)),
            (vec![full, fresh], &willing, None),
            (vec![ready], &willing, Some(Idle::KeysBlocked)),
            (vec![ready], &served, None),
            (vec![parked], &served, None),
            (vec![parked, parked], &served, Some(Idle::ParkedFull)),
        ] {
            assert_eq!(idle(&partitions, crowd, &policy), expected, "{partitions:?} {crowd:?}");
        }
    }
}
