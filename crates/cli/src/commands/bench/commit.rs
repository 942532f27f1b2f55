//! `bench commit`: groups commit offsets as fast as the broker takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use taffrail_client::{Client, Offset, PartitionIndex, Record, TopicName};
use tokio::task::JoinSet;

use super::report::Latencies;
use super::{Durability, create_topic};
use crate::context::Context;
use crate::figures;
use crate::output::table;

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

/// What was measured.
#[derive(Debug)]
pub(super) struct Report {
    options: Options,
    commits: u64,
    elapsed: Duration,
    latencies: Latencies,
}

pub(super) async fn measure(options: &Options, context: &Context) -> anyhow::Result<Report> {
    let client = context.client()?;
    let name = create_topic(&client, options.partitions, Durability::Fsync).await?;
    let measured = run(options, &client, &name).await;
    for group in 0..options.groups {
        client.groups().delete(&group_name(&name, group)).await.context("a group is left over")?;
    }
    client.admin().delete_topic(&name).await.context("the topic is left over")?;
    measured
}

fn group_name(topic: &str, group: u32) -> String {
    format!("{topic}-{group}")
}

async fn run(options: &Options, client: &Client, name: &str) -> anyhow::Result<Report> {
    let producer = client.producer(name).build().await?;
    for partition in 0..options.partitions {
        let record = Record::value(b"one to commit").partition(PartitionIndex::new(partition));
        producer.send(record).await?.await?;
    }
    let topic = TopicName::parse(name)?;
    let next = Arc::<AtomicU64>::default();
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
    let elapsed = begun.elapsed();
    Ok(Report { options: options.clone(), commits: latencies.count(), elapsed, latencies })
}

impl Report {
    fn per_second(&self) -> f64 {
        self.commits as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(super) fn text(&self) -> String {
        let rows = [
            ("workload", "commit".to_owned()),
            ("groups", figures::count(self.options.groups.into())),
            ("commits", figures::count(self.commits)),
            ("commits/s", figures::rate(self.per_second())),
            ("latency", self.latencies.text()),
        ];
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        table(&["", ""], &[], rows).trim_start_matches('\n').to_owned()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "workload": "commit",
            "commits": self.commits,
            "commits_per_second": self.per_second(),
            "seconds": self.elapsed.as_secs_f64(),
            "latency_us": self.latencies.json(),
            "options": {
                "groups": self.options.groups,
                "in_flight": self.options.in_flight,
                "partitions": self.options.partitions,
            },
        })
    }
}
