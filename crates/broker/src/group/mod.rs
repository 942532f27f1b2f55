//! Consumer groups: who is in them, who reads which partition, and how far each has come.
//!
//! Guarantees: what is answered is durable; a partition has one owner at a time, and is given to the
//! next one only when that one has released it or its session has ended; what anybody else says of it
//! does not count, and nothing is delivered to them under the group's name.
//!
//! Members, owners and offsets are events in `__groups`. How long members have been silent, what is
//! being delivered to them and how fast they are is in memory only: after a restart every session gets
//! its full time anew.

mod assign;
mod catalogue;
mod command;
mod describe;
mod error;
mod event;
mod membership;
mod offsets;
mod pace;
mod reset;
mod seats;
mod sessions;
mod state;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use taffrail_model::{PartitionIndex, Timestamp, limits};

use crate::coordinator::{CommandError, Coordinator};
use crate::fetch;
use crate::partition::Partition;
use crate::produce::ProduceError;
use crate::shared::Shared;
use crate::topics::Topics;
use catalogue::Catalogue;
use command::{Change, Command, CommandKind, Reply};
use pace::Paces;
use seats::Seats;
use sessions::{Key, Sessions};
use state::View;

pub use assign::Assignor;
pub use command::GroupRefusal;
pub use describe::{
    DeliveryState, GroupDescription, GroupSummary, MemberDescription, PartitionLag, Rates,
};
pub(crate) use describe::{describe, list};
pub use error::GroupError;
pub use membership::{
    AssignedPartition, Assignment, AwaitedPartition, Heartbeat, Join, MemberStream,
};
pub(crate) use membership::{end_sessions, heartbeat};
pub use offsets::{CommittedOffset, OffsetCommit};
pub(crate) use offsets::{commit, committed};
pub use reset::{OffsetReset, ResetOffsets, ResetTo};
pub(crate) use reset::{delete, reset};
pub use seats::GroupReader;
pub(crate) use state::Registry;

/// All consumer groups.
#[derive(Debug)]
pub(crate) struct Groups {
    registry: Result<Coordinator<Registry>, String>,
    topics: command::Topics,
    sessions: Arc<Sessions>,
    seats: Seats,
    paces: Paces,
}

impl Groups {
    /// Reads what is known, if it can be read. Every member's session begins.
    pub(crate) async fn start(partition: Result<Arc<Partition>, String>) -> Self {
        let registry = match partition {
            Ok(partition) => {
                Coordinator::<Registry>::start(partition).await.map_err(|e| e.to_string())
            }
            Err(cause) => Err(cause),
        };
        let sessions = Arc::<Sessions>::default();
        let registry = match registry {
            Ok((registry, known)) => {
                for (name, group) in known.all() {
                    for (member, profile) in group.members() {
                        let key = key(name, member);
                        sessions.begin(&key, profile).expect("nobody has a session yet");
                        sessions.confirm(&key, profile);
                    }
                }
                Ok(registry)
            }
            Err(cause) => {
                tracing::error!(%cause, "nothing is known of consumer groups: none can be used");
                Err(cause)
            }
        };
        let topics = Arc::new(ArcSwap::from_pointee(Catalogue::default()));
        let (seats, paces) = (Seats::default(), Paces::default());
        Self { registry, topics, sessions, seats, paces }
    }

    /// Takes note of the topics that there are; [`Self::follow`] makes the groups follow them.
    pub(crate) fn set_topics(&self, topics: &Topics) {
        let ours = topics.all().filter(|served| !served.topic.name.is_internal());
        let ours = ours.map(|served| {
            let topic = &served.topic;
            (topic.name.to_string(), topic.id, topic.partitions)
        });
        self.topics.store(Arc::new(Catalogue::new(ours)));
    }

    /// Brings every group up to date with the topics that there are.
    pub(crate) async fn follow(&self, now: Timestamp) {
        let follow = Command::Follow { topics: Arc::clone(&self.topics) };
        if let Err(error) = self.submit(follow, now).await {
            tracing::warn!(%error, "groups do not know yet which topics have changed; the next change tells them");
        }
    }

    /// Forgets groups that nobody has been in, or committed to, since then.
    async fn expire(&self, before: Timestamp, now: Timestamp) {
        if let Err(error) = self.submit(Command::Expire { before }, now).await {
            tracing::warn!(%error, "groups that nobody uses could not be forgotten");
        }
    }

    /// Forgets what is in memory of groups that are no more, and begins sessions of members that have
    /// none, however that came.
    async fn tidy(&self) {
        let looked = self.look(|registry| {
            let members = registry.all().flat_map(|(name, group)| {
                let members = group.members().iter();
                members.map(move |(member, profile)| (key(name, member), profile.clone()))
            });
            let names: BTreeSet<_> = registry.all().map(|(name, _)| name.clone()).collect();
            (names, members.collect::<Vec<_>>())
        });
        let Ok((known, members)) = looked.await else { return };
        self.paces.keep(&known);
        self.seats.keep_groups(&known);
        for (key, profile) in members {
            if self.sessions.silence(&key).is_none() && self.sessions.begin(&key, &profile).is_ok()
            {
                self.sessions.confirm(&key, &profile);
            }
        }
    }

