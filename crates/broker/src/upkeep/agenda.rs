//! Which partitions are to be looked at, and when.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use taffrail_model::LogId;
use tokio::time::Instant;

use crate::partition::Partition;

/// Which partitions are to be looked at, and when; each stands there once at the most.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_time: BTreeSet<(Instant, LogId)>,
    by_log: HashMap<LogId, (Instant, Weak<Partition>)>,
}

impl Agenda {
    /// Lets a partition be looked at then, and not when it said before.
    pub(crate) fn set(&self, partition: &Arc<Partition>, due: Option<Instant>) {
        let log = partition.log_id;
        let mut state = self.state();
        state.remove(log);
        if let Some(due) = due {
            state.by_time.insert((due, log));
            state.by_log.insert(log, (due, Arc::downgrade(partition)));
        }
    }

    /// Takes those whose time has come.
    pub(crate) fn take_due(&self, now: Instant) -> Vec<Arc<Partition>> {
        let mut state = self.state();
        let mut due = Vec::new();
        while let Some((_, log)) = state.by_time.first().copied().filter(|(at, _)| *at <= now) {
            // One that is gone needs nothing any more.
            due.extend(state.remove(log).and_then(|partition| partition.upgrade()));
        }
        due
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, log: LogId) -> Option<Weak<Partition>> {
        let (due, partition) = self.by_log.remove(&log)?;
        self.by_time.remove(&(due, log));
        Some(partition)
    }
}
