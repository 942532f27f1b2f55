//! The one API of the broker: what every front end calls. Each method calls one room, or lets rooms
//! meet.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use taffrail_log::{Directory, Log, LogConfig, OpenError, Opened};
use taffrail_model::{LogId, Offset, PartitionIndex, Timestamp, TopicId, TopicName};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::catalog::{Catalog, CatalogError, Command, Topic, TopicSettings};
use crate::clock::{Clock, Stopwatch};
use crate::config::BrokerConfig;
use crate::consume::{ConsumeEvent, ConsumeSession, Position};
use crate::coordinator::{CommandError, Coordinator};
use crate::fetch::{self, FetchError, FetchRequest, FetchResult, OffsetFound};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::partition::{LogThreads, Partition, PartitionDescription};
use crate::produce::{self, Acks, Outcome, ProduceBatch, ProduceSession};
use crate::topics::{ServedTopic, Topics};

/// A broker on one data directory.
#[derive(Debug)]
pub struct Broker {
    pub(crate) config: BrokerConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) threads: Arc<LogThreads>,
    pub(crate) catalog: Coordinator<Catalog>,
    pub(crate) topics: ArcSwap<Topics>,
    /// Held while topics change, so that files, catalog and `topics` change together.
    pub(crate) changing: Mutex<()>,
    pub(crate) memory: MemoryBudget,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: watch::Sender<bool>,
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
    pub async fn produce(self: &Arc<Self>, batches: Vec<ProduceBatch>, acks: Acks) -> Vec<Outcome> {
        produce::produce_all(self, batches, acks).await
    }

    /// A producer's stream of requests; outcomes come through the receiver.
    pub fn produce_session(self: &Arc<Self>) -> (ProduceSession, mpsc::UnboundedReceiver<Outcome>) {
        let (sender, outcomes) = mpsc::unbounded_channel();
        (ProduceSession::new(Arc::clone(self), sender), outcomes)
    }

    /// Reads several partitions, waiting where there is nothing yet.
    pub async fn fetch(&self, request: &FetchRequest) -> Vec<FetchResult> {
        fetch::fetch(self, request).await
    }

    /// A consumer's stream; what the broker has to say goes into `events`.
    pub fn consume_session(self: &Arc<Self>, events: mpsc::Sender<ConsumeEvent>) -> ConsumeSession {
        ConsumeSession::new(Arc::clone(self), events)
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
        fetch::find(self.partition(topic, partition)?.as_ref(), position).await
    }

    // -------------------------------------------------------------------------------- topics

    /// Creates a topic. On return it is durable and takes records.
    ///
    /// # Errors
    /// If its name, its settings or its number of partitions cannot be, or the disk refuses.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        settings: BTreeMap<String, String>,
    ) -> Result<TopicDescription, CatalogError> {
        let name = TopicName::parse(name)?;
        let _changing = self.changing.lock().await;
        let current = self.catalog_now().await?;
        let parsed = current.check_create(&name, partitions, &settings)?;
        let id = self.new_topic_id();
        let created = self.create_partitions(&name, id, parsed, 0..partitions).await?;
        let command = Command::Create { name: name.clone(), id, partitions, settings };
        let catalog = match self.command(command).await {
            Ok(catalog) => catalog,
            Err(error) => {
                // Refused before anything was stored: these files belong to nobody.
                if !matches!(error, CatalogError::Storage(_)) {
                    self.remove_files(id, partitions).await;
                }
                return Err(error);
            }
        };
        Ok(self.serve(catalog.topic(&name)?, created))
    }

    /// Describes a topic and its partitions.
    ///
    /// # Errors
    /// If there is none.
    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription, CatalogError> {
        let served = self.served(&TopicName::parse(name)?)?;
        Ok(describe(&served))
    }

    /// All topics, ascending by name; the broker's own only if asked for.
    pub fn list_topics(&self, with_internal: bool) -> Vec<Topic> {
        let topics = self.topics.load();
        let wanted = topics.all().filter(|t| with_internal || !t.topic.name.is_internal());
        wanted.map(|served| served.topic.clone()).collect()
    }

    /// Every topic with its partitions, the broker's own included.
    pub fn describe_all(&self) -> Vec<TopicDescription> {
        self.topics.load().all().map(|served| describe(served)).collect()
    }

    /// Changes settings of a topic; an empty value goes back to the default.
    ///
    /// # Errors
    /// If there is no such topic, or a setting cannot be: then nothing is changed.
    pub async fn alter_topic(
        &self,
        name: &str,
        settings: BTreeMap<String, String>,
    ) -> Result<TopicDescription, CatalogError> {
        let name = TopicName::parse(name)?;
        let _changing = self.changing.lock().await;
        let served = self.served(&name)?;
        refuse_internal(&name)?;
        let catalog = self.command(Command::Alter { name: name.clone(), settings }).await?;
        let topic = catalog.topic(&name)?;
        let (parts, settings) = (served.partitions.clone(), topic.settings);
        self.on_log_thread(move || parts.iter().for_each(|part| part.configure(settings))).await;
        Ok(self.serve(topic, served.partitions.clone()))
    }

    /// Adds partitions to a topic until it has `partitions`.
    ///
    /// # Errors
    /// If there is no such topic, it has as many, or there can be no more.
    pub async fn add_partitions(
        &self,
        name: &str,
        partitions: u32,
    ) -> Result<TopicDescription, CatalogError> {
        let name = TopicName::parse(name)?;
        let _changing = self.changing.lock().await;
        let served = self.served(&name)?;
        refuse_internal(&name)?;
        let topic = self.catalog_now().await?.check_add(&name, partitions)?;
        let indices = topic.partitions..partitions;
        let more = self.create_partitions(&name, topic.id, topic.settings, indices).await?;
        let command = Command::AddPartitions { name: name.clone(), partitions };
        let catalog = self.command(command).await?;
        let all = served.partitions.iter().cloned().chain(more).collect();
        Ok(self.serve(catalog.topic(&name)?, all))
    }

    /// Deletes a topic and its records, for good.
    ///
    /// # Errors
    /// If there is none, or the decision cannot be stored.
    pub async fn delete_topic(&self, name: &str) -> Result<(), CatalogError> {
        let name = TopicName::parse(name)?;
        let _changing = self.changing.lock().await;
        let served = self.served(&name)?;
        refuse_internal(&name)?;
        self.command(Command::Delete { name: name.clone() }).await?;
        self.topics.store(Arc::new(self.topics.load().without(&name)));
        let partitions = served.partitions.clone();
        self.on_log_thread(move || partitions.iter().for_each(|partition| partition.close())).await;
        self.threads.count_logs(-(served.partitions.len() as isize));
        self.finish_delete(served.topic.id, served.topic.partitions).await;
        Ok(())
    }

    // -------------------------------------------------------------------------------- broker

    /// What the broker counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The budget of requests and answers.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// How it is set up.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// The data directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Since when it runs.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether it is going away.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Becomes true when the broker is going away.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Refuses what is new from here on, and ends consumers' streams.
    pub fn begin_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Syncs everything, marks each log clean that is not poisoned, and ends the log threads. Blocks;
    /// called when nothing is submitted any more, from outside of the runtime's workers.
    pub fn close(&self) {
        self.begin_stop();
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.threads.stop();
        for served in self.topics.load().all() {
            served.partitions.iter().for_each(|partition| partition.close());
        }
        if let Err(error) = self.directory.persist_points() {
            tracing::error!(%error, "the recovery points could not be written: the next start checks all logs");
        }
    }

    // ------------------------------------------------------------------------------- for rooms

    pub(crate) fn topics(&self) -> Arc<Topics> {
        self.topics.load_full()
    }

    /// The partition that a client means.
    pub(crate) fn partition(
        &self,
        topic: &str,
        partition: PartitionIndex,
    ) -> Result<Arc<Partition>, FetchError> {
        let name = TopicName::parse(topic)?;
        let topics = self.topics.load();
        let served = topics.get(&name).ok_or_else(|| FetchError::UnknownTopic {
            topic: topic.to_owned(),
            nearest: topics.nearest(&name),
        })?;
        let found = served.partitions.get(partition.get() as usize);
        found.cloned().ok_or_else(|| FetchError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
            partitions: served.topic.partitions,
        })
    }

    /// Removes the files of a deleted topic and notes that they are gone; what cannot be removed now
    /// is removed at the next start.
    pub(crate) async fn finish_delete(&self, id: TopicId, partitions: u32) {
        if self.remove_files(id, partitions).await
            && let Err(error) = self.command(Command::Removed { id }).await
        {
            tracing::warn!(%id, %error, "the removal of a topic's files could not be noted");
        }
    }

    // -------------------------------------------------------------------------------- helpers

    fn served(&self, name: &TopicName) -> Result<Arc<ServedTopic>, CatalogError> {
        let topics = self.topics.load();
        topics.get(name).cloned().ok_or_else(|| CatalogError::UnknownTopic {
            topic: name.to_string(),
            nearest: topics.nearest(name),
        })
    }

    fn serve(&self, topic: Topic, partitions: Vec<Arc<Partition>>) -> TopicDescription {
        let served = ServedTopic { topic, partitions };
        let description = describe(&served);
        self.topics.store(Arc::new(self.topics.load().with(served)));
        description
    }

    /// The catalog as it is stored, from the topics that are served. Callers hold `changing`.
    async fn catalog_now(&self) -> Result<Catalog, CatalogError> {
        self.catalog
            .state()
            .await
            .map_err(|error| CatalogError::Damaged { cause: error.to_string() })
    }

    async fn command(&self, command: Command) -> Result<Catalog, CatalogError> {
        match self.catalog.submit(command, self.now()).await {
            Ok(((), catalog)) => Ok(catalog),
            Err(CommandError::Refused(error)) => Err(error),
            Err(CommandError::Storage(error)) => Err(CatalogError::Storage(error)),
            Err(CommandError::Journal(error)) => {
                Err(CatalogError::Damaged { cause: error.to_string() })
            }
        }
    }

    /// Creates the files of partitions, and the partitions.
    async fn create_partitions(
        &self,
        name: &TopicName,
        id: TopicId,
        settings: TopicSettings,
        indices: std::ops::Range<u32>,
    ) -> Result<Vec<Arc<Partition>>, CatalogError> {
        self.threads.count_logs(indices.len() as isize);
        let config = settings.log_config(self.threads.tail_bytes_max());
        let (directory, now) = (Arc::clone(&self.directory), self.now());
        let (topic, wanted) = (name.clone(), indices.clone());
        let made = self.on_log_thread(move || {
            let mut logs: Vec<Log> = Vec::new();
            for index in wanted.clone() {
                let (index, id) = (PartitionIndex::new(index), id.log(PartitionIndex::new(index)));
                match create_log(&directory, id, &format!("{topic}/{index}"), config, now) {
                    Ok(log) => logs.push(log),
                    // What was there before and is not empty is not ours to remove.
                    Err(source) => {
                        let is_ours = source.kind() != io::ErrorKind::AlreadyExists;
                        let made = wanted.start..index.get() + u32::from(is_ours);
                        return Err((source, made));
                    }
                }
            }
            Ok(logs)
        });
        let logs = match made.await {
            Some(Ok(logs)) => logs,
            failed => {
                self.threads.count_logs(-(indices.len() as isize));
                let (source, made) = match failed {
                    Some(Err(failed)) => failed,
                    _ => (io::Error::other("the broker is stopping"), 0..0),
                };
                for index in made {
                    self.remove_log(id, index).await;
                }
                return Err(CatalogError::Files { topic: name.to_string(), source });
            }
        };
        let open = |(index, log)| {
            let index = PartitionIndex::new(index);
            let threads = Arc::clone(&self.threads);
            let partition = Partition::new(name.clone(), index, id.log(index), settings, threads);
            let partition = Arc::new(partition);
            partition.open(Ok(log));
            partition
        };
        Ok(indices.zip(logs).map(open).collect())
    }

    /// Removes the files of a topic that nobody serves; whether all are gone.
    ///
    /// Those of partitions too that it was about to get when the broker was killed.
    async fn remove_files(&self, id: TopicId, partitions: u32) -> bool {
        let directory = Arc::clone(&self.directory);
        let on_disk = self.on_log_thread(move || directory.logs()).await;
        let (mut all_gone, on_disk) = match on_disk {
            Some(Ok(on_disk)) => (true, on_disk),
            _ => (false, Vec::new()),
        };
        let begun = on_disk.into_iter().map(LogId::split);
        let begun = begun.filter(|(topic, index)| *topic == id && partitions <= index.get());
        for index in (0..partitions).chain(begun.map(|(_, index)| index.get())) {
            all_gone &= self.remove_log(id, index).await;
        }
        all_gone
    }

    async fn remove_log(&self, id: TopicId, index: u32) -> bool {
        let (directory, log) = (Arc::clone(&self.directory), id.log(PartitionIndex::new(index)));
        match self.on_log_thread(move || directory.delete_log(log)).await {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::warn!(%log, %error, "the files of a deleted partition could not be removed");
                false
            }
            None => false,
        }
    }

    /// Runs something that waits for the disk; `None` if the broker stopped before it ran.
    async fn on_log_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.threads.run(move || drop(done.send(work())));
        result.await.ok()
    }

    fn new_topic_id(&self) -> TopicId {
        TopicId::new(self.directory.random_id())
    }
}

/// Creates a log. One that lies there and holds nothing was begun when the broker was killed, before
/// anybody was told of it: it is begun anew.
fn create_log(
    directory: &Directory,
    id: LogId,
    label: &str,
    config: LogConfig,
    now: Timestamp,
) -> io::Result<Log> {
    let create = || directory.create_log(id, label, config, now);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let holds_nothing = match directory.open_log(id, config) {
                Ok(Opened { log, report }) => log.end() == Offset::ZERO && report.damage.is_empty(),
                // Not even the first segment was whole.
                Err(OpenError::Missing { .. }) => true,
                Err(_) => false,
            };
            if !holds_nothing {
                return Err(error);
            }
            directory.delete_log(id)?;
            create()
        }
        created => created,
    }
}

fn refuse_internal(name: &TopicName) -> Result<(), CatalogError> {
    if name.is_internal() { Err(CatalogError::InternalName(name.to_string())) } else { Ok(()) }
}

fn describe(served: &ServedTopic) -> TopicDescription {
    let partitions = served.partitions.iter().map(|partition| partition.describe()).collect();
    TopicDescription { topic: served.topic.clone(), partitions }
}
