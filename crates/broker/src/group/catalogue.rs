//! The topics that a group can read, and what patterns mean by them.

use std::collections::{BTreeMap, BTreeSet};

use taffrail_model::{LogId, PartitionIndex, TopicId};
use wildmatch::WildMatch;

use super::event::Slot;

/// The topics that there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    by_name: BTreeMap<String, Shape>,
    names: BTreeMap<TopicId, String>,
}

/// A topic, as far as groups care.
#[derive(Clone, Copy, Debug)]
struct Shape {
    id: TopicId,
    partitions: u32,
}

/// Whether it stands for names, and is not one itself.
pub(crate) fn is_pattern(topic: &str) -> bool {
    topic.contains(['*', '?'])
}

impl Catalogue {
    pub(crate) fn new(topics: impl IntoIterator<Item = (String, TopicId, u32)>) -> Self {
        let mut catalogue = Self::default();
        for (name, id, partitions) in topics {
            catalogue.names.insert(id, name.clone());
            catalogue.by_name.insert(name, Shape { id, partitions });
        }
        catalogue
    }

    /// The name of a partition's topic, if there is one still.
    pub(crate) fn name(&self, slot: Slot) -> Option<&String> {
        self.names.get(&slot.0.split().0)
    }

    /// A partition of a topic, if there is one of this name still.
    pub(crate) fn slot(&self, topic: &str, partition: PartitionIndex) -> Option<Slot> {
        self.by_name.get(topic).map(|shape| Slot(shape.id.log(partition)))
    }

    /// All partitions of topics with these names, or names of these patterns. Those of the broker's
    /// own are none of a pattern's.
    pub(crate) fn slots<'a>(&self, topics: impl IntoIterator<Item = &'a String>) -> BTreeSet<Slot> {
        let mut slots = BTreeSet::new();
        for topic in topics {
            if is_pattern(topic) {
                let pattern = WildMatch::new(topic);
                let is_meant = |name: &str| !name.starts_with("__") && pattern.matches(name);
                let meant = self.by_name.iter().filter(|(name, _)| is_meant(name));
                slots.extend(meant.flat_map(|(_, shape)| shape.slots()));
            } else if let Some(shape) = self.by_name.get(topic) {
                slots.extend(shape.slots());
            }
        }
        slots
    }
}

impl Shape {
    fn slots(self) -> impl Iterator<Item = Slot> {
        let log = move |index| -> LogId { self.id.log(PartitionIndex::new(index)) };
        (0..self.partitions).map(move |index| Slot(log(index)))
    }
}
