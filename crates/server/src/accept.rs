//! The accept loop: a cap on connections, a pause when the process has no descriptors left, and
//! timeouts for whoever connects and says nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use taffrail_broker::Broker;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::linger::{self, Lent};

/// How long a connection may take to say its first byte, and HTTP/1 its headers.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often HTTP/2 asks a silent peer whether it lives, and how long it waits for the answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// How long to wait when the process has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that may be on their way to us on one stream and on one connection. Below 16 MiB many tiny
/// frames can spend the budget that h2 has for them and end the connection.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Bytes that wait to be sent on one stream.
const SEND_BUFFER_BYTES: usize = 1 << 20;
const STREAMS_MAX: u32 = 256;
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// How many connections there are.
#[derive(Debug)]
pub(crate) struct Connections {
    /// One of them is taken by whoever may come next.
    slots: Arc<Semaphore>,
    max: usize,
    open: AtomicU64,
    failed: AtomicU64,
}

/// An open connection, until this is dropped.
struct Open {
    connections: Arc<Connections>,
    _slot: OwnedSemaphorePermit,
}

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        let (open, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { slots: Arc::new(Semaphore::new(max)), max, open, failed }
    }

    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn max(&self) -> u64 {
        self.max as u64
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Open {
    fn count(connections: Arc<Connections>, slot: OwnedSemaphorePermit) -> Self {
        connections.open.fetch_add(1, Ordering::Relaxed);
        Self { connections, _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts and serves connections until `stopping`, then lets those that are open finish for as
/// long as `drain_timeout`.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    connections: Arc<Connections>,
    broker: Arc<Broker>,
    drain_timeout: Duration,
) {
    let builder = Arc::new(builder());
    let graceful = GracefulShutdown::new();
    loop {
        // The cap: while all slots are taken, new connections wait in the kernel's queue.
        let slot = Arc::clone(&connections.slots).acquire_owned();
        let accepted = tokio::select! {
            biased;
            () = broker.stopping() => break,
            accepted = async { (slot.await, listener.accept().await) } => accepted,
        };
        let (slot, stream) = match accepted {
            (Ok(slot), Ok((stream, _))) => (slot, stream),
            (_, Err(error)) => {
                pause_after(&error).await;
                continue;
            }
            (Err(_), _) => break,
        };
        let _ = stream.set_nodelay(true);
        let (builder, routes) = (Arc::clone(&builder), routes.clone());
        let (watcher, open) = (graceful.watcher(), Open::count(Arc::clone(&connections), slot));
        let broker = Arc::clone(&broker);
        tokio::spawn(async move {
            let has_spoken = tokio::select! {
                has_spoken = has_spoken(&stream) => has_spoken,
                () = broker.stopping() => false,
            };
            if !has_spoken {
                return;
            }
            let service = routes.map_request(|request: Request<Incoming>| request.map(Body::new));
            let service = TowerToHyperService::new(service);
            let (stream, returned) = Lent::new(stream);
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            match watcher.watch(connection).await {
                Ok(()) => {
                    if let Ok(stream) = returned.await {
                        linger::close(stream).await;
                    }
                }
                Err(error) => {
                    open.connections.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(error = %error, "a connection ended with an error");
                }
            }
        });
    }
    drop(listener);
    let drained = async {
        graceful.shutdown().await;
        // Every connection has given its slot back once it is closed.
        let _ = connections.slots.acquire_many(connections.max as u32).await;
    };
    if timeout(drain_timeout, drained).await.is_err() {
        tracing::warn!(?drain_timeout, "some connections did not finish in time");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// Whether a connection said in time what it speaks: all of HTTP/2's preface, or something else. From
/// there on the timeouts of HTTP/1 and HTTP/2 hold.
async fn has_spoken(stream: &TcpStream) -> bool {
    let speak = async {
        let mut first = [0; PREFACE.len()];
        loop {
            let seen = stream.peek(&mut first).await.unwrap_or(0);
            let said = first.get(..seen).unwrap_or_default();
            if said.is_empty() || said == PREFACE || !PREFACE.starts_with(said) {
                return !said.is_empty();
            }
            // A part of the preface: the rest is on its way, or never comes.
            sleep(PREFACE_PAUSE).await;
        }
    };
    timeout(HANDSHAKE_TIMEOUT, speak).await.unwrap_or(false)
}

/// A connection that was gone before it was accepted is nothing; anything else, such as no
/// descriptors left, gets better only with time.
async fn pause_after(error: &io::Error) {
    let is_theirs = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    );
    if !is_theirs {
        tracing::warn!(%error, "cannot accept connections for now");
        sleep(EXHAUSTED_PAUSE).await;
    }
}
