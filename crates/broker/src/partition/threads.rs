//! The threads that do the log's I/O: a few writers, committers and readers for all partitions.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use taffrail_model::{Timestamp, limits};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Partition;
use super::committer::Gathering;
use super::compactor::CompactionWork;
use super::scrubber::ScrubWork;
use crate::clock::{self, Clock};
use crate::crew::Crew;
use crate::metrics::Metrics;
use crate::upkeep::{Agenda, Leaps, Verdict};
use crate::work::WorkQueue;

type Job = Box<dyn FnOnce() + Send>;

/// How long somebody pauses at once who is to end when the threads do.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How many threads there are, and what they share.
#[derive(Clone, Debug)]
pub(crate) struct ThreadsConfig {
    pub(crate) writers: usize,
    pub(crate) committers: usize,
    pub(crate) sync_together_min: usize,
    pub(crate) readers: usize,
    pub(crate) tail_bytes: u64,
    pub(crate) snapshot_bytes_min: u64,
    pub(crate) compaction_bytes_per_second: u64,
    pub(crate) scrub_bytes_per_second: u64,
    pub(crate) backup_bytes_per_second: u64,
    /// As of when what is served was a backup, if it was one.
    pub(crate) restored: Option<Timestamp>,
    /// When everything was last looked at, if that is known.
    pub(crate) last_scrub: Option<Timestamp>,
    /// When the clock was last seen before this start, if that is known.
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) crew: Crew,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The queues in front of the log threads.
pub(crate) struct LogThreads {
    pub(super) writers: WorkQueue<Arc<Partition>>,
    pub(super) committers: WorkQueue<Arc<Partition>>,
    /// From how many partitions on that wait for a committer one sync is for all of them.
    pub(super) sync_together_min: usize,
    pub(super) gathering: Gathering,
    /// Partitions that were written to and may be synced a little later.
    pub(super) lazy: WorkQueue<Arc<Partition>>,
    pub(super) readers: WorkQueue<Job>,
    /// Opens logs, or waits for writers, which may take long: nobody else waits behind them.
    openers: WorkQueue<Job>,
    /// Creates, configures and removes logs.
    admins: WorkQueue<Job>,
    /// Makes snapshots of the broker's own state.
    snapshots: WorkQueue<Job>,
    pub(super) snapshot_bytes_min: u64,
    /// Partitions that may have something to keep in order.
    pub(super) keepers: WorkQueue<Arc<Partition>>,
    pub(super) agenda: Agenda,
    /// Partitions that are compacted, one at a time.
    pub(super) compactors: WorkQueue<CompactionWork>,
    /// Retention would delete what somebody needs: see [`Partition::pressed_to`].
    pub(crate) pressed: Arc<Notify>,
    /// What a compaction may read and write.
    pub(super) compaction_bytes_per_second: u64,
    /// What looks at all sealed segments now and then.
    pub(super) scrubbers: WorkQueue<ScrubWork>,
    pub(super) scrub_bytes_per_second: u64,
    backup_bytes_per_second: u64,
    /// As of when what is served was a backup, if it was one.
    pub(crate) restored: Option<Timestamp>,
    scrub: Mutex<ScrubTurn>,
    pub(super) crew: Crew,
    is_stopping: AtomicBool,
    leaps: Mutex<Leaps>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    tail_bytes: u64,
    tail_bytes_max: AtomicUsize,
}

/// Whether everything is being looked at, and when that was last done.
#[derive(Debug)]
struct ScrubTurn {
    is_on: bool,
    last: Option<Timestamp>,
}

