//! The topics that the broker serves, as every request looks them up.
//!
//! A picture of the catalog and the partitions behind it, replaced as a whole: whoever looks
//! something up never waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use taffrail_model::{PartitionIndex, TopicName};

use crate::catalog::{CatalogError, Topic};
use crate::nearest::nearest;
use crate::partition::Partition;

/// Topics among which a similar name is looked for.
const SUGGESTIONS_MAX: usize = 500;

/// All topics, the broker's own included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics {
    topics: BTreeMap<TopicName, Arc<ServedTopic>>,
}

/// A topic and its partitions, from 0.
#[derive(Clone, Debug)]
pub(crate) struct ServedTopic {
    pub(crate) topic: Topic,
    pub(crate) partitions: Vec<Arc<Partition>>,
}

impl ServedTopic {
    /// One of its partitions.
    pub(crate) fn partition(&self, index: PartitionIndex) -> Result<Arc<Partition>, CatalogError> {
        let partition = self.partitions.get(index.get() as usize);
        partition.cloned().ok_or_else(|| CatalogError::UnknownPartition {
            topic: self.topic.name.to_string(),
            partition: index,
            partitions: self.topic.partitions,
        })
    }
}

impl Topics {
    pub(crate) fn get(&self, name: &TopicName) -> Option<&Arc<ServedTopic>> {
        self.topics.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ServedTopic>> {
        self.topics.values()
    }

    /// The number of partitions of all topics.
    pub(crate) fn partition_count(&self) -> usize {
        self.topics.values().map(|served| served.partitions.len()).sum()
    }

    /// A topic whose name is similar. With very many topics nobody is asked: it would take long, and
    /// the answer would not be worth much.
    pub(crate) fn nearest(&self, name: &TopicName) -> Option<String> {
        if self.topics.len() > SUGGESTIONS_MAX {
            return None;
        }
        nearest(name.as_str(), self.topics.keys().map(TopicName::as_str))
    }

    #[must_use]
    pub(crate) fn with(&self, served: ServedTopic) -> Self {
        let mut next = self.clone();
        next.topics.insert(served.topic.name.clone(), Arc::new(served));
        next
    }

    #[must_use]
    pub(crate) fn without(&self, name: &TopicName) -> Self {
        let mut next = self.clone();
        next.topics.remove(name);
        next
    }
}
