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

/// What `taffrail bench` said of one run.
#[derive(Clone, Debug)]
pub struct Run(Value);

impl Run {
    /// A figure, if it has that.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0["cases"][0]["figures"][name]["median"].as_f64()
    }

    /// A figure that it must have.
    ///
    /// # Errors
    /// If it has not.
    pub fn figure(&self, name: &str) -> anyhow::Result<f64> {
        self.get(name).with_context(|| format!("no {name} in {}", self.0))
    }
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

    /// Runs `taffrail bench` with these arguments.
    ///
    /// # Errors
    /// If it fails, or a record does.
    pub fn bench(&self, arguments: &[&str]) -> anyhow::Result<Run> {
        let run = Run(self.call(&[&["bench"], arguments].concat())?);
        let failed = run.get("failed_records").unwrap_or(0.0);
        ensure!(failed == 0.0, "{failed} records failed");
        Ok(run)
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

    /// Stops it in order, so that its logs are marked clean.
    ///
    /// # Errors
    /// If it does not end so.
    pub fn stop(self) -> anyhow::Result<()> {
        self.running.stop()
    }
}
