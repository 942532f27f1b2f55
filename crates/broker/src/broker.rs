//! The one API of the broker: what every front end calls. Each method calls one room, or lets rooms
//! meet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taffrail_log::Directory;
use taffrail_model::{Offset, PartitionIndex, ProducerEpoch, Timestamp, TopicName};
use tokio::sync::{Mutex, mpsc};

use crate::backup::{BackupFailure, BackupProgress, BackupSummary};
use crate::catalog::{Catalog, CatalogError, Topic};
use crate::clock::{self, Stopwatch};
use crate::config::BrokerConfig;
use crate::consume::{ConsumeEvent, ConsumeSession};
use crate::coordinator::Coordinator;
use crate::fetch::{self, FetchError, FetchRequest, FetchResult, OffsetFound, Position};
use crate::group::{
    self, Assignment, CommittedOffset, GroupDescription, GroupError, GroupSummary, Heartbeat,
    MemberStream, OffsetCommit, OffsetReset, ResetOffsets,
};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::partition::{DeleteRecordsError, LogThreads, PartitionDescription};
use crate::produce::{self, Acks, Outcome, ProduceBatch, ProduceError, ProduceSession};
use crate::producers::{InitProducer, InitProducerError, ProducerIdentity};
use crate::queue::{
    self, CreateQueue, ParkedPage, ParkedQuery, QueueDescription, QueueError, QueueEvent,
    QueuePolicy, QueueSession, QueueSummary, Selection,
};
use crate::shared::Shared;
use crate::topics::ServedTopic;

/// A broker on one data directory.
#[derive(Debug)]
pub struct Broker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) threads: Arc<LogThreads>,
    pub(crate) catalog: Coordinator<Catalog>,
    /// Held while topics change, so that files, catalog and `topics` change together.
    pub(crate) changing: Mutex<()>,
    pub(crate) is_closed: AtomicBool,
    pub(crate) started: Stopwatch,
}

/// A topic, and where each of its partitions stands.
#[derive(Clone, Debug)]
pub struct TopicDescription {
    /// The topic.
    pub topic: Topic,
    /// Its partitions, from 0.
    pub partitions: Vec<PartitionDescription>,
}

impl Broker {
    // ------------------------------------------------------------------------------- records

    /// Appends batches, in order, and returns what became of each.
    pub async fn produce(&self, batches: Vec<ProduceBatch>, acks: Acks) -> Vec<Outcome> {
        produce::produce_all(&self.shared, batches, acks).await
    }

    /// A producer's stream of requests; outcomes come through the receiver.
    pub fn produce_session(&self) -> (ProduceSession, mpsc::UnboundedReceiver<Outcome>) {
        let (sender, outcomes) = mpsc::unbounded_channel();
        (ProduceSession::new(Arc::clone(&self.shared), sender), outcomes)
    }

    /// Makes an idempotent producer. On return it is durable, and nothing of whoever had its name
    /// before is appended any more.
    ///
    /// # Errors
    /// If the name cannot be one or has been lost, there are too many, or the disk refuses.
    pub async fn init_producer(
        self: &Arc<Self>,
        request: InitProducer,
    ) -> Result<ProducerIdentity, InitProducerError> {
        if request.name.is_empty() {
            return self.shared.producers.make(self.shared.now()).await;
        }
        let unknown = || ProduceError::ResultUnknown { cause: "the broker is stopping".into() };
        // To its end, even if whoever asks goes away: what is stored must be enforced.
        let taken = tokio::spawn(Arc::clone(self).take_name(request)).await;
        taken.unwrap_or_else(|_| Err(InitProducerError::Storage(unknown())))
    }

    async fn take_name(
        self: Arc<Self>,
        request: InitProducer,
    ) -> Result<ProducerIdentity, InitProducerError> {
        let taken = self.shared.producers.take(request, self.shared.now()).await?;
        if taken.epoch != ProducerEpoch::ZERO {
            // What passed the fence before it was closed is being written.
            let topics = self.shared.topics.load_full();
            let pass = move || {
                let partitions = topics.all().flat_map(|served| &served.partitions);
                partitions.for_each(|partition| partition.pass_writer());
            };
            let stopping =
                || ProduceError::ResultUnknown { cause: "the broker is stopping".into() };
            let passed = self.threads.on_opener_thread(pass).await;
            passed.ok_or_else(|| InitProducerError::Storage(stopping()))?;
        }
        Ok(taken)
    }

