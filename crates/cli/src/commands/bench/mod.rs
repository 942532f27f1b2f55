//! `taffrail bench`: measures a broker that runs.
//!
//! Makes a topic of its own, and deletes it at the end, unless one is named.

mod churn;
mod commit;
mod consume;
mod crowd;
mod pace;
mod produce;
mod report;
mod tail;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use taffrail_client::{Client, ProduceError, ProducerBuilder, TopicName};

use super::produce::{AcksArgument, CompressionArgument};
use crate::context::Context;
use report::Report;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Workload {
    /// Append records as fast as the broker takes them, or at a rate
    Produce(Options),
    /// Read records from the beginning as fast as they come
    Consume(Options),
    /// Let members of a consumer group come and go under load, and see for how long partitions stand
    /// still
    Churn(churn::Options),
    /// Commit offsets of consumer groups as fast as the broker takes them
    Commit(commit::Options),
    /// Let many members join one consumer group
    Crowd(crowd::Options),
}

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of records, over all producers
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// Bytes of a record's value
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    record_bytes: usize,
    /// Number of different keys, which choose the partition; without it records have none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    /// Bytes at which a batch is full; without it the client decides
    #[arg(long, value_name = "N")]
    batch_bytes: Option<usize>,
    /// Number of producers, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    producers: u32,
    /// Number of consumers, each of which reads everything; while producing (default none) they
    /// measure the time from end to end
    #[arg(long, value_name = "N")]
    consumers: Option<u32>,
    /// Number of partitions
    #[arg(long, value_name = "N", default_value_t = 1)]
    partitions: u32,
    /// Records a second over all producers; without it as many as go
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// When the topic counts a record as committed
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    durability: Durability,
    /// What producers wait for
    #[arg(long, value_enum, value_name = "ACKS", default_value_t)]
    acks: AcksArgument,
    /// How to compress batches
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    compression: CompressionArgument,
    /// Send without sequences, so that what is sent again may be appended twice
    #[arg(long)]
    no_idempotence: bool,
    /// End after this time, such as 30s or 2m, whatever --records says
    #[arg(long, value_name = "T", value_parser = crate::duration::parse)]
    duration: Option<Duration>,
    /// Use this topic, and leave it there
    #[arg(
        long,
        value_name = "NAME",
        value_parser = TopicName::parse,
        conflicts_with_all = ["partitions", "durability"]
    )]
    topic: Option<TopicName>,
}

/// When a topic counts a record as committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Durability {
    /// On disk
    #[default]
    Fsync,
    /// Written to the operating system
    #[value(name = "page_cache", alias = "page-cache")]
    PageCache,
}

impl Durability {
    const fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::PageCache => "page_cache",
        }
    }
}

/// A workload, where it runs.
#[derive(Clone, Debug)]
struct Run {
    options: Options,
    server: String,
    topic: String,
    partitions: u32,
}

pub(crate) async fn run(workload: Workload, context: &Context) -> anyhow::Result<()> {
    let output = context.output;
    match workload {
        Workload::Produce(options) => run_records(Records::Produce, options, context).await,
        Workload::Consume(options) => run_records(Records::Consume, options, context).await,
        Workload::Churn(options) => {
            let report = churn::measure(&options, context).await?;
            Ok(output.result(|| report.text(), || report.json())?)
        }
        Workload::Commit(options) => {
            let report = commit::measure(&options, context).await?;
            Ok(output.result(|| report.text(), || report.json())?)
        }
        Workload::Crowd(options) => {
            let report = crowd::measure(&options, context).await?;
            Ok(output.result(|| report.text(), || report.json())?)
        }
    }
}

/// What is done with records.
#[derive(Clone, Copy, Debug)]
enum Records {
    Produce,
    Consume,
}

async fn run_records(what: Records, options: Options, context: &Context) -> anyhow::Result<()> {
    let client = context.client()?;
    let topic = match &options.topic {
        Some(topic) => topic.to_string(),
        None => create_topic(&client, options.partitions, options.durability).await?,
    };
    let measured = tokio::select! {
        measured = measure(what, &options, &client, &topic, context) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if options.topic.is_none() {
        let admin = client.admin();
        let left_over = tokio::select! {
            deleted = admin.delete_topic(&topic) => deleted.err().map(anyhow::Error::from),
            _ = tokio::signal::ctrl_c() => Some(anyhow::anyhow!("interrupted")),
        };
        if let Some(cause) = left_over {
            context.output.note(format_args!("the topic {topic} is left over: {cause}"));
        }
    }
    let (report, failure) = measured?;
    context.output.result(|| report.text(), || report.json())?;
    failure.map_or(Ok(()), |failure| Err(failure).context("not all records were appended"))
}

/// Makes a topic of a name of its own.
async fn create_topic(
    client: &Client,
    partitions: u32,
    durability: Durability,
) -> anyhow::Result<String> {
    let name = format!("bench-{}", jiff::Timestamp::now().as_millisecond());
    let settings = BTreeMap::from([("durability".to_owned(), durability.name().to_owned())]);
    let created = client.admin().create_topic(&name, partitions, settings).await;
    created.with_context(|| format!("cannot create the topic {name}"))?;
    Ok(name)
}

async fn measure(
    what: Records,
    options: &Options,
    client: &Client,
    topic: &str,
    context: &Context,
) -> anyhow::Result<(Report, Option<ProduceError>)> {
    let (described, _) = client.admin().describe_topic(topic).await?;
    let run = Run {
        options: options.clone(),
        server: context.server.clone(),
        topic: topic.to_owned(),
        partitions: described.partitions,
    };
    match what {
        Records::Produce => produce::measure(&run).await,
        Records::Consume => {
            if options.topic.is_none() {
                context.output.note("filling the topic ...");
                produce::fill(&run).await?;
            }
            Ok((consume::measure(&run).await?, None))
        }
    }
}

impl Run {
    /// A client with a connection of its own.
    fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.server)?)
    }

    fn producer(&self) -> anyhow::Result<ProducerBuilder> {
        let builder = self.connect()?.producer(&self.topic).acks(self.options.acks.into());
        let builder = builder.idempotent(!self.options.no_idempotence);
        let builder = builder.compression(self.options.compression.into());
        Ok(match self.options.batch_bytes {
            Some(bytes) => builder.batch_bytes(bytes).batch_bytes_busy(bytes),
            None => builder,
        })
    }
}
