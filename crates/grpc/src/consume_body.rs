//! The body of `Consume`'s answer: the bytes that were read from the log are those that go to the socket.
//!
//! tonic's encoder copies each message. Here a large delivery is two pieces: an envelope, and the records
//! as they are. What is small is encoded as usual, several messages to a piece.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http_body::Frame;
use prost::Message as _;
use prost::bytes::{BufMut as _, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, key_len};
use taffrail_broker::{Charge, ConsumeEvent};
use taffrail_proto::v1;
use tonic::Status;

use crate::convert;
use crate::memory::PREFIX_BYTES;

/// Deliveries below this are copied: one frame is cheaper than two.
const SHARED_BYTES_MIN: usize = 16 << 10;
/// So much of a large delivery goes with its envelope: h2 holds frames below 256 bytes against us.
const HEAD_BYTES: usize = 1 << 10;
/// What is small is gathered up to here while there is more.
const GATHERED_BYTES: usize = 32 << 10;

/// A prefix, three tags with their lengths, three numbers.
const ENVELOPE_BYTES_MAX: usize = 64;
/// `ConsumeResponse.delivery` and `Delivery.data`.
const DELIVERY_TAG: u32 = 2;
const DATA_TAG: u32 = 3;

type Events = BoxStream<'static, Result<ConsumeEvent, Status>>;

/// What an answer's body is to be made of, on the way from the service to [`replace_body`].
#[derive(Clone)]
pub(crate) struct ConsumeEvents(Arc<Mutex<Option<Events>>>);

impl ConsumeEvents {
    pub(crate) fn new(events: Events) -> Self {
        Self(Arc::new(Mutex::new(Some(events))))
    }
}

/// Gives the answer of `Consume` its body; others keep theirs.
pub(crate) fn replace_body(mut response: Response) -> Response {
    let events = response.extensions_mut().remove::<ConsumeEvents>();
    match events.and_then(|ConsumeEvents(it)| it.lock().ok()?.take()) {
        Some(events) => response.map(|_| Body::new(ConsumeBody::new(events))),
        None => response,
    }
}

struct ConsumeBody {
    /// `None` once they have ended.
    events: Option<Events>,
    gathered: BytesMut,
    /// What goes behind that: the rest of a large delivery, which is counted until it is handed on.
    shared: Option<(Bytes, Charge)>,
    /// What goes last.
    trailers: Option<HeaderMap>,
}

impl ConsumeBody {
    fn new(events: Events) -> Self {
        Self { events: Some(events), gathered: BytesMut::new(), shared: None, trailers: None }
    }

    fn push(&mut self, event: ConsumeEvent) {
        let (mut response, charge) = convert::consume_event(event);
        if let Some(v1::consume_response::Event::Delivery(delivery)) = &mut response.event
            && let Some(charge) = charge
            && delivery.data.len() >= SHARED_BYTES_MIN
        {
            let mut data = std::mem::take(&mut delivery.data);
            put_envelope(delivery, data.len(), &mut self.gathered);
            self.gathered.put(data.split_to(HEAD_BYTES));
            self.shared = Some((data, charge));
            return;
        }
        self.gathered.reserve(PREFIX_BYTES + response.encoded_len());
        put_prefix(response.encoded_len(), &mut self.gathered);
        response.encode(&mut self.gathered).expect("the buffer grows");
    }

    fn end(&mut self, status: &Status) {
        self.events = None;
        let mut trailers = HeaderMap::new();
        // What cannot be said in headers is said without its details.
        if status.add_header(&mut trailers).is_err() {
            trailers.clear();
            let _ = Status::new(status.code(), "").add_header(&mut trailers);
        }
        self.trailers = Some(trailers);
    }
}

