//! Builds the catalog anew: from what can still be read of it, and from what the segments say of
//! themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use taffrail_log::repair::Repair;
use taffrail_model::{Timestamp, TopicId, TopicName, limits};

use super::replay::replay;
use super::{Own, RebuildError};
use crate::catalog::{Catalog, Event, Topic};
use crate::coordinator::{StateMachine as _, encode_snapshot};

/// What a new catalog would hold.
#[derive(Debug)]
pub struct CatalogPlan {
    /// The topics, ascending by name.
    pub topics: Vec<RebuiltTopic>,
    /// What is not taken over, and why; for people.
    pub left_out: Vec<String>,
    /// Where the old one is kept, if there is one.
    pub kept: Option<PathBuf>,
    /// Whether a repair that was interrupted has done all but the last step.
    pub is_built: bool,
    catalog: Catalog,
}

/// A topic of a new catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltTopic {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// Number of partitions.
    pub partitions: u32,
    /// Whether its settings are those that it had; else they are the defaults.
    pub has_settings: bool,
    /// Its partitions that are not on disk.
    pub missing: Vec<u32>,
}

/// What a new catalog would hold. Changes nothing.
///
/// # Errors
/// If the catalog is sound, or a file cannot be read.
pub fn plan_catalog(repair: &Repair) -> Result<CatalogPlan, RebuildError> {
    let log = Own::Catalog.log();
    let mut building = Building::default();
    let is_built = repair.is_built(log)?;
    if !is_built {
        let replayed = replay::<Catalog>(repair, Own::Catalog)?;
        if !replayed.is_damaged {
            return Err(RebuildError::Sound { label: Own::Catalog.label() });
        }
        building.found = find_topics(repair)?;
        if replayed.is_whole {
            building.take_whole(&replayed.machine)?;
        } else {
            building.take_known(&replayed.machine);
            building.take_found();
        }
    }
    let Building { catalog, topics, left_out, .. } = building;
    let kept = repair.plan_replacement(log)?;
    Ok(CatalogPlan { topics: topics.into_values().collect(), left_out, kept, is_built, catalog })
}

/// Puts a new catalog in the place of the old one, which is kept. Durable on return.
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_catalog(
    repair: &Repair,
    plan: &CatalogPlan,
    now: Timestamp,
) -> Result<(), RebuildError> {
    let (log, label) = (Own::Catalog.log(), Own::Catalog.label());
    if plan.is_built {
        return Ok(repair.finish(log)?);
    }
    Ok(repair.replace(log, label, &encode_snapshot(&plan.catalog), now)?)
}

/// A topic as its files show it.
#[derive(Default)]
struct Found {
    /// Partitions whose files are there.
    on_disk: BTreeSet<u32>,
    /// And those of which the recovery points know.
    known: BTreeSet<u32>,
    name: Option<TopicName>,
    created: Timestamp,
}

/// The topics whose partitions lie in the directory, or of which the recovery points know.
fn find_topics(repair: &Repair) -> Result<BTreeMap<TopicId, Found>, RebuildError> {
    let mut found = BTreeMap::<TopicId, Found>::new();
    for log in repair.logs()? {
        let (topic, index) = log.split();
        if Own::of(log).is_some() || limits::TOPIC_PARTITIONS_MAX <= index.get() {
            continue;
        }
        let found = found.entry(topic).or_default();
        found.known.insert(index.get());
        if !repair.has_log(log)? {
            continue;
        }
        found.on_disk.insert(index.get());
        let Some(header) = repair.header(log)? else { continue };
        found.created = found.created.max(header.created);
        let name = header.label.rsplit_once('/').and_then(|(name, _)| TopicName::parse(name).ok());
        found.name = name.or(found.name.take());
    }
    Ok(found)
}

/// A new catalog in the making.
#[derive(Default)]
struct Building {
    catalog: Catalog,
    topics: BTreeMap<String, RebuiltTopic>,
    left_out: Vec<String>,
    /// Topics on disk that are not taken over yet.
    found: BTreeMap<TopicId, Found>,
}

impl Building {
    /// Takes over a state that has lost nothing, as it is.
    fn take_whole(&mut self, old: &Catalog) -> Result<(), RebuildError> {
        for topic in old.topics() {
            let topic = topic?;
            let found = self.found.remove(&topic.id).unwrap_or_default();
            self.note(&topic.name, topic.id, topic.partitions, &found, true);
        }
        self.catalog = old.clone();
        Ok(())
    }

