//! Changes of topics: where the catalog, the files and the partitions meet.
//!
//! Each runs to its end once it has begun, even if whoever asked for it goes away, and one at a time:
//! files first and then the catalog where something is created, the catalog first and then the files
//! where something is deleted. What is served follows what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use taffrail_log::{Directory, Log, LogConfig, OpenError, Opened};
use taffrail_model::{LogId, Offset, PartitionIndex, ProducerId, TopicId, TopicName};

use crate::broker::{Broker, TopicDescription};
use crate::catalog::{Catalog, CatalogError, Command, Topic, TopicSettings};
use crate::coordinator::CommandError;
use crate::partition::{DeleteRecordsError, Partition, PartitionDescription, PartitionStatus};
use crate::produce::ProduceError;
use crate::queue;
use crate::topics::{ServedTopic, Topics};

impl Broker {
    /// Runs a change to its end, whatever becomes of the caller.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        change: impl Future<Output = Result<T, CatalogError>> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let unknown = || ProduceError::ResultUnknown { cause: "the broker is stopping".into() };
        tokio::spawn(change).await.unwrap_or_else(|_| Err(CatalogError::Storage(unknown())))
    }

    pub(crate) async fn create_topic_now(
        self: Arc<Self>,
        name: TopicName,
        partitions: u32,
        settings: BTreeMap<String, String>,
    ) -> Result<TopicDescription, CatalogError> {
        let _changing = self.changing.lock().await;
        let catalog = self.catalog_now().await?;
        let parsed = catalog.check_create(&name, partitions, &settings)?;
        self.check_spare()?;
        self.check_room(&catalog, partitions)?;
        parsed.check_request(self.shared.config.request_bytes_max)?;
        let id = TopicId::new(self.directory.random_id());
        let created = self.create_partitions(&name, id, parsed, 0..partitions).await?;
        // No queue can need anything of them.
        for partition in &created {
            partition.keep_from(Offset::new(u64::MAX));
        }
        let command = Command::Create { name: name.clone(), id, partitions, settings };
        let catalog = self.name_partitions(command, &created).await?;
        Ok(self.serve(catalog.topic(&name)?, created))
    }

    pub(crate) async fn alter_topic_now(
        self: Arc<Self>,
        name: TopicName,
        settings: BTreeMap<String, String>,
    ) -> Result<TopicDescription, CatalogError> {
        let _changing = self.changing.lock().await;
        let served = self.served(&name)?;
        refuse_internal(&name)?;
        let (_, altered) = self.catalog_now().await?.check_alter(&name, &settings)?;
        if altered.batch_bytes_max > served.topic.settings.batch_bytes_max {
            altered.check_request(self.shared.config.request_bytes_max)?;
        }
        self.check_spare()?;
        let catalog = self.command(Command::Alter { name: name.clone(), settings }).await?;
        let topic = catalog.topic(&name)?;
        let (partitions, settings) = (served.partitions.clone(), topic.settings);
        let configure = move || partitions.iter().for_each(|part| part.configure(settings));
        self.threads.on_admin_thread(configure).await;
        Ok(self.serve(topic, served.partitions.clone()))
    }

    pub(crate) async fn add_partitions_now(
        self: Arc<Self>,
        name: TopicName,
        partitions: u32,
    ) -> Result<TopicDescription, CatalogError> {
        let _changing = self.changing.lock().await;
        let served = self.served(&name)?;
        refuse_internal(&name)?;
        let catalog = self.catalog_now().await?;
        let topic = catalog.check_add(&name, partitions)?;
        self.check_spare()?;
        self.check_room(&catalog, partitions - topic.partitions)?;
        let indices = topic.partitions..partitions;
        let more = self.create_partitions(&name, topic.id, topic.settings, indices).await?;
        let command = Command::AddPartitions { name: name.clone(), partitions };
        let catalog = self.name_partitions(command, &more).await?;
        let all = served.partitions.iter().cloned().chain(more).collect();
        Ok(self.serve(catalog.topic(&name)?, all))
    }

    pub(crate) async fn delete_topic_now(
        self: Arc<Self>,
        name: TopicName,
    ) -> Result<(), CatalogError> {
        let _changing = self.changing.lock().await;
        let served = self.served(&name)?;
        refuse_internal(&name)?;
        if served.partitions.iter().any(|p| p.status() == PartitionStatus::Recovering) {
            return Err(CatalogError::Recovering(name.to_string()));
        }
        self.command(Command::Delete { name: name.clone() }).await?;
        self.publish(self.shared.topics.load().without(&name));
        self.tell_rooms();
        let partitions = served.partitions.clone();
        let delete = move || partitions.iter().for_each(|partition| partition.delete());
        self.threads.on_admin_thread(delete).await;
        self.share_tail_memory();
        self.finish_delete(served.topic.id, served.topic.partitions).await;
        Ok(())
    }

    /// Deletes records at the start of a partition.
    pub(crate) async fn delete_records_now(
        self: Arc<Self>,
        name: TopicName,
        index: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<PartitionDescription, DeleteRecordsError> {
        refuse_internal(&name)?;
        let partition = self.served(&name)?.partition(index)?;
        let doomed = Arc::clone(&partition);
        let deleted = self.threads.on_admin_thread(move || doomed.delete_records(before)).await;
        deleted.unwrap_or(Err(DeleteRecordsError::Partition(ProduceError::Stopping)))?;
        Ok(partition.describe())
    }

    /// Refuses what only a disk with room takes: the catalog may use what is kept back, and must be
    /// able to when something is deleted.
    fn check_spare(&self) -> Result<(), CatalogError> {
        let full = |path| CatalogError::Storage(ProduceError::StorageFull { path });
        self.directory.check_spare().map_err(full)
    }

    /// Whether the broker takes so many more partitions.
    fn check_room(&self, catalog: &Catalog, more: u32) -> Result<(), CatalogError> {
        let (found, max) = (catalog.partition_count(), self.shared.config.partitions_max);
        if found + more as usize <= max {
            return Ok(());
        }
        let advice = "delete some first, or raise max_partitions";
        Err(CatalogError::Full { what: "partitions", found, max, advice })
    }

    /// Removes the files of a deleted topic and notes that they are gone; what cannot be removed now
    /// is removed at the next start.
    pub(crate) async fn finish_delete(&self, id: TopicId, partitions: u32) {
        let directory = Arc::clone(&self.directory);
        let remove = move || {
            let named = (0..partitions).map(|index| id.log(PartitionIndex::new(index)));
            // Those of partitions too that it was about to get when the broker was killed, and what is
            // left of any.
            let others = directory.logs()?.into_iter().chain(directory.half_deleted()?);
            let others = others.filter(|log| log.split().0 == id);
            let logs: BTreeSet<_> = named.chain(others).collect();
            io::Result::Ok(delete_logs(&directory, logs))
        };
        match self.threads.on_admin_thread(remove).await {
            Some(Ok(true)) => {
                if let Err(error) = self.command(Command::Removed { id }).await {
                    tracing::warn!(%id, %error, "the removal of a topic's files could not be noted");
                }
            }
            // What could not be removed was named, and is at the next start; so it is if there are no
            // threads any more.
            Some(Ok(false)) | None => {}
            Some(Err(error)) => {
                tracing::warn!(%id, %error, "the files of a deleted topic could not be listed; the next start removes them");
            }
        }
    }

    /// Shares the memory for tails among the logs that there are.
    pub(crate) fn share_tail_memory(&self) {
        let topics = self.shared.topics.load();
        self.threads.share_tail_memory(topics.partition_count());
        topics.all().flat_map(|served| &served.partitions).for_each(|part| part.limit_tail());
    }

    pub(crate) fn served(&self, name: &TopicName) -> Result<Arc<ServedTopic>, CatalogError> {
        let topics = self.shared.topics.load();
        topics.get(name).cloned().ok_or_else(|| CatalogError::UnknownTopic {
            topic: name.to_string(),
            nearest: topics.nearest(name),
        })
    }

    /// Serves these topics from now on. Groups know of them before anybody can commit to them.
    pub(crate) fn publish(&self, topics: Topics) {
        self.shared.groups.set_topics(&topics);
        self.shared.topics.store(Arc::new(topics));
    }

    /// Lets groups follow the topics; nobody waits for that.
    fn tell_rooms(&self) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            shared.groups.follow(shared.now()).await;
            queue::follow(&shared).await;
        });
    }

    fn serve(&self, topic: Topic, partitions: Vec<Arc<Partition>>) -> TopicDescription {
        let served = ServedTopic { topic, partitions };
        let description = TopicDescription::of(&served);
        self.publish(self.shared.topics.load().with(served));
        self.share_tail_memory();
        self.tell_rooms();
        description
    }

    /// The catalog with all that was decided. Callers hold `changing`, so nothing else is on its way.
    async fn catalog_now(&self) -> Result<Catalog, CatalogError> {
        self.catalog.check().map_err(CatalogError::Storage)?;
        let damaged = |cause: String| CatalogError::Damaged { cause };
        self.catalog.state().await.map_err(|error| damaged(error.to_string()))
    }

    async fn command(&self, command: Command) -> Result<Catalog, CatalogError> {
        match self.catalog.submit(command, self.shared.now(), Catalog::clone).await {
            Ok(((), catalog)) => Ok(catalog),
            Err(CommandError::Refused(error)) => Err(error),
            Err(CommandError::Storage(error)) => Err(CatalogError::Storage(error)),
            Err(CommandError::Journal(error)) => {
                Err(CatalogError::Damaged { cause: error.to_string() })
            }
        }
    }

    /// Gives the command that names new partitions to the catalog. Where it surely does not name
    /// them, their files go again.
    async fn name_partitions(
        &self,
        command: Command,
        created: &[Arc<Partition>],
    ) -> Result<Catalog, CatalogError> {
        let named = self.command(command).await;
        let is_unknown =
            matches!(named, Err(CatalogError::Storage(ProduceError::ResultUnknown { .. })));
        if named.is_err() && !is_unknown {
            let partitions = created.to_vec();
            let delete = move || partitions.iter().for_each(|partition| partition.delete());
            self.threads.on_admin_thread(delete).await;
            let logs: Vec<_> = created.iter().map(|partition| partition.log_id).collect();
            let directory = Arc::clone(&self.directory);
            self.threads.on_admin_thread(move || delete_logs(&directory, logs)).await;
        }
        named
    }

    /// Creates the files of partitions, and the partitions; all or none.
    async fn create_partitions(
        &self,
        name: &TopicName,
        id: TopicId,
        settings: TopicSettings,
        indices: Range<u32>,
    ) -> Result<Vec<Arc<Partition>>, CatalogError> {
        let threads = Arc::clone(&self.threads);
        let (directory, now) = (Arc::clone(&self.directory), self.shared.now());
        let config = settings.log_config(threads.tail_bytes_max());
        let (topic, wanted) = (name.clone(), indices.clone());
        let create = move || {
            let mut logs = Vec::with_capacity(wanted.len());
            for index in wanted {
                let index = PartitionIndex::new(index);
                let (log, label) = (id.log(index), format!("{topic}/{index}"));
                let created = match directory.create_log(log, &label, config, now) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        clear(&directory, log, config, error)
                            .and_then(|()| directory.create_log(log, &label, config, now))
                    }
                    created => created,
                };
                match created {
                    Ok(log) => logs.push(log),
                    Err(error) => {
                        // What was there before, and is not empty, is not ours to remove.
                        let begun = error.kind() != io::ErrorKind::AlreadyExists;
                        let made: Vec<_> = logs.iter().map(Log::id).collect();
                        drop(logs);
                        delete_logs(&directory, made.into_iter().chain(begun.then_some(log)));
                        return Err(error);
                    }
                }
            }
            Ok(logs)
        };
        let made = self.threads.on_admin_thread(create).await;
        let made = made.unwrap_or_else(|| Err(io::Error::other("the broker is stopping")));
        let logs =
            made.map_err(|source| CatalogError::Files { topic: name.to_string(), source })?;
        let open = |(index, log)| {
            let (index, threads) = (PartitionIndex::new(index), Arc::clone(&threads));
            let partition = Partition::new(name.clone(), index, id.log(index), settings, threads);
            let partition = Arc::new(partition);
            partition.open(Ok(log));
            partition
        };
        Ok(indices.zip(logs).map(open).collect())
    }
}

