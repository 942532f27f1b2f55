//! `taffrail consume`: prints a topic's records, from any place on.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use futures_util::FutureExt as _;
use taffrail_client::{
    Client, ConsumedBatch, Consumer, ConsumerBuilder, Event, Offset, OffsetQuery, PartitionIndex,
    Position, TopicName, Until,
};

use crate::context::Context;
use crate::place;
use crate::render::{Placed, Renderer};

const PLACES: &str = "\
Places (POS): earliest, latest, an offset, -N for the last N of every partition, or a time such as \
2018-02-05T00:00Z or \"10m ago\".
Templates: {topic} {partition} {offset} {timestamp} {timestamp_ms} {key} {value} {headers}, \\n, \\t, \
and {{ for a brace.";

/// Bytes gathered before they are written, while more is at hand.
const WRITE_BYTES: usize = 64 << 10;

/// Arguments of `consume`.
#[derive(Debug, clap::Args)]
#[command(after_help = PLACES)]
pub(crate) struct Arguments {
    /// The topic to read
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// Where to begin
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
    let consumer = arguments.consumer(&client).await;
    let consumer = consumer.with_context(|| format!("cannot read {}", arguments.topic))?;
    let printer = Printer {
        renderer: arguments.format,
        out: Vec::with_capacity(2 * WRITE_BYTES),
        left: arguments.count.unwrap_or(u64::MAX),
        context,
    };
    printer.print(consumer).await
}

impl Arguments {
    fn is_following(&self) -> bool {
        self.follow || !(self.no_follow || self.to.is_some() || self.count.is_some())
    }

    async fn consumer(&self, client: &Client) -> anyhow::Result<Consumer> {
        let from = self.offset.map_or(self.from, |offset| Position::Offset(Offset::new(offset)));
        let mut builder = client.consumer().topic(self.topic.as_str()).from(from);
        for partition in &self.partitions {
            builder = builder.partition(self.topic.as_str(), PartitionIndex::new(*partition));
        }
        if !self.is_following() {
            builder = builder.until(Until::HighWatermark);
        }
        if let Some(to) = self.to {
            builder = self.end_at(builder, client, to).await?;
        }
        Ok(builder.build().await?)
    }

    /// Looks up where `to` is in every partition.
    async fn end_at(
        &self,
        mut builder: ConsumerBuilder,
        client: &Client,
        to: Position,
    ) -> anyhow::Result<ConsumerBuilder> {
        let partitions = if self.partitions.is_empty() {
            let (described, _) = client.admin().describe_topic(self.topic.as_str()).await?;
            (0..described.partitions).collect()
        } else {
            self.partitions.clone()
        };
        // An offset may lie beyond the present end, which is no place to ask for.
        let asked = if let Position::Offset(_) = to { Position::Latest } else { to };
        let query = |partition: &u32| OffsetQuery {
            topic: self.topic.clone(),
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
            builder = builder.until_at(self.topic.as_str(), query.partition, end);
        }
        Ok(builder)
    }
}

/// Prints what a consumer gets.
struct Printer<'a> {
    renderer: Renderer,
    /// What is not written yet.
    out: Vec<u8>,
    /// Records still to print.
    left: u64,
    context: &'a Context,
}

impl Printer<'_> {
    async fn print(mut self, mut consumer: Consumer) -> anyhow::Result<()> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        while self.left > 0 && interrupted.as_mut().now_or_never().is_none() {
            // Writes what it has before it waits.
            let event = match consumer.next_event().now_or_never() {
                Some(event) => event,
                None => {
                    self.flush()?;
                    tokio::select! {
                        event = consumer.next_event() => event,
                        _ = &mut interrupted => break,
                    }
                }
            };
            match event {
                None => break,
                Some(Ok(Event::Batch(batch))) => self.batch(&batch)?,
                Some(Ok(Event::Gap { topic, partition, from, to, reason })) => {
                    self.flush()?;
                    let reason = reason.as_str_name().trim_start_matches("GAP_REASON_");
                    let reason = reason.to_lowercase().replace('_', " ");
                    self.context.output.note(format_args!(
                        "{topic}/{partition}: no records from {from} to before {to}: {reason}"
                    ));
                }
                Some(Ok(Event::Heartbeat { .. })) => {}
                Some(Err(error)) => {
                    self.flush()?;
                    return Err(error.into());
                }
            }
        }
        self.flush()?;
        Ok(())
    }

    fn batch(&mut self, batch: &ConsumedBatch) -> anyhow::Result<()> {
        for record in batch.records() {
            let Ok(record) = record else {
                self.flush()?;
                bail!(
                    "{}/{}: a record of the batch at offset {} cannot be read: its producer made \
                     it so",
                    batch.topic,
                    batch.partition,
                    batch.batch.header.base_offset,
                );
            };
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            let placed = Placed { topic: &batch.topic, partition: batch.partition, record };
            self.renderer.render(placed, &mut self.out);
            if self.out.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.out)?;
        self.out.clear();
        stdout.flush()
    }
}
