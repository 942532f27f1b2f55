//! The threads that do the log's I/O: a few writers, committers and readers for all partitions.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use taffrail_model::limits;

use super::Partition;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::work::WorkQueue;

/// The least that the tail of a log may keep in memory.
const TAIL_BYTES_FLOOR: usize = 16 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// How many threads there are, and what they share.
#[derive(Clone, Debug)]
pub(crate) struct ThreadsConfig {
    pub(crate) writers: usize,
    pub(crate) committers: usize,
    pub(crate) readers: usize,
    pub(crate) tail_bytes: u64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The queues in front of the log threads.
pub(crate) struct LogThreads {
    pub(super) writers: WorkQueue<Arc<Partition>>,
    pub(super) committers: WorkQueue<Arc<Partition>>,
    /// Partitions that were written to and may be synced a little later.
    pub(super) lazy: WorkQueue<Arc<Partition>>,
    pub(super) readers: WorkQueue<Job>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    tail_bytes: u64,
    logs: AtomicUsize,
}

impl LogThreads {
    pub(crate) fn start(config: ThreadsConfig) -> io::Result<Arc<Self>> {
        let threads = Arc::new(Self {
            writers: WorkQueue::new(),
            committers: WorkQueue::new(),
            lazy: WorkQueue::new(),
            readers: WorkQueue::new(),
            clock: config.clock,
            metrics: config.metrics,
            tail_bytes: config.tail_bytes,
            logs: AtomicUsize::new(0),
        });
        let write = |partition: Arc<Partition>| partition.write_pending();
        let commit = |partition: Arc<Partition>| partition.commit();
        let lazy = {
            let queue = threads.lazy.clone();
            move |first: Arc<Partition>| {
                // Whatever comes while the first one waits is synced with it, so none waits longer.
                thread::sleep(limits::PAGE_CACHE_SYNC_INTERVAL);
                first.lazy_commit();
                queue.drain().iter().for_each(Partition::lazy_commit);
            }
        };
        threads.writers.start("log-writer", config.writers, write)?;
        threads.committers.start("log-committer", config.committers, commit)?;
        threads.lazy.start("log-lazy-sync", 1, lazy)?;
        threads.readers.start("log-reader", config.readers, |job: Job| job())?;
        Ok(threads)
    }

    /// Runs something that may wait for the disk on a reader thread.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.readers.push(Box::new(job));
    }

    /// Counts logs, among which the memory for tails is shared.
    pub(crate) fn count_logs(&self, more: isize) {
        self.logs.fetch_add(more as usize, Ordering::Relaxed);
    }

    /// What the tail of one log may keep in memory.
    pub(crate) fn tail_bytes_max(&self) -> usize {
        let logs = self.logs.load(Ordering::Relaxed).max(1) as u64;
        let share = usize::try_from(self.tail_bytes / logs).unwrap_or(usize::MAX);
        share.clamp(TAIL_BYTES_FLOOR, limits::TAIL_BYTES_MAX)
    }

    /// Lets all threads end once their queues are empty, and waits for them: in the order in which
    /// work flows, so that each kind ends when nothing can reach it any more.
    pub(crate) fn stop(&self) {
        self.lazy.stop();
        self.writers.stop();
        self.committers.stop();
        self.readers.stop();
    }
}

impl std::fmt::Debug for LogThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogThreads").finish_non_exhaustive()
    }
}