/// Makes room for a log that is there although no topic names it: an earlier attempt ended half-way.
/// One that holds anything stays, and is an error.
fn clear(
    directory: &Directory,
    log: LogId,
    config: LogConfig,
    exists: io::Error,
) -> io::Result<()> {
    let holds_nothing = match directory.open_log(log, config, ProducerId::FIRST) {
        Ok(Opened { log, report }) => {
            let is_whole = report.damage.is_empty() && report.moved_aside.is_empty();
            log.end() == Offset::ZERO && is_whole
        }
        // Not even the first segment was whole.
        Err(OpenError::Missing { .. }) => true,
        Err(_) => false,
    };
    if holds_nothing { directory.delete_log(log) } else { Err(exists) }
}

/// Removes logs that nobody serves; whether all are gone.
fn delete_logs(directory: &Directory, logs: impl IntoIterator<Item = LogId>) -> bool {
    let delete = |log: LogId| match directory.delete_log(log) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%log, %error, "the files of a deleted partition could not be removed; the next start removes them");
            false
        }
    };
    logs.into_iter().map(delete).filter(|gone| !gone).count() == 0
}

fn refuse_internal(name: &TopicName) -> Result<(), CatalogError> {
    if name.is_internal() { Err(CatalogError::InternalName(name.to_string())) } else { Ok(()) }
}
