//! What was measured, as tables or JSON: median, minimum and maximum of the rounds.
//!
//! A ratio is taken round by round, of neighbours, and then summed up like any figure.

use std::path::Path;
use std::process::Command;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use taffrail_benches::broker::Run;

pub(crate) const THROUGHPUT: &str = "values";

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    BytesPerSecond,
    Bytes,
    Count,
    Seconds,
    CpuSecondsPerMillion,
    PerSecond,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::BytesPerSecond => "bytes/s",
            Self::Bytes => "bytes",
            Self::Count => "",
            Self::Seconds => "s",
            Self::CpuSecondsPerMillion => "CPU s per million records",
            Self::PerSecond => "1/s",
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::BytesPerSecond => format!("{:.0} MB/s", value / 1e6),
            Self::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Self::Count => format!("{value:.1}"),
            Self::Seconds => format!("{:.2} ms", value * 1e3),
            Self::CpuSecondsPerMillion => format!("{value:.3} s/M"),
            Self::PerSecond => format!("{:.1} k/s", value / 1e3),
        }
    }
}

/// One quantity of one part, a sample a round.
#[derive(Clone, Debug)]
struct Series {
    part: String,
    quantity: &'static str,
    unit: Unit,
    samples: Vec<f64>,
}

/// A figure of a part in terms of others, a sample a round.
#[derive(Clone, Debug)]
struct Ratio {
    part: String,
    quantity: &'static str,
    limit: String,
    samples: Vec<f64>,
    goal: Option<Goal>,
}

/// What a ratio, or a figure, should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtLeast(goal) => format!("at least {goal}"),
            Self::AtMost(goal) => format!("at most {goal}"),
        }
    }

    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(goal) => goal <= value,
            Self::AtMost(goal) => value <= goal,
        }
    }
}

/// Everything measured in one layout.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    series: Vec<Series>,
    ratios: Vec<Ratio>,
}

impl Figures {
    pub(crate) fn add(&mut self, part: &str, quantity: &'static str, unit: Unit, sample: f64) {
        let same = |series: &&mut Series| series.part == part && series.quantity == quantity;
        match self.series.iter_mut().find(same) {
            Some(series) => series.samples.push(sample),
            None => {
                let (part, samples) = (part.to_owned(), vec![sample]);
                self.series.push(Series { part, quantity, unit, samples });
            }
        }
    }

    pub(crate) fn add_throughput(&mut self, part: &str, bytes_per_second: f64) {
        self.add(part, THROUGHPUT, Unit::BytesPerSecond, bytes_per_second);
    }

    /// Adds what is told of a run of `taffrail bench`.
    pub(crate) fn add_run(&mut self, part: &str, run: &Run) {
        let told = [
            ("bytes_per_second", THROUGHPUT, Unit::BytesPerSecond, 1.0),
            ("records_per_second", "records", Unit::PerSecond, 1.0),
            ("latency_p50_us", "p50", Unit::Seconds, 1e-6),
            ("latency_p99_us", "p99", Unit::Seconds, 1e-6),
            ("end_to_end_p99_us", "end to end p99", Unit::Seconds, 1e-6),
            ("records_per_sync", "records per sync", Unit::Count, 1.0),
            ("broker_cpu_per_million_s", "broker's CPU", Unit::CpuSecondsPerMillion, 1.0),
            ("client_cpu_per_million_s", "client's CPU", Unit::CpuSecondsPerMillion, 1.0),
            ("broker_own_bytes", "broker's own memory", Unit::Bytes, 1.0),
            ("broker_peak_bytes", "broker's peak, with mapped files", Unit::Bytes, 1.0),
        ];
        for (name, quantity, unit, factor) in told {
            if let Some(value) = run.get(name) {
                self.add(part, quantity, unit, value * factor);
            }
        }
    }

