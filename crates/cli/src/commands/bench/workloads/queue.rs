//! `bench queue`: workers share what is in a topic, and then what comes; some records fail, some always, and
//! some workers go away with what they have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use taffrail_client::proto::{CreateQueueRequest, DescribeQueueResponse, QueueSettings};
use taffrail_client::{Client, Job, PartitionIndex, Record, Verdict};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::figure::{Figure, Unit};
use super::super::harness::Harness;
use super::super::latencies::Latencies;
use super::super::values::{Values, mix};
use super::load::{Durability, Load};
use super::pace::Pace;
use super::produce;
use super::tail::Stamp;

/// How long the workers may take for what is there.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked how far they are: what that costs is a part of what is measured.
const LOOK: Duration = Duration::from_millis(100);
/// How long a lease is.
const LEASE: Duration = Duration::from_secs(2);
/// How long a worker that goes away has what it was given.
const STALL: Duration = Duration::from_millis(300);
/// How often one does.
const STALL_INTERVAL: Duration = Duration::from_secs(1);
/// One in so many records fails at its first attempt, one in so many at each.
const FAILING: u64 = 100;
const POISON: u64 = 1_000;
/// Longer than a run.
const LATER: Duration = Duration::from_secs(24 * 3_600);

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of records that are there when the workers begin
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub(crate) records: u64,
    /// Bytes of a record's value
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) record_bytes: usize,
    /// Number of partitions
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: u32,
    /// Number of workers, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: u32,
    /// Records that a worker has at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prefetch: u32,
    /// Records a second that come when those are done
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// For how long they do
    #[arg(long, value_name = "T", default_value = "10s", value_parser = crate::duration::parse)]
    pub(crate) duration: Duration,
    /// Number of records that are parked before anything is measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) parked: u64,
    /// Number of records that are delayed, for longer than it takes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) delayed: u64,
}

impl Options {
    pub(crate) fn standard(scale: f64) -> Self {
        Self {
            records: ((200_000.0 * scale) as u64).max(1),
            record_bytes: 256,
            partitions: 4,
            workers: 8,
            prefetch: 64,
            rate: 5_000,
            duration: Duration::from_secs_f64(10.0 * scale),
            parked: 0,
            delayed: 0,
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "records": self.records,
            "record_bytes": self.record_bytes,
            "partitions": self.partitions,
            "workers": self.workers,
            "prefetch": self.prefetch,
            "rate": self.rate,
            "duration_seconds": self.duration.as_secs_f64(),
            "parked": self.parked,
            "delayed": self.delayed,
        })
    }

    fn backlog(&self) -> u64 {
        self.parked + self.delayed
    }
}

/// What the workers know together.
#[derive(Debug)]
struct Ledger {
    options: Options,
    stamp: Stamp,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Attempts that ended with nothing said: when the lease does at the latest.
    left: HashMap<(u32, u64), Instant>,
    latencies: Latencies,
    lateness: Latencies,
    redelivered: u64,
}

pub(crate) async fn measure(options: &Options, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    let topic = harness.create_topic(options.partitions, Durability::Fsync).await?;
    let client = harness.connect()?;
    let settings = QueueSettings {
        lease_ms: Some(LEASE.as_millis() as u32),
        max_attempts: Some(3),
        min_backoff_ms: Some(100),
        max_outstanding: Some(1_000_000),
        max_parked: Some(10_000_000),
        ..QueueSettings::default()
    };
    let (queue, settings) = (topic.clone(), Some(settings));
    let request = CreateQueueRequest { queue, topic: topic.clone(), settings, from: None };
    client.queues().create(request).await.context("cannot make the queue")?;
    let measured = run(options, harness, &topic).await;
    if let Err(error) = client.queues().delete(&topic).await {
        harness.output.note(format_args!("the queue {topic} is left over: {error}"));
    }
    harness.delete_topic(&topic).await?;
    measured
}

