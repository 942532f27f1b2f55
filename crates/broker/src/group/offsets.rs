//! Committed offsets: how far a group has come.

use std::sync::Arc;

use taffrail_model::{Offset, PartitionIndex, Timestamp, limits};

use super::command::{CommandKind, OwnCommit};
use super::event::{Commit, Slot};
use super::{GroupError, GroupRefusal, Groups, check_name};
use crate::fetch::{self, FetchError};
use crate::partition::{Partition, PartitionStatus};
use crate::shared::Shared;

/// How far a partition is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The topic.
    pub topic: String,
    /// The topic's id; empty: whatever it is.
    pub topic_id: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// The first offset that is not done.
    pub offset: Offset,
    /// The epoch of the assignment under which it was read.
    pub epoch: u32,
    /// What goes with it.
    pub metadata: String,
}

/// How far a group has come in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: String,
    /// The topic's id.
    pub topic_id: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// The first offset that is not done.
    pub offset: Offset,
    /// What goes with it.
    pub metadata: String,
    /// When it was committed.
    pub committed: Timestamp,
}

/// Commits how far a member has come, or a group that has none: durable on return. A result for each.
pub(crate) async fn commit(
    shared: &Shared,
    group: &str,
    member: &str,
    offsets: Vec<OffsetCommit>,
) -> Result<Vec<Result<(), GroupError>>, GroupError> {
    check_name(group)?;
    let max = limits::COMMIT_OFFSETS_MAX;
    if !(1..=max).contains(&offsets.len()) {
        let found = offsets.len();
        return Err(GroupError::Request(format!("{found} offsets are committed: send 1 to {max}")));
    }
    let mut results = Vec::with_capacity(offsets.len());
    let (mut own, mut places, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for offset in offsets {
        match check_offset(shared, &offset) {
            Ok(partition) => {
                let OffsetCommit { offset, epoch, metadata, .. } = offset;
                let (slot, offset) = (Slot(partition.log_id), offset.get());
                own.push(OwnCommit { commit: Commit { slot, offset, metadata }, epoch });
                places.push(results.len());
                ends.push((slot, offset, partition.high_watermark()));
                results.push(Ok(()));
            }
            Err(error) => results.push(Err(error)),
        }
    }
    if own.is_empty() {
        return Ok(results);
    }
    let by = (!member.is_empty()).then(|| member.to_owned());
    let kind = CommandKind::Commit { by, offsets: own };
    let refused = shared.groups.ask(group, kind, shared.now()).await?.refused;
    for (index, refusal) in refused {
        if let Some(result) = places.get(index).and_then(|place| results.get_mut(*place)) {
            *result = Err(refusal.into());
        }
    }
    for (place, (slot, offset, end)) in places.into_iter().zip(ends) {
        if results.get(place).is_some_and(Result::is_ok) {
            shared.groups.paces.note(group, slot, offset, end.get());
        }
    }
    Ok(results)
}

/// The partition of a commit that makes sense.
fn check_offset(shared: &Shared, commit: &OffsetCommit) -> Result<Arc<Partition>, GroupError> {
    let partition = super::partition(shared, &commit.topic, commit.partition)?;
    let (found, expected) = (partition.log_id.split().0.to_string(), &commit.topic_id);
    if !expected.is_empty() && found != *expected {
        let (topic, expected) = (commit.topic.clone(), expected.clone());
        return Err(GroupError::OtherTopic { topic, expected, found });
    }
    let (bytes, max) = (commit.metadata.len(), limits::OFFSET_METADATA_BYTES_MAX);
    if max < bytes {
        return Err(GroupError::Request(format!("metadata has {bytes} bytes, and may have {max}")));
    }
    if partition.status() == PartitionStatus::Recovering {
        return Err(FetchError::Recovering.into());
    }
    if partition.high_watermark() < commit.offset {
        return Err(fetch::out_of_range(&partition, commit.offset).into());
    }
    Ok(partition)
}

/// What a group has committed, of these partitions or of all, ascending by topic and number.
pub(crate) async fn committed(
    shared: &Shared,
    group: &str,
    partitions: &[(String, PartitionIndex)],
) -> Result<Vec<CommittedOffset>, GroupError> {
    check_name(group)?;
    shared.groups.committed(group, partitions).await
}

impl Groups {
    async fn committed(
        &self,
        name: &str,
        partitions: &[(String, PartitionIndex)],
    ) -> Result<Vec<CommittedOffset>, GroupError> {
        let topics = self.topics.load();
        let wanted = partitions.iter().filter_map(|(topic, index)| topics.slot(topic, *index));
        let wanted: std::collections::BTreeSet<_> = wanted.collect();
        let looked = self.look(|registry| {
            let committed = registry.known(name)?.committed().iter();
            let chosen =
                committed.filter(|(slot, _)| partitions.is_empty() || wanted.contains(slot));
            let offsets = chosen.filter_map(|(slot, committed)| {
                let (id, partition) = slot.0.split();
                Some(CommittedOffset {
                    topic: topics.name(*slot)?.clone(),
                    topic_id: id.to_string(),
                    partition,
                    offset: Offset::new(committed.offset),
                    metadata: committed.metadata.clone(),
                    committed: Timestamp::from_millis(committed.at_ms),
                })
            });
            Ok::<_, GroupRefusal>(offsets.collect::<Vec<_>>())
        });
        let mut offsets = looked.await??;
        offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(offsets)
    }
}