impl LogThreads {
    pub(crate) fn start(config: ThreadsConfig) -> io::Result<Arc<Self>> {
        let leaps = Leaps::since(config.last_seen, config.clock.now(), clock::instant());
        let threads = Arc::new(Self {
            writers: WorkQueue::new(),
            committers: WorkQueue::new(),
            sync_together_min: config.sync_together_min,
            gathering: Gathering::default(),
            lazy: WorkQueue::new(),
            readers: WorkQueue::new(),
            openers: WorkQueue::new(),
            admins: WorkQueue::new(),
            snapshots: WorkQueue::new(),
            snapshot_bytes_min: config.snapshot_bytes_min,
            keepers: WorkQueue::new(),
            agenda: Agenda::default(),
            compactors: WorkQueue::new(),
            pressed: Arc::default(),
            compaction_bytes_per_second: config.compaction_bytes_per_second,
            scrubbers: WorkQueue::new(),
            scrub_bytes_per_second: config.scrub_bytes_per_second,
            backup_bytes_per_second: config.backup_bytes_per_second,
            restored: config.restored,
            scrub: Mutex::new(ScrubTurn { is_on: false, last: config.last_scrub }),
            crew: config.crew.clone(),
            is_stopping: AtomicBool::new(false),
            leaps: Mutex::new(leaps),
            clock: config.clock,
            metrics: config.metrics,
            tail_bytes: config.tail_bytes,
            tail_bytes_max: AtomicUsize::new(limits::TAIL_BYTES_MAX),
        });
        let write = |partition: Arc<Partition>| partition.write_pending();
        let commit = |partition: Arc<Partition>| partition.commit();
        let crew = config.crew;
        let lazy = {
            let (queue, crew) = (threads.lazy.clone(), crew.clone());
            move |first: Arc<Partition>| {
                // Whatever comes while the first one waits is synced with it, so none waits longer.
                crew.pause(limits::PAGE_CACHE_SYNC_INTERVAL);
                first.lazy_commit();
                queue.drain().iter().for_each(Partition::lazy_commit);
            }
        };
        threads.writers.start(&crew, "log-writer", config.writers, write)?;
        threads.committers.start(&crew, "log-committer", config.committers, commit)?;
        threads.lazy.start(&crew, "log-lazy-sync", 1, lazy)?;
        threads.readers.start(&crew, "log-reader", config.readers, |job: Job| job())?;
        threads.openers.start(&crew, "log-opener", config.readers, |job: Job| job())?;
        threads.admins.start(&crew, "log-admin", 1, |job: Job| job())?;
        threads.snapshots.start(&crew, "log-snapshot", 1, |job: Job| job())?;
        threads
            .keepers
            .start(&crew, "log-keeper", 1, |partition: Arc<Partition>| partition.keep())?;
        let compact = {
            let threads: Weak<Self> = Arc::downgrade(&threads);
            move |work: CompactionWork| {
                if let Some(threads) = threads.upgrade() {
                    work.run(&threads);
                }
            }
        };
        threads.compactors.start(&crew, "log-compactor", 1, compact)?;
        let scrub = {
            let threads: Weak<Self> = Arc::downgrade(&threads);
            move |work: ScrubWork| {
                if let Some(threads) = threads.upgrade() {
                    work.run(&threads);
                }
            }
        };
        threads.scrubbers.start(&crew, "log-scrubber", 1, scrub)?;
        Ok(threads)
    }

    /// Whether all threads are about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Lets everything be looked at if it is time; `work` says what there is.
    pub(crate) fn scrub_if_due(&self, interval: Duration, work: impl FnOnce() -> ScrubWork) {
        let now = self.clock.now();
        {
            let mut turn = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
            let is_recent = |last: Timestamp| last <= now && now.since(last) < interval;
            if turn.is_on || turn.last.is_some_and(is_recent) {
                return;
            }
            turn.is_on = true;
        }
        self.scrubbers.push(work());
    }

    /// Everything was looked at.
    pub(super) fn scrub_is_over(&self, ended: Timestamp) {
        let mut turn = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = ScrubTurn { is_on: false, last: Some(ended) };
        let seconds = u64::try_from(ended.as_millis() / 1_000).unwrap_or(0);
        self.metrics.scrub_ended_seconds.store(seconds, Ordering::Relaxed);
    }

    /// Waits as long as a backup has to that read or wrote so many bytes.
    pub(crate) fn pace_backup(&self, bytes: u64) {
        self.pace(bytes, self.backup_bytes_per_second);
    }

