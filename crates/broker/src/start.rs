//! Starts a broker: opens the directory, replays the catalog, opens every log.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use taffrail_log::vfs::Vfs;
use taffrail_log::{
    Directory, DirectoryError, DirectoryOptions, LogConfig, Manifest, ScrubPass, ScrubState,
};
use taffrail_model::{LogId, PartitionIndex, ProducerId, Timestamp, TopicId, TopicName, limits};
use tokio::sync::Mutex;

use crate::broker::Broker;
use crate::catalog::{Catalog, CatalogError, Topic, TopicSettings};
use crate::clock::{Clock, Stopwatch};
use crate::config::{BrokerConfig, ConfigError};
use crate::coordinator::{Coordinator, JournalError};
use crate::crew::Crew;
use crate::group::{self, Groups};
use crate::internal::{self, CATALOG, GROUPS, Internal, PRODUCERS, QUEUES};
use crate::metrics::Metrics;
use crate::opening::open_partition;
use crate::partition::{LogThreads, Partition, PartitionStatus, ScrubWork, ThreadsConfig};
use crate::producers::Producers;
use crate::queue::{self, Queues};
use crate::shared::Shared;
use crate::topics::{ServedTopic, Topics};

/// What a broker runs on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its disk.
    pub vfs: Arc<dyn Vfs>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Who does the work that may wait for the disk.
    pub crew: Crew,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its set-up cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its directory cannot be opened.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its catalog cannot be used.
    #[error(
        "the catalog cannot be used: {cause}; `taffrail inspect` shows what is there, and what \
         `taffrail repair` can do about it"
    )]
    Catalog {
        /// Why not.
        cause: String,
    },
    /// The machine has no threads left.
    #[error("cannot start the log threads: {0}")]
    Threads(io::Error),
}

impl From<JournalError> for StartError {
    fn from(error: JournalError) -> Self {
        Self::Catalog { cause: error.to_string() }
    }
}

impl From<CatalogError> for StartError {
    fn from(error: CatalogError) -> Self {
        Self::Catalog { cause: error.to_string() }
    }
}

impl Broker {
    /// Starts a broker on the directory at `path`.
    ///
    /// On return it knows every topic and serves requests; partitions whose logs are still being
    /// checked say so. `init` allows an empty directory to be made a data directory.
    ///
    /// # Errors
    /// If the directory is not one, is in use, or its catalog cannot be read.
    pub async fn start(
        machine: Machine,
        path: &Path,
        init: bool,
        config: BrokerConfig,
    ) -> Result<Arc<Self>, StartError> {
        config.validate()?;
        let Machine { vfs, clock, crew } = machine;
        let first_logs = internal::ALL.map(|internal| (internal.log(), internal.label));
        let options = DirectoryOptions { path, init, first_logs: &first_logs, now: clock.now() };
        let directory = Arc::new(Directory::open(vfs, &options)?);
        if let Some(Manifest { source, taken }) = directory.restored() {
            tracing::info!(%source, taken_ms = taken.as_millis(), "this directory was restored from a backup: what came later is not in it");
        }
        let has_spare = keep_spare(&directory, config.spare_bytes, true);
        make_later_logs(&directory, clock.now());
        let metrics = Arc::<Metrics>::default();
        let scrubbed = directory.scrub_state();
        note_last_scrub(&metrics, &scrubbed);
        let threads = LogThreads::start(ThreadsConfig {
            writers: config.writer_threads,
            committers: config.committer_threads,
            sync_together_min: config.sync_together_min,
            readers: config.reader_threads,
            tail_bytes: config.tail_bytes,
            snapshot_bytes_min: config.snapshot_bytes_min,
            compaction_bytes_per_second: config.compaction_bytes_per_second,
            scrub_bytes_per_second: config.scrub_bytes_per_second,
            backup_bytes_per_second: config.backup_bytes_per_second,
            restored: directory.restored().map(|manifest| manifest.taken),
            last_scrub: scrubbed.last.map(|pass| pass.ended).filter(|_| scrubbed.current.is_none()),
            last_seen: directory.last_seen(),
            crew: crew.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        });
        let threads = threads.map_err(StartError::Threads)?;
        let served = open_internal(&CATALOG, &directory, &threads);
        let partition = Arc::clone(&served.partitions[0]);
        // Nothing can be deleted without it.
        partition.allow_spare();
        if let Some(cause) = damage_of(&partition) {
            return Err(StartError::Catalog { cause });
        }
        let (catalog, known) = Coordinator::start(partition).await?;
        let topics = Topics::default().with(served);
        let served = open_internal(&PRODUCERS, &directory, &threads);
        let partition = Arc::clone(&served.partitions[0]);
        let producers = Producers::start(damage_of(&partition).map_or(Ok(partition), Err)).await;
        let topics = topics.with(served);
        let served = open_internal(&GROUPS, &directory, &threads);
        let partition = Arc::clone(&served.partitions[0]);
        let groups = Groups::start(damage_of(&partition).map_or(Ok(partition), Err)).await;
        let topics = topics.with(served);
        let served = open_internal(&QUEUES, &directory, &threads);
        let partition = Arc::clone(&served.partitions[0]);
        let partition = damage_of(&partition).map_or(Ok(partition), Err);
        let queues = Queues::start(partition, clock.now()).await;
        let topics = topics.with(served);
        let broker = Arc::new(Self {
            shared: Arc::new(Shared::new(
                config, clock, topics, metrics, producers, groups, queues,
            )),
            directory,
            threads,
            catalog,
            changing: Mutex::new(()),
            is_closed: AtomicBool::new(false),
            started: Stopwatch::start(),
        });
        for (id, partitions) in known.doomed() {
            broker.finish_delete(id, partitions).await;
        }
        broker.serve_known(&known)?;
        broker.shared.groups.follow(broker.shared.now()).await;
        queue::follow(&broker.shared).await;
        let pressed = Arc::clone(&broker.threads.pressed);
        tokio::spawn(queue::relieve(Arc::downgrade(&broker.shared), pressed));
        tokio::spawn(group::end_sessions(Arc::downgrade(&broker.shared)));
        keep_points(&broker, &crew, has_spare)?;
        broker.shared.queues.begin();
        Ok(broker)
    }

