//! `taffrail consume`: prints a topic's records, from any place on, alone or as a member of a group.

mod group;
mod printer;

use std::time::Duration;

use anyhow::Context as _;
use taffrail_client::{
    Client, Consumer, ConsumerBuilder, Offset, OffsetQuery, PartitionIndex, Position, TopicName,
    Until,
};

use crate::context::Context;
use crate::render::Renderer;
use crate::{duration, place};
use printer::Printer;

const PLACES: &str = "\
Places (POS): earliest, latest, an offset, -N for the last N of every partition, or a time such as \
2018-02-05T00:00Z or \"10m ago\".
Templates: {topic} {partition} {offset} {timestamp} {timestamp_ms} {key} {value} {headers}, \\n, \\t, \
and {{ for a brace.";

/// Arguments of `consume`.
#[derive(Debug, clap::Args)]
#[command(after_help = PLACES)]
pub(crate) struct Arguments {
    /// The topic to read; with --group also a pattern of names, such as 'orders.*'
    topic: String,
    /// Read as a member of this consumer group: partitions are shared among its members, and each
    /// record that was printed is done
    #[arg(long, value_name = "G", conflicts_with_all = ["to", "partitions", "offset"])]
    group: Option<String>,
    /// A name under which this member keeps its partitions while it restarts
    #[arg(long, value_name = "NAME", requires = "group")]
    instance: Option<String>,
    /// How long this member may be silent until others take over
    #[arg(long, value_name = "D", requires = "group", default_value = "10s", value_parser = duration::parse)]
    session_timeout: Duration,
    /// Where to begin; with --group where nothing was committed
    #[arg(
        long,
        value_name = "POS",
        default_value = "earliest",
        allow_hyphen_values = true,
        value_parser = place::parse
    )]
    from: Position,
    /// Where to end: before this place
    #[arg(long, value_name = "POS", allow_hyphen_values = true, value_parser = place::parse)]
    to: Option<Position>,
    /// A partition to read; none: all
    #[arg(long = "partition", value_name = "P")]
    partitions: Vec<u32>,
    /// The offset to begin at
    #[arg(long, value_name = "N", conflicts_with = "from")]
    offset: Option<u64>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Wait for records to come, even with --to or --count
    #[arg(long, overrides_with = "no_follow")]
    follow: bool,
    /// End at the last record that is there now
    #[arg(long)]
    no_follow: bool,
    /// value, json, or a template such as '{offset} {key} {value}\n'
    #[arg(long, value_name = "FORMAT", default_value = "value")]
    format: Renderer,
}

pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<()> {
    let client = context.client()?;
    if let Some(group) = arguments.group.clone() {
        return group::run(&arguments, &group, &client, context).await;
    }
    let topic = TopicName::parse(&arguments.topic)?;
    let consumer = arguments.consumer(&client, &topic).await;
    let consumer = consumer.with_context(|| format!("cannot read {topic}"))?;
    Printer::new(arguments.format, arguments.count, context.output).print(consumer).await
}

impl Arguments {
    fn is_following(&self) -> bool {
        self.follow || !(self.no_follow || self.to.is_some() || self.count.is_some())
    }

    async fn consumer(&self, client: &Client, topic: &TopicName) -> anyhow::Result<Consumer> {
        let from = self.offset.map_or(self.from, |offset| Position::Offset(Offset::new(offset)));
        let mut builder = client.consumer().topic(topic.as_str()).from(from);
        for partition in &self.partitions {
            builder = builder.partition(topic.as_str(), PartitionIndex::new(*partition));
        }
        if !self.is_following() {
            builder = builder.until(Until::HighWatermark);
        }
        if let Some(to) = self.to {
            builder = self.end_at(builder, client, topic, to).await?;
        }
        Ok(builder.build().await?)
    }

    /// Looks up where `to` is in every partition.
    async fn end_at(
        &self,
        mut builder: ConsumerBuilder,
        client: &Client,
        topic: &TopicName,
        to: Position,
    ) -> anyhow::Result<ConsumerBuilder> {
        let partitions = if self.partitions.is_empty() {
            let (described, _) = client.admin().describe_topic(topic.as_str()).await?;
            (0..described.partitions).collect()
        } else {
            self.partitions.clone()
        };
        // An offset may lie beyond the present end, which is no place to ask for.
        let asked = if let Position::Offset(_) = to { Position::Latest } else { to };
        let query = |partition: &u32| OffsetQuery {
            topic: topic.clone(),
            partition: PartitionIndex::new(*partition),
            position: asked,
        };
        let queries: Vec<_> = partitions.iter().map(query).collect();
        for (query, found) in queries.iter().zip(client.list_offsets(&queries).await?) {
            let found = found?;
            let end = match to {
                Position::Offset(end) if self.follow => end,
                Position::Offset(end) => end.min(found.high_watermark),
                Position::Earliest
                | Position::Latest
                | Position::Timestamp(_)
                | Position::Last(_) => found.offset,
            };
            builder = builder.until_at(topic.as_str(), query.partition, end);
        }
        Ok(builder)
    }
}
