//! Counts what requests and answers hold in memory while they are on their way.
//!
//! A message of a stream is counted from its first byte on until it is whole: then whoever serves it counts
//! it. A single request is counted until nothing more of it can come: before that it is not served. An answer
//! is counted until the last byte of it is written to the socket.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use taffrail_broker::{Charge, MemoryBudget, ProduceError};

use crate::status::Explain as _;

/// What is in front of each message: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// A message that holds no more than this costs nobody their place.
const SMALL_BYTES: usize = 64 << 10;

/// Calls whose requests are streams of messages.
const STREAMS: [&str; 4] = [
    "/taffrail.v1.LogService/ProduceStream",
    "/taffrail.v1.LogService/Consume",
    "/taffrail.v1.GroupService/Membership",
    "/taffrail.v1.QueueService/Receive",
];

/// Counts a request while only a part of it is there. Where there is no room for more, it ends with an
/// error.
pub(crate) fn count_until_whole(request: Request, memory: &MemoryBudget) -> Request {
    let (memory, charge) = (memory.clone(), memory.charge(0));
    let message =
        Message { is_last: !STREAMS.contains(&request.uri().path()), ..Message::default() };
    request.map(|body| Body::new(Receiving { body, memory, charge, message }))
}

/// Counts an answer's encoded bytes until they have been written to the socket, piece by piece.
pub(crate) fn count_until_sent(response: Response, memory: MemoryBudget) -> Response {
    let count = move |bytes: Bytes| {
        Bytes::from_owner(Counted { _charge: memory.charge(bytes.len()), bytes })
    };
    response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(&count))))
}

/// The body of a request.
struct Receiving {
    body: Body,
    memory: MemoryBudget,
    charge: Charge,
    message: Message,
}

/// How much of a message there is.
#[derive(Debug, Default)]
struct Message {
    prefix: Vec<u8>,
    /// Bytes behind the prefix.
    received: usize,
    /// Whether it is held until the request ends, because there is no other.
    is_last: bool,
}

impl Message {
    /// Takes note of what came, and says how many bytes there are of what is not whole.
    fn follow(&mut self, mut bytes: &[u8]) -> usize {
        while !bytes.is_empty() {
            let missing = PREFIX_BYTES - self.prefix.len();
            let (prefix, rest) = bytes.split_at(missing.min(bytes.len()));
            self.prefix.extend_from_slice(prefix);
            bytes = rest;
            let Some([_, length @ ..]) = self.prefix.first_chunk::<PREFIX_BYTES>() else { break };
            let missing = u32::from_be_bytes(*length) as usize - self.received;
            let taken = missing.min(bytes.len());
            bytes = bytes.split_at(taken).1;
            self.received += taken;
            if taken == missing {
                if self.is_last {
                    break;
                }
                self.prefix.clear();
                self.received = 0;
            }
        }
        self.received
    }
}

impl HttpBody for Receiving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let partial_bytes = this.message.follow(data);
            this.charge.resize(partial_bytes);
            if partial_bytes > SMALL_BYTES && !this.memory.has_room_for(&this.charge) {
                let what = "bytes of requests that are not whole";
                let error = ProduceError::Overloaded { what, limit: this.memory.bytes_max() };
                return Poll::Ready(Some(Err(error.explain().into_status().into())));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that are counted for as long as they are there.
struct Counted {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_that_is_not_whole_counts() {
        let stream = [&[0, 0, 0, 0, 3, 1, 2, 3], &[0, 0, 0, 0, 0][..], &[0, 0, 0, 1, 0]].concat();
        let stream = [stream, vec![7; 255]].concat();
        for piece in 1..stream.len() {
            let mut message = Message::default();
            let mut end = 0;
            for part in stream.chunks(piece) {
                end += part.len();
                let expected = match end {
                    6..8 => end - 5,
                    18.. => end - 18,
                    _ => 0,
                };
                assert_eq!(message.follow(part), expected, "{end} bytes in pieces of {piece}");
            }
            assert_eq!(message.follow(&[7]), 0, "the last byte");
        }
    }
}
