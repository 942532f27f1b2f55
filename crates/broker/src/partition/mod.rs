//! A partition: the hot path from a checked batch to its commit, and back out to readers.
//!
//! ```text
//! submit -> queue -> writer thread: order, offsets, Log::append -> committer thread: one sync for
//! everybody who waits -> high watermark moves, readers wake -> acks
//! ```
//!
//! Guarantees: batches are appended in the order of `submit`; the high watermark is the end of what
//! is committed and falls only where a log that had acknowledged before it synced has lost its end,
//! which is said to whoever had read that; nobody sees a record beyond it; an ack is sent only once the
//! watermark covers its batch. Only this room touches a `Log`, and never on a runtime's worker.

mod appender;
mod committer;
mod compactor;
mod fetcher;
mod keeper;
mod scrubber;
mod threads;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use taffrail_log::{Dirt, Log, LogConfig, LogReader, LogSyncer};
use taffrail_model::{LogId, Offset, PartitionIndex, TopicName};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::catalog::{Durability, TopicSettings};
use crate::produce::ProduceError;

pub(crate) use appender::{AppendRequest, Order};
pub(crate) use fetcher::PartitionReadError;
pub use keeper::DeleteRecordsError;
pub(crate) use scrubber::ScrubWork;
pub(crate) use threads::{LogThreads, ThreadsConfig};

/// A partition. It is there from the moment its topic is known; its log may still be opening.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) topic: TopicName,
    pub(crate) index: PartitionIndex,
    pub(crate) log_id: LogId,
    pub(crate) settings: ArcSwap<TopicSettings>,
    log: ArcSwap<LogState>,
    appends: appender::Queue,
    commits: committer::Queue,
    /// Whether the next segment is to be begun before anything else is written.
    must_roll: AtomicBool,
    /// Why that could not be done.
    roll_failure: ArcSwapOption<ProduceError>,
    /// Whether a lazy sync is on its way.
    lazy_sync: AtomicBool,
    deleted: AtomicBool,
    /// Whether somebody is going to look whether there is something to keep in order.
    upkeep_is_due: AtomicBool,
    needed: keeper::Needed,
    /// Whether it is being compacted, or waits for that.
    is_compacting: AtomicBool,
    /// Before when it is not compacted again, because that failed.
    compaction_blocked: Mutex<Option<Instant>>,
    watermark: watch::Sender<Offset>,
    threads: Arc<LogThreads>,
}

/// What there is of a partition's log.
#[derive(Clone, Debug)]
enum LogState {
    /// It is being checked; perhaps it was open before.
    Opening(Option<Arc<OpenLog>>),
    Open(Arc<OpenLog>),
    /// It cannot be opened. If it was open before and is still there, that is what is read.
    Unopened(Unopened, Option<Arc<OpenLog>>),
}

/// The log of a partition that could be opened.
#[derive(Debug)]
struct OpenLog {
    /// Locked by the writer thread that has the partition, and by whoever rolls, configures or closes
    /// the log. Nothing is in it once the log was closed, or let go of.
    log: Mutex<Option<Log>>,
    /// Held by whoever takes segments of the log away, and by whoever lets go of it; before `log`.
    keeping: Mutex<()>,
    reader: LogReader,
    syncer: LogSyncer,
    leader_epoch: u32,
    /// Why it took no appends from the start, if that is so.
    read_only: Option<String>,
}

/// Why a partition has no log to append to.
#[derive(Clone, Debug)]
pub(crate) struct Unopened {
    /// What happened.
    pub(crate) cause: String,
    /// The offsets that are known to have been on disk, and are not there: none if the log may well
    /// be there.
    pub(crate) lost: Range<Offset>,
    /// Whether the log is there and only could not be read or written: what was open before can be read
    /// on.
    pub(crate) is_there: bool,
}

/// What a partition does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionStatus {
    /// It reads and writes.
    Online,
    /// Its log is being checked.
    Recovering,
    /// It reads but takes nothing.
    ReadOnly {
        /// Why.
        cause: String,
    },
    /// Its log cannot be opened.
    Offline {
        /// Why.
        cause: String,
    },
}

/// Where a partition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionIndex,
    /// What it does now.
    pub status: PartitionStatus,
    /// Offset of the first record.
    pub log_start: Offset,
    /// End of what readers may see.
    pub high_watermark: Offset,
    /// End of what is written.
    pub log_end: Offset,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Number of segment files.
    pub segments: u32,
    /// Offsets that are known to be damaged or missing.
    pub damaged: Vec<Range<Offset>>,
    /// Number of this opening of the log.
    pub leader_epoch: u32,
    /// What there is to compact, where that is done.
    pub dirt: Option<Dirt>,
}

impl Partition {
    pub(crate) fn new(
        topic: TopicName,
        index: PartitionIndex,
        log_id: LogId,
        settings: TopicSettings,
        threads: Arc<LogThreads>,
    ) -> Self {
        Self {
            topic,
            index,
            log_id,
            settings: ArcSwap::from_pointee(settings),
            log: ArcSwap::from_pointee(LogState::Opening(None)),
            appends: appender::Queue::default(),
            commits: committer::Queue::default(),
            must_roll: AtomicBool::new(false),
            roll_failure: ArcSwapOption::empty(),
            lazy_sync: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            upkeep_is_due: AtomicBool::new(false),
            needed: keeper::Needed::default(),
            is_compacting: AtomicBool::new(false),
            compaction_blocked: Mutex::new(None),
            watermark: watch::Sender::new(Offset::ZERO),
            threads,
        }
    }