async fn run(options: &Options, harness: &Harness, topic: &str) -> anyhow::Result<Vec<Figure>> {
    let client = harness.connect()?;
    let mut figures = Vec::new();
    if options.backlog() > 0 {
        figures.extend(build_backlog(options, harness, &client, topic).await?);
    }
    fill(options, harness, topic, options.records).await?;
    let ledger = Arc::new(Ledger::new(options));
    let before = client.queues().describe(topic).await?;
    let used = harness.broker.begin().await;
    let (stop, stopping) = watch::channel(false);
    let mut workers = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..options.workers {
        let client = harness.connect()?;
        workers.spawn(work(client, topic.to_owned(), Arc::clone(&ledger), stopping.clone()));
    }
    // What failed comes back later, which is not measured here.
    let wanted = options.records * 98 / 100;
    let drained = await_acknowledged(&client, topic, &before, wanted).await?;
    let seconds = begun.elapsed().as_secs_f64();
    figures.extend([
        Figure::count("drained_records", drained),
        Figure::new("acks_per_second", Unit::PerSecond, drained as f64 / seconds),
    ]);
    figures.extend(harness.broker.cost(used, drained, None).await);

    await_done(&client, topic, options).await?;
    ledger.seen().latencies = Latencies::new();
    let stalling = tokio::spawn(stall(
        harness.connect()?,
        topic.to_owned(),
        Arc::clone(&ledger),
        stopping.clone(),
    ));
    let produced = produce_at_rate(options, harness, topic, ledger.stamp).await?;
    await_done(&client, topic, options).await?;
    stop.send_replace(true);
    stalling.await??;
    while let Some(worked) = workers.join_next().await {
        worked??;
    }
    let seen = ledger.seen();
    figures.push(Figure::count("records_at_rate", produced));
    figures.extend(seen.latencies.figures("delivery"));
    figures.push(Figure::count("redelivered_after_lease", seen.redelivered));
    figures.extend(seen.lateness.figures("late_after_lease"));
    Ok(figures)
}

