//! The connections of a client: one to begin with, more as streams need them.
//!
//! All bytes of a connection pass through one task here and one in the broker, and it has room for so
//! many streams. So each stream that carries records has a connection to itself while there are few of
//! them; then they share those that there are, evenly. A connection ends with its last stream, but for
//! the first, on which calls are made.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use taffrail_proto::v1::group_service_client::GroupServiceClient;
use taffrail_proto::v1::log_service_client::LogServiceClient;
use taffrail_proto::v1::queue_service_client::QueueServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::client::MESSAGE_BYTES_MAX;

/// Streams on one connection. The broker takes some more, and calls need room too.
const STREAMS_MAX: usize = 200;

/// A broker's address, and the connections to it.
#[derive(Debug)]
pub(crate) struct Connections {
    endpoint: Endpoint,
    /// As many as this, but where streams have no room.
    max: usize,
    first: Arc<Connection>,
    others: Mutex<Vec<Weak<Connection>>>,
}

/// A connection, which is made when it is first used and made again after it broke.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    /// Streams on it, and those of them that carry records.
    streams: AtomicUsize,
    bulky: AtomicUsize,
}

/// A stream's place on a connection, to be kept as long as the stream.
#[derive(Debug)]
pub(crate) struct Place {
    connection: Arc<Connection>,
    traffic: Traffic,
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Records: as much as the connection can carry.
    Records,
    /// A word now and then.
    Words,
}

impl Connections {
    pub(crate) fn new(endpoint: Endpoint, max: usize) -> Self {
        let first = Connection::new(&endpoint);
        Self { endpoint, max, first, others: Mutex::default() }
    }

    /// The connection for calls.
    pub(crate) fn for_calls(&self) -> &Connection {
        &self.first
    }

    /// A place for another stream, on another connection if there may be more and that is better.
    pub(crate) fn place(&self, traffic: Traffic, may_open: bool) -> Place {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(|it| it.strong_count() > 0);
        let mut open: Vec<_> = others.iter().filter_map(Weak::upgrade).collect();
        open.push(Arc::clone(&self.first));
        let has_room = open.len() < self.max;
        open.retain(|it| it.streams() < STREAMS_MAX);
        let best = open.into_iter().min_by_key(|it| (it.bulky(), it.streams()));
        let is_welcome = |best: &Connection| traffic == Traffic::Words || best.bulky() == 0;
        match best {
            Some(best) if is_welcome(&best) || !has_room || !may_open => Place::on(best, traffic),
            _ => {
                let another = Connection::new(&self.endpoint);
                others.push(Arc::downgrade(&another));
                Place::on(another, traffic)
            }
        }
    }
}

impl Place {
    /// Under the lock, so that nobody counts on what another one takes.
    fn on(connection: Arc<Connection>, traffic: Traffic) -> Self {
        connection.count(traffic, |count| count.fetch_add(1, Ordering::Relaxed));
        Self { connection, traffic }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.count(self.traffic, |count| count.fetch_sub(1, Ordering::Relaxed));
    }
}

impl Connection {
    fn new(endpoint: &Endpoint) -> Arc<Self> {
        let (streams, bulky) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { channel: endpoint.connect_lazy(), streams, bulky })
    }

    fn count(&self, traffic: Traffic, change: impl Fn(&AtomicUsize) -> usize) {
        change(&self.streams);
        if traffic == Traffic::Records {
            change(&self.bulky);
        }
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn bulky(&self) -> usize {
        self.bulky.load(Ordering::Relaxed)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn log_service(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn queue_service(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn group_service(&self) -> GroupServiceClient<Channel> {
        GroupServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max: usize) -> Connections {
        Connections::new(Endpoint::from_static("http://127.0.0.1:1"), max)
    }

    /// How many streams share each of the connections that these places are on, ascending.
    fn shares(places: &[Place]) -> Vec<usize> {
        let mut shares: Vec<(*const Connection, usize)> = Vec::new();
        for place in places {
            let connection = Arc::as_ptr(&place.connection);
            match shares.iter_mut().find(|(it, _)| *it == connection) {
                Some((_, streams)) => *streams += 1,
                None => shares.push((connection, 1)),
            }
        }
        let mut streams: Vec<_> = shares.into_iter().map(|(_, streams)| streams).collect();
        streams.sort_unstable();
        streams
    }

    fn places(connections: &Connections, traffic: Traffic, count: usize) -> Vec<Place> {
        (0..count).map(|_| connections.place(traffic, true)).collect()
    }

    #[tokio::test]
    async fn records_have_a_connection_to_themselves_and_then_share_evenly() {
        let connections = connections(4);
        let mut streams = places(&connections, Traffic::Records, 4);
        assert_eq!(shares(&streams), [1, 1, 1, 1]);
        streams.extend(places(&connections, Traffic::Records, 6));
        assert_eq!(shares(&streams), [2, 2, 3, 3]);
    }

    #[tokio::test]
    async fn words_go_beside_records() {
        let connections = connections(4);
        let mut streams = places(&connections, Traffic::Words, 2);
        streams.extend(places(&connections, Traffic::Records, 1));
        assert_eq!(shares(&streams), [3]);
    }

    #[tokio::test]
    async fn streams_that_have_no_room_open_another_connection_whatever_the_most_is() {
        for traffic in [Traffic::Words, Traffic::Records] {
            let connections = connections(1);
            let mut streams = places(&connections, traffic, 499);
            streams.push(connections.place(traffic, false));
            assert_eq!(shares(&streams), [100, 200, 200]);
        }
    }

    #[tokio::test]
    async fn where_no_connection_can_be_opened_records_share_too() {
        let connections = connections(4);
        let mut streams = places(&connections, Traffic::Records, 2);
        streams.push(connections.place(Traffic::Records, false));
        assert_eq!(shares(&streams), [1, 2]);
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_last_stream_and_the_first_does_not() {
        let connections = connections(2);
        let mut streams = places(&connections, Traffic::Records, 2);
        let ended: Vec<_> = streams.iter().map(|it| Arc::downgrade(&it.connection)).collect();
        streams.clear();
        assert_eq!(ended.iter().filter(|it| it.strong_count() > 0).count(), 1);
        let again = connections.place(Traffic::Records, true);
        assert!(Arc::ptr_eq(&again.connection, &connections.first));
    }
}