    /// Serves the topics of the catalog; their logs are opened on log threads.
    fn serve_known(&self, known: &Catalog) -> Result<(), StartError> {
        let mut topics = Topics::clone(&self.shared.topics.load());
        let mut named: Vec<_> = internal::ALL.iter().map(Internal::log).collect();
        for topic in known.topics() {
            let topic = topic?;
            if let Err(error) = topic.settings.check_request(self.shared.config.request_bytes_max) {
                tracing::warn!(topic = %topic.name, %error, "some batches that it takes do not fit into a request");
            }
            let partition = |index| {
                let (index, threads) = (PartitionIndex::new(index), Arc::clone(&self.threads));
                let log = topic.id.log(index);
                named.push(log);
                Arc::new(Partition::new(topic.name.clone(), index, log, topic.settings, threads))
            };
            let partitions: Vec<_> = (0..topic.partitions).map(partition).collect();
            topics = topics.with(ServedTopic { topic, partitions });
        }
        let doomed = |(id, partitions): (TopicId, u32)| {
            (0..partitions).map(move |index| id.log(PartitionIndex::new(index)))
        };
        named.extend(known.doomed().into_iter().flat_map(doomed));
        self.threads.share_tail_memory(topics.partition_count());
        self.report_unnamed(&named);
        let ours = topics.all().filter(|served| !served.topic.name.is_internal());
        for partition in ours.flat_map(|served| &served.partitions) {
            self.threads.open(self.opening_of(partition));
        }
        self.publish(topics);
        Ok(())
    }

    /// Lets all sealed segments be looked at again if it is time.
    fn scrub_if_due(&self) {
        let interval = self.shared.config.scrub_interval;
        if interval.is_zero() {
            return;
        }
        self.threads.scrub_if_due(interval, || {
            let topics = self.shared.topics.load();
            let partitions = topics.all().flat_map(|served| served.partitions.iter().cloned());
            ScrubWork::new(Arc::clone(&self.directory), partitions.collect(), &self.threads)
        });
    }

    /// Says which logs lie in the directory that no topic names. Nothing is deleted.
    fn report_unnamed(&self, named: &[LogId]) {
        let on_disk = match self.directory.logs() {
            Ok(on_disk) => on_disk,
            Err(error) => return tracing::warn!(%error, "cannot list the data directory"),
        };
        for log in on_disk.iter().filter(|log| !named.contains(log)) {
            tracing::warn!(%log, "a log lies in the data directory that no topic names; it is left alone");
        }
        // Those of deleted topics are gone by now: only what a durable deletion names is removed.
        let half_deleted = match self.directory.half_deleted() {
            Ok(half_deleted) => half_deleted,
            Err(error) => return tracing::warn!(%error, "cannot list the data directory"),
        };
        for log in half_deleted {
            tracing::warn!(%log, "files of a deleted log are still there; nobody reads them");
        }
    }
}