    /// Gives the partition its log, all of which is on disk, or the reason why it has none. From
    /// here on it reads and writes.
    pub(crate) fn open(self: &Arc<Self>, log: Result<Log, Unopened>) {
        let before = self.log.load_full();
        let LogState::Opening(former) = &*before else {
            panic!("a log is opened where there is one");
        };
        self.must_roll.store(false, Ordering::Release);
        self.roll_failure.store(None);
        match log {
            Ok(log) => self.begin(log),
            Err(unopened) => {
                let former = former.clone().filter(|_| unopened.is_there);
                self.log.store(Arc::new(LogState::Unopened(unopened, former)));
            }
        }
        // Whoever waits for more looks at what there is now.
        self.watermark.send_modify(|_| {});
        self.schedule_upkeep();
    }

    fn begin(&self, log: Log) {
        let end = log.end();
        let open = Arc::new(OpenLog {
            reader: log.reader(),
            syncer: log.syncer(),
            leader_epoch: log.leader_epoch().get(),
            read_only: log.read_only().map(str::to_owned),
            log: Mutex::new(Some(log)),
            keeping: Mutex::new(()),
        });
        // Nobody appends before it is kept as the settings say: they may have changed meanwhile.
        let mut log = open.lock();
        self.watermark.send_if_modified(|watermark| {
            *watermark = end;
            false
        });
        self.log.store(Arc::new(LogState::Open(Arc::clone(&open))));
        if let Some(log) = log.as_mut() {
            self.configure_log(log, **self.settings.load());
        }
    }

    /// Lets go of a log that takes nothing, or cannot be opened, so that it may be opened anew, as
    /// after a restart: whether it did. What waits has an unknown fate. Called on a log thread.
    pub(crate) fn release(&self) -> bool {
        let before = self.log.load_full();
        match &*before {
            LogState::Opening(_) => false,
            LogState::Unopened(_, former) => {
                let opening = Arc::new(LogState::Opening(former.clone()));
                let now = self.log.compare_and_swap(&before, opening);
                Arc::ptr_eq(&before, &now)
            }
            LogState::Open(open) => {
                let _one = open.keeping();
                // Held until all has its answer. Nothing is synced: nothing more would be believed.
                let mut log = open.lock();
                let Some(cause) = log.as_ref().and_then(|log| log.read_only().map(str::to_owned))
                else {
                    return false;
                };
                *log = None;
                self.give_up(&cause);
                self.refuse_all(&ProduceError::Recovering);
                self.log.store(Arc::new(LogState::Opening(Some(Arc::clone(open)))));
                true
            }
        }
    }

    /// Lets the log use what the directory keeps back for when the disk is full.
    pub(crate) fn allow_spare(&self) {
        if let Some(open) = self.open_log()
            && let Some(log) = open.lock().as_mut()
        {
            log.allow_spare();
        }
    }

    /// Tells of every move of the high watermark, and of the partition's end.
    pub(crate) fn watch(&self) -> watch::Receiver<Offset> {
        self.watermark.subscribe()
    }

    /// Returns when something can be said of `offset`, where a log ended: there is more to read, the log
    /// was opened anew and ends before it, or cannot be read any more.
    pub(crate) fn moved_beyond(
        self: &Arc<Self>,
        offset: Offset,
    ) -> impl Future<Output = ()> + use<> {
        let partition = Arc::clone(self);
        let mut watermark = self.watch();
        async move {
            // It cannot be dropped: the partition, which it belongs to, is held.
            let is_over = || partition.is_deleted() || !partition.is_readable();
            drop(watermark.wait_for(|end| *end != offset || is_over()).await);
        }
    }

    /// End of what readers may see.
    pub(crate) fn high_watermark(&self) -> Offset {
        *self.watermark.borrow()
    }

    /// Offset of the first record.
    pub(crate) fn log_start(&self) -> Offset {
        self.view().map_or(Offset::ZERO, |log| log.reader.start())
    }

    /// Keeps the log as the topic's settings say, from now on. Called on a log thread: where
    /// committed means on disk from now on, all that is written is synced.
    pub(crate) fn configure(self: &Arc<Self>, settings: TopicSettings) {
        if self.open_log().is_none() {
            self.settings.store(Arc::new(settings));
        }
        // Once it is there, whoever opened it may have looked at the settings before.
        let Some(open) = self.open_log() else { return };
        if let Some(log) = open.lock().as_mut() {
            self.configure_log(log, settings);
        }
        if settings.durability == Durability::Fsync
            && let Err(error) = open.syncer.sync()
        {
            tracing::error!(topic = %self.topic, partition = %self.index, %error, "not synced");
        }
        self.schedule_upkeep();
    }