impl HttpBody for ConsumeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let is_full = self.shared.is_some() || self.gathered.len() >= GATHERED_BYTES;
            let next = match &mut self.events {
                Some(events) if !is_full => Pin::new(events).poll_next(context),
                _ => Poll::Pending,
            };
            match next {
                Poll::Ready(Some(Ok(event))) => self.push(event),
                Poll::Ready(Some(Err(status))) => self.end(&status),
                Poll::Ready(None) => self.end(&Status::ok("")),
                Poll::Pending => break,
            }
        }
        let this = &mut *self;
        if !this.gathered.is_empty() {
            let piece = this.gathered.split().freeze();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some((shared, _charge)) = this.shared.take() {
            return Poll::Ready(Some(Ok(Frame::data(shared))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if this.events.is_none() { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// All of a message with a delivery but the records, which are to follow.
fn put_envelope(delivery: &v1::Delivery, data_bytes: usize, out: &mut BytesMut) {
    let data_field = key_len(DATA_TAG) + varint_len(data_bytes) + data_bytes;
    let delivery_bytes = delivery.encoded_len() + data_field;
    out.reserve(ENVELOPE_BYTES_MAX + HEAD_BYTES);
    put_prefix(key_len(DELIVERY_TAG) + varint_len(delivery_bytes) + delivery_bytes, out);
    encode_key(DELIVERY_TAG, WireType::LengthDelimited, out);
    encode_varint(delivery_bytes as u64, out);
    delivery.encode(out).expect("the buffer grows");
    encode_key(DATA_TAG, WireType::LengthDelimited, out);
    encode_varint(data_bytes as u64, out);
}

fn put_prefix(message_bytes: usize, out: &mut BytesMut) {
    out.put_u8(0);
    out.put_u32(message_bytes as u32);
}

fn varint_len(value: usize) -> usize {
    prost::encoding::encoded_len_varint(value as u64)
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;
    use taffrail_broker::MemoryBudget;
    use taffrail_model::Offset;
    use v1::consume_response::Event;

    use super::*;

    fn delivery(subscription: u64, length: usize) -> ConsumeEvent {
        counted(subscription, length, &MemoryBudget::new(0))
    }

    fn counted(subscription: u64, length: usize, memory: &MemoryBudget) -> ConsumeEvent {
        let charge = memory.charge(length);
        let bytes = vec![subscription as u8; length].into();
        ConsumeEvent::Delivery { subscription, high_watermark: Offset::new(300), bytes, charge }
    }

    /// What a client reads, and how long each piece was.
    async fn read(
        events: Vec<Result<ConsumeEvent, Status>>,
    ) -> (Vec<Event>, Vec<usize>, HeaderMap) {
        let mut body = ConsumeBody::new(stream::iter(events).boxed());
        let (mut bytes, mut pieces, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
        while let Some(frame) = body.frame().await {
            match frame.expect("it has no errors").into_data() {
                Ok(data) => {
                    pieces.push(data.len());
                    bytes.extend_from_slice(&data);
                }
                Err(frame) => trailers = frame.into_trailers().expect("nothing else"),
            }
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let prefix = bytes.split_to(PREFIX_BYTES);
            let length = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes"));
            let message = bytes.split_to(length as usize);
            let response = v1::ConsumeResponse::decode(message).expect("it is well-formed");
            found.push(response.event.expect("an event"));
        }
        (found, pieces, trailers)
    }

    #[tokio::test]
    async fn messages_of_all_sizes_are_read_as_they_were_meant() {
        let lengths = [0, 1, 16_383, 16_384, 16_385, 5, 1 << 20, 2 << 20, 7];
        let events = (1..).zip(lengths).map(|(number, length)| Ok(delivery(number, length)));
        let (found, pieces, trailers) = read(events.collect()).await;
        for ((number, length), event) in (1..).zip(lengths).zip(found) {
            let Event::Delivery(found) = event else { panic!("{event:?}") };
            assert_eq!(found.subscription, number);
            assert_eq!((found.high_watermark, found.charged_bytes), (300, length as u64));
            assert_eq!(found.data, vec![number as u8; length]);
        }
        let tiny: Vec<_> = pieces.iter().filter(|piece| **piece < 256).collect();
        assert_eq!(tiny.len(), 1, "what is last need not wait: {pieces:?}");
        assert_eq!(Status::from_header_map(&trailers).map(|it| it.code()), Some(tonic::Code::Ok));
    }

    #[tokio::test]
    async fn a_delivery_is_counted_until_all_of_it_is_handed_on() {
        let memory = MemoryBudget::new(1 << 20);
        let events = [Ok(counted(1, 50_000, &memory)), Ok(counted(2, 60_000, &memory))];
        let mut body = ConsumeBody::new(stream::iter(events).boxed());
        for used in [110_000, 60_000, 60_000, 0, 0] {
            body.frame().await.expect("a piece, or trailers").expect("it has no errors");
            assert_eq!(memory.used_bytes(), used);
        }
    }

    #[tokio::test]
    async fn what_went_wrong_is_said_behind_all_that_went_well() {
        let refusal = Status::invalid_argument("no such command");
        let (found, _, trailers) = read(vec![Ok(delivery(1, 40_000)), Err(refusal)]).await;
        assert_eq!(found.len(), 1);
        let status = Status::from_header_map(&trailers).expect("a status");
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::InvalidArgument, "no such command")
        );
    }
}