/// Says what the last scrub of an earlier process has found.
fn note_last_scrub(metrics: &Metrics, ScrubState { last, .. }: &ScrubState) {
    if let Some(ScrubPass { ended, damaged, .. }) = last {
        let seconds = u64::try_from(ended.as_millis() / 1_000).unwrap_or(0);
        metrics.scrub_ended_seconds.store(seconds, Ordering::Relaxed);
        metrics.scrub_damaged.store(*damaged, Ordering::Relaxed);
    }
}

/// Makes the logs of groups and queues where a version has been that knew none.
fn make_later_logs(directory: &Directory, now: Timestamp) {
    for internal in [GROUPS, QUEUES] {
        // If nothing is known of the other logs either, it may have been there.
        let is_new =
            directory.point(CATALOG.log()).is_some() && directory.point(internal.log()).is_none();
        if is_new
            && let Err(error) =
                directory.create_log(internal.log(), internal.label, LogConfig::default(), now)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            tracing::error!(%error, log = internal.name, "a log of the broker's own cannot be made");
        }
    }
}

/// Opens a topic of the broker's own, before all others.
fn open_internal(
    internal: &Internal,
    directory: &Arc<Directory>,
    threads: &Arc<LogThreads>,
) -> ServedTopic {
    let name = TopicName::parse(internal.name).expect("a valid name");
    let settings = TopicSettings {
        batch_bytes_max: limits::BATCH_BYTES_MAX,
        segment_bytes: limits::INTERNAL_SEGMENT_BYTES,
        ..TopicSettings::default()
    };
    let overrides = [
        ("max.batch.bytes", settings.batch_bytes_max.to_string()),
        ("segment.bytes", settings.segment_bytes.to_string()),
    ];
    let overrides = overrides.map(|(name, value)| (name.to_owned(), value)).into();
    let topic = Topic {
        name: name.clone(),
        id: internal.id,
        partitions: 1,
        overrides,
        settings,
        created: Timestamp::default(),
    };
    let index = PartitionIndex::new(0);
    let partition = Partition::new(name, index, internal.log(), settings, Arc::clone(threads));
    let partition = Arc::new(partition);
    // Nobody but the broker writes to it.
    open_partition(directory, &partition, ProducerId::FIRST);
    ServedTopic { topic, partitions: vec![partition] }
}

/// Why what a partition of the broker's own says cannot be gone by, if that is so.
fn damage_of(partition: &Partition) -> Option<String> {
    match partition.status() {
        PartitionStatus::Online => None,
        PartitionStatus::Recovering => Some("it is not open".into()),
        PartitionStatus::ReadOnly { cause } | PartitionStatus::Offline { cause } => Some(cause),
    }
}

/// Keeps room back for when the disk is full, and says so where that changes; whether it is there.
fn keep_spare(directory: &Directory, bytes: u64, was_there: bool) -> bool {
    let kept = directory.keep_spare(bytes);
    match &kept {
        Ok(()) if !was_there => tracing::info!("the disk has room again: writing goes on"),
        Err(error) if was_there => {
            tracing::warn!(%error, bytes, "no room can be kept back: if the disk is full, nothing is written until it has some");
        }
        Ok(()) | Err(_) => {}
    }
    kept.is_ok()
}

/// Writes the recovery points at an interval, if they changed, keeps room back on the disk, opens again
/// what could not be for want of it, and lets partitions be kept in order that have said that it is time;
/// as long as there is a broker.
fn keep_points(broker: &Arc<Broker>, crew: &Crew, mut has_spare: bool) -> Result<(), StartError> {
    let broker: Weak<Broker> = Arc::downgrade(broker);
    let keep = move || {
        let Some(broker) = broker.upgrade() else { return false };
        broker.tell_time();
        if let Err(error) = broker.directory.persist_points() {
            tracing::warn!(%error, "the recovery points could not be written");
        }
        let spare_bytes = broker.config().spare_bytes;
        has_spare = keep_spare(&broker.directory, spare_bytes, has_spare);
        if has_spare {
            broker.reopen_where_room_was_wanting();
        }
        broker.threads.wake_due();
        broker.scrub_if_due();
        true
    };
    let kept = crew.repeat("log-points", limits::RECOVERY_POINT_INTERVAL, keep);
    kept.map_err(StartError::Threads)
}