    /// Has a group decide, and tells whoever is concerned once it is durable.
    async fn ask(
        self: &Arc<Self>,
        group: &str,
        kind: CommandKind,
        now: Timestamp,
    ) -> Result<Reply, GroupError> {
        let (group, topics) = (group.to_owned(), Arc::clone(&self.topics));
        let moves_nothing = matches!(kind, CommandKind::Commit { .. });
        let command = Command::Of { group, kind, topics };
        if moves_nothing {
            return self.submit(command, now).await;
        }
        // To its end, even if whoever asks goes away: what is decided must be told.
        let groups = Arc::clone(self);
        let asked = tokio::spawn(async move { groups.submit(command, now).await }).await;
        let cause = || ProduceError::ResultUnknown { cause: "the broker is stopping".into() };
        asked.unwrap_or_else(|_| Err(GroupError::Storage(cause())))
    }

    async fn submit(&self, command: Command, now: Timestamp) -> Result<Reply, GroupError> {
        let submitted = self.registry()?.submit(command, now, |_| ()).await;
        let (reply, ()) = submitted.map_err(group_error)?;
        for change in &reply.changes {
            self.publish(change).await;
        }
        Ok(reply)
    }

    /// What is seen of all groups, once it is durable.
    async fn look<T>(&self, look: impl FnOnce(&Registry) -> T) -> Result<T, GroupError> {
        self.registry()?.look(look).await.map_err(group_error)
    }

    /// What a member is told, if it is one.
    async fn view(&self, key: &Key, instance: &str) -> Result<View, GroupError> {
        let view = self.look(|registry| {
            let group = registry.known(&key.group)?;
            group.check_member(&key.group, &key.member, instance)?;
            Ok::<_, GroupRefusal>(group.view(&key.member))
        });
        view.await?.map_err(GroupError::from)
    }

    /// Tells those whom a change concerns, and takes partitions away from whoever has lost them.
    async fn publish(&self, change: &Change) {
        let looked = self
            .look(|registry| {
                let group = registry.get(&change.group);
                let is_gone = |it: &&String| group.is_none_or(|g| !g.members().contains_key(*it));
                let gone: Vec<_> = change.members.iter().filter(is_gone).cloned().collect();
                let assigned = |slot| group.and_then(|group| group.assignment(slot)).cloned();
                let assigned = change.slots.iter().map(|slot| (*slot, assigned(*slot)));
                let epoch = group.map_or(u32::MAX, state::Group::epoch);
                (epoch, assigned.collect::<Vec<_>>(), gone)
            })
            .await;
        // It is so already, whether or not what came after it can be stored: whoever reads asks again.
        let (epoch, assigned, gone) = looked.unwrap_or_else(|_| {
            let nobodys = change.slots.iter().map(|slot| (*slot, None));
            (u32::MAX, nobodys.collect(), Vec::new())
        });
        for (slot, owner) in assigned {
            self.seats.keep(&change.group, slot, owner.as_ref(), epoch);
        }
        for member in &gone {
            self.sessions.remove(&key(&change.group, member));
        }
        for member in &change.members {
            self.sessions.touch(&key(&change.group, member));
        }
    }

    fn registry(&self) -> Result<&Coordinator<Registry>, GroupError> {
        self.registry.as_ref().map_err(|cause| GroupError::Damaged { cause: cause.clone() })
    }
}

fn group_error(error: CommandError<GroupRefusal>) -> GroupError {
    match error {
        CommandError::Refused(refusal) => GroupError::Refused(refusal),
        CommandError::Storage(error) => GroupError::Storage(error),
        CommandError::Journal(error) => GroupError::Damaged { cause: error.to_string() },
    }
}

fn key(group: &str, member: &str) -> Key {
    Key { group: group.into(), member: member.into() }
}

/// The partition that a group can read.
fn partition(
    shared: &Shared,
    topic: &str,
    index: PartitionIndex,
) -> Result<Arc<Partition>, GroupError> {
    let partition = fetch::partition(shared, topic, index)?;
    if partition.topic.is_internal() {
        return Err(GroupError::Internal { topic: topic.to_owned() });
    }
    Ok(partition)
}

/// Refuses what cannot be a group's name.
fn check_name(name: &str) -> Result<(), GroupError> {
    let max = limits::GROUP_NAME_BYTES_MAX;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=max).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(GroupError::Name { name: name.chars().take(max).collect(), max })
}
