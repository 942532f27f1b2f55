//! The standard workloads: the same everywhere, so that figures can be compared.

use std::time::Duration;

use super::case::{Case, Work};
use super::workloads::{churn, consume, load, queue, replay, start_up};
use crate::commands::produce::CompressionArgument;
use crate::exit::Usage;

/// The seconds of a workload that goes on at a rate.
const SECONDS: f64 = 10.0;

/// Which of them, and how much of each.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Names or their beginnings, such as w2-1000 or w1; without any, all
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// A part of the work, such as 0.1 for a first look
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = parse_scale)]
    scale: f64,
    /// Say which there are, and measure nothing
    #[arg(long)]
    list: bool,
}

fn parse_scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if 0.0 < scale && scale <= 1.0 { Ok(scale) } else { Err("it lies above 0, up to 1".to_owned()) }
}

impl Options {
    pub(super) const fn is_list(&self) -> bool {
        self.list
    }

    /// The cases that are meant.
    pub(super) fn cases(&self) -> Result<Vec<Case>, Usage> {
        let all = self.all();
        // A whole name means that case alone, even where others begin with it.
        let means = |text: &String, case: &Case| {
            let text = text.to_lowercase();
            let is_whole = all.iter().any(|case| case.name == text);
            if is_whole { case.name == text } else { case.name.starts_with(&text) }
        };
        let is_known = |text: &&String| all.iter().any(|case| means(text, case));
        if let Some(unknown) = self.cases.iter().find(|text| !is_known(text)) {
            let advice = "see `taffrail bench standard --list`";
            return Err(Usage(format!("no standard workload begins with {unknown:?}: {advice}")));
        }
        let is_meant =
            |case: &&Case| self.cases.is_empty() || self.cases.iter().any(|text| means(text, case));
        Ok(all.iter().filter(is_meant).cloned().collect())
    }

    fn all(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut add = |name: String, work: Work| cases.push(Case { name, work });
        // One producer, as fast as it goes.
        for durability in [load::Durability::Fsync, load::Durability::PageCache] {
            for (record_bytes, size) in [(1_024, "1k"), (100, "100b")] {
                let load = load::Load { durability, ..self.bulk(record_bytes) };
                add(format!("w1-{}-{size}", durability.name()), Work::Produce(load));
            }
        }
        for (compression, name) in
            [(CompressionArgument::Lz4, "lz4"), (CompressionArgument::Zstd, "zstd")]
        {
            let load = load::Load { compression, ..self.bulk(1_024) };
            add(format!("w1-fsync-1k-{name}"), Work::Produce(load));
        }
        // Latency at a rate, with a consumer that follows.
        for rate in [1_000, 10_000, 50_000] {
            let load = load::Load { consumers: 1, ..self.at_rate(rate) };
            add(format!("w2-{rate}"), Work::Produce(load));
        }
        // Producers that wait for each record.
        for producers in [1, 16, 64, 256] {
            let load = load::Load {
                records: u64::MAX,
                record_bytes: 128,
                producers,
                in_flight: Some(1),
                duration: Some(Duration::from_secs_f64(SECONDS / 2.0 * self.scale)),
                ..load::Load::default()
            };
            add(format!("w3-{producers}"), Work::Produce(load));
        }
        // Many partitions.
        for partitions in [1, 16, 256, 1_000] {
            let load = load::Load { partitions, ..self.at_rate(50_000) };
            add(format!("w4-{partitions}"), Work::Produce(load));
        }
        // Replay: warm, cold, and beside a producer.
        let history = self.scaled(8 << 20);
        let (load, cold) = (load::Load { records: history, ..load::Load::default() }, false);
        add("w5-warm-1k".into(), Work::Consume(consume::Options { load: load.clone(), cold }));
        let small =
            load::Load { records: self.scaled(32 << 20), record_bytes: 100, ..load.clone() };
        add("w5-warm-100b".into(), Work::Consume(consume::Options { load: small, cold }));
        add("w5-cold-1k".into(), Work::Consume(consume::Options { load, cold: true }));
        let replay = replay::Options {
            records: history,
            replay_bytes_per_second: 1_000_000_000,
            rate: 5_000,
            duration: Duration::from_secs_f64(SECONDS * self.scale),
        };
        add("w5-beside".into(), Work::Replay(replay));
        // Fan-out, without and with consumers that take nothing.
        for stalled in [0, 5] {
            let load = load::Load { consumers: 100 - stalled, stalled, ..self.at_rate(500) };
            add(format!("w6-stalled-{stalled}"), Work::Produce(load));
        }
        let partitions = ((1_000.0 * self.scale) as u32).max(1);
        add(
            "w7".into(),
            Work::StartUp(start_up::Options { partitions, records: self.scaled(10 << 20) }),
        );
        add("w8".into(), Work::Churn(churn::Options::standard(self.scale)));
        let queue = queue::Options::standard(self.scale);
        let many = self.scaled(1_000_000);
        add("w9".into(), Work::Queue(queue.clone()));
        add("w9-parked".into(), Work::Queue(queue::Options { parked: many, ..queue.clone() }));
        add("w9-delayed".into(), Work::Queue(queue::Options { delayed: many, ..queue }));
        cases
    }

    fn scaled(&self, records: u64) -> u64 {
        ((records as f64 * self.scale) as u64).max(1)
    }

    /// As many records as make a gigabyte or so.
    fn bulk(&self, record_bytes: usize) -> load::Load {
        let records = if record_bytes < 1_024 { 8_000_000 } else { 1_000_000 };
        load::Load { records: self.scaled(records), record_bytes, ..load::Load::default() }
    }

    fn at_rate(&self, rate: u64) -> load::Load {
        let records = self.scaled((rate as f64 * SECONDS) as u64);
        load::Load { rate: Some(rate), records, ..load::Load::default() }
    }
}
