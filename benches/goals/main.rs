//! The goals: workloads of `taffrail bench` beside what disk, file system and transport can do at most.
//!
//! All parts run in turn on the same directory, a round at a time, every second round backwards; a
//! first round warms up and is not counted. So a ratio compares neighbours, and a machine that is
//! busy for a while slows both sides. Before each part the file system is synced, and before those
//! that fill the page cache, as much memory is touched as they need: a virtual machine may have given
//! it back to its host, and getting it again costs more than all else. `--cold` leaves that out.

mod bare;
mod files;
mod fio;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use taffrail_benches::broker::{Broker, Taffrail};
use taffrail_benches::process::{self, Layout};
use tempfile::TempDir;

use report::{Figures, Goal, Report, THROUGHPUT, Unit};

/// So much longer is a run with 100 B records, in records.
const SMALL_RECORDS_FACTOR: u64 = 8;
/// How long a workload takes that goes on at a rate.
const AT_RATE_SECONDS: u64 = 5;

/// Measures workloads beside the limits of the same machine in the same run
#[derive(Debug, Parser)]
#[command(name = "goals")]
struct Arguments {
    /// Number of rounds that count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Number of 1 KiB records a run; of 100 B eight times as many
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Where data is written; without it beside this program
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The program to measure; without it the one beside this program
    #[arg(long, value_name = "PATH")]
    taffrail: Option<PathBuf>,
    /// Measure once more with servers on one core and load on another
    #[arg(long)]
    pinned: bool,
    /// Leave memory as it is: on a virtual machine, files then grow into memory that its host must give
    #[arg(long)]
    cold: bool,
    /// How results are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(subcommand)]
    role: Option<Role>,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON value
    Json,
}

/// What this program does as its own child.
#[derive(Debug, Subcommand)]
enum Role {
    /// Serve the bare transport
    #[command(name = "bare-server", hide = true)]
    Serve,
    /// Send messages and print how many bytes a second went
    #[command(name = "bare-up", hide = true)]
    Up { server: String, in_flight: u64 },
    /// Receive messages and print how many bytes a second came
    #[command(name = "bare-down", hide = true)]
    Down { server: String },
    /// Call, and print how many seconds that takes
    #[command(name = "bare-round-trip", hide = true)]
    RoundTrip { server: String },
}

/// What is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Into a new file.
    FioNew,
    /// Into the file that the last `FioNew` left.
    FioAgain,
    BareUp {
        in_flight: u64,
    },
    BareDown,
    BareRoundTrip,
    /// Small appends, each synced.
    FioSmall,
    /// Small appends at a rate, each synced.
    SyncAtRate,
    /// Many files, and one sync for all.
    SyncMany,
    ReadCold,
    Produce {
        record_bytes: u64,
        durability: &'static str,
    },
    /// At a rate, with a consumer that follows.
    Latency {
        rate: u64,
    },
    /// Producers that wait for each record.
    Acks {
        producers: u64,
    },
    /// At 50,000 records a second.
    Partitions {
        count: u64,
    },
    Replay {
        record_bytes: u64,
        is_cold: bool,
    },
}

const D2_1024: Part = Part::Produce { record_bytes: 1024, durability: "fsync" };
const D2_100: Part = Part::Produce { record_bytes: 100, durability: "fsync" };
const D0_1024: Part = Part::Produce { record_bytes: 1024, durability: "page_cache" };
const D0_100: Part = Part::Produce { record_bytes: 100, durability: "page_cache" };
const UP_16: Part = Part::BareUp { in_flight: 16 };
const UP_64: Part = Part::BareUp { in_flight: 64 };
const REPLAY_1024: Part = Part::Replay { record_bytes: 1024, is_cold: false };
const REPLAY_100: Part = Part::Replay { record_bytes: 100, is_cold: false };
const REPLAY_COLD: Part = Part::Replay { record_bytes: 1024, is_cold: true };

/// Memory that is touched, in terms of what a part writes: what is free goes back to the host meanwhile.
const TOUCHED_FACTOR: u64 = 6;

/// Each near its limit.
const PARTS: [Part; 27] = [
    Part::FioNew,
    D2_1024,
    Part::FioAgain,
    D2_100,
    D0_100,
    UP_16,
    D0_1024,
    UP_64,
    Part::FioSmall,
    Part::Latency { rate: 1_000 },
    Part::SyncAtRate,
    Part::BareRoundTrip,
    Part::Latency { rate: 10_000 },
    Part::Latency { rate: 50_000 },
    Part::Acks { producers: 1 },
    Part::Acks { producers: 16 },
    Part::Acks { producers: 64 },
    Part::Acks { producers: 256 },
    Part::Partitions { count: 1 },
    Part::Partitions { count: 16 },
    Part::Partitions { count: 1_000 },
    Part::SyncMany,
    REPLAY_1024,
    Part::BareDown,
    REPLAY_100,
    REPLAY_COLD,
    Part::ReadCold,
];

