//! `bench commit`: groups commit offsets as fast as the broker takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use taffrail_client::{Client, Offset, PartitionIndex, Record, TopicName};
use tokio::task::JoinSet;

use super::super::figure::{Figure, Unit};
use super::super::harness::Harness;
use super::super::latencies::Latencies;
use super::load::Durability;

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of groups
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    groups: u32,
    /// Commits in flight, each of one offset
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: u32,
    /// Number of partitions
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// How long it takes
    #[arg(long, value_name = "D", default_value = "10s", value_parser = crate::duration::parse)]
    duration: Duration,
}

pub(crate) async fn measure(options: &Options, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    let client = harness.connect()?;
    let name = harness.create_topic(options.partitions, Durability::Fsync).await?;
    let measured = run(options, harness, &client, &name).await?;
    for group in 0..options.groups {
        client.groups().delete(&group_name(&name, group)).await.context("a group is left over")?;
    }
    harness.delete_topic(&name).await?;
    Ok(measured)
}

fn group_name(topic: &str, group: u32) -> String {
    format!("{topic}-{group}")
}

async fn run(
    options: &Options,
    harness: &Harness,
    client: &Client,
    name: &str,
) -> anyhow::Result<Vec<Figure>> {
    let producer = client.producer(name).build().await?;
    for partition in 0..options.partitions {
        let record = Record::value(b"one to commit").partition(PartitionIndex::new(partition));
        producer.send(record).await?.await?;
    }
    let topic = TopicName::parse(name)?;
    let next = Arc::<AtomicU64>::default();
    let used = harness.broker.begin().await;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..options.in_flight {
        let (options, topic) = (options.clone(), topic.clone());
        let (groups, next) = (client.groups(), Arc::clone(&next));
        tasks.spawn(async move {
            let mut latencies = Latencies::new();
            while begun.elapsed() < options.duration {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let groups_count = u64::from(options.groups);
                let group = group_name(topic.as_str(), (number % groups_count) as u32);
                let partition = number / groups_count % u64::from(options.partitions);
                let partition = PartitionIndex::new(partition as u32);
                let sent = Instant::now();
                groups.commit(&group, &topic, partition, Offset::new(number % 2)).await?;
                latencies.record(sent.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Latencies::new();
    while let Some(own) = tasks.join_next().await {
        latencies.add(&own??);
    }
    let (commits, seconds) = (latencies.count(), begun.elapsed().as_secs_f64());
    let mut figures = vec![
        Figure::count("commits", commits),
        Figure::new("commits_per_second", Unit::PerSecond, commits as f64 / seconds),
    ];
    figures.extend(latencies.figures("latency"));
    figures.extend(harness.broker.cost(used, commits, None).await);
    Ok(figures)
}

impl Options {
    pub(crate) fn json(&self) -> Value {
        json!({
            "groups": self.groups,
            "in_flight": self.in_flight,
            "partitions": self.partitions,
            "duration_seconds": self.duration.as_secs_f64(),
        })
    }
}
