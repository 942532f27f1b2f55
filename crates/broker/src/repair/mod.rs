//! What the broker alone knows of a data directory that is repaired or inspected while none runs: which
//! logs the catalog names, and how the broker's own logs are built anew.
//!
//! A gap in one of these would be passed over in silence, so their losses are never accepted: what can
//! be known is put into a new log as one snapshot, behind every offset of the old one, which is kept.

mod catalog;
mod groups;
mod inspect;
mod producers;
mod queues;
mod replay;

use std::collections::BTreeMap;

use taffrail_log::repair::{Repair, RepairError};
use taffrail_model::{LogId, PartitionIndex};

use crate::catalog::{Catalog, CatalogError};
use crate::coordinator::RecordError;
use crate::internal::{CATALOG, GROUPS, Internal, PRODUCERS, QUEUES};

pub use catalog::{CatalogPlan, RebuiltTopic, plan_catalog, rebuild_catalog};
pub use groups::{GroupsPlan, plan_groups, rebuild_groups};
pub use inspect::judge;
pub use producers::{ProducersPlan, plan_producers, rebuild_producers};
pub use queues::{QueuesPlan, plan_queues, rebuild_queues};
pub use replay::{Entry, entries};

/// A log of the broker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Which topics exist.
    Catalog,
    /// Who idempotent producers are.
    Producers,
    /// Who is in which consumer group, and how far each has come.
    Groups,
    /// What has become of the records of work queues.
    Queues,
}

impl Own {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Catalog, Self::Producers, Self::Groups, Self::Queues];

    /// Which one this log is, if it is one.
    pub fn of(log: LogId) -> Option<Self> {
        Self::ALL.into_iter().find(|own| own.log() == log)
    }

    /// Its log.
    pub fn log(self) -> LogId {
        self.internal().log()
    }

    /// What that is called.
    pub fn label(self) -> &'static str {
        self.internal().label
    }

    const fn internal(self) -> Internal {
        match self {
            Self::Catalog => CATALOG,
            Self::Producers => PRODUCERS,
            Self::Groups => GROUPS,
            Self::Queues => QUEUES,
        }
    }
}

/// Why the broker's own logs are not built anew, or say nothing.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// They are as they should be.
    #[error("{label} is sound: there is nothing to build anew")]
    Sound {
        /// What the log is called.
        label: &'static str,
    },
    /// What it says cannot be gone by.
    #[error("the catalog is damaged or missing: build it anew first, with --rebuild-catalog")]
    NoCatalog,
    /// A newer version wrote something in it.
    #[error("{label}: {cause}; was it written by a newer Taffrail?")]
    Record {
        /// What the log is called.
        label: &'static str,
        /// What cannot be understood.
        cause: String,
    },
    /// A topic of the catalog cannot be understood.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A file stands where it should not, or cannot be read or written.
    #[error(transparent)]
    Repair(#[from] RepairError),
}

impl RebuildError {
    fn record(own: Own, error: &RecordError) -> Self {
        Self::Record { label: own.label(), cause: error.to_string() }
    }
}

/// Every log that there should be, and what it is called: those of the catalog's topics, those of topics
/// that are being deleted, and the broker's own.
///
/// # Errors
/// If the catalog cannot be gone by.
pub fn named_logs(repair: &Repair) -> Result<BTreeMap<LogId, String>, RebuildError> {
    let replayed = replay::replay::<Catalog>(repair, Own::Catalog)?;
    if replayed.is_damaged {
        return Err(RebuildError::NoCatalog);
    }
    let mut named: BTreeMap<_, _> =
        Own::ALL.map(|own| (own.log(), own.label().to_owned())).into_iter().collect();
    for topic in replayed.machine.topics() {
        let topic = topic?;
        named.extend((0..topic.partitions).map(|index| {
            let label = format!("{}/{index}", topic.name);
            (topic.id.log(PartitionIndex::new(index)), label)
        }));
    }
    for (id, partitions) in replayed.machine.doomed() {
        let logs = (0..partitions).map(|index| id.log(PartitionIndex::new(index)));
        named.extend(logs.map(|log| (log, String::new())));
    }
    Ok(named)
}
