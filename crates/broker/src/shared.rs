//! What the rooms that serve requests share: topics, budgets, the time, and whether it all ends.

use std::sync::Arc;

use arc_swap::ArcSwap;
use taffrail_model::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::group::Groups;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::producers::Producers;
use crate::queue::Queues;
use crate::topics::Topics;

/// What the rooms that serve requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: BrokerConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) topics: ArcSwap<Topics>,
    pub(crate) arriving_memory: MemoryBudget,
    pub(crate) produce_memory: MemoryBudget,
    pub(crate) read_memory: MemoryBudget,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) producers: Producers,
    pub(crate) groups: Arc<Groups>,
    pub(crate) queues: Queues,
    stopping: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
        topics: Topics,
        metrics: Arc<Metrics>,
        producers: Producers,
        groups: Groups,
        queues: Queues,
    ) -> Self {
        Self {
            arriving_memory: MemoryBudget::new(config.memory_bytes / 2),
            produce_memory: MemoryBudget::new(config.memory_bytes / 2),
            read_memory: MemoryBudget::new(config.memory_bytes / 2),
            topics: ArcSwap::from_pointee(topics),
            stopping: watch::Sender::new(false),
            config,
            clock,
            metrics,
            producers,
            groups: Arc::new(groups),
            queues,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn begin_stop(&self) {
        self.stopping.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns when the broker is going away.
    pub(crate) async fn stopping(&self) {
        self.stop().await;
    }

    /// The same, for whoever does not hold the broker meanwhile.
    pub(crate) fn stop(&self) -> impl Future<Output = ()> + use<> {
        let mut stopping = self.stopping.subscribe();
        // It ends with the broker itself too, which is as good.
        async move { drop(stopping.wait_for(|is_stopping| *is_stopping).await) }
    }
}
