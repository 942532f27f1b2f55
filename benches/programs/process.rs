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
    /// Held open: a server may print more.
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a server and waits for its first line.
    ///
    /// # Errors
    /// If it cannot run, or ends.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot run {command:?}"))?;
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let mut running = Self { child, ready: String::new(), stdout: BufReader::new(stdout) };
        running.stdout.read_line(&mut running.ready)?;
        ensure!(!running.ready.is_empty(), "{command:?} ended before it was ready");
        Ok(running)
    }

    /// The first line.
    pub fn ready(&self) -> &str {
        self.ready.trim_end()
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
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