/// Has many records parked or delayed, and says what they cost.
async fn build_backlog(
    options: &Options,
    harness: &Harness,
    client: &Client,
    topic: &str,
) -> anyhow::Result<Vec<Figure>> {
    harness.output.note("building a backlog ...");
    fill(options, harness, topic, options.backlog()).await?;
    let before = harness.broker.own_bytes();
    let (stop, stopping) = watch::channel(false);
    let mut workers = JoinSet::new();
    for _ in 0..options.workers {
        let (client, topic) = (harness.connect()?, topic.to_owned());
        let (parked, partitions) = (options.parked, u64::from(options.partitions));
        let handle = move |job: Job| {
            // Records went round the partitions.
            let number = job.offset().get() * partitions + u64::from(job.partition().get());
            std::future::ready(if number < parked {
                Verdict::Reject { reason: "a part of the backlog".into() }
            } else {
                Verdict::Retry { delay: Some(LATER) }
            })
        };
        let prefetch = options.prefetch.max(512);
        let mut stopping = stopping.clone();
        workers.spawn(async move {
            let stop = async move { drop(stopping.wait_for(|it| *it).await) };
            client.queue(&topic).concurrency(prefetch).run(handle, stop).await
        });
    }
    let begun = Instant::now();
    loop {
        let described = client.queues().describe(topic).await?;
        let sum = |of: fn(&taffrail_client::proto::QueuePartition) -> u64| {
            described.partitions.iter().map(of).sum::<u64>()
        };
        let done = sum(|it| it.parked) + sum(|it| it.delayed);
        if done >= options.backlog() {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "the backlog takes too long: {done} are done");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.send_replace(true);
    while let Some(worked) = workers.join_next().await {
        worked??;
    }
    let after = harness.broker.own_bytes();
    let bytes = before.zip(after).map(|(before, after)| (after - before).max(0.0));
    let per_million = bytes.map(|bytes| bytes * 1e6 / options.backlog() as f64);
    let figure = per_million
        .map(|bytes| Figure::new("broker_bytes_per_million_outstanding", Unit::Bytes, bytes));
    Ok(figure.into_iter().collect())
}

async fn fill(
    options: &Options,
    harness: &Harness,
    topic: &str,
    records: u64,
) -> anyhow::Result<()> {
    let load = Load {
        records,
        record_bytes: options.record_bytes,
        partitions: options.partitions,
        ..Load::default()
    };
    produce::fill(&load, harness.connect()?, topic, &harness.progress).await
}

/// Appends records that say when they were to be sent.
async fn produce_at_rate(
    options: &Options,
    harness: &Harness,
    topic: &str,
    stamp: Stamp,
) -> anyhow::Result<u64> {
    let producer = harness.connect()?.producer(topic).build().await?;
    let values = Values::new(options.record_bytes);
    let records = (options.rate as f64 * options.duration.as_secs_f64()) as u64;
    let mut pace = Pace::new(records, None, Some(options.rate as f64));
    let (mut value, mut count) = (Vec::new(), 0);
    while let Some((number, moment)) = pace.next(1).await {
        value.clear();
        value.extend_from_slice(values.get(number));
        stamp.write(&mut value, moment.unwrap_or_else(Instant::now));
        let partition = PartitionIndex::new((number % u64::from(options.partitions)) as u32);
        drop(producer.send(Record::value(&value).partition(partition)).await?);
        harness.progress.inc(1);
        count += 1;
    }
    producer.close().await?;
    Ok(count)
}

/// Works until it is told to stop.
async fn work(
    client: Client,
    queue: String,
    ledger: Arc<Ledger>,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let prefetch = ledger.options.prefetch;
    let handle = move |job: Job| std::future::ready(ledger.take(&job));
    let stop = async move { drop(stopping.wait_for(|it| *it).await) };
    client.queue(&queue).concurrency(prefetch).run(handle, stop).await?;
    Ok(())
}

/// Again and again, takes what it gets and goes away with it.
async fn stall(
    client: Client,
    queue: String,
    ledger: Arc<Ledger>,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    loop {
        let own = Arc::clone(&ledger);
        let handle = move |job: Job| {
            own.leave(&job);
            std::future::pending()
        };
        let worker = client.queue(&queue).concurrency(ledger.options.prefetch);
        let working = worker.run(handle, std::future::pending());
        if let Ok(ended) = tokio::time::timeout(STALL, working).await {
            ended?;
        }
        tokio::select! {
            _ = stopping.wait_for(|it| *it) => return Ok(()),
            () = tokio::time::sleep(STALL_INTERVAL) => {}
        }
    }
}

/// Waits until so many more were acknowledged, and returns how many were.
async fn await_acknowledged(
    client: &Client,
    queue: &str,
    before: &DescribeQueueResponse,
    wanted: u64,
) -> anyhow::Result<u64> {
    let count = |it: &DescribeQueueResponse| it.tally.unwrap_or_default().acknowledged;
    let begun = Instant::now();
    loop {
        let done = count(&client.queues().describe(queue).await?) - count(before);
        if done >= wanted {
            return Ok(done);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "it takes too long: {done} of {wanted} are acknowledged"
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until nothing is left but the backlog.
async fn await_done(client: &Client, queue: &str, options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let described = client.queues().describe(queue).await?;
        let partitions = described.partitions.iter();
        let open = partitions.map(|it| it.fresh + it.ready + it.leased + it.delayed).sum::<u64>();
        if open <= options.delayed {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "it takes too long: {open} records are open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Ledger {
    fn new(options: &Options) -> Self {
        let seen = Seen {
            left: HashMap::new(),
            latencies: Latencies::new(),
            lateness: Latencies::new(),
            redelivered: 0,
        };
        Self { options: options.clone(), stamp: Stamp::now(), seen: Mutex::new(seen) }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody gets a record, and settles it.
    fn take(&self, job: &Job) -> Verdict {
        let now = Instant::now();
        let place = (job.partition().get(), job.offset().get());
        let mut seen = self.seen();
        if job.attempt() == 1
            && let Some(age) = job.value().and_then(|value| self.stamp.age(value))
        {
            seen.latencies.record(age);
        }
        if let Some(due) = seen.left.remove(&place) {
            seen.redelivered += 1;
            seen.lateness.record(now.saturating_duration_since(due));
        }
        let chance = mix(place.1 * 1_000 + u64::from(place.0));
        let fails = chance.is_multiple_of(POISON) || chance % FAILING == 1 && job.attempt() == 1;
        if fails { Verdict::Retry { delay: None } } else { Verdict::Done }
    }

    /// Somebody gets a record, and goes away.
    fn leave(&self, job: &Job) {
        let place = (job.partition().get(), job.offset().get());
        self.seen().left.insert(place, Instant::now() + LEASE);
    }
}
