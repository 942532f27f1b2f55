//! Topics and the broker itself.
//!
//! Answers are the contract's own messages: nothing of them is hidden or renamed.

use std::collections::BTreeMap;
use std::sync::Arc;

use taffrail_model::{Offset, PartitionIndex};
use taffrail_proto::v1;
use taffrail_proto::v1::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::CallError;

/// Calls to administer topics and to describe the broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    service: AdminServiceClient<Channel>,
    server: Arc<str>,
}

/// Every call here fails with [`CallError`]: unreachable, or refused by the broker.
impl Admin {
    pub(crate) fn new(service: AdminServiceClient<Channel>, server: Arc<str>) -> Self {
        Self { service, server }
    }

    /// Creates a topic; on return it is durable and takes records. `partitions` 0 means 1.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        settings: BTreeMap<String, String>,
    ) -> Result<v1::Topic, CallError> {
        let request = v1::CreateTopicRequest { name: name.to_owned(), partitions, settings };
        let answer = self.service.clone().create_topic(request).await;
        self.answer(answer)?.topic.ok_or(NO_TOPIC)
    }

    /// Describes a topic and where each of its partitions stands.
    pub async fn describe_topic(
        &self,
        name: &str,
    ) -> Result<(v1::Topic, Vec<v1::Partition>), CallError> {
        let request = v1::DescribeTopicRequest { name: name.to_owned() };
        let answer = self.service.clone().describe_topic(request).await;
        let answer = self.answer(answer)?;
        Ok((answer.topic.ok_or(NO_TOPIC)?, answer.partitions))
    }

    /// Lists all topics by name; the broker's own too with `include_internal`.
    pub async fn list_topics(&self, include_internal: bool) -> Result<Vec<v1::Topic>, CallError> {
        let request = v1::ListTopicsRequest { include_internal };
        let answer = self.service.clone().list_topics(request).await;
        Ok(self.answer(answer)?.topics)
    }

    /// Changes settings of a topic, all or none; an empty value goes back to the default.
    pub async fn alter_topic(
        &self,
        name: &str,
        settings: BTreeMap<String, String>,
    ) -> Result<v1::Topic, CallError> {
        let request = v1::AlterTopicRequest { name: name.to_owned(), settings };
        let answer = self.service.clone().alter_topic(request).await;
        self.answer(answer)?.topic.ok_or(NO_TOPIC)
    }

    /// Adds partitions, so that the topic has `partitions` of them.
    pub async fn add_partitions(
        &self,
        name: &str,
        partitions: u32,
    ) -> Result<v1::Topic, CallError> {
        let request = v1::AddPartitionsRequest { name: name.to_owned(), partitions };
        let answer = self.service.clone().add_partitions(request).await;
        self.answer(answer)?.topic.ok_or(NO_TOPIC)
    }

    /// Opens the log of a partition anew that is read-only or offline, as a restart of the broker
    /// would; says where the partition stands then.
    pub async fn reopen_partition(
        &self,
        topic: &str,
        partition: PartitionIndex,
    ) -> Result<v1::Partition, CallError> {
        let request =
            v1::ReopenPartitionRequest { topic: topic.to_owned(), partition: partition.get() };
        let answer = self.service.clone().reopen_partition(request).await;
        self.answer(answer)?.partition.ok_or(CallError::Incomplete { field: "partition" })
    }

    /// Deletes the records of a partition before an offset, or all of them, for good; says where the
    /// partition stands then.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<v1::Partition, CallError> {
        let before = before.map(Offset::get);
        let request = v1::DeleteRecordsRequest {
            topic: topic.to_owned(),
            partition: partition.get(),
            before,
        };
        let answer = self.service.clone().delete_records(request).await;
        self.answer(answer)?.partition.ok_or(CallError::Incomplete { field: "partition" })
    }

    /// Deletes a topic and its records, for good.
    pub async fn delete_topic(&self, name: &str) -> Result<(), CallError> {
        let request = v1::DeleteTopicRequest { name: name.to_owned() };
        let answer = self.service.clone().delete_topic(request).await;
        self.answer(answer).map(drop)
    }

    /// Lists the settings that a topic can have: name, type, default, meaning.
    pub async fn describe_settings(&self) -> Result<Vec<v1::SettingInfo>, CallError> {
        let answer = self.service.clone().describe_settings(v1::DescribeSettingsRequest {}).await;
        Ok(self.answer(answer)?.settings)
    }

    /// Makes a backup of everything at a place on the broker's machine; `progress` hears of the bytes that
    /// were read or written so far. Durable and verified on return; cancelled, nothing is left of it.
    pub async fn backup(
        &self,
        directory: &str,
        mut progress: impl FnMut(u64),
    ) -> Result<v1::BackupSummary, CallError> {
        let request = v1::BackupRequest { directory: directory.to_owned() };
        let answer = self.service.clone().backup(request).await;
        let mut answers = self.answer(answer)?;
        loop {
            let next = answers.message().await;
            let next = next.map_err(|status| CallError::from_status(&self.server, &status))?;
            let next = next.ok_or(CallError::Incomplete { field: "summary" })?;
            progress(next.processed_bytes);
            if let Some(summary) = next.summary {
                return Ok(summary);
            }
        }
    }

    /// Describes the broker: version, limits, uptime, data directory.
    pub async fn describe_broker(&self) -> Result<v1::DescribeBrokerResponse, CallError> {
        let answer = self.service.clone().describe_broker(v1::DescribeBrokerRequest {}).await;
        self.answer(answer)
    }

    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, CallError> {
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(CallError::from_status(&self.server, &status)),
        }
    }
}

const NO_TOPIC: CallError = CallError::Incomplete { field: "topic" };
