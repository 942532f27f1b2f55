//! What the transport can do: the contract's streams with nothing behind them.
//!
//! Windows, frames, buffers and threads are those of the broker (`crates/server/src/accept.rs`) and
//! of the Rust client (`crates/client/src/client.rs`). Server and client are processes of their own,
//! as broker and bench are. Nothing is checked, copied on purpose, or stored.

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use taffrail_proto::v1;
use taffrail_proto::v1::consume_response::Event;
use taffrail_proto::v1::log_service_client::LogServiceClient;
use taffrail_proto::v1::log_service_server::{LogService, LogServiceServer};
use taffrail_proto::v1::record_batch::Payload;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

const WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 1 << 20;

const UP_MESSAGE_BYTES: u64 = 60 << 10;
const DOWN_MESSAGE_BYTES: u64 = 1 << 20;
/// Calls of a run.
const CALLS: u32 = 10_000;
/// Bytes of a run: a second or so.
const RUN_BYTES: u64 = 4 << 30;

/// Serves until it is ended; prints its address first.
pub(crate) fn serve() -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads((cores / 2).max(1)).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("http://{}", listener.local_addr()?);
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http2()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = TowerToHyperService::new(LogServiceServer::new(Bare));
            let builder = builder.clone();
            tokio::spawn(async move {
                // A client that has enough just goes.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

/// Sends messages, so many of them unanswered at a time, and prints the bytes a second.
pub(crate) fn up(server: &str, in_flight: u64) -> anyhow::Result<()> {
    client(async {
        let data = Bytes::from(vec![b'.'; UP_MESSAGE_BYTES as usize]);
        let message = |number| {
            let payload = Some(Payload::Records(data.clone()));
            let batch = Some(v1::RecordBatch { payload, ..v1::RecordBatch::default() });
            let batch = Some(v1::ProduceBatch { batch, ..v1::ProduceBatch::default() });
            v1::ProduceStreamRequest { number, batch, ..v1::ProduceStreamRequest::default() }
        };
        let (sender, messages) = mpsc::channel(in_flight as usize);
        let messages = ReceiverStream::new(messages);
        let mut service = LogServiceClient::new(connect(server).await?);
        let mut answers = service.produce_stream(messages).await?.into_inner();
        let begun = Instant::now();
        let count = RUN_BYTES / UP_MESSAGE_BYTES;
        for number in 1..=count + in_flight {
            if number > in_flight {
                answers.message().await?.context("the server ended the stream")?;
            }
            if number <= count {
                sender.send(message(number)).await.context("the stream is closed")?;
            }
        }
        Ok((count * UP_MESSAGE_BYTES) as f64 / begun.elapsed().as_secs_f64())
    })
}

/// Receives messages and prints the bytes a second.
pub(crate) fn down(server: &str) -> anyhow::Result<()> {
    client(async {
        let mut service = LogServiceClient::new(connect(server).await?);
        let mut messages = service.consume(stream::empty()).await?.into_inner();
        let begun = Instant::now();
        let count = RUN_BYTES / DOWN_MESSAGE_BYTES;
        for _ in 0..count {
            messages.message().await?.context("the server ended the stream")?;
        }
        Ok((count * DOWN_MESSAGE_BYTES) as f64 / begun.elapsed().as_secs_f64())
    })
}

/// Calls, one after another, and prints how many seconds one takes.
pub(crate) fn round_trip(server: &str) -> anyhow::Result<()> {
    client(async {
        let mut service = LogServiceClient::new(connect(server).await?);
        let begun = Instant::now();
        for _ in 0..CALLS {
            service.list_offsets(v1::ListOffsetsRequest::default()).await?;
        }
        Ok(begun.elapsed().as_secs_f64() / f64::from(CALLS))
    })
}

/// Runs on this thread alone, as `taffrail bench` does.
fn client(run: impl Future<Output = anyhow::Result<f64>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(run)?);
    Ok(())
}

async fn connect(server: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(server.to_owned())?
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES);
    Ok(endpoint.connect().await?)
}

/// Answers every message, and sends for ever.
struct Bare;

#[tonic::async_trait]
impl LogService for Bare {
    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        Err(Status::unimplemented("only streams are measured"))
    }

    type ProduceStreamStream = BoxStream<'static, Result<v1::ProduceStreamResponse, Status>>;

    async fn produce_stream(
        &self,
        requests: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let answers = requests.into_inner().map(|request| {
            let number = request?.number;
            Ok(v1::ProduceStreamResponse { number, ..v1::ProduceStreamResponse::default() })
        });
        Ok(Response::new(answers.boxed()))
    }

    type ConsumeStream = BoxStream<'static, Result<v1::ConsumeResponse, Status>>;

    async fn consume(
        &self,
        _: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let data = Bytes::from(vec![b'.'; DOWN_MESSAGE_BYTES as usize]);
        let messages = stream::repeat_with(move || {
            let delivery = v1::Delivery { data: data.clone(), ..v1::Delivery::default() };
            Ok(v1::ConsumeResponse { event: Some(Event::Delivery(delivery)) })
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn produce(
        &self,
        _: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("only streams are measured"))
    }

    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("only streams are measured"))
    }

    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        Ok(Response::new(v1::ListOffsetsResponse::default()))
    }
}
