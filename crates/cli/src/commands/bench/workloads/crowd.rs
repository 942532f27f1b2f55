//! `bench crowd`: many members join one group, and how long it takes until each has its share.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use taffrail_client::{Client, GroupConsumer};
use tokio::task::JoinSet;

use super::super::figure::{Figure, Unit};
use super::super::harness::Harness;
use super::load::Durability;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of members
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    members: u32,
    /// Number of partitions
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// How long they stay when all have their share, to see what they cost at rest
    #[arg(long, value_name = "D", default_value = "0s", value_parser = crate::duration::parse)]
    rest: Duration,
}

pub(crate) async fn measure(options: &Options, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    let client = harness.connect()?;
    let name = harness.create_topic(options.partitions, Durability::Fsync).await?;
    let measured = run(options, &client, &name, harness).await?;
    if let Err(error) = client.groups().delete(&name).await {
        harness.output.note(format_args!("the group {name} is left over: {error}"));
    }
    harness.delete_topic(&name).await?;
    Ok(measured)
}

async fn run(
    options: &Options,
    client: &Client,
    name: &str,
    harness: &Harness,
) -> anyhow::Result<Vec<Figure>> {
    let begun = Instant::now();
    let mut joining = JoinSet::new();
    for _ in 0..options.members {
        joining.spawn(client.group(name).topic(name).build());
    }
    let mut members: Vec<GroupConsumer> = Vec::new();
    while let Some(joined) = joining.join_next().await {
        members.push(joined?.context("a member cannot join")?);
    }
    let joined = begun.elapsed();
    let mut reading = JoinSet::new();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    for mut member in members {
        let mut stopping = stopping.clone();
        reading.spawn(async move {
            loop {
                tokio::select! {
                    event = member.next_event() => if let Some(Err(error)) = event {
                        return Err(anyhow::Error::from(error));
                    },
                    _ = stopping.changed() => return Ok(member),
                }
            }
        });
    }
    while !is_settled(client, name, options).await? {
        ensure!(begun.elapsed() < PATIENCE, "the group does not settle");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let settled = begun.elapsed();
    if !options.rest.is_zero() {
        harness.output.note(format_args!("settled; resting for {:?}", options.rest));
        tokio::time::sleep(options.rest).await;
    }
    stop.send_replace(true);
    let begun = Instant::now();
    let mut leaving = JoinSet::new();
    while let Some(member) = reading.join_next().await {
        leaving.spawn(member??.close());
    }
    while let Some(left) = leaving.join_next().await {
        left??;
    }
    let times = [("joined_s", joined), ("settled_s", settled), ("left_s", begun.elapsed())];
    let figure =
        |(name, time): (&str, Duration)| Figure::new(name, Unit::Seconds, time.as_secs_f64());
    Ok(times.into_iter().map(figure).collect())
}

/// Whether every member has as many partitions as any other, or one more, and none is on its way.
async fn is_settled(client: &Client, name: &str, options: &Options) -> anyhow::Result<bool> {
    let group = client.groups().describe(name).await?;
    let share = options.partitions / options.members;
    let is_even = group.members.iter().all(|it| (share..=share + 1).contains(&it.partitions));
    let is_owned = |it: &taffrail_client::proto::GroupPartition| {
        !it.owner.is_empty() && it.next_owner.is_empty()
    };
    let is_whole = group.partitions.len() == options.partitions as usize;
    Ok(is_even && is_whole && group.partitions.iter().all(is_owned))
}

impl Options {
    pub(crate) fn json(&self) -> Value {
        json!({
            "members": self.members,
            "partitions": self.partitions,
            "rest_seconds": self.rest.as_secs_f64(),
        })
    }
}
