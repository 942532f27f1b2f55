//! `bench replay`: a producer at a rate, alone and then beside a consumer that reads history, and what
//! it feels of that.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use taffrail_client::Client;

use super::super::figure::{Figure, Unit};
use super::super::harness::Harness;
use super::consume::Replay;
use super::load;
use super::produce;

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Records of 1 KiB that the consumer reads, again and again
    #[arg(long, value_name = "N", default_value_t = 8 << 20)]
    pub(crate) records: u64,
    /// Bytes a second that it reads, at the most
    #[arg(long, value_name = "N", default_value_t = 1_000_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) replay_bytes_per_second: u64,
    /// Records of 1 KiB a second that the producer appends to another topic
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// How long the producer is measured, once alone and once beside the consumer
    #[arg(long, value_name = "T", default_value = "10s", value_parser = crate::duration::parse)]
    pub(crate) duration: Duration,
}

impl Options {
    pub(crate) fn json(&self) -> Value {
        json!({
            "records": self.records,
            "replay_bytes_per_second": self.replay_bytes_per_second,
            "rate": self.rate,
            "duration_seconds": self.duration.as_secs_f64(),
        })
    }
}

pub(crate) async fn measure(options: &Options, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    let history = load::Load { records: options.records, ..load::Load::default() };
    let topic = harness.filled_topic(&history).await?;
    let live = load::Load {
        rate: Some(options.rate),
        records: (options.rate as f64 * options.duration.as_secs_f64()) as u64,
        ..load::Load::default()
    };
    let alone = produce::measure(&live, harness).await?.figures;
    let reading = tokio::spawn(read_for(
        options.clone(),
        topic,
        harness.connect()?,
        harness.progress.clone(),
    ));
    let beside = produce::measure(&live, harness).await?.figures;
    let speed = reading.await?.context("the consumer failed")?;
    let mut figures = Vec::new();
    let p99 = |figures: &[Figure]| {
        let p99 = figures.iter().find(|it| it.name == "latency_p99_us");
        p99.map(|it| it.value).context("no record was sent: let it take longer, or raise --rate")
    };
    for (when, of) in [("alone", &alone), ("beside", &beside)] {
        let latencies = of.iter().filter(|figure| figure.name.starts_with("latency_"));
        figures.extend(
            latencies.map(|it| Figure::new(format!("{when}_{}", it.name), it.unit, it.value)),
        );
    }
    figures.push(Figure::new("p99_beside_per_alone", Unit::Ratio, p99(&beside)? / p99(&alone)?));
    figures.push(Figure::new("replay_bytes_per_second", Unit::BytesPerSecond, speed));
    Ok(figures)
}

/// Reads a topic to its end, again and again, for as long as the producer is measured; bytes a second.
async fn read_for(
    options: Options,
    topic: String,
    client: Client,
    progress: ProgressBar,
) -> anyhow::Result<f64> {
    let speed_max = Some(options.replay_bytes_per_second as f64);
    let begun = Instant::now();
    let mut read = 0;
    while begun.elapsed() < options.duration {
        let duration = Some(options.duration.saturating_sub(begun.elapsed()));
        let (topic, progress) = (topic.clone(), progress.clone());
        let replay = Replay { topic, speed_max, duration, progress };
        read += replay.run(client.clone()).await?.1;
    }
    Ok(read as f64 / begun.elapsed().as_secs_f64())
}
