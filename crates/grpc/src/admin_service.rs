//! `taffrail.v1.AdminService`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taffrail_broker::{BackupProgress, Broker, SETTINGS, TopicDescription};
use taffrail_model::{Offset, PartitionIndex, limits};
use taffrail_proto::v1;
use taffrail_proto::v1::admin_service_server::AdminService;
use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::convert;
use crate::status::Explain;

/// How often it is said how far a backup has come.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Serves `AdminService`.
pub(crate) struct Service {
    broker: Arc<Broker>,
}

impl Service {
    pub(crate) const fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

#[tonic::async_trait]
impl AdminService for Service {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let v1::CreateTopicRequest { name, partitions, settings } = request.into_inner();
        let created = self.broker.create_topic(&name, partitions.max(1), settings).await;
        let topic = Some(topic(&created.map_err(refused)?));
        Ok(Response::new(v1::CreateTopicResponse { topic }))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let description = self.broker.describe_topic(&request.into_inner().name);
        Ok(Response::new(convert::description(&description.map_err(refused)?)))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let topics = self.broker.list_topics(request.into_inner().include_internal);
        let topics = topics.iter().map(convert::topic).collect();
        Ok(Response::new(v1::ListTopicsResponse { topics }))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        let v1::AlterTopicRequest { name, settings } = request.into_inner();
        let altered = self.broker.alter_topic(&name, settings).await.map_err(refused)?;
        Ok(Response::new(v1::AlterTopicResponse { topic: Some(topic(&altered)) }))
    }

    async fn add_partitions(
        &self,
        request: Request<v1::AddPartitionsRequest>,
    ) -> Result<Response<v1::AddPartitionsResponse>, Status> {
        let v1::AddPartitionsRequest { name, partitions } = request.into_inner();
        let altered = self.broker.add_partitions(&name, partitions).await.map_err(refused)?;
        Ok(Response::new(v1::AddPartitionsResponse { topic: Some(topic(&altered)) }))
    }

    async fn reopen_partition(
        &self,
        request: Request<v1::ReopenPartitionRequest>,
    ) -> Result<Response<v1::ReopenPartitionResponse>, Status> {
        let v1::ReopenPartitionRequest { topic, partition } = request.into_inner();
        let index = PartitionIndex::new(partition);
        let reopened = self.broker.reopen_partition(&topic, index).await.map_err(refused)?;
        let partition = Some(convert::partition(&reopened));
        Ok(Response::new(v1::ReopenPartitionResponse { partition }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let v1::DeleteRecordsRequest { topic, partition, before } = request.into_inner();
        let index = PartitionIndex::new(partition);
        let deleted = self.broker.delete_records(&topic, index, before.map(Offset::new)).await;
        let deleted = deleted.map_err(|error| error.explain().into_status())?;
        let partition = Some(convert::partition(&deleted));
        Ok(Response::new(v1::DeleteRecordsResponse { partition }))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        self.broker.delete_topic(&request.into_inner().name).await.map_err(refused)?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn describe_settings(
        &self,
        _: Request<v1::DescribeSettingsRequest>,
    ) -> Result<Response<v1::DescribeSettingsResponse>, Status> {
        let settings = SETTINGS.iter().map(|info| v1::SettingInfo {
            name: info.name.to_owned(),
            r#type: info.kind.to_owned(),
            default_value: info.default.to_owned(),
            description: info.description.to_owned(),
        });
        Ok(Response::new(v1::DescribeSettingsResponse { settings: settings.collect() }))
    }

    type BackupStream = ReceiverStream<Result<v1::BackupResponse, Status>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let path = PathBuf::from(request.into_inner().directory);
        let (answers, stream) = mpsc::channel(1);
        tokio::spawn(back_up(Arc::clone(&self.broker), path, answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn describe_broker(
        &self,
        _: Request<v1::DescribeBrokerRequest>,
    ) -> Result<Response<v1::DescribeBrokerResponse>, Status> {
        let topics = self.broker.list_topics(false);
        Ok(Response::new(v1::DescribeBrokerResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_directory: self.broker.directory().path().display().to_string(),
            directory_id: self.broker.directory().id().to_owned(),
            uptime_ms: self.broker.uptime().as_millis() as u64,
            topics: topics.len() as u32,
            partitions: topics.iter().map(|topic| topic.partitions).sum(),
            limits: broker_limits(&self.broker),
            restored_ms: self
                .broker
                .directory()
                .restored()
                .map_or(0, |manifest| manifest.taken.as_millis()),
        }))
    }
}

/// Makes a backup, and says how far it has come, as long as anybody listens.
async fn back_up(
    broker: Arc<Broker>,
    path: PathBuf,
    answers: mpsc::Sender<Result<v1::BackupResponse, Status>>,
) {
    let progress = Arc::<BackupProgress>::default();
    let backup = broker.backup(path, Arc::clone(&progress));
    tokio::pin!(backup);
    let mut due = interval(PROGRESS_INTERVAL);
    let made = loop {
        tokio::select! {
            biased;
            made = &mut backup => break made,
            () = answers.closed() => {
                progress.give_up();
                // Nothing is left of it when this is over.
                drop(backup.await);
                return;
            }
            _ = due.tick() => {
                let processed_bytes = progress.bytes();
                // Whoever does not listen hears the next one.
                let answer = v1::BackupResponse { processed_bytes, summary: None };
                drop(answers.try_send(Ok(answer)));
            }
        }
    };
    let answer = made.map_err(|error| error.explain().into_status()).map(|summary| {
        let summary = Some(convert::backup_summary(summary));
        v1::BackupResponse { processed_bytes: progress.bytes(), summary }
    });
    drop(answers.send(answer).await);
}

fn topic(description: &TopicDescription) -> v1::Topic {
    convert::topic(&description.topic)
}

fn refused(error: taffrail_broker::CatalogError) -> Status {
    error.explain().into_status()
}

fn broker_limits(broker: &Broker) -> BTreeMap<String, u64> {
    let limits = [
        ("arriving_memory_bytes", broker.arriving_memory().bytes_max()),
        ("produce_memory_bytes", broker.produce_memory().bytes_max()),
        ("read_memory_bytes", broker.read_memory().bytes_max()),
        ("topics", limits::TOPICS_MAX as u64),
        ("partitions", broker.config().partitions_max as u64),
        ("topic_partitions", u64::from(limits::TOPIC_PARTITIONS_MAX)),
        ("request_bytes", broker.config().request_bytes_max as u64),
        ("batch_bytes", u64::from(limits::BATCH_BYTES_MAX)),
        ("in_flight_bytes", limits::IN_FLIGHT_BYTES_MAX),
        ("in_flight_requests", u64::from(limits::IN_FLIGHT_REQUESTS_MAX)),
    ];
    limits.map(|(name, value)| (name.to_owned(), value)).into()
}
