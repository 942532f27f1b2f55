//! A producer that sends at a rate, with and without something that keeps the broker's logs in order.
//!
//! Both windows of a round follow one another on the same data, the one without first; each measures every
//! record from the moment at which it was to be sent. Compaction and backup begin before their window and
//! end behind it, or the round fails; of a scrub is said how fast it went meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use taffrail_benches::broker::{Broker, Run, Taffrail};
use taffrail_benches::process::{self, Layout};

/// How long it may take to begin, or to end.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);
const WARM_UP_SECONDS: u64 = 2;
const KIB_PER_GIB: u64 = 1 << 20;

/// How to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Live {
    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Records of 1 KiB a second, at each of which all is measured
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [10_000])]
    rates: Vec<u64>,
    /// Seconds of a window
    #[arg(long, value_name = "N", default_value_t = 15)]
    seconds: u64,
    /// GiB that are kept in order
    #[arg(long, value_name = "N", default_value_t = 4)]
    gib: u64,
    /// Where backups go; without it beside the data, which is shared then instead of copied
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// The program to measure; without it the one beside this program
    #[arg(long, value_name = "PATH")]
    taffrail: Option<PathBuf>,
}

/// What keeps logs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    Compaction,
    Scrub,
    Backup,
}

/// What a producer and whoever follows it met, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Met {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    end_to_end_p99: f64,
}

impl Live {
    /// Measures, and prints what it finds.
    pub(crate) fn measure(&self, home: &Path, chore: Chore) -> anyhow::Result<()> {
        let program = match &self.taffrail {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("taffrail"),
        };
        let taffrail = Taffrail::new(&program, Layout::Shared);
        let data = home.join("data");
        let backup = match &self.to {
            Some(place) => tempfile::Builder::new().prefix("upkeep-").tempdir_in(place)?,
            None => tempfile::Builder::new().prefix("backup-").tempdir_in(home)?,
        };
        let broker = taffrail.serve(&data, &["scrub_interval=0s"])?;
        if chore != Chore::Compaction {
            broker.call(&["topic", "create", "old", "--set", "segment.bytes=64MiB"])?;
            self.fill(&broker, "old")?;
        }
        broker.stop()?;
        for rate in &self.rates {
            let mut ratios = Vec::new();
            for round in 1..=self.rounds {
                process::sync(home)?;
                let (quiet, busy, cost) = match chore {
                    Chore::Compaction => self.beside_compaction(&taffrail, &data, *rate)?,
                    Chore::Scrub => self.beside_scrub(&taffrail, &data, *rate)?,
                    Chore::Backup => {
                        let to = backup.path().join(format!("{rate}-{round}"));
                        self.beside_backup(&taffrail, &data, &to, *rate)?
                    }
                };
                println!("{rate}/s, round {round}, without: {quiet}");
                println!("{rate}/s, round {round}, beside:  {busy}; {cost}");
                ratios.push((busy.p99 / quiet.p99, busy.end_to_end_p99 / quiet.end_to_end_p99));
            }
            let (p99, end_to_end): (Vec<_>, Vec<_>) = ratios.into_iter().unzip();
            println!("{rate}/s: p99 beside it / without {}", spread(p99));
            println!("{rate}/s: end to end p99 beside it / without {}", spread(end_to_end));
        }
        Ok(())
    }

    fn beside_compaction(
        &self,
        taffrail: &Taffrail,
        data: &Path,
        rate: u64,
    ) -> anyhow::Result<(Met, Met, String)> {
        let broker = taffrail.serve(data, &["scrub_interval=0s"])?;
        let create = ["topic", "create", "keyed", "--set", "segment.bytes=64MiB"];
        broker.call(&create)?;
        self.fill(&broker, "keyed")?;
        let quiet = self.window(&broker, "keyed", rate)?;
        broker.call(&["topic", "alter", "keyed", "--set", "cleanup=compact"])?;
        await_metric(&broker, "taffrail_compactions_waiting", |waiting| waiting > 0.0)?;
        let busy = self.window(&broker, "keyed", rate)?;
        let ended = broker.metric("taffrail_compactions_total")?;
        ensure!(ended == 0.0, "it was compacted within the window: raise --gib");
        broker.call(&["topic", "delete", "keyed"])?;
        broker.stop()?;
        Ok((quiet, busy, "compacted all the while".to_owned()))
    }

