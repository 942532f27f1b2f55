//! The catalog's state machine: pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use taffrail_model::{Timestamp, TopicId, TopicName, limits};

use super::event::Event;
use super::{CatalogError, Topic, TopicSettings};
use crate::coordinator::{Decision, StateMachine};
use crate::nearest::nearest;

/// What is known of all topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    topics: BTreeMap<String, Entry>,
    /// Topics that are deleted and whose files may still be there: partitions by id.
    doomed: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    id: String,
    partitions: u32,
    settings: BTreeMap<String, String>,
    created_ms: i64,
}

/// What can be asked of the catalog.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// A new topic, whose partitions' files are on disk.
    Create { name: TopicName, id: TopicId, partitions: u32, settings: BTreeMap<String, String> },
    /// Changes settings; an empty value goes back to the default.
    Alter { name: TopicName, settings: BTreeMap<String, String> },
    /// More partitions for a topic.
    AddPartitions { name: TopicName, partitions: u32 },
    /// The end of a topic.
    Delete { name: TopicName },
    /// The files of a deleted topic are gone.
    Removed { id: TopicId },
}

impl Catalog {
    /// All topics, ascending by name; of an entry that cannot be understood, why.
    pub(crate) fn topics(&self) -> impl Iterator<Item = Result<Topic, CatalogError>> {
        self.topics.iter().map(|(name, entry)| entry.topic(name))
    }

    /// A topic.
    pub(crate) fn topic(&self, name: &TopicName) -> Result<Topic, CatalogError> {
        self.entry(name)?.topic(name.as_str())
    }

    /// Deleted topics whose files may still be there, with their number of partitions.
    pub(crate) fn doomed(&self) -> Vec<(TopicId, u32)> {
        let doomed = self.doomed.iter();
        doomed.filter_map(|(id, partitions)| Some((TopicId::parse(id)?, *partitions))).collect()
    }

    /// Whether a topic could be created so.
    pub(crate) fn check_create(
        &self,
        name: &TopicName,
        partitions: u32,
        settings: &BTreeMap<String, String>,
    ) -> Result<TopicSettings, CatalogError> {
        if name.is_internal() {
            return Err(CatalogError::InternalName(name.to_string()));
        }
        if self.topics.contains_key(name.as_str()) {
            return Err(CatalogError::TopicExists(name.to_string()));
        }
        if self.topics.len() >= limits::TOPICS_MAX {
            let (found, max) = (self.topics.len(), limits::TOPICS_MAX);
            let advice = "delete some first";
            return Err(CatalogError::Full { what: "topics", found, max, advice });
        }
        check_partitions(partitions)?;
        Ok(TopicSettings::parse(settings)?)
    }

    /// What a topic would set itself, and its settings, with these changes.
    pub(crate) fn check_alter(
        &self,
        name: &TopicName,
        changes: &BTreeMap<String, String>,
    ) -> Result<(BTreeMap<String, String>, TopicSettings), CatalogError> {
        let mut merged = self.entry(name)?.settings.clone();
        for (setting, value) in changes {
            if value.is_empty() {
                super::settings::find(setting)?;
                merged.remove(setting);
            } else {
                merged.insert(setting.clone(), value.clone());
            }
        }
        let settings = TopicSettings::parse(&merged)?;
        Ok((merged, settings))
    }

    /// Whether a topic could have so many partitions.
    pub(crate) fn check_add(
        &self,
        name: &TopicName,
        partitions: u32,
    ) -> Result<Topic, CatalogError> {
        let topic = self.topic(name)?;
        if partitions <= topic.partitions {
            let (topic, found) = (name.to_string(), topic.partitions);
            return Err(CatalogError::FewerPartitions { topic, found });
        }
        check_partitions(partitions)?;
        Ok(topic)
    }

    /// The number of partitions of all topics.
    pub(crate) fn partition_count(&self) -> usize {
        self.topics.values().map(|entry| entry.partitions as usize).sum()
    }

    fn entry(&self, name: &TopicName) -> Result<&Entry, CatalogError> {
        self.topics.get(name.as_str()).ok_or_else(|| CatalogError::UnknownTopic {
            topic: name.to_string(),
            nearest: nearest(name.as_str(), self.topics.keys().map(String::as_str)),
        })
    }
}

fn check_partitions(found: u32) -> Result<(), CatalogError> {
    let max = limits::TOPIC_PARTITIONS_MAX;
    if (1..=max).contains(&found) {
        Ok(())
    } else {
        Err(CatalogError::PartitionCount { found, max })
    }
}

impl Entry {
    fn topic(&self, name: &str) -> Result<Topic, CatalogError> {
        let damaged =
            |cause: &str| CatalogError::Damaged { cause: format!("topic {name:?}: {cause}") };
        Ok(Topic {
            name: TopicName::parse(name)?,
            id: TopicId::parse(&self.id).ok_or_else(|| damaged("no valid id"))?,
            partitions: self.partitions,
            overrides: self.settings.clone(),
            settings: TopicSettings::parse(&self.settings)?,
            created: Timestamp::from_millis(self.created_ms),
        })
    }
}

impl StateMachine for Catalog {
    type Command = Command;
    type Reply = ();
    type Refusal = CatalogError;
    type Event = Event;

    fn decide(&self, command: Command, now: Timestamp) -> Decision<Self> {
        let event = match command {
            Command::Create { name, id, partitions, settings } => {
                self.check_create(&name, partitions, &settings)?;
                Event::TopicCreated {
                    name: name.to_string(),
                    id: id.to_string(),
                    partitions,
                    settings,
                    created_ms: now.as_millis(),
                }
            }
            Command::Alter { name, settings } => {
                let (merged, _) = self.check_alter(&name, &settings)?;
                Event::TopicAltered { name: name.to_string(), settings: merged }
            }
            Command::AddPartitions { name, partitions } => {
                self.check_add(&name, partitions)?;
                Event::PartitionsAdded { name: name.to_string(), partitions }
            }
            Command::Delete { name } => {
                self.entry(&name)?;
                Event::TopicDeleted { name: name.to_string() }
            }
            Command::Removed { id } => Event::TopicRemoved { id: id.to_string() },
        };
        Ok(((), vec![event]))
    }

    fn apply(&mut self, event: &Event) {
        match event.clone() {
            Event::TopicCreated { name, id, partitions, settings, created_ms } => {
                self.topics.insert(name, Entry { id, partitions, settings, created_ms });
            }
            Event::TopicAltered { name, settings } => {
                if let Some(entry) = self.topics.get_mut(&name) {
                    entry.settings = settings;
                }
            }
            Event::PartitionsAdded { name, partitions } => {
                if let Some(entry) = self.topics.get_mut(&name) {
                    entry.partitions = partitions;
                }
            }
            Event::TopicDeleted { name } => {
                if let Some(entry) = self.topics.remove(&name) {
                    self.doomed.insert(entry.id, entry.partitions);
                }
            }
            Event::TopicRemoved { id } => {
                self.doomed.remove(&id);
            }
        }
    }
}
