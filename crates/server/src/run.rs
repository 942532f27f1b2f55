//! Builds the parts and puts them together: the only place that does.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use taffrail_broker::{Broker, Crew, Machine, StartError, SystemClock};
use taffrail_log::vfs::Disk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::accept::{self, Connections};
use crate::settings::Settings;
use crate::{http, telemetry};

/// Connections that the kernel lets wait until they are accepted, if `net.core.somaxconn` is not less.
const CONNECTIONS_WAITING_MAX: u32 = 4_096;

/// A broker that serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its data is.
    pub data: PathBuf,
}

/// Why a broker does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: {holder}; stop it first, or name another address with --listen"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// Who listens there.
        holder: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The broker does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Something of the process cannot be had.
    #[error("cannot {what}: {cause}")]
    Process {
        /// What.
        what: &'static str,
        /// Why not.
        cause: String,
    },
}

/// Serves until SIGTERM or SIGINT, then stops in order: accepts nothing new, finishes what is in
/// flight, syncs, and marks every log clean. Calls `on_ready` once requests are served.
///
/// # Errors
/// If the broker cannot start; once it serves, it ends without one.
pub fn run(settings: &Settings, on_ready: impl FnOnce(&Ready)) -> Result<(), ServeError> {
    telemetry::start(settings);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.runtime_threads)
        .thread_name("runtime")
        .enable_all()
        .build()
        .map_err(|error| process("start the runtime", &error))?;
    runtime.block_on(serve(settings, on_ready))
}

async fn serve(settings: &Settings, on_ready: impl FnOnce(&Ready)) -> Result<(), ServeError> {
    let listener = listen(settings.listen).await?;
    let address = listener.local_addr().map_err(|error| process("see the own address", &error))?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| process("await SIGTERM", &error))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| process("await SIGINT", &error))?;
    let machine =
        Machine { vfs: Arc::new(Disk), clock: Arc::new(SystemClock), crew: Crew::Threads };
    let (data, config) = (&settings.data, settings.broker.clone());
    let broker = Broker::start(machine, data, settings.init, config).await?;
    let connections = Arc::new(Connections::new(settings.connections_max));
    let routes = taffrail_grpc::routes(Arc::clone(&broker))
        .await
        .map_err(|error| process("read the contract", &error))?
        .merge(http::routes(Arc::clone(&broker), Arc::clone(&connections)));
    let drain_timeout = settings.drain_timeout;
    let serving = tokio::spawn(accept::serve(
        listener,
        routes,
        connections,
        Arc::clone(&broker),
        drain_timeout,
    ));
    let data = settings.data.clone();
    tracing::info!(%address, data = %data.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    on_ready(&Ready { address, data });

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    broker.begin_stop();
    let _ = serving.await;
    let closing = tokio::task::spawn_blocking(move || broker.close());
    closing.await.map_err(|error| process("close the logs", &error))?;
    tracing::info!("stopped");
    Ok(())
}

/// Lets the process have as many open files as it may: shells allow few by themselves.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    match raised {
        Ok(()) => tracing::debug!(from = limit.current, to = limit.maximum, "open files"),
        Err(error) => {
            tracing::warn!(%error, allowed = limit.current, "cannot raise the limit of open files");
        }
    }
}

/// Listens with a long queue: all clients may come at once after a restart.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Or a port of old connections could not be had for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(CONNECTIONS_WAITING_MAX)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    match bind(address) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(ServeError::InUse { address, holder: holder(address).await })
        }
        Err(source) => Err(ServeError::Listen { address, source }),
    }
}

/// Who listens on an address, as far as it says so itself.
async fn holder(address: SocketAddr) -> String {
    const PATIENCE: Duration = Duration::from_secs(1);
    let unknown = "another program listens there".to_owned();
    let Ok(Some(health)) = timeout(PATIENCE, ask_health(address)).await else { return unknown };
    let text = |name: &str| health.get(name).map(|value| value.to_string().replace('"', ""));
    match (text("process"), text("data")) {
        (Some(process), Some(data)) => {
            format!("a Taffrail broker listens there (process {process}, data in {data})")
        }
        _ => unknown,
    }
}

async fn ask_health(address: SocketAddr) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

fn process(what: &'static str, cause: &dyn std::fmt::Display) -> ServeError {
    ServeError::Process { what, cause: cause.to_string() }
}
