//! W1 (one producer, one partition) and warm replay, beside what disk and transport can do at most.
//!
//! All parts run in turn on the same directory, a round at a time, every second round backwards; a
//! first round warms up and is not counted. So a ratio compares neighbours, and a machine that is
//! busy for a while slows both sides. Before each part the file system is synced, and before those
//! that write, so much memory is touched as they fill: a virtual machine may have given it back to
//! its host, and getting it again costs more than all else. `--cold` leaves that out.

mod bare;
mod fio;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use taffrail_benches::broker::{Broker, Taffrail};
use taffrail_benches::process::{self, Layout};
use tempfile::TempDir;

use report::{Figures, Report, Unit};

/// So much longer is a run with 100 B records, in records.
const SMALL_RECORDS_FACTOR: u64 = 8;
/// Partitions of the broker whose start-up is timed.
const MANY_PARTITIONS: &str = "1000";
/// How long a broker settles before its idle memory is read.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// Measures W1 and warm replay beside the limits of the same machine in the same run
#[derive(Debug, Parser)]
#[command(name = "w1")]
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
    Produce {
        record_bytes: u64,
        durability: &'static str,
    },
    Replay {
        record_bytes: u64,
    },
    StartEmpty,
    StartMany,
}

const D2_1024: Part = Part::Produce { record_bytes: 1024, durability: "fsync" };
const D2_100: Part = Part::Produce { record_bytes: 100, durability: "fsync" };
const D0_1024: Part = Part::Produce { record_bytes: 1024, durability: "page_cache" };
const D0_100: Part = Part::Produce { record_bytes: 100, durability: "page_cache" };
const UP_16: Part = Part::BareUp { in_flight: 16 };
const UP_64: Part = Part::BareUp { in_flight: 64 };
const REPLAY_1024: Part = Part::Replay { record_bytes: 1024 };
const REPLAY_100: Part = Part::Replay { record_bytes: 100 };

/// Each near its limit.
const PARTS: [Part; 13] = [
    Part::FioNew,
    D2_1024,
    Part::FioAgain,
    D2_100,
    D0_100,
    UP_16,
    D0_1024,
    UP_64,
    REPLAY_1024,
    Part::BareDown,
    REPLAY_100,
    Part::StartEmpty,
    Part::StartMany,
];

/// What is compared with what, and the least it should be. Bytes of values count, so small records
/// pay for their framing.
const RATIOS: [(Part, Part, Option<f64>); 12] = [
    (D2_1024, Part::FioNew, Some(0.8)),
    (D2_1024, Part::FioAgain, None),
    (D2_100, Part::FioNew, None),
    (D2_100, Part::FioAgain, None),
    (D2_1024, UP_16, None),
    (D2_1024, UP_64, None),
    (D0_1024, UP_16, Some(0.5)),
    (D0_1024, UP_64, Some(0.5)),
    (D0_100, UP_16, None),
    (D0_100, UP_64, None),
    (REPLAY_1024, Part::BareDown, Some(0.7)),
    (REPLAY_100, Part::BareDown, None),
];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.role {
        None => measure(&arguments),
        Some(Role::Serve) => bare::serve(),
        Some(Role::Up { server, in_flight }) => bare::up(server, *in_flight),
        Some(Role::Down { server }) => bare::down(server),
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
    taffrail: Taffrail,
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
        let directory = TempDir::with_prefix_in("w1-", directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        let has_fio = process::exists("fio");
        if !has_fio {
            eprintln!("skipped fio: it is not on the PATH, so nothing is compared with the disk");
        }
        let taffrail = Taffrail::new(taffrail, layout);
        let many = taffrail.serve(&directory.path().join("many"), &[])?;
        many.call(&["topic", "create", "many", "--partitions", MANY_PARTITIONS])?;
        many.stop()?;
        let broker = taffrail.serve(&directory.path().join("data"), &[])?;
        let bare = process::Running::start(layout.server(itself).arg("bare-server"))?;
        let figures = Figures::default();
        let bench =
            Self { arguments, layout, itself, taffrail, has_fio, bare, broker, figures, directory };
        for part in PARTS {
            if let Part::Replay { record_bytes } = part {
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
                if matches!(part, Part::FioNew | Part::FioAgain) && !self.has_fio {
                    continue;
                }
                process::sync(self.directory.path())?;
                if part.writes() && !self.arguments.cold {
                    process::touch_memory(2 * self.arguments.records * 1024);
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
        for (part, limit, goal) in RATIOS {
            self.figures.compare(&part.name(), &limit.name(), goal);
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
            Part::Produce { record_bytes, durability } => {
                let (bytes, records) = (record_bytes.to_string(), self.records(record_bytes));
                let bench = ["bench", "produce", "--records", &records, "--record-bytes", &bytes];
                let cost =
                    self.broker.bench(&[&bench[..], &["--durability", durability]].concat())?;
                self.figures.add_cost(&name, &cost);
            }
            Part::Replay { record_bytes } => {
                let cost =
                    self.broker.bench(&["bench", "consume", "--topic", &replay(record_bytes)])?;
                self.figures.add_cost(&name, &cost);
            }
            Part::StartEmpty => {
                let data = directory.join("empty");
                let broker = self.taffrail.serve(&data, &[])?;
                self.figures.add(&name, "ready after", Unit::Seconds, broker.start_up_seconds());
                std::thread::sleep(IDLE_PAUSE);
                self.figures.add(&name, "idle memory", Unit::Bytes, broker.resident_bytes()?);
                broker.stop()?;
                std::fs::remove_dir_all(data)?;
            }
            Part::StartMany => {
                let broker = self.taffrail.serve(&directory.join("many"), &[])?;
                self.figures.add(&name, "ready after", Unit::Seconds, broker.start_up_seconds());
                broker.stop()?;
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
        let fill = ["bench", "produce", "--records", &records, "--record-bytes", &bytes];
        self.broker.call(&[&fill[..], &["--topic", &topic]].concat())?;
        Ok(())
    }

    fn records(&self, record_bytes: u64) -> String {
        let factor = if record_bytes < 1024 { SMALL_RECORDS_FACTOR } else { 1 };
        (self.arguments.records * factor).to_string()
    }
}

impl Part {
    /// Whether it fills much page cache.
    fn writes(self) -> bool {
        matches!(self, Self::FioNew | Self::FioAgain | Self::Produce { .. })
    }

    fn name(self) -> String {
        let size =
            |bytes: u64| if bytes < 1024 { format!("{bytes} B") } else { "1 KiB".to_owned() };
        match self {
            Self::FioNew => "fio 1 MiB + fdatasync, new file".to_owned(),
            Self::FioAgain => "fio 1 MiB + fdatasync, same again".to_owned(),
            Self::BareUp { in_flight } => format!("bare gRPC up, 60 KiB x {in_flight}"),
            Self::BareDown => "bare gRPC down, 1 MiB".to_owned(),
            Self::Produce { record_bytes, durability } => {
                format!("produce {}, {durability}", size(record_bytes))
            }
            Self::Replay { record_bytes } => format!("warm replay {}", size(record_bytes)),
            Self::StartEmpty => "start-up, no topics".to_owned(),
            Self::StartMany => format!("start-up, {MANY_PARTITIONS} empty partitions"),
        }
    }
}

fn replay(record_bytes: u64) -> String {
    format!("replay-{record_bytes}")
}
