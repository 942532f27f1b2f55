//! How a producer behaves.

use std::time::Duration;

use taffrail_model::batch::{Compression, HEADER_BYTES};
use taffrail_model::{TopicName, limits};
use taffrail_proto::v1;

use super::Producer;
use crate::{Client, StartError, retry};

/// What a producer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// For the broker's word that the batch is committed: on disk, unless the topic says otherwise.
    #[default]
    Committed,
    /// For nothing: fire and forget. Deliveries complete when the batch is handed to the
    /// connection; refusals are only counted, see [`Producer::stats`]. When a connection breaks, what
    /// was sent on it may come behind what is sent on the next one.
    None,
}

impl From<Acks> for v1::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::Committed => Self::Committed,
            Acks::None => Self::None,
        }
    }
}

/// Settings of a producer; [`ProducerBuilder::build`] starts it.
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    client: Client,
    topic: String,
    settings: Settings,
}

/// What can be set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) batch_bytes: usize,
    pub(super) batch_bytes_busy: usize,
    pub(super) linger: Duration,
    pub(super) buffer_bytes: usize,
    pub(super) acks: Acks,
    pub(super) compression: Compression,
    pub(super) delivery_timeout: Duration,
    is_idempotent: bool,
    pub(super) name: Option<String>,
}

/// What is known of the topic, and what follows from it for batches.
#[derive(Clone, Debug)]
pub(super) struct TopicFacts {
    pub(super) topic: TopicName,
    pub(super) partitions: u32,
    /// Bytes that a payload may have.
    pub(super) payload_bytes_max: usize,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: &str) -> Self {
        let settings = Settings {
            batch_bytes: 60 << 10,
            batch_bytes_busy: 1 << 20,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
            acks: Acks::Committed,
            compression: Compression::None,
            delivery_timeout: Duration::from_secs(60),
            is_idempotent: true,
            name: None,
        };
        Self { client, topic: topic.to_owned(), settings }
    }

    /// Sets the bytes at which a batch is full; default 60 KiB.
    ///
    /// A little below 64 KiB is what loopback connections like best. While the broker is behind,
    /// batches grow further: see [`Self::batch_bytes_busy`].
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes.max(1);
        self
    }

    /// Sets the bytes at which a batch is full while several of its partition wait to be sent;
    /// default 1 MiB. Never more than the topic's `max.batch.bytes`.
    pub fn batch_bytes_busy(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes_busy = bytes.max(1);
        self
    }

    /// Sets how long a batch waits for more records while another one of its partition is in
    /// flight; default 5 ms. With nothing in flight it goes at once.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// Sets the bytes of records that may wait, be in flight, or wait for room; default 32 MiB.
    /// [`Producer::send`] waits while there is no room.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes.max(1);
        self
    }

    /// Sets what the producer waits for; default [`Acks::Committed`].
    pub fn acks(mut self, acks: Acks) -> Self {
        self.settings.acks = acks;
        self
    }

    /// Sets how batches are compressed; default [`Compression::None`]. A batch that does not become
    /// smaller goes as it is. They are stored and handed out as they were sent, so that a consumer's
    /// connection and the broker's disk carry less too.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// Sets how long a batch may wait to be sent, or to be sent again, and how long an answer may
    /// take; default 60 s.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// Sets whether batches carry a sequence, so that what was sent and not answered can be sent
    /// again and is appended once; default true. Without it, and always without acknowledgement
    /// ([`Acks::None`]), the outcome of such a batch is unknown.
    pub fn idempotent(mut self, is_idempotent: bool) -> Self {
        self.settings.is_idempotent = is_idempotent;
        self
    }

    /// Sets the producer's name, of 1 to 200 bytes; default none. A producer with a name is always
    /// idempotent.
    ///
    /// Building it fences the one that had the name before, on whatever topic: once `build` has
    /// returned nothing of that one is appended any more, and it fails with
    /// [`ProduceError::Fenced`](crate::ProduceError::Fenced).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Asks for the topic's partitions and for an identity, and starts the producer.
    ///
    /// Partitions that are added later are not seen by this producer.
    ///
    /// # Errors
    /// If the topic does not exist, the broker cannot be reached, or the producer's name cannot be
    /// one.
    pub async fn build(self) -> Result<Producer, StartError> {
        let is_idempotent = self.settings.is_idempotent()?;
        let name = TopicName::parse(&self.topic)?;
        let (topic, _) = self.client.admin().describe_topic(name.as_str()).await?;
        let batch_bytes_max = topic
            .settings
            .iter()
            .find(|setting| setting.name == "max.batch.bytes")
            .and_then(|setting| parse_bytes(&setting.value))
            .unwrap_or(limits::BATCH_BYTES_DEFAULT as usize);
        let facts = TopicFacts {
            topic: name,
            partitions: topic.partitions.max(1),
            payload_bytes_max: batch_bytes_max.saturating_sub(HEADER_BYTES).max(1),
        };
        let identity = if is_idempotent {
            let name = self.settings.name.as_deref().unwrap_or_default();
            Some(self.client.init_producer(name, None, retry::random()).await?)
        } else {
            None
        };
        Ok(Producer::start(self.client, facts, self.settings, identity))
    }
}

impl Settings {
    /// Whether batches carry a sequence.
    fn is_idempotent(&self) -> Result<bool, StartError> {
        let Some(name) = &self.name else {
            return Ok(self.is_idempotent && self.acks == Acks::Committed);
        };
        let bytes = name.len();
        if !(1..=limits::PRODUCER_NAME_BYTES_MAX).contains(&bytes) {
            return Err(StartError::ProducerName { bytes });
        }
        if self.acks == Acks::None {
            return Err(StartError::NameWithoutAcks { name: name.clone() });
        }
        Ok(true)
    }
}

/// Reads bytes as settings spell them: `1048576`, `1MiB`, `2 MB`.
fn parse_bytes(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor = match unit.trim_end_matches('b') {
        "" => 1,
        "k" => 1_000,
        "ki" => 1 << 10,
        "m" => 1_000_000,
        "mi" => 1 << 20,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_settings_spell_them() {
        let table = [
            ("1024", Some(1_024)),
            ("1KiB", Some(1_024)),
            ("64MiB", Some(64 << 20)),
            ("2 MB", Some(2_000_000)),
            ("5k", Some(5_000)),
            ("none", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_bytes(text), expected, "{text:?}");
        }
    }
}