/// A figure of a part, in terms of the sum of others, and what it should be.
struct Comparison {
    figure: (Part, &'static str),
    limits: &'static [(Part, &'static str)],
    goal: Option<Goal>,
}

const fn throughput(
    part: Part,
    limit: &'static [(Part, &'static str)],
    goal: Option<f64>,
) -> Comparison {
    let goal = match goal {
        Some(goal) => Some(Goal::AtLeast(goal)),
        None => None,
    };
    Comparison { figure: (part, THROUGHPUT), limits: limit, goal }
}

/// Bytes of values count, so small records pay for their framing.
static COMPARISONS: [Comparison; 13] = [
    throughput(D2_1024, &[(Part::FioNew, THROUGHPUT)], Some(0.8)),
    throughput(D2_1024, &[(Part::FioAgain, THROUGHPUT)], None),
    throughput(D2_100, &[(Part::FioNew, THROUGHPUT)], None),
    throughput(D0_1024, &[(UP_16, THROUGHPUT)], Some(0.5)),
    throughput(D0_1024, &[(UP_64, THROUGHPUT)], Some(0.5)),
    throughput(D0_100, &[(UP_16, THROUGHPUT)], None),
    Comparison {
        figure: (Part::Latency { rate: 1_000 }, "p50"),
        limits: &[
            (Part::FioSmall, "mean write"),
            (Part::FioSmall, "mean sync"),
            (Part::BareRoundTrip, "round trip"),
        ],
        goal: Some(Goal::AtMost(2.0)),
    },
    Comparison {
        figure: (Part::Latency { rate: 1_000 }, "p99"),
        limits: &[(Part::SyncAtRate, "p99")],
        goal: None,
    },
    Comparison {
        figure: (Part::Partitions { count: 1_000 }, "p99"),
        limits: &[(Part::Partitions { count: 16 }, "p99")],
        goal: Some(Goal::AtMost(4.0)),
    },
    Comparison {
        figure: (Part::Partitions { count: 1_000 }, "p99"),
        limits: &[(Part::SyncMany, "write and sync")],
        goal: Some(Goal::AtMost(3.0)),
    },
    throughput(REPLAY_1024, &[(Part::BareDown, THROUGHPUT)], Some(0.7)),
    throughput(REPLAY_100, &[(Part::BareDown, THROUGHPUT)], None),
    throughput(REPLAY_COLD, &[(Part::ReadCold, THROUGHPUT)], Some(1.0)),
];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.role {
        None => measure(&arguments),
        Some(Role::Serve) => bare::serve(),
        Some(Role::Up { server, in_flight }) => bare::up(server, *in_flight),
        Some(Role::Down { server }) => bare::down(server),
        Some(Role::RoundTrip { server }) => bare::round_trip(server),
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let itself = std::env::current_exe().context("cannot find this program")?;
    let folder = itself.parent().context("this program lies in no folder")?;
    let taffrail = arguments.taffrail.clone().unwrap_or_else(|| folder.join("taffrail"));
    ensure!(
        taffrail.is_file(),
        "there is no {}: build it with `cargo build --release`, or name another with --taffrail",
        taffrail.display()
    );
    let directory = arguments.directory.as_deref().unwrap_or(folder);
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say nothing");
    }
    let mut layouts = vec![Layout::Shared];
    if arguments.pinned && process::can_pin() {
        layouts.push(Layout::Pinned);
    } else if arguments.pinned {
        eprintln!("skipped the pinned layout: it takes taskset and two cores");
    }
    let mut report = Report::new(&taffrail, arguments.runs, arguments.records, arguments.cold);
    for layout in layouts {
        let figures = Bench::start(arguments, layout, &itself, &taffrail, directory)?.run()?;
        report.add(layout.name(), figures);
    }
    println!(
        "{}",
        match arguments.output {
            Format::Text => report.text(),
            Format::Json => report.json().to_string(),
        }
    );
    Ok(())
}

/// The rounds in one layout, and the servers that last as long.
struct Bench<'a> {
    arguments: &'a Arguments,
    layout: Layout,
    itself: &'a Path,
    has_fio: bool,
    bare: process::Running,
    broker: Broker,
    figures: Figures,
    /// Everything written lies in there. The last field, so it goes after those who write.
    directory: TempDir,
}

