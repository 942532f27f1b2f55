//! The broker that is measured: one that runs, or one of its own; and what it costs.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use taffrail_client::Client;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::figure::{Figure, Unit};
use crate::child::ChildBroker;

/// How long a broker may take to say what it counts.
const PATIENCE: Duration = Duration::from_secs(10);

/// The broker that is measured.
#[derive(Debug)]
pub(super) struct Broker {
    server: String,
    /// Of one that runs on this machine, or is its own.
    process: Option<u32>,
    own: Option<Own>,
}

/// A broker of its own. Fields go in this order: it ends before its directory goes.
#[derive(Debug)]
struct Own {
    broker: ChildBroker,
    /// That of one whose data goes with it.
    home: Option<TempDir>,
}

/// What was used until a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    broker: Option<Counted>,
    client_cpu_seconds: f64,
    /// Whether the peak of the broker's memory began anew with it.
    has_peak: bool,
}

/// What the broker counts.
#[derive(Clone, Copy, Debug)]
struct Counted {
    cpu_seconds: f64,
    syncs: f64,
    stored_bytes: f64,
}

impl Broker {
    /// One that runs.
    pub(super) async fn find(server: &str) -> Self {
        let health = get(server, "/healthz").await;
        let is_near =
            ["127.", "[::1]", "localhost"].iter().any(|it| authority(server).starts_with(it));
        let health: Option<serde_json::Value> =
            health.filter(|_| is_near).and_then(|body| serde_json::from_str(&body).ok());
        let process = health.and_then(|it| u32::try_from(it["process"].as_u64()?).ok());
        Self { server: server.to_owned(), process, own: None }
    }

    /// Starts one with its data in a new directory in `parent`.
    pub(super) fn start(parent: &Path) -> anyhow::Result<Self> {
        let home = TempDir::with_prefix_in("taffrail-bench-", parent);
        let home = home.with_context(|| format!("cannot write to {}", parent.display()))?;
        let mut started = Self::start_on(&home.path().join("data"))?;
        if let Some(own) = &mut started.own {
            own.home = Some(home);
        }
        Ok(started)
    }

    /// Starts one on `data`, which stays.
    pub(super) fn start_on(data: &Path) -> anyhow::Result<Self> {
        let broker = ChildBroker::start(data, "warn")?;
        let (server, process) = (broker.url().to_owned(), Some(broker.id()));
        Ok(Self { server, process, own: Some(Own { broker, home: None }) })
    }

    /// Stops one that was started here, in order; its clients go on meanwhile, and hear of it.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.own {
            Some(own) => tokio::task::spawn_blocking(|| own.broker.stop()).await?,
            None => Ok(()),
        }
    }

    /// A client with a connection of its own.
    pub(super) fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.server)?)
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Where the data of a broker of its own lies, and more may be put beside it.
    pub(super) fn home(&self) -> Option<&Path> {
        self.own.as_ref()?.home.as_ref().map(TempDir::path)
    }

    /// What was used until now; lets the peak of the broker's memory begin anew.
    pub(super) async fn begin(&self) -> Used {
        // That of another user, or in another container, is not ours to see.
        let has_peak = self.process.is_some_and(|process| {
            let name = std::fs::read_to_string(format!("/proc/{process}/comm"));
            name.is_ok_and(|name| name.trim_end() == "taffrail")
                && std::fs::write(format!("/proc/{process}/clear_refs"), "5").is_ok()
        });
        self.used(has_peak).await
    }

    async fn used(&self, has_peak: bool) -> Used {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let client_cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        Used { broker: self.counted().await, client_cpu_seconds, has_peak }
    }

    /// What so many records have cost since; `bytes` of values, if that is to be told.
    pub(super) async fn cost(&self, since: Used, records: u64, bytes: Option<u64>) -> Vec<Figure> {
        let now = self.used(since.has_peak).await;
        let millions = records as f64 / 1e6;
        let mut figures = Vec::new();
        if records > 0 {
            let mut add = |name: &str, seconds: f64| {
                let per_million = seconds / millions;
                figures.push(Figure::new(name, Unit::CpuSecondsPerMillion, per_million));
            };
            if let (Some(before), Some(now)) = (since.broker, now.broker) {
                add("broker_cpu_per_million_s", now.cpu_seconds - before.cpu_seconds);
            }
            add("client_cpu_per_million_s", now.client_cpu_seconds - since.client_cpu_seconds);
        }
        if let (Some(before), Some(now)) = (since.broker, now.broker) {
            let syncs = now.syncs - before.syncs;
            if syncs > 0.0 && records > 0 {
                figures.push(Figure::new("records_per_sync", Unit::Ratio, records as f64 / syncs));
            }
            if let Some(bytes) = bytes.filter(|bytes| *bytes > 0) {
                let stored = (now.stored_bytes - before.stored_bytes) / bytes as f64;
                figures.push(Figure::new("stored_per_value_byte", Unit::Ratio, stored));
            }
        }
        if let Some(process) = self.process.filter(|_| now.has_peak) {
            // The peak counts the pages of files that are mapped, which are nobody's own.
            // What `status` says of own memory is an estimate, and can be nothing.
            let lines = [
                ("broker_own_bytes", "smaps_rollup", "Anonymous:"),
                ("broker_peak_bytes", "status", "VmHWM:"),
            ];
            let figure = |(name, file, line): (&str, &str, &str)| {
                Some(Figure::new(name, Unit::Bytes, memory_bytes(process, file, line)?))
            };
            figures.extend(lines.into_iter().filter_map(figure));
        }
        figures
    }

    /// The broker's own memory, if it can be seen.
    pub(super) fn own_bytes(&self) -> Option<f64> {
        memory_bytes(self.process?, "smaps_rollup", "Anonymous:")
    }

    /// `None` if it does not say, such as behind a proxy that only takes gRPC.
    async fn counted(&self) -> Option<Counted> {
        let text = get(&self.server, "/metrics").await?;
        let metric = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value?.parse::<f64>().ok()
        };
        Some(Counted {
            cpu_seconds: metric("taffrail_process_cpu_seconds_total")?,
            syncs: metric("taffrail_sync_seconds_count")?,
            stored_bytes: metric("taffrail_produced_bytes_total")?,
        })
    }
}

/// Takes the files under a directory out of the page cache; what somebody has mapped stays.
pub(super) fn forget_files(directory: &Path) -> anyhow::Result<()> {
    use rustix::fs::{Advice, Mode, OFlags, fadvise, fdatasync, open};

    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_files(&entry.path())?;
        } else {
            let file = open(entry.path(), OFlags::RDONLY, Mode::empty())?;
            fdatasync(&file)?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// A line of what the system says of a process's memory.
fn memory_bytes(process: u32, file: &str, name: &str) -> Option<f64> {
    let told = std::fs::read_to_string(format!("/proc/{process}/{file}")).ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
}

fn authority(server: &str) -> &str {
    server.strip_prefix("http://").unwrap_or(server).trim_end_matches('/')
}

/// What plain HTTP answers, if it does.
async fn get(server: &str, path: &str) -> Option<String> {
    let authority = authority(server);
    let ask = async {
        let mut stream = TcpStream::connect(authority).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    };
    timeout(PATIENCE, ask).await.ok()?
}