    fn beside_scrub(
        &self,
        taffrail: &Taffrail,
        data: &Path,
        rate: u64,
    ) -> anyhow::Result<(Met, Met, String)> {
        let within = |settings: &[&str]| {
            let broker = taffrail.serve(data, settings)?;
            broker.call(&["topic", "create", "live"])?;
            let began = Instant::now();
            let met = self.window(&broker, "live", rate)?;
            let scrubbed = broker.metric("taffrail_scrubbed_bytes_total")?;
            let speed = scrubbed / began.elapsed().as_secs_f64() / 1e6;
            broker.call(&["topic", "delete", "live"])?;
            broker.stop()?;
            anyhow::Ok((met, speed))
        };
        let (quiet, none) = within(&["scrub_interval=0s"])?;
        ensure!(none == 0.0, "it was scrubbed all the same");
        let (busy, speed) = within(&["scrub_interval=1s"])?;
        ensure!(speed > 0.0, "nothing was scrubbed");
        Ok((quiet, busy, format!("{speed:.0} MB/s read")))
    }

    fn beside_backup(
        &self,
        taffrail: &Taffrail,
        data: &Path,
        to: &Path,
        rate: u64,
    ) -> anyhow::Result<(Met, Met, String)> {
        let broker = taffrail.serve(data, &["scrub_interval=0s"])?;
        broker.call(&["topic", "create", "live"])?;
        let quiet = self.window(&broker, "live", rate)?;
        let path = to.to_str().context("a path that is no text")?;
        let (busy, took, report) = std::thread::scope(|scope| {
            let backing_up = scope.spawn(|| {
                let began = Instant::now();
                (broker.call(&["backup", path]), began.elapsed())
            });
            let busy = self.window(&broker, "live", rate)?;
            ensure!(!backing_up.is_finished(), "it was backed up within the window: raise --gib");
            let (report, took) =
                backing_up.join().map_err(|_| anyhow::anyhow!("the backup panicked"))?;
            anyhow::Ok((busy, took.as_secs_f64(), report?))
        })?;
        let mb = |name: &str| report[name].as_f64().unwrap_or(f64::NAN) / 1e6;
        let cost = format!(
            "{:.0} MB backed up in {took:.1} s, {:.0} MB of them copied",
            mb("bytes"),
            mb("copied_bytes"),
        );
        broker.call(&["topic", "delete", "live"])?;
        broker.stop()?;
        std::fs::remove_dir_all(to)?;
        Ok((quiet, busy, cost))
    }

    /// Appends what is to be kept in order.
    fn fill(&self, broker: &Broker, topic: &str) -> anyhow::Result<()> {
        let records = (self.gib * KIB_PER_GIB).to_string();
        let load = ["produce", "--topic", topic, "--records", &records, "--keys", "1000000"];
        broker.bench(&load).map(drop)
    }

    /// Produces at a rate and follows, after a while that does not count.
    fn window(&self, broker: &Broker, topic: &str, rate: u64) -> anyhow::Result<Met> {
        let produce = |seconds: u64| {
            let (pace, records) = (rate.to_string(), (rate * seconds).to_string());
            let follow = ["produce", "--topic", topic, "--consumers", "1"];
            let load = ["--keys", "1000000", "--rate", &pace, "--records", &records];
            broker.bench(&[&follow[..], &load[..]].concat())
        };
        produce(WARM_UP_SECONDS)?;
        Met::read(&produce(self.seconds)?)
    }
}

impl Met {
    fn read(run: &Run) -> anyhow::Result<Self> {
        let millis = |name: &str| anyhow::Ok(run.figure(name)? / 1e3);
        Ok(Self {
            p50: millis("latency_p50_us")?,
            p99: millis("latency_p99_us")?,
            p999: millis("latency_p999_us")?,
            max: millis("latency_max_us")?,
            end_to_end_p99: millis("end_to_end_p99_us")?,
        })
    }
}

impl std::fmt::Display for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50, p99, p999, max, end_to_end_p99 } = self;
        write!(f, "p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} max {max:.1} ms, ")?;
        write!(f, "end to end p99 {end_to_end_p99:.2} ms")
    }
}

fn await_metric(broker: &Broker, name: &str, is_right: impl Fn(f64) -> bool) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_right(broker.metric(name)?) {
        ensure!(began.elapsed() < PATIENCE, "{name} does not become what it should be");
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Median, least and most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    format!("{:.2} ({:.2} to {:.2})", at(values.len() / 2), at(0), at(values.len().max(1) - 1))
}
