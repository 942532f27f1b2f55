//! The connections of a client: one to begin with, more as streams need them.
//!
//! All bytes of a connection pass through one task here and one in the broker, and it has room for so
//! many streams. So each stream that carries records has a connection to itself while there are few of
//! them; then they share those that there are, evenly. A connection ends with its last stream, but for
//! the first, on which calls are made.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use taffrail_proto::v1::group_service_client::GroupServiceClient;
use taffrail_proto::v1::log_service_client::LogServiceClient;
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
    first: Place,
    others: Mutex<Vec<Weak<Connection>>>,
}

/// A connection, which is made when it is first used and made again after it broke.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
}

/// A stream's place on a connection, to be kept as long as the stream.
pub(crate) type Place = Arc<Connection>;

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

    /// A place for another stream.
    pub(crate) fn place(&self, traffic: Traffic) -> Place {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(|it| it.strong_count() > 0);
        let open: Vec<Place> = others.iter().filter_map(Weak::upgrade).collect();
        // Besides the streams, this list holds each, and the client the first.
        let streams = |place: &Place| Arc::strong_count(place) - 1;
        let candidates = std::iter::once((&self.first, streams(&self.first)))
            .chain(open.iter().map(|place| (place, streams(place))));
        let (best, streams) = candidates.min_by_key(|(_, streams)| *streams).expect("the first");
        let is_welcome = match traffic {
            Traffic::Records => streams == 0,
            Traffic::Words => streams < STREAMS_MAX,
        };
        let may_open = open.len() + 1 < self.max || STREAMS_MAX <= streams;
        if is_welcome || !may_open {
            return Arc::clone(best);
        }
        let another = Connection::new(&self.endpoint);
        others.push(Arc::downgrade(&another));
        another
    }
}

impl Connection {
    fn new(endpoint: &Endpoint) -> Place {
        Arc::new(Self { channel: endpoint.connect_lazy() })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn log_service(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
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

    /// How many streams share the connections that these places are on.
    fn shares(places: &[Place]) -> Vec<usize> {
        let mut shares: Vec<(*const Connection, usize)> = Vec::new();
        for place in places {
            let place = Arc::as_ptr(place);
            match shares.iter_mut().find(|(connection, _)| *connection == place) {
                Some((_, streams)) => *streams += 1,
                None => shares.push((place, 1)),
            }
        }
        shares.into_iter().map(|(_, streams)| streams).collect()
    }

    #[tokio::test]
    async fn records_have_a_connection_to_themselves_and_then_share_evenly() {
        let connections = connections(4);
        let mut places: Vec<_> = (0..4).map(|_| connections.place(Traffic::Records)).collect();
        assert_eq!(shares(&places), [1, 1, 1, 1]);
        places.extend((0..6).map(|_| connections.place(Traffic::Records)));
        let mut streams = shares(&places);
        streams.sort_unstable();
        assert_eq!(streams, [2, 2, 3, 3]);
    }

    #[tokio::test]
    async fn words_share_one_connection_until_it_is_full() {
        let connections = connections(1);
        let places: Vec<_> = (0..500).map(|_| connections.place(Traffic::Words)).collect();
        assert_eq!(shares(&places), [200, 200, 100]);
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_last_stream_and_the_first_does_not() {
        let connections = connections(2);
        let first = connections.place(Traffic::Records);
        let second = Arc::downgrade(&connections.place(Traffic::Records));
        assert!(second.upgrade().is_none());
        let first = Arc::downgrade(&{ first });
        assert!(first.upgrade().is_some());
        assert!(Arc::ptr_eq(&connections.place(Traffic::Records), &connections.first));
    }
}