    /// Waits as long as somebody has to who read or wrote so many bytes, and may do so many in a second.
    pub(super) fn pace(&self, bytes: u64, bytes_per_second: u64) {
        let seconds = bytes as f64 / bytes_per_second.max(1) as f64;
        // At least a moment, so that whoever waits for what this one holds gets it.
        let mut left = Duration::from_secs_f64(seconds).max(Duration::from_millis(1));
        while !left.is_zero() && !self.is_stopping() {
            let pause = left.min(PAUSE_MAX);
            self.crew.pause(pause);
            left -= pause;
        }
    }

    /// Opens a log, some time.
    pub(crate) fn open(&self, job: impl FnOnce() + Send + 'static) {
        self.openers.push(Box::new(job));
    }

    /// Runs something that reads; `None` if the threads ended before it ran.
    pub(crate) async fn on_reader_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        run_on(&self.readers, work).await
    }

    /// Runs something that may wait for writers; `None` if the threads ended before it ran.
    pub(crate) async fn on_opener_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        run_on(&self.openers, work).await
    }

    /// Runs something that creates, configures or removes logs; `None` if the threads ended before
    /// it ran.
    pub(crate) async fn on_admin_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        run_on(&self.admins, work).await
    }

    /// Runs something that makes a snapshot, which nobody else waits for; `None` if the threads ended before
    /// it ran.
    pub(super) async fn on_snapshot_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        run_on(&self.snapshots, work).await
    }

    /// Shares the memory for tails among so many logs.
    pub(crate) fn share_tail_memory(&self, logs: usize) {
        let share = usize::try_from(self.tail_bytes / logs.max(1) as u64).unwrap_or(usize::MAX);
        self.tail_bytes_max.store(share.min(limits::TAIL_BYTES_MAX), Ordering::Relaxed);
    }

    /// What the tail of one log may keep in memory.
    pub(crate) fn tail_bytes_max(&self) -> usize {
        self.tail_bytes_max.load(Ordering::Relaxed)
    }

    /// Lets those partitions be kept in order that have said that it is time.
    pub(crate) fn wake_due(&self) {
        for partition in self.agenda.take_due(clock::instant()) {
            partition.schedule_upkeep();
        }
    }

    /// Whether the time of day is not to be believed by whoever deletes what is old, and until when.
    pub(crate) fn doubt(&self, now: Timestamp, instant: Instant) -> Option<Instant> {
        let verdict = {
            let mut leaps = self.leaps.lock().unwrap_or_else(PoisonError::into_inner);
            leaps.judge(now, instant)
        };
        let until = match verdict {
            Verdict::Leapt { ahead, until } => {
                let (ahead, pause) = (ahead.as_secs(), limits::CLOCK_DOUBT.as_secs());
                tracing::warn!(
                    ahead,
                    pause,
                    "the clock is so many seconds ahead of where it was: nothing is deleted for its age before the pause is over; if the clock is wrong, set it back before that"
                );
                Some(until)
            }
            Verdict::Doubtful { until } => Some(until),
            Verdict::SetBack => {
                tracing::info!("the clock was set back: what is old is deleted again");
                None
            }
            Verdict::Sound => None,
        };
        self.metrics.retention_paused.store(until.is_some().into(), Ordering::Relaxed);
        until
    }

    /// Lets all threads end once their queues are empty, and waits for them. What comes later is
    /// refused by its partition.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.openers.drain();
        self.openers.stop();
        self.admins.stop();
        self.snapshots.drain();
        self.snapshots.stop();
        self.keepers.drain();
        self.keepers.stop();
        self.compactors.drain();
        self.compactors.stop();
        // What waits has written nothing down that it could lose.
        self.scrubbers.drain();
        self.scrubbers.stop();
        self.lazy.stop();
        self.writers.stop();
        self.committers.stop();
        self.readers.stop();
    }
}

async fn run_on<T: Send + 'static>(
    queue: &WorkQueue<Job>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    queue.push(Box::new(move || drop(done.send(work()))));
    result.await.ok()
}

impl std::fmt::Debug for LogThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogThreads").finish_non_exhaustive()
    }
}
