//! A real broker process on a port of its own choice, killed when its test is over.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use taffrail_client::Client;
use tempfile::TempDir;

/// How long anything may take that should take a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A place for one broker's data. It goes when the last broker on it is gone.
#[derive(Clone)]
pub(crate) struct Home {
    folder: Arc<TempDir>,
}

/// A broker that serves.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
    pub(crate) home: Home,
    child: Child,
    said: Said,
}

/// What a process wrote on standard error.
struct Said {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("taffrail-it-").tempdir();
        Self { folder: Arc::new(folder.expect("room for data")) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts a broker here on a port of its own choice.
    #[track_caller]
    pub(crate) fn start(&self, settings: &[&str]) -> Broker {
        self.start_at("127.0.0.1:0", settings)
    }

    /// Starts a broker here on this address.
    #[track_caller]
    pub(crate) fn start_at(&self, listen: &str, settings: &[&str]) -> Broker {
        self.try_start(listen, settings).unwrap_or_else(|said| panic!("no broker: {said}"))
    }

    /// Starts a broker, or says what it said instead.
    pub(crate) fn try_start(&self, listen: &str, settings: &[&str]) -> Result<Broker, String> {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", listen, "--data"]).arg(self.data());
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = spawn(&mut command);
        let mut said = Said::of(&mut child);
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let ready = line.strip_prefix("taffrail is ready on http://");
        let Some(address) = ready.and_then(|rest| rest.split(' ').next()) else {
            // Without the line it has ended, or it should.
            let _ = child.kill();
            child.wait().expect("a child of ours");
            return Err(format!("{line}{}", said.all()));
        };
        let address: SocketAddr = address.parse().expect("an address");
        let url = format!("http://{address}");
        Ok(Broker { address, url, home: self.clone(), child, said })
    }
}

impl Broker {
    /// A broker in a new directory.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A broker in a new directory with settings as `name=value`.
    #[track_caller]
    pub(crate) fn with(settings: &[&str]) -> Self {
        Home::new().start(settings)
    }

    /// A client with its own connection.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.url).expect("an address")
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits until it has. It must have stopped in order. Clients of the test
    /// run meanwhile, so that their connections can end in order too.
    pub(crate) async fn stop(mut self) -> Home {
        self.terminate();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "the broker does not stop");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(status.success(), "it stopped with {status}: {}", self.said.all());
        self.home.clone()
    }

    /// Stops it, and starts one on the same directory and address.
    pub(crate) async fn restart(self) -> Self {
        let address = self.address.to_string();
        let home = self.stop().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match home.try_start(&address, &[]) {
                Ok(broker) => return broker,
                // Somebody may have got the port for a moment.
                Err(said) => assert!(
                    said.contains("cannot listen") && Instant::now() < deadline,
                    "no broker: {said}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill exists");
        assert!(told.success(), "the broker was gone before it was told to stop");
    }

    /// The files of a partition of a topic.
    pub(crate) fn partition_folder(&self, topic_id: &str, partition: u32) -> PathBuf {
        self.home.data().join("logs").join(format!("{topic_id}-{partition}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the broker said:\n{}", self.said.all());
        }
    }
}

impl Said {
    fn of(child: &mut Child) -> Self {
        let text = Arc::<Mutex<String>>::default();
        let mut stderr = child.stderr.take().expect("piped");
        let writing = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut chunk) {
                let more = String::from_utf8_lossy(&chunk[..length]);
                writing.lock().unwrap_or_else(PoisonError::into_inner).push_str(&more);
            }
        });
        Self { text, reader: Some(reader) }
    }

    /// Everything; the process has ended.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the product with these arguments until it ends: whether it succeeded, and what it said.
pub(crate) fn run(arguments: &[&str]) -> (bool, String) {
    run_with(arguments, &[])
}

/// The same with variables in its environment.
pub(crate) fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(binary());
    command.args(arguments).envs(environment.iter().copied());
    let mut child = spawn(&mut command);
    let mut said = Said::of(&mut child);
    let status = wait(&mut child);
    (status.success(), said.all())
}

fn spawn(command: &mut Command) -> Child {
    let (stdout, stderr) = (Stdio::piped(), Stdio::piped());
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // What makes the suite find the binary is no setting of the broker.
    command.env_remove("TAFFRAIL_DEEP").spawn().expect("the binary can be started")
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    panic!("process {} does not end", child.id());
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
