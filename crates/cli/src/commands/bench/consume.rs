//! `bench consume`: reads everything from the beginning, each consumer by itself.

use std::time::Instant;

use anyhow::bail;
use taffrail_client::{Position, Until};
use tokio::task::JoinSet;

use super::Run;
use super::report::Report;

pub(super) async fn measure(run: &Run) -> anyhow::Result<Report> {
    let mut consumers = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..run.options.consumers.unwrap_or(1).max(1) {
        consumers.spawn(consume(run.clone(), begun));
    }
    let (mut records, mut bytes) = (0, 0);
    while let Some(read) = consumers.join_next().await {
        let (own_records, own_bytes) = read??;
        records += own_records;
        bytes += own_bytes;
    }
    if records == 0 {
        bail!("the topic {} is empty: fill it, or leave --topic out", run.topic);
    }
    Ok(Report {
        workload: "consume",
        run: run.clone(),
        records,
        bytes,
        failed_records: 0,
        refused_batches: 0,
        elapsed: begun.elapsed(),
        latencies: None,
        end_to_end: None,
    })
}

/// Reads and decodes everything; returns the count of records and the bytes of keys and values.
async fn consume(run: Run, begun: Instant) -> anyhow::Result<(u64, u64)> {
    let builder = run.connect()?.consumer().topic(&run.topic);
    let mut consumer = builder.from(Position::Earliest).until(Until::HighWatermark).build().await?;
    let (mut records, mut bytes) = (0, 0);
    while let Some(batch) = consumer.next_batch().await {
        for record in batch?.records() {
            let record = record?;
            let record_bytes =
                record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            records += 1;
            bytes += record_bytes as u64;
        }
        if run.options.duration.is_some_and(|duration| begun.elapsed() > duration) {
            break;
        }
    }
    Ok((records, bytes))
}
