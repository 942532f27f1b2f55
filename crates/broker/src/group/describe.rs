//! Where groups stand: how far behind they are, and why nothing is being delivered.
//!
//! What this costs grows with the partitions that a group reads, and not with what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use taffrail_model::{Offset, PartitionIndex, TopicName};

use super::catalogue::Catalogue;
use super::event::{Profile, Slot};
use super::state::{Committed, Group, Owner, Registry};
use super::{Assignor, GroupError, GroupRefusal, Groups, check_name, key};
use crate::consume::Delivery;
use crate::fetch::{self, FetchError};
use crate::partition::Partition;
use crate::shared::Shared;
use crate::topics::Topics;

/// A group, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub group: String,
    /// Its epoch.
    pub epoch: u32,
    /// Number of its members.
    pub members: usize,
    /// What its members read, and what it has committed something of.
    pub topics: Vec<String>,
    /// Records that it has not done yet.
    pub lag: u64,
}

/// A group.
#[derive(Debug)]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// Its epoch.
    pub epoch: u32,
    /// How it shares partitions.
    pub assignor: Assignor,
    /// Its members, by id.
    pub members: Vec<MemberDescription>,
    /// Where it stands, ascending by topic and partition.
    pub partitions: Vec<PartitionLag>,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub struct MemberDescription {
    /// Its id.
    pub member: String,
    /// Its instance; empty: none.
    pub instance: String,
    /// Who it says that it is.
    pub client: String,
    /// What it reads.
    pub topics: Vec<String>,
    /// How long it may be silent.
    pub session_timeout: Duration,
    /// How long it has been silent.
    pub silence: Duration,
    /// Number of partitions that it owns.
    pub partitions: usize,
    /// Why it is assigned none, if that is so.
    pub idle_because: Option<&'static str>,
}

/// Where a group stands in a partition.
#[derive(Debug)]
pub struct PartitionLag {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// The first offset that is not done, if anything was committed.
    pub committed: Option<Offset>,
    /// What was committed with it.
    pub metadata: String,
    /// Offset of the first record.
    pub log_start: Offset,
    /// End of what readers may see.
    pub end: Offset,
    /// Records that are not done.
    pub lag: u64,
    /// Bytes of them, about.
    pub lag_bytes: u64,
    /// How long the oldest of them has been in the log.
    pub age: Duration,
    /// Who owns it.
    pub owner: Option<String>,
    /// Who is to have it next.
    pub next_owner: Option<String>,
    /// What is being delivered.
    pub state: DeliveryState,
    /// How fast it goes.
    pub rates: Option<Rates>,
    /// How long nothing was committed although there was something to do.
    pub stalled: Duration,
    /// Why it cannot be said where it stands, if that is so.
    pub error: Option<FetchError>,
}

/// How fast a group is in a partition, over about the last minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Records appended per second.
    pub appended: f64,
    /// Records committed per second.
    pub committed: f64,
}

impl PartitionLag {
    /// How long it takes until nothing is left to do, if it goes on like this and ever comes to that.
    pub fn drain(&self) -> Option<Duration> {
        let gain = self.rates.map(|rates| rates.committed - rates.appended)?;
        match self.lag {
            0 => Some(Duration::ZERO),
            lag if gain > 0.0 => Duration::try_from_secs_f64(lag as f64 / gain).ok(),
            _ => None,
        }
    }
}

/// What is being delivered to the owner of a partition, or why nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Not known: the owner does not read under the group's name.
    Unknown,
    /// Records are being sent.
    Delivering,
    /// All that there is was sent.
    AtEnd,
    /// The member has paused it.
    Paused,
    /// The member has granted no bytes.
    NoCredit,
    /// No member reads the topic.
    NoMember,
    /// Its former owner has not stopped reading it yet.
    AwaitsRelease {
        /// Who that is.
        by: String,
    },
    /// It cannot be read where the group stands.
    Failed,
}

/// All groups, ascending by name.
pub(crate) async fn list(shared: &Shared) -> Result<Vec<GroupSummary>, GroupError> {
    let catalogue = shared.groups.topics.load_full();
    let topics = shared.topics.load_full();
    let summarise = |(name, group): (&String, &Group)| {
        let slots = slots(group, &catalogue);
        let names: BTreeSet<_> = slots.iter().filter_map(|slot| catalogue.name(*slot)).collect();
        let lag = slots.iter().filter_map(|slot| {
            let partition = partition_of(&topics, &catalogue, *slot)?;
            let from = group.committed().get(slot).map(|it| Offset::new(it.offset));
            let from = from.unwrap_or(partition.log_start()).max(partition.log_start());
            Some(partition.high_watermark().get().saturating_sub(from.get()))
        });
        GroupSummary {
            group: name.clone(),
            epoch: group.epoch(),
            members: group.members().len(),
            topics: names.into_iter().cloned().collect(),
            lag: lag.sum(),
        }
    };
    shared.groups.look(|registry: &Registry| registry.all().map(summarise).collect()).await
}