    /// Reads several partitions, waiting where there is nothing yet; a result for each of them, in
    /// the order of the request.
    pub async fn fetch(&self, request: &FetchRequest) -> Vec<FetchResult> {
        fetch::fetch(&self.shared, request).await
    }

    /// A consumer's stream; what the broker has to say goes into `events`.
    pub fn consume_session(&self, events: mpsc::Sender<ConsumeEvent>) -> ConsumeSession {
        ConsumeSession::new(Arc::clone(&self.shared), events)
    }

    /// Finds the offset that a position means.
    ///
    /// # Errors
    /// If there is no such partition, or no such offset.
    pub async fn find_offset(
        &self,
        topic: &str,
        partition: PartitionIndex,
        position: Position,
    ) -> Result<OffsetFound, FetchError> {
        let partition = fetch::partition(&self.shared, topic, partition)?;
        fetch::find(&partition, position).await
    }

    // -------------------------------------------------------------------------------- queues

    /// Makes a queue on a topic; durable on return.
    ///
    /// # Errors
    /// If there is one of this name, no such topic, or the disk refuses.
    pub async fn create_queue(&self, request: CreateQueue) -> Result<(), QueueError> {
        self.to_the_end(|shared| async move { queue::create(&shared, request).await }).await
    }

    /// Changes how a queue works, to what `change` makes of how it does; durable on return.
    ///
    /// # Errors
    /// If there is no such queue, it cannot work so, or the disk refuses.
    pub async fn alter_queue(
        &self,
        name: &str,
        change: impl FnOnce(QueuePolicy) -> QueuePolicy + Send + 'static,
    ) -> Result<(), QueueError> {
        let name = name.to_owned();
        self.to_the_end(|shared| async move { queue::alter(&shared, &name, change).await }).await
    }

    /// Lists the queues, ascending by name.
    ///
    /// # Errors
    /// If what is known of queues is damaged.
    pub async fn list_queues(&self) -> Result<Vec<QueueSummary>, QueueError> {
        queue::list(&self.shared).await
    }

    /// Describes a queue.
    ///
    /// # Errors
    /// If there is no such queue.
    pub async fn describe_queue(&self, name: &str) -> Result<QueueDescription, QueueError> {
        queue::describe(&self.shared, name).await
    }

    /// Deletes a queue and what is parked in it; durable on return.
    ///
    /// # Errors
    /// If there is no such queue, or the disk refuses.
    pub async fn delete_queue(&self, name: &str) -> Result<(), QueueError> {
        let name = name.to_owned();
        self.to_the_end(|shared| async move { queue::delete(&shared, &name).await }).await
    }

    /// A worker's stream; what the broker has to say goes into `events`.
    pub fn queue_session(&self, events: mpsc::Sender<QueueEvent>) -> QueueSession {
        QueueSession::new(Arc::clone(&self.shared), events)
    }

    /// Lists parked records, a page of them.
    ///
    /// # Errors
    /// If there is no such queue.
    pub async fn list_parked(
        &self,
        queue: &str,
        query: ParkedQuery,
    ) -> Result<ParkedPage, QueueError> {
        queue::list_parked(&self.shared, queue, query).await
    }

    /// Lets parked records be tried again; how many. Durable on return.
    ///
    /// # Errors
    /// If there is no such queue, or the disk refuses.
    pub async fn redrive(&self, queue: &str, selection: Selection) -> Result<u64, QueueError> {
        let queue = queue.to_owned();
        let redrive =
            |shared: Arc<Shared>| async move { queue::redrive(&shared, &queue, selection).await };
        self.to_the_end(redrive).await
    }

    /// Forgets parked records; how many. Durable on return.
    ///
    /// # Errors
    /// If there is no such queue, or the disk refuses.
    pub async fn discard(&self, queue: &str, selection: Selection) -> Result<u64, QueueError> {
        let queue = queue.to_owned();
        let discard =
            |shared: Arc<Shared>| async move { queue::discard(&shared, &queue, selection).await };
        self.to_the_end(discard).await
    }

    /// Changes a queue, even if whoever asks goes away: what is stored must be told.
    async fn to_the_end<T: Send + 'static, F>(
        &self,
        change: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, QueueError>
    where
        F: Future<Output = Result<T, QueueError>> + Send + 'static,
    {
        let changed = tokio::spawn(change(Arc::clone(&self.shared))).await;
        changed.unwrap_or(Err(QueueError::Stopping))
    }

    // -------------------------------------------------------------------------------- groups

