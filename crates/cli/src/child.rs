//! A broker that runs as a child of this process, on a port of its own.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A broker that serves. It ends with its owner.
#[derive(Debug)]
pub(crate) struct ChildBroker {
    child: Child,
    url: String,
    ready_after: Duration,
}

impl ChildBroker {
    /// Starts one on `data`, which is made if it is not there, and waits until it serves.
    pub(crate) fn start(data: &Path, log: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let begun = Instant::now();
        let child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--set", &format!("log={log}"), "--data"])
            .arg(data)
            // What a terminal tells this process is not for the broker.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a broker")?;
        // From here on it ends with this.
        let mut started = Self { child, url: String::new(), ready_after: Duration::ZERO };
        let stdout = started.child.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot hear the broker")?;
        started.ready_after = begun.elapsed();
        let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) else {
            bail!("the broker did not start; it said {line:?}");
        };
        url.clone_into(&mut started.url);
        Ok(started)
    }

    /// Its address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long it took until it said that it serves.
    pub(crate) const fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Ends it without any warning.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot kill the broker")?;
        self.child.wait().context("cannot see the broker end")?;
        Ok(())
    }

    /// Asks it to end in order, and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("cannot signal it")?;
        let status = self.child.wait().context("cannot see the broker end")?;
        ensure!(status.success(), "the broker ended with {status}");
        Ok(())
    }
}

impl Drop for ChildBroker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
