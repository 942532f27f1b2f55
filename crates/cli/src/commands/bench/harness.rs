//! The broker that is measured, and the topics that were made for it: they go at the end, also of a
//! run that was interrupted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use indicatif::ProgressBar;
use taffrail_client::Client;

use super::broker::Broker;
use super::workloads::load;
use crate::output::Output;

/// What every run gets.
#[derive(Debug)]
pub(super) struct Harness {
    pub(super) broker: Broker,
    pub(super) output: Output,
    /// Counts records.
    pub(super) progress: ProgressBar,
    topics: Mutex<Topics>,
}

#[derive(Debug, Default)]
struct Topics {
    made: Vec<String>,
    /// Those that several runs read, by what is in them.
    filled: BTreeMap<String, String>,
}

impl Harness {
    pub(super) fn new(broker: Broker, output: Output) -> Self {
        Self { broker, output, progress: output.counter(), topics: Mutex::default() }
    }

    /// A client with a connection of its own.
    pub(super) fn connect(&self) -> anyhow::Result<Client> {
        self.broker.connect()
    }

    /// Makes a topic of a name of its own.
    pub(super) async fn create_topic(
        &self,
        partitions: u32,
        durability: load::Durability,
    ) -> anyhow::Result<String> {
        let name = format!("bench-{}", jiff::Timestamp::now().as_microsecond());
        let settings = BTreeMap::from([("durability".to_owned(), durability.name().to_owned())]);
        self.topics().made.push(name.clone());
        let created = self.connect()?.admin().create_topic(&name, partitions, settings).await;
        if created.is_err() {
            self.topics().made.retain(|made| *made != name);
        }
        created.with_context(|| format!("cannot create the topic {name}"))?;
        Ok(name)
    }

    /// Deletes a topic that was made here.
    pub(super) async fn delete_topic(&self, name: &str) -> anyhow::Result<()> {
        let deleted = self.connect()?.admin().delete_topic(name).await;
        deleted.with_context(|| format!("the topic {name} is left over"))?;
        self.topics().made.retain(|made| made != name);
        Ok(())
    }

    /// A topic that holds a load, and is filled when it is asked for first.
    pub(super) async fn filled_topic(&self, load: &load::Load) -> anyhow::Result<String> {
        let content = load.json().to_string();
        let known = self.topics().filled.get(&content).cloned();
        if let Some(topic) = known {
            return Ok(topic);
        }
        let topic = self.create_topic(load.partitions, load.durability).await?;
        self.progress.set_message("filling a topic");
        self.output.note("filling a topic ...");
        super::workloads::produce::fill(load, self.connect()?, &topic, &self.progress).await?;
        self.topics().filled.insert(content, topic.clone());
        Ok(topic)
    }

    /// Deletes the topics that are there still.
    pub(super) async fn clean(&self) {
        let made = self.topics().made.clone();
        for topic in made {
            if let Err(error) = self.delete_topic(&topic).await {
                self.output.note(format_args!("{error:#}"));
            }
        }
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