    /// Adds the ratio of a figure to the sum of others; nothing if one was not measured.
    pub(crate) fn compare(
        &mut self,
        (part, quantity): (&str, &'static str),
        limits: &[(String, &'static str)],
        goal: Option<Goal>,
    ) {
        let limit_samples: Option<Vec<_>> =
            limits.iter().map(|(part, quantity)| self.samples(part, quantity)).collect();
        let (Some(above), Some(below)) = (self.samples(part, quantity), limit_samples) else {
            return;
        };
        let rounds = below.iter().map(|it| it.len()).chain([above.len()]).min().unwrap_or(0);
        let sum = |round: usize| below.iter().map(|it| it[round]).sum::<f64>();
        let samples = (0..rounds).map(|round| above[round] / sum(round)).collect();
        let limit: Vec<_> =
            limits.iter().map(|(part, quantity)| format!("{part}: {quantity}")).collect();
        let (part, limit) = (part.to_owned(), limit.join(" + "));
        self.ratios.push(Ratio { part, quantity, limit, samples, goal });
    }

    fn samples(&self, part: &str, quantity: &str) -> Option<&[f64]> {
        let is_it = |series: &&Series| series.part == part && series.quantity == quantity;
        self.series.iter().find(is_it).map(|series| series.samples.as_slice())
    }

    fn text(&self) -> String {
        let series = self.series.iter().map(|series| {
            let Summary { median, min, max } = Summary::of(&series.samples);
            let [median, min, max] = [median, min, max].map(|value| series.unit.text(value));
            vec![series.part.clone(), series.quantity.to_owned(), median, min, max]
        });
        let ratios = self.ratios.iter().map(|ratio| {
            let Summary { median, min, max } = Summary::of(&ratio.samples);
            let [median, min, max] = [median, min, max].map(|value| format!("{value:.2}"));
            let is_met = ratio.goal.map(|goal| goal.is_met(Summary::of(&ratio.samples).median));
            let verdict = is_met.map_or("", |is_met| if is_met { "met" } else { "missed" });
            let goal = ratio.goal.map_or_else(String::new, Goal::text);
            let what = format!("{}: {}", ratio.part, ratio.quantity);
            vec![what, ratio.limit.clone(), median, min, max, goal, verdict.to_owned()]
        });
        let series = table(&["PART", "OF IT", "MEDIAN", "MIN", "MAX"], series.collect());
        let header = ["PART", "IN TERMS OF", "MEDIAN", "MIN", "MAX", "GOAL", ""];
        format!("{series}\n\n{}", table(&header, ratios.collect()))
    }

    fn json(&self) -> Value {
        let series = |series: &Series| {
            let Summary { median, min, max } = Summary::of(&series.samples);
            json!({
                "part": series.part,
                "quantity": series.quantity,
                "unit": series.unit.name(),
                "median": median,
                "min": min,
                "max": max,
                "samples": series.samples,
            })
        };
        let ratio = |ratio: &Ratio| {
            let Summary { median, min, max } = Summary::of(&ratio.samples);
            json!({
                "part": ratio.part,
                "quantity": ratio.quantity,
                "limit": ratio.limit,
                "median": median,
                "min": min,
                "max": max,
                "goal": ratio.goal.map(Goal::text),
                "samples": ratio.samples,
            })
        };
        json!({
            "figures": self.series.iter().map(series).collect::<Vec<_>>(),
            "ratios": self.ratios.iter().map(ratio).collect::<Vec<_>>(),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

impl Summary {
    /// Of at least one sample.
    fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (count, middle) = (sorted.len(), sorted.len() / 2);
        let median = f64::midpoint(sorted[middle], sorted[(count - 1) / 2]);
        Self { median, min: sorted[0], max: sorted[count - 1] }
    }
}

/// Everything measured, and on what.
#[derive(Debug)]
pub(crate) struct Report {
    machine: String,
    program: String,
    runs: u32,
    records: u64,
    memory: &'static str,
    layouts: Vec<(&'static str, Figures)>,
}

impl Report {
    pub(crate) fn new(taffrail: &Path, runs: u32, records: u64, is_cold: bool) -> Self {
        let (machine, program) = (machine(), program(taffrail));
        let memory = if is_cold { "as it is" } else { "touched before each part that writes" };
        Self { machine, program, runs, records, memory, layouts: Vec::new() }
    }

    pub(crate) fn add(&mut self, layout: &'static str, figures: Figures) {
        self.layouts.push((layout, figures));
    }

    pub(crate) fn text(&self) -> String {
        let Self { machine, program, runs, records, memory, layouts } = self;
        let layout = |(layout, figures): &(&str, Figures)| {
            format!("\n\nlayout: {layout}\n\n{}", figures.text())
        };
        let layouts: String = layouts.iter().map(layout).collect();
        let workload = format!("{runs} runs of {records} records of 1 KiB; free memory {memory}");
        format!("{machine}\n{program}\n{workload}{layouts}")
    }

    pub(crate) fn json(&self) -> Value {
        let layouts = self.layouts.iter();
        let layouts = layouts.map(|(layout, figures)| ((*layout).to_owned(), figures.json()));
        json!({
            "machine": self.machine,
            "program": self.program,
            "runs": self.runs,
            "records": self.records,
            "memory": self.memory,
            "layouts": layouts.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// Cores, processor and kernel.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (processors, kernel) = (read("/proc/cpuinfo"), read("/proc/sys/kernel/osrelease"));
    let model = processors.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name);
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}

/// The program's version, and the commit of the folder we are in.
fn program(taffrail: &Path) -> String {
    let say = |command: &mut Command| {
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let version = say(Command::new(taffrail).arg("--version")).unwrap_or_else(unknown);
    let commit = say(Command::new("git").args(["describe", "--always", "--dirty"]));
    format!("{version}, commit {}", commit.unwrap_or_else(unknown))
}

/// A table without lines; all but the first two columns are figures.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        let of = |samples: &[f64]| Summary::of(samples);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Summary { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(of(&[4.0, 1.0]), Summary { median: 2.5, min: 1.0, max: 4.0 });
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut figures = Figures::default();
        for (ours, limit) in [(1.0, 2.0), (3.0, 3.0)] {
            figures.add_throughput("ours", ours);
            figures.add_throughput("limit", limit);
        }
        figures.compare(("ours", THROUGHPUT), &[("limit".into(), THROUGHPUT)], None);
        figures.compare(("ours", THROUGHPUT), &[("not measured".into(), THROUGHPUT)], None);
        let twice = ["limit", "ours"].map(|part| (part.to_owned(), THROUGHPUT));
        figures.compare(("ours", THROUGHPUT), &twice, Some(Goal::AtLeast(0.5)));
        let ratios: Vec<_> = figures.ratios.iter().map(|ratio| ratio.samples.clone()).collect();
        assert_eq!(ratios, [[0.5, 1.0], [1.0 / 3.0, 0.5]]);
    }
}
