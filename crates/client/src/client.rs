//! A broker as its clients see it: what everything else is made from.

use std::sync::Arc;
use std::time::Duration;

use taffrail_model::{ProducerEpoch, ProducerId, limits};
use taffrail_proto::v1;
use taffrail_proto::v1::admin_service_client::AdminServiceClient;
use taffrail_proto::v1::group_service_client::GroupServiceClient;
use taffrail_proto::v1::log_service_client::LogServiceClient;
use taffrail_proto::v1::queue_service_client::QueueServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::connections::{Connections, Place, Traffic};
use crate::producer::Identity;
use crate::{
    AddressError, Admin, CallError, ConsumerBuilder, GroupConsumerBuilder, Groups, ProducerBuilder,
    QueueWorkerBuilder, Queues,
};

/// Windows this wide keep a stream busy, and keep small unread frames from killing a connection.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// The widest there is: what a consumer leaves unread must not hold up the producers and calls that
/// share its connection. Each stream is bounded by its own window.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// Large frames are worth two fifths on bulk reads.
const FRAME_BYTES: u32 = 1 << 20;
/// After so many attempts to open a stream it shares a connection with others.
const SHARING_ATTEMPTS: u32 = 3;
/// The largest batch there can be and what is around it.
pub(crate) const MESSAGE_BYTES_MAX: usize = limits::BATCH_BYTES_MAX as usize + (4 << 20);

/// A client of a broker. Cheap to clone; clones share its connections.
///
/// The first connection is made at the first call. Producers and consumers have one each while there are
/// few of them, and then share: see [`ClientBuilder::connections_max`]. One that broke is made again.
#[derive(Clone, Debug)]
pub struct Client {
    server: Arc<str>,
    connections: Arc<Connections>,
}

/// Settings of a client's connections.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    url: String,
    connections_max: usize,
    connect_timeout: Duration,
    keep_alive_interval: Duration,
    keep_alive_timeout: Duration,
}

impl Client {
    /// A client of the broker at `url`, such as `http://127.0.0.1:7245`.
    ///
    /// Nothing is sent before the first call, and nothing fails before it but a bad address. Call
    /// it inside a tokio runtime.
    ///
    /// # Errors
    /// If `url` is not an address.
    pub fn connect(url: &str) -> Result<Self, AddressError> {
        Self::builder(url).build()
    }

    /// Settings for a client of the broker at `url`.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder {
            url: url.to_owned(),
            connections_max: 4,
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(10),
        }
    }

    /// The broker's address, as it was given.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Calls to administer topics and to describe the broker.
    pub fn admin(&self) -> Admin {
        let service = AdminServiceClient::new(self.connections.for_calls().channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        Admin::new(service, Arc::clone(&self.server))
    }

    /// Settings for a producer to `topic`.
    pub fn producer(&self, topic: &str) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), topic)
    }

    /// Settings for a consumer.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Settings for a member of a consumer group.
    pub fn group(&self, group: &str) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(self.clone(), group)
    }

    /// Calls about consumer groups: list, describe, reset, delete, and commit from outside.
    pub fn groups(&self) -> Groups {
        Groups::new(self.clone())
    }

    /// Makes an idempotent producer, of this name if it is not empty; with `former`, in place of
    /// that one. Asked again with the same `attempt`, the broker makes no other one.
    pub(crate) async fn init_producer(
        &self,
        name: &str,
        former: Option<ProducerId>,
        attempt: u64,
    ) -> Result<Identity, CallError> {
        let producer_id = former.map_or(0, ProducerId::get);
        let request = v1::InitProducerRequest { name: name.to_owned(), producer_id, attempt };
        let answer = self.log_service().init_producer(request).await;
        let answer = answer.map_err(|status| CallError::from_status(&self.server, &status))?;
        let v1::InitProducerResponse { producer_id, producer_epoch, .. } = answer.into_inner();
        let id = ProducerId::new(producer_id);
        Ok(Identity {
            id: id.ok_or(CallError::Incomplete { field: "producer_id" })?,
            epoch: ProducerEpoch::new(producer_epoch),
        })
    }

    /// Settings for a worker of a queue.
    pub fn queue(&self, queue: &str) -> QueueWorkerBuilder {
        QueueWorkerBuilder::new(self.clone(), queue)
    }

    /// Calls about work queues: create, alter, list, describe, delete, and what is parked in them.
    pub fn queues(&self) -> Queues {
        Queues::new(self.clone())
    }

    /// Where to make calls about queues.
    pub(crate) fn queue_service(&self) -> QueueServiceClient<Channel> {
        self.connections.for_calls().queue_service()
    }

    /// Where to make calls about groups.
    pub(crate) fn group_service(&self) -> GroupServiceClient<Channel> {
        self.connections.for_calls().group_service()
    }

    /// Where to make calls about records.
    pub(crate) fn log_service(&self) -> LogServiceClient<Channel> {
        self.connections.for_calls().log_service()
    }

    /// Where to open a stream, after so many attempts that failed.
    pub(crate) fn place(&self, traffic: Traffic, attempts: u32) -> Place {
        // A broker that takes no more connections may have room on those that there are.
        self.connections.place(traffic, attempts < SHARING_ATTEMPTS)
    }
}

impl ClientBuilder {
    /// Sets how long making a connection may take; default 5 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how often the connection is probed; default 10 seconds.
    pub fn keep_alive_interval(mut self, interval: Duration) -> Self {
        self.keep_alive_interval = interval;
        self
    }

    /// Sets how long a probe may stay unanswered until the connection counts as broken; default 10
    /// seconds.
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive_timeout = timeout;
        self
    }

    /// Sets how many connections there are at the most; default 4, at least 1. Each producer and each
    /// consumer has one to itself until there are so many; then they share them evenly. Calls and the
    /// memberships of groups go beside them. Where streams have no room on these connections, which is with
    /// some 200 on each, there are more.
    pub fn connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max.max(1);
        self
    }

    /// The client. Connects at the first call, and again whenever the connection broke.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn build(self) -> Result<Client, AddressError> {
        let url = if self.url.contains("://") { self.url } else { format!("http://{}", self.url) };
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|cause| AddressError { url: url.clone(), cause })?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .http2_keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .user_agent(concat!("taffrail-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|cause| AddressError { url: url.clone(), cause })?;
        let connections = Connections::new(endpoint, self.connections_max);
        Ok(Client { server: url.into(), connections: Arc::new(connections) })
    }
}
