//! The topics of the broker's own, which hold its state. Each has one partition.

use taffrail_model::{LogId, PartitionIndex, TopicId};

/// A topic of the broker's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Internal {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    pub(crate) id: TopicId,
}

/// Holds the catalog.
pub(crate) const CATALOG: Internal =
    Internal { name: "__catalog", label: "__catalog/0", id: internal_id(0) };
/// Holds who idempotent producers are.
pub(crate) const PRODUCERS: Internal =
    Internal { name: "__producers", label: "__producers/0", id: internal_id(1) };
/// Holds who is in which consumer group, and how far each has come.
pub(crate) const GROUPS: Internal =
    Internal { name: "__groups", label: "__groups/0", id: internal_id(2) };

/// Holds what has become of the records of work queues.
pub(crate) const QUEUES: Internal =
    Internal { name: "__queues", label: "__queues/0", id: internal_id(3) };

/// All of them.
pub(crate) const ALL: [Internal; 4] = [CATALOG, PRODUCERS, GROUPS, QUEUES];

impl Internal {
    /// Its log.
    pub(crate) fn log(&self) -> LogId {
        self.id.log(PartitionIndex::new(0))
    }
}

const fn internal_id(number: u8) -> TopicId {
    let mut id = [0; TopicId::BYTES];
    id[TopicId::BYTES - 1] = number;
    TopicId::new(id)
}
