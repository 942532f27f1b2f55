//! `bench produce`: appends records, and measures how long each waits for its acknowledgement.
//!
//! At a rate every record is measured, from the moment it was to be sent; without one, one record in
//! some dozens.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use taffrail_client::{
    Acks, Delivery, PartitionIndex, ProduceError, Producer, ProducerStats, Record,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::pace::Pace;
use super::report::{Latencies, Report};
use super::tail::{Stamp, Tail};
use super::{AcksArgument, Run};

/// Without a rate and without followers, one record in so many is measured.
const STRIDE: u64 = 64;

/// What one producer did.
struct Done {
    stats: ProducerStats,
    /// The first one.
    failure: Option<ProduceError>,
    latencies: Latencies,
}

/// Returns what was measured, and why the first record failed, if one did.
pub(super) async fn measure(run: &Run) -> anyhow::Result<(Report, Option<ProduceError>)> {
    let consumers = run.options.consumers.unwrap_or(0);
    let stamp = Stamp::now();
    let (expected, expecting) = watch::channel(None);
    let mut tails = JoinSet::new();
    for _ in 0..consumers {
        tails.spawn(Tail::start(run, stamp).await?.run(expecting.clone()));
    }

    let begun = Instant::now();
    let mut producers = JoinSet::new();
    for index in 0..run.options.producers.max(1) {
        let producer = run.producer()?.build().await?;
        producers.spawn(produce(run.clone(), producer, index, stamp));
    }
    let mut report = Report {
        workload: "produce",
        run: run.clone(),
        records: 0,
        bytes: 0,
        failed_records: 0,
        refused_batches: 0,
        elapsed: Duration::ZERO,
        latencies: None,
        end_to_end: None,
    };
    let (mut latencies, mut first_failure) = (Latencies::new(), None);
    while let Some(done) = producers.join_next().await {
        let Done { stats, failure, latencies: own } = done??;
        report.records += stats.delivered_records;
        report.failed_records += stats.failed_records + stats.unknown_records;
        report.refused_batches += stats.refused_batches;
        first_failure = first_failure.or(failure);
        latencies.add(&own);
    }
    report.elapsed = begun.elapsed();
    report.bytes = report.records * run.options.record_bytes as u64;
    report.latencies = (run.options.acks == AcksArgument::Committed).then_some(latencies);
    // Nobody listens where nobody follows.
    let _ = expected.send(Some(report.records));
    while let Some(own) = tails.join_next().await {
        report.end_to_end.get_or_insert_with(Latencies::new).add(&own??);
    }
    Ok((report, first_failure))
}

/// Fills the topic for another workload.
pub(super) async fn fill(run: &Run) -> anyhow::Result<()> {
    let producer = run.producer()?.acks(Acks::Committed).build().await?;
    let stamp = Stamp::now();
    let mut run = run.clone();
    run.options.producers = 1;
    run.options.consumers = None;
    run.options.rate = None;
    run.options.duration = None;
    let done = produce(run, producer, 0, stamp).await?;
    done.failure.map_or(Ok(()), |failure| Err(failure).context("cannot fill the topic"))
}

async fn produce(run: Run, producer: Producer, index: u32, stamp: Stamp) -> anyhow::Result<Done> {
    let options = &run.options;
    let producers = u64::from(options.producers.max(1));
    let extra = u64::from(u64::from(index) < options.records % producers);
    let records = options.records / producers + extra;
    let rate = options.rate.map(|rate| rate as f64 / producers as f64);
    let mut pace = Pace::new(records, options.duration, rate);
    let (measured, measuring) = unbounded_channel();
    let measuring = tokio::spawn(measure_all(measuring));
    let mut value = vec![b'.'; options.record_bytes];
    let partitions = u64::from(run.partitions);
    let stride = if options.consumers.is_some_and(|count| count > 0) { 1 } else { STRIDE };
    while let Some((number, moment)) = pace.next(stride).await {
        if let Some(moment) = moment {
            stamp.write(&mut value, moment);
        }
        let key = options.keys.map(|keys| key(number * producers + u64::from(index), keys));
        let mut record = Record::value(&value);
        if let Some(key) = &key {
            record = record.key(key);
        } else if partitions > 1 {
            let partition = (number + u64::from(index)) % partitions;
            record = record.partition(PartitionIndex::new(partition as u32));
        }
        let delivery = producer.send(record).await?;
        if let Some(moment) = moment {
            // The other end lives as long as this one.
            drop(measured.send((moment, delivery)));
        }
    }
    drop(measured);
    let failure = producer.close().await.err();
    let latencies = measuring.await?;
    Ok(Done { stats: producer.stats(), failure, latencies })
}

/// The key of a record: one of so many, as by chance, and the same for the same number.
fn key(number: u64, keys: u64) -> [u8; 8] {
    // Mixed as SplitMix64 does.
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % keys).to_be_bytes()
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