impl<'a> Bench<'a> {
    fn start(
        arguments: &'a Arguments,
        layout: Layout,
        itself: &'a Path,
        taffrail: &Path,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix_in("goals-", directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        let has_fio = process::exists("fio");
        if !has_fio {
            eprintln!("skipped fio: it is not on the PATH, so nothing is compared with the disk");
        }
        let taffrail = Taffrail::new(taffrail, layout);
        let broker = taffrail.serve(&directory.path().join("data"), &[])?;
        let bare = process::Running::start(layout.server(itself).arg("bare-server"))?;
        let figures = Figures::default();
        let bench = Self { arguments, layout, itself, has_fio, bare, broker, figures, directory };
        for part in PARTS {
            if let Part::Replay { record_bytes, is_cold: false } = part {
                bench.fill(record_bytes)?;
            }
        }
        Ok(bench)
    }

    fn run(mut self) -> anyhow::Result<Figures> {
        for round in 0..=self.arguments.runs {
            let mut parts = PARTS.to_vec();
            // Round 0 warms up.
            if round > 1 && round.is_multiple_of(2) {
                parts.reverse();
            }
            for part in parts {
                let is_fio = matches!(part, Part::FioNew | Part::FioAgain | Part::FioSmall);
                if is_fio && !self.has_fio {
                    continue;
                }
                process::sync(self.directory.path())?;
                if part.fills_page_cache() && !self.arguments.cold {
                    process::touch_memory(TOUCHED_FACTOR * self.arguments.records * 1024);
                }
                eprintln!(
                    "{} {round}/{}: {}",
                    self.layout.name(),
                    self.arguments.runs,
                    part.name()
                );
                self.measure(part).with_context(|| part.name())?;
            }
            if round == 0 {
                self.figures = Figures::default();
            }
        }
        self.broker.stop()?;
        for Comparison { figure: (part, quantity), limits, goal } in &COMPARISONS {
            let limits: Vec<_> = limits.iter().map(|(part, it)| (part.name(), *it)).collect();
            self.figures.compare((&part.name(), quantity), &limits, *goal);
        }
        Ok(self.figures)
    }

    fn measure(&mut self, part: Part) -> anyhow::Result<()> {
        let name = part.name();
        let directory = self.directory.path();
        match part {
            Part::FioNew | Part::FioAgain => {
                let folder = directory.join("fio");
                if part == Part::FioNew {
                    // It is not there in the first round.
                    let _ = std::fs::remove_dir_all(&folder);
                    std::fs::create_dir(&folder)?;
                    process::sync(directory)?;
                }
                let appended = fio::append(self.layout, &folder)?;
                self.figures.add_throughput(&name, appended.bytes_per_second);
                self.figures.add(&name, "mean write", Unit::Seconds, appended.write_seconds);
                self.figures.add(&name, "mean sync", Unit::Seconds, appended.sync_seconds);
            }
            Part::BareUp { in_flight } => {
                let arguments = ["bare-up", self.bare.ready(), &in_flight.to_string()];
                self.figures.add_throughput(&name, self.bare_client(&arguments)?);
            }
            Part::BareDown => {
                let bytes_per_second = self.bare_client(&["bare-down", self.bare.ready()])?;
                self.figures.add_throughput(&name, bytes_per_second);
            }
            Part::BareRoundTrip => {
                let seconds = self.bare_client(&["bare-round-trip", self.bare.ready()])?;
                self.figures.add(&name, "round trip", Unit::Seconds, seconds);
            }
            Part::FioSmall => {
                let folder = tempfile::tempdir_in(directory)?;
                let appended = fio::append_small(self.layout, folder.path())?;
                self.figures.add(&name, "mean write", Unit::Seconds, appended.write_seconds);
                self.figures.add(&name, "mean sync", Unit::Seconds, appended.sync_seconds);
            }
            Part::SyncAtRate => {
                let seconds = files::sync_at_rate(directory)?;
                self.figures.add(&name, "p99", Unit::Seconds, seconds);
            }
            Part::SyncMany => {
                let seconds = files::sync_many(directory)?;
                self.figures.add(&name, "write and sync", Unit::Seconds, seconds);
            }
            Part::ReadCold => {
                let speed = files::read_cold(directory)?;
                self.figures.add_throughput(&name, speed);
            }
            Part::Produce { record_bytes, durability } => {
                let (bytes, records) = (record_bytes.to_string(), self.records(record_bytes));
                let bench = ["produce", "--records", &records, "--record-bytes", &bytes];
                let run =
                    self.broker.bench(&[&bench[..], &["--durability", durability]].concat())?;
                self.figures.add_run(&name, &run);
            }
            Part::Latency { rate } => {
                let (records, rate) = ((rate * AT_RATE_SECONDS).to_string(), rate.to_string());
                let bench = ["produce", "--records", &records, "--rate", &rate];
                let run = self.broker.bench(&[&bench[..], &["--consumers", "1"]].concat())?;
                self.figures.add_run(&name, &run);
            }
            Part::Acks { producers } => {
                let (producers, records) = (producers.to_string(), u64::MAX.to_string());
                let bench =
                    ["produce", "--records", &records, "--duration", "5s", "--in-flight", "1"];
                let load = ["--record-bytes", "128", "--producers", &producers];
                let run = self.broker.bench(&[&bench[..], &load].concat())?;
                self.figures.add_run(&name, &run);
            }
            Part::Partitions { count } => {
                let (records, count) = (50_000 * AT_RATE_SECONDS, count.to_string());
                let bench = ["produce", "--records", &records.to_string(), "--rate", "50000"];
                let run = self.broker.bench(&[&bench[..], &["--partitions", &count]].concat())?;
                self.figures.add_run(&name, &run);
            }
            Part::Replay { record_bytes, is_cold } => {
                let (topic, records) = (replay(record_bytes), self.records(record_bytes));
                let place = directory.to_str().context("a directory's name that is no text")?;
                let warm = ["consume", "--topic", &topic];
                let cold = ["consume", "--cold", "--data", place, "--records", &records];
                let run = self.broker.bench(if is_cold { &cold } else { &warm })?;
                self.figures.add_run(&name, &run);
            }
        }
        Ok(())
    }

    fn bare_client(&self, arguments: &[&str]) -> anyhow::Result<f64> {
        let printed = process::output(self.layout.load(self.itself).args(arguments))?;
        printed.trim().parse().with_context(|| format!("{printed:?} is no number"))
    }

    /// Makes the topic that is replayed.
    fn fill(&self, record_bytes: u64) -> anyhow::Result<()> {
        let topic = replay(record_bytes);
        eprintln!("{}: filling {topic}", self.layout.name());
        self.broker.call(&["topic", "create", &topic])?;
        let (bytes, records) = (record_bytes.to_string(), self.records(record_bytes));
        let fill = ["produce", "--records", &records, "--record-bytes", &bytes];
        self.broker.bench(&[&fill[..], &["--topic", &topic]].concat()).map(drop)
    }

    fn records(&self, record_bytes: u64) -> String {
        let factor = if record_bytes < 1024 { SMALL_RECORDS_FACTOR } else { 1 };
        (self.arguments.records * factor).to_string()
    }
}

impl Part {
    /// Whether it fills much page cache.
    fn fills_page_cache(self) -> bool {
        let is_cold = matches!(self, Self::ReadCold | Self::Replay { is_cold: true, .. });
        is_cold || matches!(self, Self::FioNew | Self::FioAgain | Self::Produce { .. })
    }

