//! Which topics exist, and how they are kept.
//!
//! Guarantees: what it answers is durable; a topic's id is never used again; a topic that is deleted
//! stays noted until its files are gone.

mod event;
mod settings;
mod state;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use taffrail_model::{NameError, PartitionIndex, Timestamp, TopicId, TopicName};

pub(crate) use event::Event;
pub use settings::{Durability, SETTINGS, SettingError, SettingInfo, SettingValue, TopicSettings};
pub(crate) use state::{Catalog, Command};

use crate::produce::ProduceError;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: TopicId,
    /// Number of partitions.
    pub partitions: u32,
    /// What it sets itself, by name.
    pub overrides: BTreeMap<String, String>,
    /// How it is kept.
    pub settings: TopicSettings,
    /// When it was created.
    pub created: Timestamp,
}

/// Why the catalog does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Not a topic's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name of the broker's own.
    #[error(
        "topic names that begin with `__` are the broker's own: choose another name than {0:?}"
    )]
    InternalName(String),
    /// There is one already.
    #[error("topic {0:?} exists already: choose another name, or delete it first")]
    TopicExists(String),
    /// There is none.
    #[error("there is no topic {topic:?}{}", crate::nearest::did_you_mean(.nearest.as_deref()))]
    UnknownTopic {
        /// What was asked for.
        topic: String,
        /// A topic with a similar name.
        nearest: Option<String>,
    },
    /// The topic has no such partition.
    #[error("topic {topic:?} has partitions 0 to {}, not {partition}", .partitions.saturating_sub(1))]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: PartitionIndex,
        /// How many there are.
        partitions: u32,
    },
    /// A topic of the broker's own cannot be opened while it runs.
    #[error("the log of {0:?} is the broker's own and is opened at its start: restart the broker")]
    OpenedAtStart(String),
    /// A number of partitions that cannot be.
    #[error("{found} partitions: give 1 to {max}")]
    PartitionCount {
        /// What was asked for.
        found: u32,
        /// How many there can be.
        max: u32,
    },
    /// Partitions cannot be taken away.
    #[error(
        "topic {topic:?} has {found} partitions: give more than that (partitions cannot be removed)"
    )]
    FewerPartitions {
        /// The topic.
        topic: String,
        /// How many it has.
        found: u32,
    },
    /// Too many topics or partitions in all.
    #[error("the broker has {found} {what}, and takes {max}: {advice}")]
    Full {
        /// Of what there are too many.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there can be.
        max: usize,
        /// What to do.
        advice: &'static str,
    },
    /// Its logs are being checked.
    #[error("the logs of topic {0:?} are being checked: retry in a moment")]
    Recovering(String),
    /// A setting that cannot be.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A partition's files could not be created.
    #[error("cannot create the files of topic {topic:?}: {source}")]
    Files {
        /// The topic.
        topic: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The decision could not be stored.
    #[error("the catalog cannot store this: {0}")]
    Storage(ProduceError),
    /// The catalog's log is damaged.
    #[error("the catalog is damaged: {cause}")]
    Damaged {
        /// What is wrong.
        cause: String,
    },
}
