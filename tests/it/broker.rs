//! A real broker process on a port of its own choice, killed when its test is over.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use taffrail_client::Client;
use tempfile::TempDir;

use crate::program::{Program, product};

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
    pub(crate) program: Program,
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
        let mut command = product();
        command.args(["serve", "--listen", listen, "--data"]).arg(self.data());
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut program = Program::start(&mut command);
        let line = program.lines(1).concat();
        let ready = line.strip_prefix("taffrail is ready on http://");
        let Some(address) = ready.and_then(|rest| rest.split(' ').next()) else {
            // Without the line it has ended, or it should.
            return Err(format!("{line}{}", program.kill()));
        };
        let address: SocketAddr = address.parse().expect("an address");
        let url = format!("http://{address}");
        Ok(Broker { address, url, home: self.clone(), program })
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
        self.program.id()
    }

    /// Asks it to stop and waits until it has. It must have stopped in order. Clients of the test
    /// run meanwhile, so that their connections can end in order too.
    pub(crate) async fn stop(mut self) -> Home {
        self.program.signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.program.status() {
                break status;
            }
            assert!(Instant::now() < deadline, "the broker does not stop");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(status.success(), "it stopped with {status}: {}", self.program.kill());
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

    /// The files of a partition of a topic.
    pub(crate) fn partition_folder(&self, topic_id: &str, partition: u32) -> PathBuf {
        self.home.data().join("logs").join(format!("{topic_id}-{partition}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let said = self.program.kill();
        if std::thread::panicking() {
            eprintln!("the broker said:\n{said}");
        }
    }
}
