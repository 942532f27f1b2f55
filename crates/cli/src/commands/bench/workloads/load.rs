//! What producers append, and to what.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use taffrail_client::{Client, ProducerBuilder, TopicName};

use crate::commands::produce::{AcksArgument, CompressionArgument};

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    /// Number of records, over all producers
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) records: u64,
    /// Bytes of a record's value
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    pub(crate) record_bytes: usize,
    /// Number of different keys, which choose the partition; without it records have none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: Option<u64>,
    /// Bytes at which a batch is full; without it the client decides
    #[arg(long, value_name = "N")]
    pub(crate) batch_bytes: Option<usize>,
    /// Number of producers, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) producers: u32,
    /// Records of a producer that may be without an answer (closed loop); without it as many as the
    /// client buffers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,
    /// Number of consumers that follow, and measure the time from end to end
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) consumers: u32,
    /// Number of consumers besides, which take nothing of what comes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) stalled: u32,
    /// Number of partitions
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) partitions: u32,
    /// Records a second over all producers (open loop); without it as many as go
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// When the topic counts a record as committed
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) durability: Durability,
    /// What producers wait for
    #[arg(long, value_enum, value_name = "ACKS", default_value_t)]
    pub(crate) acks: AcksArgument,
    /// How to compress batches
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub(crate) compression: CompressionArgument,
    /// Send without sequences, so that what is sent again may be appended twice
    #[arg(long)]
    pub(crate) no_idempotence: bool,
    /// End after this time, such as 30s or 2m, whatever --records says
    #[arg(long, value_name = "T", value_parser = crate::duration::parse)]
    pub(crate) duration: Option<Duration>,
    /// Use this topic, and leave it there
    #[arg(
        long,
        value_name = "NAME",
        value_parser = TopicName::parse,
        conflicts_with_all = ["partitions", "durability"]
    )]
    pub(crate) topic: Option<TopicName>,
}

/// When a topic counts a record as committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// On disk
    #[default]
    Fsync,
    /// Written to the operating system
    #[value(name = "page_cache", alias = "page-cache")]
    PageCache,
}

impl Durability {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::PageCache => "page_cache",
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        Self {
            records: 1_000_000,
            record_bytes: 1_024,
            keys: None,
            batch_bytes: None,
            producers: 1,
            in_flight: None,
            consumers: 0,
            stalled: 0,
            partitions: 1,
            rate: None,
            durability: Durability::default(),
            acks: AcksArgument::default(),
            compression: CompressionArgument::default(),
            no_idempotence: false,
            duration: None,
            topic: None,
        }
    }
}

impl Load {
    /// A producer of a topic.
    pub(super) fn producer(&self, client: &Client, topic: &str) -> ProducerBuilder {
        let builder = client.producer(topic).acks(self.acks.into());
        let builder = builder.idempotent(!self.no_idempotence);
        let builder = builder.compression(self.compression.into());
        match self.batch_bytes {
            Some(bytes) => builder.batch_bytes(bytes).batch_bytes_busy(bytes),
            None => builder,
        }
    }

    pub(crate) fn json(&self) -> Value {
        let named =
            |name: Option<clap::builder::PossibleValue>| name.map(|it| it.get_name().to_owned());
        json!({
            "records": self.records,
            "record_bytes": self.record_bytes,
            "keys": self.keys,
            "batch_bytes": self.batch_bytes,
            "producers": self.producers,
            "in_flight": self.in_flight,
            "consumers": self.consumers,
            "stalled": self.stalled,
            "partitions": self.partitions,
            "rate": self.rate,
            "durability": self.topic.is_none().then(|| self.durability.name()),
            "acks": named(self.acks.to_possible_value()),
            "compression": named(self.compression.to_possible_value()),
            "idempotent": !self.no_idempotence,
            "duration_seconds": self.duration.map(|it| it.as_secs_f64()),
            "topic": self.topic.as_ref().map(TopicName::to_string),
        })
    }
}