/// A group, its members, and where it stands.
pub(crate) async fn describe(shared: &Shared, name: &str) -> Result<GroupDescription, GroupError> {
    check_name(name)?;
    let group = shared.groups.look(|registry| registry.get(name).cloned()).await?;
    let unknown = || GroupRefusal::UnknownGroup { group: name.to_owned() };
    let group = group.ok_or_else(unknown)?;
    let (topics, catalogue) = (shared.topics.load_full(), shared.groups.topics.load_full());
    let mut partitions = Vec::new();
    for slot in slots(&group, &catalogue) {
        // What was deleted just now has no place any more.
        if let Some(partition) = partition_of(&topics, &catalogue, slot) {
            partitions.push(shared.groups.stand(shared, name, &group, slot, &partition).await);
        }
    }
    partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(GroupDescription {
        group: name.to_owned(),
        epoch: group.epoch(),
        assignor: group.assignor(),
        members: shared.groups.members(name, &group),
        partitions,
    })
}

/// The partitions of the topics that a group reads, or has read.
fn slots(group: &Group, catalogue: &Catalogue) -> BTreeSet<Slot> {
    let slots = group.target().keys().chain(group.owners().keys());
    let slots: BTreeSet<_> = slots.chain(group.committed().keys()).copied().collect();
    let topics: BTreeSet<_> = slots.iter().filter_map(|slot| catalogue.name(*slot)).collect();
    slots.union(&catalogue.slots(topics)).copied().collect()
}

fn partition_of(topics: &Topics, catalogue: &Catalogue, slot: Slot) -> Option<Arc<Partition>> {
    let name = TopicName::parse(catalogue.name(slot)?).ok()?;
    let index = slot.0.split().1.get() as usize;
    let partition = topics.get(&name)?.partitions.get(index)?;
    (partition.log_id == slot.0).then(|| Arc::clone(partition))
}

impl Groups {
    /// Where a group stands in a partition.
    async fn stand(
        &self,
        shared: &Shared,
        name: &str,
        group: &Group,
        slot: Slot,
        partition: &Partition,
    ) -> PartitionLag {
        let committed = group.committed().get(&slot);
        let (log_start, end) = (partition.log_start(), partition.high_watermark());
        let offset = committed.map(|it| Offset::new(it.offset));
        let from = offset.unwrap_or(log_start).max(log_start);
        let (unread, mut error) = match fetch::unread(partition, from).await {
            Ok(unread) => (unread, None),
            Err(error) => (taffrail_log::Unread::default(), Some(error)),
        };
        if matches!(error, Some(FetchError::Recovering)) {
            // Where it ends is not known yet; nothing is the matter with it.
            error = None;
        }
        let owner = group.owners().get(&slot);
        let target = group.target().get(&slot);
        let lag = end.get().saturating_sub(from.get());
        let age = unread.append_time.map_or(Duration::ZERO, |at| shared.now().since(at));
        let rates = self.paces.rates(name, slot, from.get(), end.get());
        let quiet = rates.since_moved.map_or(age, |since| since.min(age));
        let state = match error {
            Some(_) => DeliveryState::Failed,
            None => self.delivery(name, slot, owner, target),
        };
        PartitionLag {
            topic: partition.topic.to_string(),
            partition: partition.index,
            committed: offset,
            metadata: committed
                .map_or_else(String::new, |Committed { metadata, .. }| metadata.clone()),
            log_start,
            end,
            lag,
            lag_bytes: unread.bytes,
            age,
            owner: owner.map(|owner| owner.member.clone()),
            next_owner: target.filter(|next| owner.is_none_or(|it| it.member != **next)).cloned(),
            state,
            rates: rates.in_and_out.map(|(appended, committed)| Rates { appended, committed }),
            stalled: if lag > 0 { quiet } else { Duration::ZERO },
            error,
        }
    }

    fn delivery(
        &self,
        name: &str,
        slot: Slot,
        owner: Option<&Owner>,
        target: Option<&String>,
    ) -> DeliveryState {
        match (owner, target) {
            (None, _) => DeliveryState::NoMember,
            (Some(owner), Some(target)) if owner.member == *target => {
                match self.seats.delivery(name, slot, owner) {
                    None => DeliveryState::Unknown,
                    Some(Delivery::Delivering) => DeliveryState::Delivering,
                    Some(Delivery::AtEnd) => DeliveryState::AtEnd,
                    Some(Delivery::Paused) => DeliveryState::Paused,
                    Some(Delivery::NoCredit) => DeliveryState::NoCredit,
                }
            }
            (Some(owner), _) => DeliveryState::AwaitsRelease { by: owner.member.clone() },
        }
    }

    fn members(&self, name: &str, group: &Group) -> Vec<MemberDescription> {
        let mut owned: BTreeMap<&str, usize> = BTreeMap::new();
        for owner in group.owners().values() {
            *owned.entry(&owner.member).or_default() += 1;
        }
        let topics = self.topics.load();
        let describe = |(member, profile): (&String, &Profile)| {
            let partitions = owned.get(member.as_str()).copied().unwrap_or(0);
            let is_idle = !group.target().values().any(|it| it == member);
            let wanted = || topics.slots(&profile.topics);
            let idle_because = match is_idle {
                false => None,
                true if wanted().is_empty() => Some("there is no partition of what it reads"),
                true => Some("there are more members than partitions of what it reads"),
            };
            MemberDescription {
                member: member.clone(),
                instance: profile.instance.clone(),
                client: profile.client.clone(),
                topics: profile.topics.clone(),
                session_timeout: Duration::from_millis(profile.session_ms.into()),
                silence: self.sessions.silence(&key(name, member)).unwrap_or_default(),
                partitions,
                idle_because,
            }
        };
        group.members().iter().map(describe).collect()
    }
}