    /// Takes over what the old catalog said before it was damaged, where there are files to it and no
    /// later topic has its name: it was deleted since, or is lost altogether.
    fn take_known(&mut self, old: &Catalog) {
        for (id, partitions) in old.doomed() {
            if self.found.remove(&id).is_some() {
                // Its deletion goes on at the next start.
                self.apply_created(id.to_string(), id, partitions, BTreeMap::new(), 0);
                self.catalog.apply(&Event::TopicDeleted { name: id.to_string() });
            }
        }
        for topic in old.topics() {
            let topic = match topic {
                Ok(topic) => topic,
                Err(error) => {
                    self.left_out.push(error.to_string());
                    continue;
                }
            };
            // The later one of its name is taken over with all that only the files know.
            if self.has_successor(&topic) {
                continue;
            }
            match self.found.remove(&topic.id).filter(|found| !found.on_disk.is_empty()) {
                Some(found) => self.create(&topic, &found, true),
                None => self.left_out.push(format!(
                    "topic {:?} ({}): none of its partitions is on disk; it was deleted, or is lost",
                    topic.name.as_str(),
                    topic.id
                )),
            }
        }
    }

    /// Takes over what only the files know; of topics of one name the latest.
    fn take_found(&mut self) {
        let mut found: Vec<_> = std::mem::take(&mut self.found).into_iter().collect();
        found.retain(|(_, found)| !found.on_disk.is_empty());
        found.sort_by_key(|(_, found)| std::cmp::Reverse(found.created));
        for (id, found) in found {
            let Some(name) = found.name.clone().filter(|name| !name.is_internal()) else {
                let what = "nothing says what it was called: its logs can be taken away, --remove";
                self.left_out.push(format!("topic {id}: {what}"));
                continue;
            };
            if self.topics.contains_key(name.as_str()) {
                let what =
                    "there is a later topic of this name: its logs can be taken away, --remove";
                self.left_out.push(format!("topic {:?} ({id}): {what}", name.as_str()));
                continue;
            }
            let topic = Topic {
                name,
                id,
                partitions: 0,
                overrides: BTreeMap::new(),
                settings: crate::catalog::TopicSettings::default(),
                created: found.created,
            };
            self.create(&topic, &found, false);
        }
    }

    /// Whether a topic of the same name was made since, which cannot be before it was deleted.
    fn has_successor(&self, topic: &Topic) -> bool {
        // Where no segment can be read, its own files do not say when it was made.
        let created =
            self.found.get(&topic.id).map_or(topic.created, |it| it.created.max(topic.created));
        let is_successor = |(id, found): (&TopicId, &Found)| {
            let has_name = found.name.as_ref() == Some(&topic.name);
            has_name && *id != topic.id && created < found.created
        };
        self.found.iter().any(is_successor)
    }

    /// Puts a topic into the catalog, with as many partitions as anything knows of.
    fn create(&mut self, topic: &Topic, found: &Found, has_settings: bool) {
        let seen = found.known.last().map_or(0, |last| last + 1);
        let partitions = topic.partitions.max(seen);
        let created_ms = topic.created.as_millis();
        let (name, overrides) = (topic.name.to_string(), topic.overrides.clone());
        self.apply_created(name, topic.id, partitions, overrides, created_ms);
        self.note(&topic.name, topic.id, partitions, found, has_settings);
    }

    fn apply_created(
        &mut self,
        name: String,
        id: TopicId,
        partitions: u32,
        settings: BTreeMap<String, String>,
        created_ms: i64,
    ) {
        let id = id.to_string();
        self.catalog.apply(&Event::TopicCreated { name, id, partitions, settings, created_ms });
    }

    fn note(
        &mut self,
        name: &TopicName,
        id: TopicId,
        partitions: u32,
        found: &Found,
        has_settings: bool,
    ) {
        let missing = (0..partitions).filter(|index| !found.on_disk.contains(index)).collect();
        let name = name.to_string();
        let topic = RebuiltTopic { name: name.clone(), id, partitions, has_settings, missing };
        self.topics.insert(name, topic);
    }
}
