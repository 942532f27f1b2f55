//! Child processes: on which core they run, when they end, what they cost.
//!
//! Each is ended by its id, at the latest when its owner goes.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// How long a process may take to end in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_POLL: Duration = Duration::from_millis(5);
/// Linux counts CPU time for `/proc` in hundredths, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which cores servers and load get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All of them.
    Shared,
    /// Servers (and fio) the first, load the second.
    Pinned,
}

impl Layout {
    /// What reports call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Pinned => "pinned",
        }
    }

    /// A command that runs where servers do.
    pub fn server(self, program: impl AsRef<OsStr>) -> Command {
        self.command(program.as_ref(), "0")
    }

    /// A command that runs where load does.
    pub fn load(self, program: impl AsRef<OsStr>) -> Command {
        self.command(program.as_ref(), "1")
    }

    /// `taskset` becomes the program, so the id is the program's.
    fn command(self, program: &OsStr, core: &str) -> Command {
        match self {
            Self::Shared => Command::new(program),
            Self::Pinned => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(program);
                command
            }
        }
    }
}

/// Whether servers and load can have cores of their own.
pub fn can_pin() -> bool {
    exists("taskset") && std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2)
}

/// Whether a program is on the PATH.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs to the end and returns what was printed.
///
/// # Errors
/// If it cannot run, or fails.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} prints no text"))
}

/// Writes everything dirty of a directory's file system, so that the next part does not pay for it.
///
/// # Errors
/// If it cannot.
pub fn sync(directory: &Path) -> anyhow::Result<()> {
    output(Command::new("sync").arg("-f").arg(directory)).map(drop)
}

/// Makes so much free memory warm: gets it from the system, writes to each page, and gives it back.
pub fn touch_memory(bytes: u64) {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    std::hint::black_box(vec![1u8; bytes]);
}

/// A server that has said that it is ready.
#[derive(Debug)]
pub struct Running {
    child: Child,
    ready: String,
    start_up: Duration,
    /// Held open: a server may print more.
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a server and waits for its first line.
    ///
    /// # Errors
    /// If it cannot run, or ends.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot run {command:?}"))?;
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let mut running = Self {
            child,
            ready: String::new(),
            start_up: Duration::ZERO,
            stdout: BufReader::new(stdout),
        };
        running.stdout.read_line(&mut running.ready)?;
        running.start_up = begun.elapsed();
        ensure!(!running.ready.is_empty(), "{command:?} ended before it was ready");
        Ok(running)
    }

    /// The first line.
    pub fn ready(&self) -> &str {
        self.ready.trim_end()
    }

    /// From the call that made the process until its first line.
    pub const fn start_up(&self) -> Duration {
        self.start_up
    }

    /// Sends SIGTERM and waits until the process has ended.
    ///
    /// # Errors
    /// If it does not end in order.
    pub fn stop(mut self) -> anyhow::Result<()> {
        output(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            std::thread::sleep(STOP_POLL);
        }
        bail!("the server did not end within {STOP_TIMEOUT:?}")
    }

    /// CPU seconds until now, of all threads.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let [user, system, ..] = cpu_times(&self.child.id().to_string())?;
        Ok(user + system)
    }

    /// A line of `/proc/PID/status` that counts memory, in bytes.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn memory_bytes(&self, name: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("/proc/PID/status has no {name}"))? * 1024.0)
    }

    /// Lets the peak (`VmHWM`) begin anew.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn reset_peak(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU seconds of all children that have ended.
///
/// # Errors
/// If the system does not say.
pub fn ended_children_cpu_seconds() -> anyhow::Result<f64> {
    let [_, _, user, system] = cpu_times("self")?;
    Ok(user + system)
}

/// `utime`, `stime`, `cutime` and `cstime` of a process, in seconds.
fn cpu_times(process: &str) -> anyhow::Result<[f64; 4]> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    parse_cpu_times(&stat).with_context(|| format!("cannot read /proc/{process}/stat: {stat:?}"))
}

/// The name stands in parentheses and may hold anything; eleven fields are between it and the times.
fn parse_cpu_times(stat: &str) -> Option<[f64; 4]> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some([seconds()?, seconds()?, seconds()?, seconds()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 300 25 20 0 1";
        assert_eq!(parse_cpu_times(stat), Some([1.5, 0.5, 3.0, 0.25]));
        assert_eq!(parse_cpu_times("7 (a) S 1 2"), None);
    }
}
