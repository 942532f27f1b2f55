//! Consumer groups from outside: list, describe, reset, delete, and what they have committed.
//!
//! Answers are the contract's own messages: nothing of them is hidden or renamed.

use taffrail_model::{Offset, PartitionIndex, TopicName};
use taffrail_proto::v1;
use tonic::{Response, Status};

use crate::{CallError, Client};

/// Calls about consumer groups. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Groups {
    client: Client,
}

/// Every call here fails with [`CallError`]: unreachable, or refused by the broker.
impl Groups {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Lists all groups by name.
    pub async fn list(&self) -> Result<Vec<v1::GroupSummary>, CallError> {
        let answer = self.client.group_service().list_groups(v1::ListGroupsRequest {}).await;
        Ok(self.answer(answer)?.groups)
    }

    /// Describes a group: its members, how far behind it is, and why nothing is being delivered.
    pub async fn describe(&self, group: &str) -> Result<v1::DescribeGroupResponse, CallError> {
        let request = v1::DescribeGroupRequest { group: group.to_owned() };
        let answer = self.client.group_service().describe_group(request).await;
        self.answer(answer)
    }

    /// Says what a group has committed.
    pub async fn offsets(&self, group: &str) -> Result<Vec<v1::CommittedOffset>, CallError> {
        let request = v1::GetOffsetsRequest { group: group.to_owned(), partitions: Vec::new() };
        let answer = self.client.group_service().get_offsets(request).await;
        Ok(self.answer(answer)?.offsets)
    }

    /// Commits an offset from outside of a group that has no members. Durable on return.
    pub async fn commit(
        &self,
        group: &str,
        topic: &TopicName,
        partition: PartitionIndex,
        offset: Offset,
    ) -> Result<(), CallError> {
        let commit = v1::OffsetCommit {
            topic: topic.to_string(),
            partition: partition.get(),
            offset: offset.get(),
            ..Default::default()
        };
        let request = v1::CommitOffsetsRequest {
            group: group.to_owned(),
            member_id: String::new(),
            offsets: vec![commit],
        };
        let answer = self.client.group_service().commit_offsets(request).await;
        let error = self.answer(answer)?.results.into_iter().find_map(|result| result.error);
        error.map_or(Ok(()), |error| Err(CallError::Refused(error.into())))
    }

    /// Moves a group's committed offsets, all or none: where each stood, and stands now.
    pub async fn reset(
        &self,
        request: v1::ResetOffsetsRequest,
    ) -> Result<Vec<v1::OffsetReset>, CallError> {
        let answer = self.client.group_service().reset_offsets(request).await;
        Ok(self.answer(answer)?.offsets)
    }

    /// Forgets a group that has no members, and what it has committed.
    pub async fn delete(&self, group: &str) -> Result<(), CallError> {
        let request = v1::DeleteGroupRequest { group: group.to_owned() };
        let answer = self.client.group_service().delete_group(request).await;
        self.answer(answer).map(drop)
    }

    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, CallError> {
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(CallError::from_status(self.client.server(), &status)),
        }
    }
}