    fn name(self) -> String {
        let size =
            |bytes: u64| if bytes < 1024 { format!("{bytes} B") } else { "1 KiB".to_owned() };
        match self {
            Self::FioNew => "fio 1 MiB + fdatasync, new file".to_owned(),
            Self::FioAgain => "fio 1 MiB + fdatasync, same again".to_owned(),
            Self::BareUp { in_flight } => format!("bare gRPC up, 60 KiB x {in_flight}"),
            Self::BareDown => "bare gRPC down, 1 MiB".to_owned(),
            Self::BareRoundTrip => "bare gRPC call".to_owned(),
            Self::FioSmall => "fio 1 KiB + fdatasync".to_owned(),
            Self::SyncAtRate => "1 KiB and fdatasync, 1,000 a second".to_owned(),
            Self::SyncMany => "syncfs over 1,000 files".to_owned(),
            Self::ReadCold => "read from the disk, 1 MiB".to_owned(),
            Self::Latency { rate } => format!("W2, {rate} records/s"),
            Self::Acks { producers } => format!("W3, {producers} producers"),
            Self::Partitions { count } => format!("W4, {count} partitions"),
            Self::Produce { record_bytes, durability } => {
                format!("produce {}, {durability}", size(record_bytes))
            }
            Self::Replay { record_bytes, is_cold } => {
                format!("{} replay {}", if is_cold { "cold" } else { "warm" }, size(record_bytes))
            }
        }
    }
}

fn replay(record_bytes: u64) -> String {
    format!("replay-{record_bytes}")
}