    /// Takes a sign of life of a group's member, which joins, stays or leaves; says what it is to read.
    ///
    /// # Errors
    /// If it is no member any more, what it says makes no sense, or the disk refuses.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<Assignment, GroupError> {
        group::heartbeat(&self.shared, heartbeat).await
    }

    /// A member's stream of heartbeats.
    pub fn member_stream(&self) -> MemberStream {
        MemberStream::new(Arc::clone(&self.shared))
    }

    /// Commits how far a member has come; or, if `member` is empty, somebody outside of a group that
    /// has none. Durable on return; a result for each.
    ///
    /// # Errors
    /// If nothing at all was committed: the member is none any more, or the disk refuses.
    pub async fn commit_offsets(
        &self,
        group: &str,
        member: &str,
        offsets: Vec<OffsetCommit>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        group::commit(&self.shared, group, member, offsets).await
    }

    /// What a group has committed, of these partitions or of all, ascending by topic and number.
    ///
    /// # Errors
    /// If there is no such group.
    pub async fn committed_offsets(
        &self,
        group: &str,
        partitions: &[(String, PartitionIndex)],
    ) -> Result<Vec<CommittedOffset>, GroupError> {
        group::committed(&self.shared, group, partitions).await
    }

    /// All groups, ascending by name.
    ///
    /// # Errors
    /// If what is known of them cannot be used.
    pub async fn list_groups(&self) -> Result<Vec<GroupSummary>, GroupError> {
        group::list(&self.shared).await
    }

    /// A group: its members, how far behind it is, and why nothing is being delivered.
    ///
    /// # Errors
    /// If there is none.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, GroupError> {
        group::describe(&self.shared, group).await
    }

    /// Moves a group's committed offsets: all or none. Durable on return.
    ///
    /// # Errors
    /// If it has members and it is not forced, there is no such place, or the disk refuses.
    pub async fn reset_offsets(
        &self,
        request: ResetOffsets,
    ) -> Result<Vec<OffsetReset>, GroupError> {
        group::reset(&self.shared, request).await
    }

    /// Forgets a group and what it has committed. Durable on return.
    ///
    /// # Errors
    /// If there is none, or it has members.
    pub async fn delete_group(&self, group: &str) -> Result<(), GroupError> {
        group::delete(&self.shared, group).await
    }

    // -------------------------------------------------------------------------------- topics

    /// Creates a topic. On return it is durable and takes records.
    ///
    /// # Errors
    /// If its name, its settings or its number of partitions cannot be, or the disk refuses.
    pub async fn create_topic(
        self: &Arc<Self>,
        name: &str,
        partitions: u32,
        settings: BTreeMap<String, String>,
    ) -> Result<TopicDescription, CatalogError> {
        let name = TopicName::parse(name)?;
        Self::to_its_end(Arc::clone(self).create_topic_now(name, partitions, settings)).await
    }

    /// Describes a topic and its partitions.
    ///
    /// # Errors
    /// If there is none.
    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription, CatalogError> {
        Ok(TopicDescription::of(self.served(&TopicName::parse(name)?)?.as_ref()))
    }

    /// All topics, ascending by name; the broker's own only if asked for.
    pub fn list_topics(&self, with_internal: bool) -> Vec<Topic> {
        let topics = self.shared.topics.load();
        let wanted = topics.all().filter(|t| with_internal || !t.topic.name.is_internal());
        wanted.map(|served| served.topic.clone()).collect()
    }

    /// Every topic with its partitions, the broker's own included.
    pub fn describe_all(&self) -> Vec<TopicDescription> {
        self.shared.topics.load().all().map(|served| TopicDescription::of(served)).collect()
    }

    /// Changes settings of a topic; an empty value goes back to the default.
    ///
    /// # Errors
    /// If there is no such topic, or a setting cannot be: then nothing is changed.
    pub async fn alter_topic(
        self: &Arc<Self>,
        name: &str,
        settings: BTreeMap<String, String>,
    ) -> Result<TopicDescription, CatalogError> {
        let name = TopicName::parse(name)?;
        Self::to_its_end(Arc::clone(self).alter_topic_now(name, settings)).await
    }

    /// Adds partitions to a topic until it has `partitions`.
    ///
    /// # Errors
    /// If there is no such topic, it has as many, or there can be no more.
    pub async fn add_partitions(
        self: &Arc<Self>,
        name: &str,
        partitions: u32,
    ) -> Result<TopicDescription, CatalogError> {
        let name = TopicName::parse(name)?;
        Self::to_its_end(Arc::clone(self).add_partitions_now(name, partitions)).await
    }

    /// Opens the log of a partition anew that is read-only or offline, as a restart would; one that is
    /// online, or is being checked, stays as it is. Returns where the partition stands then.
    ///
    /// # Errors
    /// If there is no such partition, or it is one of the broker's own.
    pub async fn reopen_partition(
        self: &Arc<Self>,
        topic: &str,
        partition: PartitionIndex,
    ) -> Result<PartitionDescription, CatalogError> {
        let name = TopicName::parse(topic)?;
        Self::to_its_end(Arc::clone(self).reopen_partition_now(name, partition)).await
    }

    /// Deletes the records of a partition before an offset, or all that are committed, for good. Durable
    /// on return. Returns where the partition stands then.
    ///
    /// # Errors
    /// If there is no such partition, it has no such offset, or the disk refuses.
    pub async fn delete_records(
        self: &Arc<Self>,
        topic: &str,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<PartitionDescription, DeleteRecordsError> {
        let name = TopicName::parse(topic).map_err(CatalogError::from)?;
        let deleting = tokio::spawn(Arc::clone(self).delete_records_now(name, partition, before));
        deleting.await.unwrap_or(Err(DeleteRecordsError::Partition(ProduceError::Stopping)))
    }

    /// Deletes a topic and its records, for good.
    ///
    /// # Errors
    /// If there is none, its logs are being checked, or the decision cannot be stored.
    pub async fn delete_topic(self: &Arc<Self>, name: &str) -> Result<(), CatalogError> {
        let name = TopicName::parse(name)?;
        Self::to_its_end(Arc::clone(self).delete_topic_now(name)).await
    }

    // -------------------------------------------------------------------------------- broker

    /// Makes a backup of everything at a place on the broker's machine, while it is used. Durable and
    /// verified on return.
    ///
    /// # Errors
    /// If the place is not free, the disk refuses, or nobody wants it any more: then nothing is left of it.
    pub async fn backup(
        self: &Arc<Self>,
        path: PathBuf,
        progress: Arc<BackupProgress>,
    ) -> Result<BackupSummary, BackupFailure> {
        let backup = tokio::spawn(Arc::clone(self).backup_now(path, progress));
        backup.await.unwrap_or(Err(BackupFailure::Stopping))
    }

    /// What the broker counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The budget of requests that are there in part: half as much as all others have. Apart from them, so
    /// that slow ones do not cost whole ones their place.
    pub fn arriving_memory(&self) -> &MemoryBudget {
        &self.shared.arriving_memory
    }

    /// The budget of what producers send: half of the whole.
    pub fn produce_memory(&self) -> &MemoryBudget {
        &self.shared.produce_memory
    }

    /// The memory of answers, most of it what consumers are sent: the other half, so that neither can
    /// starve the other.
    pub fn read_memory(&self) -> &MemoryBudget {
        &self.shared.read_memory
    }

    /// How it is set up.
    pub fn config(&self) -> &BrokerConfig {
        &self.shared.config
    }

    /// The data directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Since when it runs.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The time of day, as it sees it.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    /// Whether it is going away.
    pub fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// Returns when the broker is going away.
    pub async fn stopping(&self) {
        self.shared.stopping().await;
    }

    /// Notes the time for the next start, if it is believed: one that is doubted is doubted then too.
    pub(crate) fn tell_time(&self) {
        let now = self.now();
        if self.threads.doubt(now, clock::instant()).is_none() {
            self.directory.tell_time(now);
        }
    }

    /// Refuses what is new from here on, and ends consumers' streams.
    pub fn begin_stop(&self) {
        self.shared.begin_stop();
    }

    /// Syncs everything, marks each log clean that is not poisoned, and ends the log threads. Blocks;
    /// called when nothing is submitted any more, from outside of the runtime's workers.
    pub fn close(&self) {
        self.begin_stop();
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.threads.stop();
        for served in self.shared.topics.load().all() {
            served.partitions.iter().for_each(|partition| partition.close());
        }
        self.tell_time();
        if let Err(error) = self.directory.persist_points() {
            tracing::error!(%error, "the recovery points could not be written: the next start checks all logs");
        }
        // The next start may need it; it says so if it cannot be.
        let _ = self.directory.keep_spare(self.shared.config.spare_bytes);
    }
}

impl TopicDescription {
    pub(crate) fn of(served: &ServedTopic) -> Self {
        let partitions = served.partitions.iter().map(|partition| partition.describe()).collect();
        Self { topic: served.topic.clone(), partitions }
    }
}
