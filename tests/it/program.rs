//! The product as a process: arguments and input go in, words and an exit code come out.
//!
//! Nothing here waits for ever, and no process that runs when its test ends outlives it.

use std::io::{self, BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::broker::PATIENCE;

/// A process that runs. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    output: Heard,
    errors: Heard,
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// What a process writes to a pipe.
struct Heard {
    said: Arc<(Mutex<Said>, Condvar)>,
}

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    lines: usize,
    is_over: bool,
}

/// The product, free of what the environment says to these tests: to a command that would be
/// settings and a server.
pub(crate) fn product() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TAFFRAIL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the product with these arguments and no input to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    run_with(arguments, &[])
}

/// The same with variables in its environment.
pub(crate) fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = product();
    command.args(arguments).envs(environment.iter().copied());
    Program::start(&mut command).end()
}

impl Program {
    /// Starts a process that has nothing to read.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::spawn(command, io::empty(), usize::MAX)
    }

    /// Starts a process that reads `input`.
    pub(crate) fn start_fed(command: &mut Command, input: impl Read + Send + 'static) -> Self {
        Self::spawn(command, input, usize::MAX)
    }

    /// Starts a process whose output is read for so many lines; then the pipe is closed.
    pub(crate) fn start_heard(command: &mut Command, lines: usize) -> Self {
        Self::spawn(command, io::empty(), lines)
    }

    fn spawn(command: &mut Command, mut input: impl Read + Send + 'static, lines: usize) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let mut stdin = child.stdin.take().expect("piped");
        // Not joined: what is not read is not written, and that ends with the process.
        std::thread::spawn(move || io::copy(&mut input, &mut stdin));
        let output = Heard::new(child.stdout.take().expect("piped"), lines);
        let errors = Heard::new(child.stderr.take().expect("piped"), usize::MAX);
        Self { child, output, errors }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first `count` lines on standard output. There are fewer if it wrote no more.
    #[track_caller]
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let (is_there, text) = self.output.wait(|said| count <= said.lines);
        assert!(is_there, "waited for {count} lines: {text:?}");
        text.lines().take(count).map(str::to_owned).collect()
    }

    /// Sends it a signal.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id();
        assert!(send(name, &id.to_string()), "process {id} was gone before SIG{name}");
    }

    /// How it ended, if it has.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Whether it ends within this time.
    pub(crate) fn ends_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.status().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        assert!(self.ends_within(PATIENCE), "process {} does not end", self.id());
        let status = self.status().expect("it has ended");
        Ended { status, output: self.output.all(), errors: self.errors.all() }
    }

    /// Ends it at once, with its group; what it said on standard error.
    pub(crate) fn kill(&mut self) -> String {
        if self.status().is_none() {
            // It may end meanwhile. Where it leads a group, that ends too.
            send("KILL", &format!("-{}", self.id()));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.errors.all()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Ended {
    /// What it printed; it succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        self.check(0, &[]);
        self.output
    }

    /// The one JSON value it printed.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let output = self.success();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// The JSON values it printed, one a line.
    #[track_caller]
    pub(crate) fn json_lines(self) -> Vec<Value> {
        let output = self.success();
        let value = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        output.lines().map(value).collect()
    }

    /// Checks how it ended, and that it said these words on standard error.
    #[track_caller]
    pub(crate) fn check(&self, code: i32, says: &[&str]) {
        let errors = &self.errors;
        assert_eq!(self.status.code(), Some(code), "{}: {errors}", self.status);
        for words in says {
            assert!(errors.contains(words), "{errors:?} does not say {words:?}");
        }
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

impl Heard {
    fn new(pipe: impl Read + Send + 'static, lines: usize) -> Self {
        let said = Arc::<(Mutex<Said>, Condvar)>::default();
        let hearing = Arc::clone(&said);
        std::thread::spawn(move || hear(pipe, lines, &hearing));
        Self { said }
    }

    /// Waits until this is enough, or nothing more comes: whether that happened, and what came.
    fn wait(&self, is_enough: impl Fn(&Said) -> bool) -> (bool, String) {
        let (said, more) = &*self.said;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_missing = |said: &mut Said| !said.is_over && !is_enough(said);
        let waited = more.wait_timeout_while(said, PATIENCE, is_missing);
        let (said, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out(), String::from_utf8_lossy(&said.bytes).into_owned())
    }

    /// All of it; the process has ended. A child that it left behind may still hold the pipe.
    fn all(&self) -> String {
        self.wait(|_| false).1
    }
}

/// Sends a signal to a process, or with a minus to a group; whether there is one.
fn send(signal: &str, to: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args(["-s", signal, "--", to]).stderr(Stdio::null());
    kill.status().expect("kill exists").success()
}

/// Reads so many lines and closes the pipe.
fn hear(pipe: impl Read, lines: usize, (said, more): &(Mutex<Said>, Condvar)) {
    let mut pipe = BufReader::new(pipe);
    for _ in 0..lines {
        let mut line = Vec::new();
        if !matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            break;
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.bytes.append(&mut line);
        said.lines += 1;
        more.notify_all();
    }
    said.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
    more.notify_all();
}

/// The binary of the product: named by `TAFFRAIL_BIN`, else the one built beside this suite.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("TAFFRAIL_BIN") {
        return named.into();
    }
    let suite = std::env::current_exe().expect("this program has a path");
    let beside = suite.ancestors().skip(1).map(|folder| folder.join("taffrail"));
    beside.into_iter().find(|path| path.is_file()).expect("build the binary first: cargo build")
}
