//! `bench start-up`: how soon a broker with many partitions serves again, after a stop and after a
//! kill under load.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use taffrail_client::{Client, PartitionIndex, Producer, Record};

use super::super::figure::{Figure, Unit};
use super::super::harness::Harness;
use super::super::values::Values;
use super::pace::Pace;
use crate::child::ChildBroker;

const TOPIC: &str = "many";
const RECORD_BYTES: usize = 1_024;
/// Records a second while the broker is killed, and how long they come before.
const LOAD_RATE: f64 = 20_000.0;
const LOAD_DURATION: Duration = Duration::from_secs(2);
/// How long a broker settles before its idle memory is read.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of partitions
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: u32,
    /// Records of 1 KiB in them
    #[arg(long, value_name = "N", default_value_t = 10 << 20)]
    pub(crate) records: u64,
}

impl Options {
    pub(crate) fn json(&self) -> Value {
        json!({ "partitions": self.partitions, "records": self.records })
    }
}

pub(crate) async fn measure(options: &Options, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    let home = harness.broker.home().context("it takes a broker of its own: see --data")?;
    let (data, empty) = (home.join("start-up"), home.join("empty"));
    let mut figures = vec![Figure::new("idle_bytes", Unit::Bytes, idle_bytes(&empty).await?)];
    if !data.exists() {
        harness.output.note("filling partitions ...");
        fill(options, &data).await?;
    }

    let broker = ChildBroker::start(&data, "warn")?;
    wait_for(options, &broker).await?;
    stop(broker).await?;
    let begun = Instant::now();
    let broker = ChildBroker::start(&data, "warn")?;
    figures.push(seconds("clean_ready_s", broker.ready_after()));
    let client = Client::connect(broker.url())?;
    append(&client, options.partitions - 1).await?;
    figures.push(seconds("clean_first_ack_s", begun.elapsed()));
    drop(client);

    let producer = load(&broker).await?;
    let begun = Instant::now();
    broker.kill()?;
    // What is on its way is lost with the broker, which nobody waits for.
    drop(producer);
    let broker = ChildBroker::start(&data, "warn")?;
    figures.push(seconds("killed_ready_s", broker.ready_after()));
    let client = Client::connect(broker.url())?;
    append(&client, options.partitions - 1).await?;
    figures.push(seconds("killed_first_ack_s", begun.elapsed()));
    wait_for(options, &broker).await?;
    figures.push(seconds("killed_all_acks_s", begun.elapsed()));
    stop(broker).await?;
    Ok(figures)
}

fn seconds(name: &str, time: Duration) -> Figure {
    Figure::new(name, Unit::Seconds, time.as_secs_f64())
}

/// Stops a broker in order, while its clients go on and hear of it.
async fn stop(broker: ChildBroker) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(|| broker.stop()).await?
}

/// Memory of a broker without topics.
async fn idle_bytes(data: &Path) -> anyhow::Result<f64> {
    let broker = ChildBroker::start(data, "warn")?;
    tokio::time::sleep(IDLE_PAUSE).await;
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", broker.id()))?;
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok());
    stop(broker).await?;
    std::fs::remove_dir_all(data)?;
    Ok(pages.context("the system does not say how much memory a broker has")?
        * rustix::param::page_size() as f64)
}

/// Makes the topic, and appends to all its partitions.
async fn fill(options: &Options, data: &Path) -> anyhow::Result<()> {
    let broker = ChildBroker::start(data, "warn")?;
    let client = Client::connect(broker.url())?;
    client.admin().create_topic(TOPIC, options.partitions, std::iter::empty().collect()).await?;
    let producer = client.producer(TOPIC).build().await?;
    let values = Values::new(RECORD_BYTES);
    // Partition after partition: larger batches, so sooner done.
    let share = (options.records / u64::from(options.partitions)).max(1);
    for number in 0..share * u64::from(options.partitions) {
        let partition = PartitionIndex::new((number / share) as u32);
        let record = Record::value(values.get(number)).partition(partition);
        drop(producer.send(record).await?);
    }
    producer.close().await?;
    stop(broker).await
}

/// Appends a record to a partition, and waits until it is durable.
async fn append(client: &Client, partition: u32) -> anyhow::Result<()> {
    let producer = client.producer(TOPIC).build().await?;
    let record = Record::value(b"first").partition(PartitionIndex::new(partition));
    producer.send(record).await?.await?;
    Ok(producer.close().await?)
}

/// Waits until all partitions take records.
async fn wait_for(options: &Options, broker: &ChildBroker) -> anyhow::Result<()> {
    let producer = Client::connect(broker.url())?.producer(TOPIC).build().await?;
    for partition in 0..options.partitions {
        let record = Record::value(b"there").partition(PartitionIndex::new(partition));
        drop(producer.send(record).await?);
    }
    Ok(producer.close().await?)
}

/// Lets a broker be under load for a while; what is on its way then is on its way still.
async fn load(broker: &ChildBroker) -> anyhow::Result<Producer> {
    let producer = Client::connect(broker.url())?.producer(TOPIC).build().await?;
    let partitions = u64::from(producer.partitions());
    let values = Values::new(RECORD_BYTES);
    let mut pace = Pace::new(u64::MAX, Some(LOAD_DURATION), Some(LOAD_RATE));
    while let Some((number, _)) = pace.next(1).await {
        let partition = PartitionIndex::new((number % partitions) as u32);
        drop(producer.send(Record::value(values.get(number)).partition(partition)).await?);
    }
    Ok(producer)
}
