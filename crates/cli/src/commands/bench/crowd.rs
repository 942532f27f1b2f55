//! `bench crowd`: many members join one group, and how long it takes until each has its share.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use taffrail_client::{Client, GroupConsumer};
use tokio::task::JoinSet;

use super::{Durability, create_topic};
use crate::context::Context;
use crate::figures;
use crate::output::table;

/// Members that share a connection.
const CONNECTION_MEMBERS: u32 = 100;

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

/// What was measured.
#[derive(Debug)]
pub(super) struct Report {
    options: Options,
    joined: Duration,
    settled: Duration,
    left: Duration,
}

pub(super) async fn measure(options: &Options, context: &Context) -> anyhow::Result<Report> {
    let client = context.client()?;
    let name = create_topic(&client, options.partitions, Durability::Fsync).await?;
    let measured = run(options, &client, &name, context).await;
    if let Err(error) = client.groups().delete(&name).await {
        context.output.note(format_args!("the group {name} is left over: {error}"));
    }
    client.admin().delete_topic(&name).await.context("the topic is left over")?;
    measured
}

async fn run(
    options: &Options,
    client: &Client,
    name: &str,
    context: &Context,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut joining = JoinSet::new();
    let mut connection = context.client()?;
    for number in 0..options.members {
        if number % CONNECTION_MEMBERS == 0 {
            connection = context.client()?;
        }
        joining.spawn(connection.group(name).topic(name).build());
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
        context.output.note(format_args!("settled; resting for {:?}", options.rest));
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
    Ok(Report { options: options.clone(), joined, settled, left: begun.elapsed() })
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

impl Report {
    pub(super) fn text(&self) -> String {
        let time = |time: Duration| figures::micros(time.as_micros() as u64);
        let rows = [
            ("workload", "crowd".to_owned()),
            ("members", figures::count(self.options.members.into())),
            ("partitions", figures::count(self.options.partitions.into())),
            ("all joined", time(self.joined)),
            ("settled", time(self.settled)),
            ("all left", time(self.left)),
        ];
        let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        table(&["", ""], &[], rows).trim_start_matches('\n').to_owned()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "workload": "crowd",
            "joined_seconds": self.joined.as_secs_f64(),
            "settled_seconds": self.settled.as_secs_f64(),
            "left_seconds": self.left.as_secs_f64(),
            "options": {
                "members": self.options.members,
                "partitions": self.options.partitions,
            },
        })
    }
}
