//! The program that is measured: brokers started by us, and `taffrail bench` against them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::process::{self, Layout, Running};

/// `taffrail`, and where it runs.
#[derive(Clone, Debug)]
pub struct Taffrail {
    program: PathBuf,
    layout: Layout,
}

impl Taffrail {
    /// The program at a path, on these cores.
    pub fn new(program: &Path, layout: Layout) -> Self {
        Self { program: program.to_owned(), layout }
    }

    /// Starts a broker on `data`, which is made if it is not there, with settings as `NAME=VALUE`.
    ///
    /// # Errors
    /// If it does not serve.
    pub fn serve(&self, data: &Path, settings: &[&str]) -> anyhow::Result<Broker> {
        let mut command = self.layout.server(&self.program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--set", "log=warn", "--data"]).arg(data);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let running = Running::start(&mut command)?;
        let url = running.ready().split_whitespace().find(|word| word.starts_with("http://"));
        let server =
            url.with_context(|| format!("no address in {:?}", running.ready()))?.to_owned();
        Ok(Broker { taffrail: self.clone(), server, running })
    }
}

/// A broker that serves.
#[derive(Debug)]
pub struct Broker {
    taffrail: Taffrail,
    server: String,
    running: Running,
}

/// What a workload gave and cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Records that were acknowledged or read.
    pub records_per_second: f64,
    /// Of keys and values.
    pub bytes_per_second: f64,
    /// CPU time of the broker for a million records.
    pub broker_cpu_seconds_per_million: f64,
    /// CPU time of the clients for as many.
    pub client_cpu_seconds_per_million: f64,
    /// Resident at the most, mapped files included.
    pub peak_bytes: f64,
    /// Resident at the end, without mapped files.
    pub anonymous_bytes: f64,
}

impl Broker {
    /// Runs `taffrail` against the broker: the JSON that it prints, null if it prints nothing.
    ///
    /// # Errors
    /// If it fails.
    pub fn call(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = self.taffrail.layout.load(&self.taffrail.program);
        command.args(["--quiet", "--output", "json", "--server", &self.server]).args(arguments);
        let printed = process::output(&mut command)?;
        if printed.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&printed).with_context(|| format!("{printed:?} is no JSON"))
    }

    /// Runs a workload. Its CPU time is that of all it does, with making and deleting its topic.
    ///
    /// # Errors
    /// If it fails, or a record does.
    pub fn bench(&self, arguments: &[&str]) -> anyhow::Result<Cost> {
        self.running.reset_peak()?;
        let broker_before = self.running.cpu_seconds()?;
        let client_before = process::ended_children_cpu_seconds()?;
        let json = self.call(arguments)?;
        let client = process::ended_children_cpu_seconds()? - client_before;
        let broker = self.running.cpu_seconds()? - broker_before;
        let figure =
            |name: &str| json[name].as_f64().with_context(|| format!("no {name} in {json}"));
        ensure!(json["failed_records"] == 0, "records failed: {json}");
        let millions = figure("records")? / 1e6;
        Ok(Cost {
            records_per_second: figure("records_per_second")?,
            bytes_per_second: figure("bytes_per_second")?,
            broker_cpu_seconds_per_million: broker / millions,
            client_cpu_seconds_per_million: client / millions,
            peak_bytes: self.running.memory_bytes("VmHWM")?,
            anonymous_bytes: self.running.memory_bytes("RssAnon")?,
        })
    }

    /// From spawn to the line that says that it serves.
    pub fn start_up_seconds(&self) -> f64 {
        self.running.start_up().as_secs_f64()
    }

    /// What one of its metrics says.
    ///
    /// # Errors
    /// If it does not answer, or has no such metric.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let address = self.server.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("there is no metric {name}"))?.parse()?)
    }

    /// Memory that it has now.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn resident_bytes(&self) -> anyhow::Result<f64> {
        self.running.memory_bytes("VmRSS")
    }

    /// Stops it in order, so that its logs are marked clean.
    ///
    /// # Errors
    /// If it does not end so.
    pub fn stop(self) -> anyhow::Result<()> {
        self.running.stop()
    }
}
