//! `bench consume`: reads everything from the beginning, each consumer by itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use serde_json::Value;
use taffrail_client::{Client, Position, Until};
use tokio::task::JoinSet;

use super::super::broker::{Broker, forget_files};
use super::super::figure::Figure;
use super::super::harness::Harness;
use super::load::Load;
use super::produce;

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What the topic is filled with, and by whom it is read.
    #[command(flatten)]
    pub(crate) load: Load,
    /// Read what is on the disk alone: from another broker, which is started anew for each run, and whose
    /// files are taken out of the page cache before that
    #[arg(long, conflicts_with = "topic")]
    pub(crate) cold: bool,
}

/// Reads a topic from the beginning to its end.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    pub(super) topic: String,
    /// Bytes a second at the most.
    pub(super) speed_max: Option<f64>,
    pub(super) duration: Option<Duration>,
    pub(super) progress: ProgressBar,
}

impl Options {
    pub(crate) fn json(&self) -> Value {
        let mut json = self.load.json();
        json["cold"] = self.cold.into();
        json
    }
}

pub(crate) async fn measure(options: &Options, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    let load = &options.load;
    if options.cold {
        return measure_cold(load, harness).await;
    }
    let topic = match &load.topic {
        Some(topic) => topic.to_string(),
        None => harness.filled_topic(load).await?,
    };
    read(load, &harness.broker, topic, harness).await
}

async fn measure_cold(load: &Load, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    const TOPIC: &str = "cold";
    let home = harness.broker.home().context("it takes a broker of its own: see --data")?;
    let data = home.join("cold");
    if !data.exists() {
        harness.output.note("filling a topic ...");
        let broker = Broker::start_on(&data)?;
        let admin = broker.connect()?.admin();
        let settings = std::iter::empty().collect();
        admin.create_topic(TOPIC, load.partitions, settings).await?;
        produce::fill(load, broker.connect()?, TOPIC, &harness.progress).await?;
        broker.stop().await?;
    }
    forget_files(&data)?;
    let broker = Broker::start_on(&data)?;
    let figures = read(load, &broker, TOPIC.to_owned(), harness).await;
    broker.stop().await?;
    figures
}

/// Reads a topic, each consumer by itself.
async fn read(
    load: &Load,
    broker: &Broker,
    topic: String,
    harness: &Harness,
) -> anyhow::Result<Vec<Figure>> {
    let used = broker.begin().await;
    let mut consumers = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..load.consumers.max(1) {
        let (topic, progress) = (topic.clone(), harness.progress.clone());
        let replay = Replay { topic, speed_max: None, duration: load.duration, progress };
        consumers.spawn(replay.run(broker.connect()?));
    }
    let (mut records, mut bytes) = (0, 0);
    while let Some(read) = consumers.join_next().await {
        let (own_records, own_bytes) = read??;
        records += own_records;
        bytes += own_bytes;
    }
    let elapsed = begun.elapsed();
    if records == 0 {
        bail!("the topic {topic} is empty: fill it, or leave --topic out");
    }
    let mut figures = produce::throughput(records, bytes, elapsed);
    figures.extend(broker.cost(used, records, None).await);
    Ok(figures)
}

impl Replay {
    /// Reads and decodes everything; returns the count of records and the bytes of keys and values.
    pub(super) async fn run(self, client: Client) -> anyhow::Result<(u64, u64)> {
        let builder = client.consumer().topic(&self.topic);
        let builder = builder.from(Position::Earliest).until(Until::HighWatermark);
        let mut consumer = builder.build().await?;
        let (mut records, mut bytes) = (0, 0);
        let begun = Instant::now();
        while let Some(batch) = consumer.next_batch().await {
            let before = records;
            for record in batch?.records() {
                let record = record?;
                let record_bytes =
                    record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                records += 1;
                bytes += record_bytes as u64;
            }
            self.progress.inc(records - before);
            if self.duration.is_some_and(|duration| begun.elapsed() > duration) {
                break;
            }
            if let Some(speed_max) = self.speed_max {
                let due = begun + Duration::from_secs_f64(bytes as f64 / speed_max);
                if Instant::now() < due {
                    tokio::time::sleep_until(due.into()).await;
                }
            }
        }
        Ok((records, bytes))
    }
}