    /// Keeps a log as the settings say. They change while nobody appends, so that all that is
    /// written is committed in one sense.
    fn configure_log(&self, log: &mut Log, mut settings: TopicSettings) {
        let config = settings.log_config(self.threads.tail_bytes_max());
        if let Err(error) = log.configure(config) {
            let (topic, partition) = (&self.topic, self.index);
            tracing::error!(%topic, %partition, %error, "stays with durability=fsync until the next start");
            settings.durability = Durability::Fsync;
        }
        self.settings.store(Arc::new(settings));
    }

    /// Keeps no more of the log's end in memory than its share.
    pub(crate) fn limit_tail(&self) {
        if let Some(open) = self.view() {
            open.reader.limit_tail(self.threads.tail_bytes_max());
        }
    }

    /// How the log is to be kept.
    pub(crate) fn log_config(&self) -> LogConfig {
        self.settings.load().log_config(self.threads.tail_bytes_max())
    }

    pub(crate) fn describe(&self) -> PartitionDescription {
        let high_watermark = self.high_watermark();
        let mut description = PartitionDescription {
            partition: self.index,
            status: self.status(),
            log_start: Offset::ZERO,
            high_watermark,
            log_end: high_watermark,
            size_bytes: 0,
            segments: 0,
            damaged: Vec::new(),
            leader_epoch: 0,
            dirt: None,
        };
        if let LogState::Unopened(Unopened { lost, .. }, _) = &**self.log.load() {
            description.damaged.extend((!lost.is_empty()).then(|| lost.clone()));
        }
        if let Some(log) = self.view() {
            let (size_bytes, segments) = log.reader.size();
            description.log_start = log.reader.start();
            description.log_end = log.reader.end();
            description.size_bytes = size_bytes;
            description.segments = segments as u32;
            description.damaged = log.reader.damage();
            description.leader_epoch = log.leader_epoch;
            let compacts = self.settings.load().cleanup.compacts();
            description.dirt = compacts.then(|| log.reader.dirt());
        }
        description
    }

    /// Ends the partition's writing: everything is synced, and the log is marked clean unless
    /// something failed before. Called on a log thread.
    pub(crate) fn close(&self) {
        self.end(&ProduceError::Stopping, "the broker is stopping");
    }

    fn end(&self, refusal: &ProduceError, cause: &str) {
        let Some(open) = self.open_log() else { return };
        let _one = open.keeping();
        // Held until all has its answer, in order. A writer that comes meanwhile waits for one sync.
        let mut place = open.lock();
        let Some(log) = place.take() else { return };
        if let Some(cause) = log.read_only() {
            tracing::warn!(topic = %self.topic, partition = %self.index, cause, "closed read-only");
        }
        match log.close() {
            Ok(()) => self.commit_written(open.syncer.durable_end()),
            Err(error) => {
                tracing::error!(topic = %self.topic, partition = %self.index, %error, "not closed cleanly");
            }
        }
        self.give_up(cause);
        self.refuse_all(refusal);
    }

    /// Ends the partition for good: whoever reads it or writes to it hears that it is gone. Called
    /// on a log thread.
    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.end(&self.gone(), "the topic was deleted");
        self.watermark.send_modify(|_| {});
    }

    /// Whether its topic was deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Waits until what is being written is written.
    pub(crate) fn pass_writer(&self) {
        if let Some(open) = self.open_log() {
            drop(open.lock());
        }
    }

    pub(crate) fn status(&self) -> PartitionStatus {
        match &**self.log.load() {
            LogState::Opening(_) => PartitionStatus::Recovering,
            LogState::Unopened(Unopened { cause, .. }, None) => {
                PartitionStatus::Offline { cause: cause.clone() }
            }
            LogState::Unopened(Unopened { cause, .. }, Some(_)) => {
                PartitionStatus::ReadOnly { cause: cause.clone() }
            }
            LogState::Open(open) => match open.read_only.clone().or_else(|| open.syncer.poisoned())
            {
                Some(cause) => PartitionStatus::ReadOnly { cause },
                None => PartitionStatus::Online,
            },
        }
    }

    /// Whether a log is the one that the partition has now.
    fn has(&self, open: &Arc<OpenLog>) -> bool {
        self.open_log().is_some_and(|now| Arc::ptr_eq(&now, open))
    }

    fn compaction_blocked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.compaction_blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_log(&self) -> Option<Arc<OpenLog>> {
        match &**self.log.load() {
            LogState::Open(open) => Some(Arc::clone(open)),
            LogState::Opening(_) | LogState::Unopened(..) => None,
        }
    }

    /// What is read, whether or not anything is taken.
    fn view(&self) -> Option<Arc<OpenLog>> {
        match &**self.log.load() {
            LogState::Open(open) | LogState::Unopened(_, Some(open)) => Some(Arc::clone(open)),
            LogState::Opening(_) | LogState::Unopened(_, None) => None,
        }
    }

    /// Whether it has something to read, or may have soon.
    fn is_readable(&self) -> bool {
        !matches!(**self.log.load(), LogState::Unopened(_, None))
    }
}

impl OpenLog {
    fn lock(&self) -> MutexGuard<'_, Option<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
