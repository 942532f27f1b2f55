//! The real program in a process of its own, on a directory that outlives it.
//!
//! It listens on a port of its own choice; [`Proxy`] gives it an address that stays over restarts.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::dice::Dice;
use crate::proxy::Proxy;
use crate::strace::inject;

/// A start that takes longer has hung.
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
/// Whoever was killed at a system call is gone within this time, and whoever has gone on is killed.
const ENDING: Duration = Duration::from_millis(20);

/// Where a broker keeps its data, and the address at which clients find whichever runs on it.
pub(crate) struct Home {
    /// Kept if the test fails.
    folder: Option<TempDir>,
    pub(crate) data: PathBuf,
    /// Settings of brokers that are started here, as in `NAME=VALUE`.
    pub(crate) settings: Vec<String>,
    pub(crate) proxy: Proxy,
}

/// A broker that runs. Killed when dropped.
pub(crate) struct Broker {
    child: Child,
    output: BufReader<ChildStdout>,
    address: Option<String>,
}

impl Home {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("taffrail-crash-").tempdir();
        let folder = folder.expect("a temporary directory");
        let data = folder.path().join("data");
        let (settings, proxy) = (Vec::new(), Proxy::start().await);
        Self { folder: Some(folder), data, settings, proxy }
    }

    /// Lets brokers sync two partitions that wait with one call already, by chance or not.
    pub(crate) fn syncs_together_half_the_time(&mut self, dice: &mut Dice) {
        if dice.below(2) == 0 {
            self.settings.push("sync_together_min=2".to_owned());
        }
    }

    /// A place for files beside the data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().expect("there until the end").path()
    }

    /// Starts a broker and waits until it serves.
    pub(crate) async fn start(&self) -> Broker {
        let mut broker = self.spawn(&[]);
        assert!(broker.serve(self).await, "the broker did not get ready:\n{}", self.said());
        broker
    }

    /// Starts a broker and does not wait for anything. `runner` is a program that runs it, in the
    /// same process in the end, such as `strace -D`.
    pub(crate) fn spawn(&self, runner: &[&str]) -> Broker {
        let words = runner.iter().map(PathBuf::from).chain([binary()]).collect::<Vec<_>>();
        let (program, rest) = words.split_first().expect("the binary at least");
        let mut command = Command::new(program);
        command.args(rest).args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&self.data);
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        // What tells tests where things are is no setting of a broker.
        let ours = std::env::vars().filter(|(name, _)| name.starts_with("TAFFRAIL_"));
        ours.for_each(|(name, _)| {
            command.env_remove(name);
        });
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command.stderr(log.expect("a file for what the broker says"));
        let mut child = command.spawn().expect("the broker's binary starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Broker { child, output, address: None }
    }

    /// Starts a broker that is killed at so many of these system calls of one of its threads.
    pub(crate) fn spawn_killed(&self, calls: &str, number: u64) -> Broker {
        let [a, b, c, d] = inject(calls, &format!("signal=SIGKILL:when={number}"));
        self.spawn(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", &a, &b, &c, &d])
    }

    /// The end of what brokers here wrote on standard error.
    pub(crate) fn said(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(60).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// All of it.
    pub(crate) fn said_all(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder().join("broker.log")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the broker said last:\n{}", self.said());
            let kept = self.folder.take().map(TempDir::keep).unwrap_or_default();
            println!("kept: {}", kept.display());
        }
    }
}

impl Broker {
    /// The address on the line that says so.
    async fn wait_until_ready(&mut self) -> io::Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).await? == 0 {
                return Err(io::Error::other("it ended"));
            }
            if let Some((_, behind)) = line.split_once("ready on http://") {
                return Ok(behind.split_whitespace().next().unwrap_or_default().to_owned());
            }
        }
    }

    /// Waits until it serves, and leads clients to it. False if it ends before.
    pub(crate) async fn serve(&mut self, home: &Home) -> bool {
        let ready = timeout(START_MAX, self.wait_until_ready()).await;
        let Ok(address) = ready.expect("a start takes less time") else { return false };
        home.proxy.lead_to(&address);
        self.address = Some(address);
        true
    }

    /// Whether it ends by itself within this time.
    pub(crate) async fn ends_within(&mut self, time: Duration) -> bool {
        timeout(time, self.child.wait()).await.is_ok()
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Bytes of memory that it has, or had at the most.
    pub(crate) fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it has a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|it| it.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.expect("Linux says how much memory it has") << 10
    }

    /// Where it listens itself.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address.as_deref().expect("it is ready"))
    }

    /// Ends it without a word: SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("the broker is killed");
    }

    /// Makes sure that it is gone, whether or not it was already.
    pub(crate) async fn end(mut self) {
        if !self.ends_within(ENDING).await {
            self.kill().await;
        }
    }

    /// Asks it to stop in order.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal("TERM").await;
        let status = timeout(STOP_MAX, self.child.wait()).await;
        status.expect("the broker stops in time").expect("it has a status")
    }

    /// Sends a signal to it.
    pub(crate) async fn signal(&self, name: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &self.pid().to_string()]);
        assert!(shell.status().await.expect("a shell").success(), "SIG{name}");
    }
}

/// The product, as the runner of tests says, or as cargo built it beside the tests.
pub(crate) fn binary() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().expect("a test has a file");
        let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
        folder.join("taffrail")
    };
    let binary = std::env::var_os("TAFFRAIL_BIN").map_or_else(beside, PathBuf::from);
    assert!(binary.is_file(), "{} is not there: cargo build", binary.display());
    binary
}
