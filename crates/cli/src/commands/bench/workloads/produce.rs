//! `bench produce`: appends records, and measures how long each waits for its acknowledgement.
//!
//! At a rate every record is measured, from the moment it was to be sent; without one, one record in
//! some dozens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use taffrail_client::{
    Acks, Client, Consumer, Delivery, PartitionIndex, Position, ProduceError, Producer,
    ProducerStats, Record,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::case::Outcome;
use super::super::figure::{Figure, Unit};
use super::super::harness::Harness;
use super::super::latencies::Latencies;
use super::super::values::{Values, mix};
use super::load::Load;
use super::pace::Pace;
use super::tail::{Stamp, Tail};
use crate::commands::produce::{AcksArgument, CompressionArgument};

/// Without a rate and without followers, one record in so many is measured.
const STRIDE: u64 = 64;

/// One of several producers.
struct Lane {
    load: Load,
    values: Arc<Values>,
    /// Of the topic, whoever made it.
    partitions: u32,
    producer: Producer,
    index: u32,
    stamp: Stamp,
    progress: ProgressBar,
}

/// What one producer did.
struct Done {
    stats: ProducerStats,
    /// The first one.
    failure: Option<ProduceError>,
    latencies: Latencies,
}

pub(crate) async fn measure(load: &Load, harness: &Harness) -> anyhow::Result<Outcome> {
    match &load.topic {
        Some(topic) => run(load, harness, topic.as_str()).await,
        None => {
            let topic = harness.create_topic(load.partitions, load.durability).await?;
            let outcome = run(load, harness, &topic).await?;
            harness.delete_topic(&topic).await?;
            Ok(outcome)
        }
    }
}

/// Fills a topic for another workload.
pub(crate) async fn fill(
    load: &Load,
    client: Client,
    topic: &str,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let load = Load { producers: 1, rate: None, duration: None, in_flight: None, ..load.clone() };
    let producer = load.producer(&client, topic).acks(Acks::Committed).build().await?;
    let partitions = producer.partitions();
    let (stamp, progress) = (Stamp::now(), progress.clone());
    let values = Arc::new(Values::new(load.record_bytes));
    let done = Lane { load, values, partitions, producer, index: 0, stamp, progress }.run().await?;
    done.failure.map_or(Ok(()), |failure| Err(failure).context("cannot fill the topic"))
}

async fn run(load: &Load, harness: &Harness, topic: &str) -> anyhow::Result<Outcome> {
    let stamp = Stamp::now();
    let (expected, expecting) = watch::channel(None);
    let mut tails = JoinSet::new();
    for _ in 0..load.consumers {
        tails.spawn(Tail::start(load, harness, topic, stamp).await?.run(expecting.clone()));
    }
    let mut stalled: Vec<Consumer> = Vec::new();
    for _ in 0..load.stalled {
        let builder = harness.connect()?.consumer().topic(topic).from(Position::Latest);
        stalled.push(builder.build().await?);
    }
    let values = Arc::new(Values::new(load.record_bytes));
    let mut lanes = Vec::new();
    for index in 0..load.producers {
        let producer = load.producer(&harness.connect()?, topic).build().await?;
        let (load, partitions) = (load.clone(), producer.partitions());
        let (values, progress) = (Arc::clone(&values), harness.progress.clone());
        lanes.push(Lane { load, values, partitions, producer, index, stamp, progress });
    }

    let used = harness.broker.begin().await;
    let begun = Instant::now();
    let mut producers = JoinSet::new();
    for lane in lanes {
        producers.spawn(lane.run());
    }
    let (mut records, mut failed, mut refused) = (0, 0, 0);
    let (mut latencies, mut failure) = (Latencies::new(), None);
    while let Some(done) = producers.join_next().await {
        let Done { stats, failure: own_failure, latencies: own } = done??;
        records += stats.delivered_records;
        failed += stats.failed_records + stats.unknown_records;
        refused += stats.refused_batches;
        failure = failure.or(own_failure);
        latencies.add(&own);
    }
    let elapsed = begun.elapsed();
    let bytes = records * load.record_bytes as u64;
    let mut figures = throughput(records, bytes, elapsed);
    figures.push(Figure::count("failed_records", failed));
    if load.acks == AcksArgument::None {
        // Of producers that wait for nothing, how many records a refused batch had is not known.
        figures.push(Figure::count("refused_batches", refused));
    } else {
        figures.extend(latencies.figures("latency"));
    }
    // Nobody listens where nobody follows.
    let _ = expected.send(Some(records));
    let mut end_to_end = Latencies::new();
    while let Some(own) = tails.join_next().await {
        end_to_end.add(&own??);
    }
    figures.extend(end_to_end.figures("end_to_end"));
    let is_compressed = load.compression != CompressionArgument::None;
    figures.extend(harness.broker.cost(used, records, is_compressed.then_some(bytes)).await);
    drop(stalled);
    Ok(Outcome { figures, failure })
}

