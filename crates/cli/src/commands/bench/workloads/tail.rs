//! Consumers that follow while records are appended, and measure the time from end to end.
//!
//! A record's value begins with the number of the run and the moment it was to be sent, in
//! nanoseconds since the run began; both ends are this process, so one clock does.

use std::time::{Duration, Instant};

use anyhow::bail;
use taffrail_client::{Consumer, Position};
use tokio::sync::watch;

use super::super::harness::Harness;
use super::super::latencies::Latencies;
use super::load::Load;

/// Bytes of a stamp.
const STAMP_BYTES: usize = 16;

/// How long a consumer may lag behind the last acknowledgement.
const LAG_MAX: Duration = Duration::from_secs(10);

/// How long a consumer may take to find its place.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Marks the records of one run with the moments they were to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    begun: Instant,
    run: u64,
}

impl Stamp {
    pub(super) fn now() -> Self {
        let run = jiff::Timestamp::now().as_nanosecond() as u64;
        Self { begun: Instant::now(), run }
    }

    /// Marks `value`, if it is long enough.
    pub(super) fn write(self, value: &mut [u8], moment: Instant) {
        let nanos = moment.saturating_duration_since(self.begun).as_nanos() as u64;
        if let Some((stamp, _)) = value.split_first_chunk_mut::<STAMP_BYTES>() {
            stamp[..8].copy_from_slice(&self.run.to_le_bytes());
            stamp[8..].copy_from_slice(&nanos.to_le_bytes());
        }
    }

    /// How long ago the record was to be sent, if it is one of this run.
    pub(super) fn age(self, value: &[u8]) -> Option<Duration> {
        let (run, rest) = value.split_first_chunk()?;
        let (nanos, _) = rest.split_first_chunk()?;
        let sent = Duration::from_nanos(u64::from_le_bytes(*nanos));
        let is_ours = u64::from_le_bytes(*run) == self.run;
        is_ours.then(|| self.begun.elapsed().saturating_sub(sent))
    }
}

/// A consumer that follows.
pub(super) struct Tail {
    consumer: Consumer,
    stamp: Stamp,
}

impl Tail {
    /// Starts one, and waits until it has found its place.
    pub(super) async fn start(
        load: &Load,
        harness: &Harness,
        topic: &str,
        stamp: Stamp,
    ) -> anyhow::Result<Self> {
        if load.record_bytes < STAMP_BYTES {
            bail!("to measure from end to end, --record-bytes must be at least {STAMP_BYTES}");
        }
        let builder = harness.connect()?.consumer().topic(topic).from(Position::Latest);
        let mut consumer = builder.build().await?;
        let deadline = Instant::now() + START_TIMEOUT;
        while consumer.places().any(|place| place.next_offset.is_none()) {
            if Instant::now() > deadline {
                bail!("a consumer of {topic} did not start");
            }
            // What comes here is older than this run.
            let wait = tokio::time::timeout(Duration::from_millis(20), consumer.next_event());
            if let Ok(Some(Err(error))) = wait.await {
                return Err(error.into());
            }
        }
        Ok(Self { consumer, stamp })
    }

    /// Follows until it has seen as many records as `expected` says once the producers are done.
    pub(super) async fn run(
        mut self,
        mut expected: watch::Receiver<Option<u64>>,
    ) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::new();
        let mut seen = 0;
        loop {
            let end = *expected.borrow_and_update();
            if end.is_some_and(|end| end <= seen) {
                return Ok(latencies);
            }
            let batch = tokio::select! {
                batch = self.consumer.next_batch() => batch,
                // Its other end lives until all tails have ended.
                _ = expected.changed() => continue,
                () = tokio::time::sleep(LAG_MAX), if end.is_some() => None,
            };
            let Some(batch) = batch else {
                bail!("a consumer saw {seen} records of {}", end.unwrap_or_default());
            };
            for record in batch?.records() {
                if let Some(age) = self.stamp.age(record?.value.unwrap_or_default()) {
                    latencies.record(age);
                    seen += 1;
                }
            }
        }
    }
}
