//! Moves committed offsets, and deletes groups: what people do from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use taffrail_model::{Offset, PartitionIndex};

use super::command::CommandKind;
use super::event::{Commit, Slot};
use super::state::Group;
use super::{GroupError, GroupRefusal, check_name};
use crate::fetch::{self, Position};
use crate::partition::Partition;
use crate::shared::Shared;

/// Moves a group's committed offsets.
#[derive(Clone, Debug)]
pub struct ResetOffsets {
    /// The group.
    pub group: String,
    /// Of these topics; none: of all that it reads.
    pub topics: Vec<String>,
    /// Of these partitions of them; none: of all.
    pub partitions: Vec<PartitionIndex>,
    /// Where to.
    pub to: ResetTo,
    /// Only says what would be done.
    pub is_dry_run: bool,
    /// Even if the group has members.
    pub is_forced: bool,
}

/// Where offsets are moved.
#[derive(Clone, Debug)]
pub enum ResetTo {
    /// To a place in each partition.
    Position(Position),
    /// So many offsets forward or backward, not beyond the ends.
    Shift(i64),
    /// To where another group is.
    Group(String),
}

/// Where a group stood in a partition, and stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetReset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// What was committed before.
    pub before: Option<Offset>,
    /// What is committed now.
    pub after: Offset,
}

/// Moves a group's committed offsets: all or none, durable on return.
pub(crate) async fn reset(
    shared: &Shared,
    request: ResetOffsets,
) -> Result<Vec<OffsetReset>, GroupError> {
    check_name(&request.group)?;
    let groups = &shared.groups;
    let group = groups.look(|registry| registry.known(&request.group).cloned()).await?;
    let group = match group {
        // One that is not there yet begins with what is committed for it.
        Err(_) if !request.topics.is_empty() => Group::default(),
        group => group?,
    };
    let members = group.members().len();
    if members > 0 && !request.is_forced && !request.is_dry_run {
        return Err(GroupRefusal::HasMembers { group: request.group, members }.into());
    }
    let known = group.committed().keys().chain(group.target().keys()).copied().collect();
    let partitions = choose(shared, &request, &known)?;
    let before = offsets_of(&group);
    let moved = place(shared, &request, &partitions, &before).await?;
    let resets = moved.iter().map(|(partition, offset)| OffsetReset {
        topic: partition.topic.to_string(),
        partition: partition.index,
        before: before.get(&Slot(partition.log_id)).copied(),
        after: *offset,
    });
    let resets = resets.collect();
    if !request.is_dry_run && !moved.is_empty() {
        let offsets = moved.iter().map(|(partition, offset)| Commit {
            slot: Slot(partition.log_id),
            offset: offset.get(),
            metadata: String::new(),
        });
        let kind = CommandKind::Reset { offsets: offsets.collect(), is_forced: request.is_forced };
        groups.ask(&request.group, kind, shared.now()).await?;
    }
    Ok(resets)
}

/// The partitions that are meant, ascending by topic and number.
fn choose(
    shared: &Shared,
    request: &ResetOffsets,
    known: &BTreeSet<Slot>,
) -> Result<Vec<Arc<Partition>>, GroupError> {
    let topics = shared.topics.load();
    let mut chosen = Vec::new();
    if request.topics.is_empty() {
        let all = topics.all().flat_map(|served| &served.partitions);
        chosen.extend(all.filter(|it| known.contains(&Slot(it.log_id))).cloned());
    } else {
        for topic in &request.topics {
            let first = super::partition(shared, topic, PartitionIndex::new(0))?;
            let served = topics.get(&first.topic);
            chosen.extend(served.into_iter().flat_map(|served| served.partitions.clone()));
        }
    }
    for index in &request.partitions {
        if !chosen.iter().any(|partition| partition.index == *index) {
            return Err(GroupError::Request(format!(
                "the group reads no partition {index} of the topics that are meant: name the topic"
            )));
        }
    }
    if !request.partitions.is_empty() {
        chosen.retain(|partition| request.partitions.contains(&partition.index));
    }
    Ok(chosen)
}

/// Where each of them is moved.
async fn place(
    shared: &Shared,
    request: &ResetOffsets,
    partitions: &[Arc<Partition>],
    before: &BTreeMap<Slot, Offset>,
) -> Result<Vec<(Arc<Partition>, Offset)>, GroupError> {
    let other = match &request.to {
        ResetTo::Group(other) => {
            check_name(other)?;
            shared.groups.look(|registry| registry.known(other).map(offsets_of)).await??
        }
        ResetTo::Position(_) | ResetTo::Shift(_) => BTreeMap::new(),
    };
    let mut moved = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let slot = Slot(partition.log_id);
        let position = match &request.to {
            ResetTo::Position(position) => *position,
            ResetTo::Group(_) => match other.get(&slot) {
                Some(offset) => Position::Offset(*offset),
                None => continue,
            },
            ResetTo::Shift(shift) => {
                let (start, end) = (partition.log_start(), partition.high_watermark());
                let from = before.get(&slot).copied().unwrap_or(start).get();
                let to = Offset::new(from.saturating_add_signed(*shift));
                Position::Offset(to.min(end).max(start))
            }
        };
        let found = fetch::find(partition, position).await?;
        moved.push((Arc::clone(partition), found.offset));
    }
    Ok(moved)
}

fn offsets_of(group: &Group) -> BTreeMap<Slot, Offset> {
    group.committed().iter().map(|(slot, it)| (*slot, Offset::new(it.offset))).collect()
}

/// Forgets a group that nobody is in. Durable on return.
pub(crate) async fn delete(shared: &Shared, group: &str) -> Result<(), GroupError> {
    check_name(group)?;
    shared.groups.ask(group, CommandKind::Delete, shared.now()).await?;
    shared.groups.paces.remove(group);
    shared.groups.seats.remove(group);
    Ok(())
}