/// What went in which time.
pub(super) fn throughput(records: u64, bytes: u64, elapsed: Duration) -> Vec<Figure> {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    vec![
        Figure::count("records", records),
        Figure::new("seconds", Unit::Seconds, seconds),
        Figure::new("records_per_second", Unit::PerSecond, records as f64 / seconds),
        Figure::new("bytes_per_second", Unit::BytesPerSecond, bytes as f64 / seconds),
    ]
}

impl Lane {
    /// Appends its share of the records.
    async fn run(self) -> anyhow::Result<Done> {
        let producers = u64::from(self.load.producers);
        let extra = u64::from(u64::from(self.index) < self.load.records % producers);
        let records = self.load.records / producers + extra;
        let rate = self.load.rate.map(|rate| rate as f64 / producers as f64);
        let pace = Pace::new(records, self.load.duration, rate);
        let (latencies, failure) = match self.load.in_flight {
            Some(in_flight) => (self.run_closed(pace, in_flight as usize).await?, None),
            None => self.run_open(pace).await?,
        };
        let failure = failure.or(self.producer.close().await.err());
        Ok(Done { stats: self.producer.stats(), failure, latencies })
    }

    /// As many as the client takes.
    async fn run_open(&self, mut pace: Pace) -> anyhow::Result<(Latencies, Option<ProduceError>)> {
        let (measured, measuring) = unbounded_channel();
        let measuring = tokio::spawn(measure_all(measuring));
        let stride = if self.load.consumers > 0 { 1 } else { STRIDE };
        let mut stamped = Vec::new();
        while let Some((number, moment)) = pace.next(stride).await {
            let delivery = self.send(&mut stamped, number, moment).await?;
            if let Some(moment) = moment {
                self.progress.inc(if self.load.rate.is_some() { 1 } else { stride });
                // The other end lives as long as this one.
                drop(measured.send((moment, delivery)));
            }
        }
        drop(measured);
        // What is on its way is delivered now.
        let failure = self.producer.flush().await.err();
        Ok((measuring.await?, failure))
    }

    /// No more than so many without an answer.
    async fn run_closed(&self, mut pace: Pace, in_flight: usize) -> anyhow::Result<Latencies> {
        let (mut latencies, mut stamped) = (Latencies::new(), Vec::new());
        let mut waiting = FuturesUnordered::new();
        while let Some((number, moment)) = pace.next(1).await {
            let delivery = self.send(&mut stamped, number, moment).await?;
            let moment = moment.unwrap_or_else(Instant::now);
            waiting.push(async move { delivery.await.map(|_| moment.elapsed()) });
            while in_flight <= waiting.len() {
                // Failures are told by the producer when it closes.
                if let Some(Ok(latency)) = waiting.next().await {
                    latencies.record(latency);
                }
            }
            self.progress.inc(1);
        }
        while let Some(settled) = waiting.next().await {
            if let Ok(latency) = settled {
                latencies.record(latency);
            }
        }
        Ok(latencies)
    }

    async fn send(
        &self,
        stamped: &mut Vec<u8>,
        number: u64,
        moment: Option<Instant>,
    ) -> Result<Delivery, ProduceError> {
        let mut value = self.values.get(number);
        if let Some(moment) = moment.filter(|_| self.load.consumers > 0) {
            stamped.clear();
            stamped.extend_from_slice(value);
            self.stamp.write(stamped, moment);
            value = stamped;
        }
        let key = self.load.keys.map(|keys| {
            let number = number * u64::from(self.load.producers) + u64::from(self.index);
            (mix(number) % keys).to_be_bytes()
        });
        let mut record = Record::value(value);
        if let Some(key) = &key {
            record = record.key(key);
        } else if self.partitions > 1 {
            let partition = (number + u64::from(self.index)) % u64::from(self.partitions);
            record = record.partition(PartitionIndex::new(partition as u32));
        }
        self.producer.send(record).await
    }
}

async fn measure_all(mut sent: UnboundedReceiver<(Instant, Delivery)>) -> Latencies {
    let mut latencies = Latencies::new();
    let mut waiting = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !waiting.is_empty() {
        tokio::select! {
            one = sent.recv(), if is_open => match one {
                Some((moment, delivery)) => waiting.push(async move {
                    delivery.await.map(|_| moment.elapsed())
                }),
                None => is_open = false,
            },
            Some(latency) = waiting.next() => {
                if let Ok(latency) = latency {
                    latencies.record(latency);
                }
            }
        }
    }
    latencies
}
