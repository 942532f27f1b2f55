//! What a consumer reads, and how.

use std::collections::HashMap;

use taffrail_model::{Offset, PartitionIndex, TopicName, limits};

use super::Consumer;
use super::state::{Bounds, Subscriptions, Until, Wanted};
use crate::{Client, Position, StartError};

/// Bytes of a message around its batches.
pub(crate) const ENVELOPE_BYTES: u32 = 64 << 10;

/// Settings of a consumer; [`ConsumerBuilder::build`] starts it.
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    client: Client,
    /// In the order given; no partitions named: all of them.
    topics: Vec<(String, Vec<PartitionIndex>)>,
    from: Position,
    until: Until,
    from_at: HashMap<(String, PartitionIndex), Position>,
    until_at: HashMap<(String, PartitionIndex), Offset>,
    prefetch_bytes: u64,
    max_message_bytes: u32,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            topics: Vec::new(),
            from: Position::Earliest,
            until: Until::Forever,
            from_at: HashMap::new(),
            until_at: HashMap::new(),
            prefetch_bytes: 16 << 20,
            max_message_bytes: limits::BATCH_BYTES_MAX + ENVELOPE_BYTES,
        }
    }

    /// Adds a topic: all partitions it has when the consumer starts.
    pub fn topic(mut self, topic: &str) -> Self {
        if !self.topics.iter().any(|(known, _)| known == topic) {
            self.topics.push((topic.to_owned(), Vec::new()));
        }
        self
    }

    /// Adds one partition of a topic; of a topic with partitions named, only those are read.
    pub fn partition(mut self, topic: &str, partition: PartitionIndex) -> Self {
        match self.topics.iter_mut().find(|(known, _)| known == topic) {
            Some((_, partitions)) if partitions.contains(&partition) => {}
            Some((_, partitions)) => partitions.push(partition),
            None => self.topics.push((topic.to_owned(), vec![partition])),
        }
        self
    }

    /// Sets where partitions begin; default [`Position::Earliest`].
    pub fn from(mut self, position: Position) -> Self {
        self.from = position;
        self
    }

    /// Sets where one partition begins.
    pub fn from_at(mut self, topic: &str, partition: PartitionIndex, position: Position) -> Self {
        self.from_at.insert((topic.to_owned(), partition), position);
        self
    }

    /// Sets where partitions end; default [`Until::Forever`].
    pub fn until(mut self, until: Until) -> Self {
        self.until = until;
        self
    }

    /// Sets the offset before which one partition ends.
    pub fn until_at(mut self, topic: &str, partition: PartitionIndex, end: Offset) -> Self {
        self.until_at.insert((topic.to_owned(), partition), end);
        self
    }

    /// Sets the bytes that the broker may send ahead of the application; default 16 MiB. May be
    /// exceeded by one batch.
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.prefetch_bytes = bytes.max(1);
        self
    }

    /// Sets the largest message to be sent; default: what holds the largest batch there can be.
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Asks for the topics' partitions and starts the consumer.
    ///
    /// # Errors
    /// If a topic or partition does not exist, none was named, or the broker cannot be reached.
    pub async fn build(self) -> Result<Consumer, StartError> {
        if self.topics.is_empty() {
            return Err(StartError::NoTopics);
        }
        let mut wanted = Vec::new();
        for (text, named) in &self.topics {
            let topic = TopicName::parse(text)?;
            let (described, _) = self.client.admin().describe_topic(text).await?;
            let partitions = described.partitions;
            if let Some(&partition) = named.iter().find(|named| named.get() >= partitions) {
                return Err(StartError::NoSuchPartition { topic, partition, partitions });
            }
            let all = || (0..partitions).map(PartitionIndex::new).collect();
            let chosen = if named.is_empty() { all() } else { named.clone() };
            wanted.extend(chosen.into_iter().map(|partition| self.wanted(&topic, partition)));
        }
        let bounds = Bounds {
            prefetch_bytes: self.prefetch_bytes,
            max_message_bytes: self.max_message_bytes,
        };
        Ok(Consumer::start(self.client, Subscriptions::new(wanted, bounds)))
    }

    fn wanted(&self, topic: &TopicName, partition: PartitionIndex) -> Wanted {
        let key = (topic.to_string(), partition);
        Wanted {
            topic: topic.clone(),
            partition,
            from: self.from_at.get(&key).copied().unwrap_or(self.from),
            until: self.until_at.get(&key).map_or(self.until, |end| Until::Offset(*end)),
            reader: None,
        }
    }
}
