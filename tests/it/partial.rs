//! Requests of which a part is there and the rest does not come.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use taffrail_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use crate::broker::Broker;
use crate::door::{Door, batch, check_status, produce_batch, soon};
use crate::http::{await_metric, metric};

const PREFIX_BYTES: usize = 5;
/// Of each request, so many bytes come at once.
const PART_BYTES: usize = 900_000;
/// So many of them there may be.
const FITTING: u64 = 9;

/// A `Produce` call that has not said everything yet.
struct Slow {
    body: mpsc::Sender<Bytes>,
    rest: Bytes,
    answer: JoinHandle<Result<v1::ProduceResponse, Status>>,
}

impl Slow {
    /// A call of which so many bytes come.
    async fn start(door: &Door, bytes: usize) -> Self {
        let value = "x".repeat(PART_BYTES + 100_000);
        let batches = vec![produce_batch("t", 0, batch(&[&value]))];
        let request = v1::ProduceRequest { batches, ..Default::default() };
        let mut message = BytesMut::new();
        message.put_u8(0);
        message.put_u32(request.encoded_len() as u32);
        request.encode(&mut message).expect("there is room");
        let mut rest = message.freeze();
        let (body, pieces) = mpsc::channel(1);
        body.send(rest.split_to(bytes.saturating_add(PREFIX_BYTES).min(rest.len())))
            .await
            .expect("it is open");
        let pieces = ReceiverStream::new(pieces).map(|piece| Ok::<_, Status>(Frame::data(piece)));
        let answer = tokio::spawn(call(door.clone(), Body::new(StreamBody::new(pieces))));
        Self { body, rest, answer }
    }

    /// Says the rest, and what is answered.
    async fn finish(self) -> Result<v1::ProduceResponse, Status> {
        self.body.send(self.rest).await.expect("it is open");
        drop(self.body);
        soon(self.answer).await.expect("no panic")
    }
}

async fn call(mut door: Door, body: Body) -> Result<v1::ProduceResponse, Status> {
    let request = tonic::codegen::http::Request::post("/taffrail.v1.LogService/Produce")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(body)
        .expect("a request");
    std::future::poll_fn(|context| door.channel.poll_ready(context)).await.expect("connected");
    let response = door.channel.call(request).await.expect("answered");
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Err(status);
    }
    let answer = response.into_body().collect().await?.to_bytes();
    Ok(v1::ProduceResponse::decode(answer.slice(PREFIX_BYTES..)).expect("an answer"))
}

#[tokio::test]
async fn requests_that_do_not_end_are_counted_and_too_many_of_them_are_refused() {
    let broker = Broker::with(&["memory=16MiB", "max_request_bytes=2MiB"]);
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let mut slow = Vec::new();
    for count in 1..=FITTING {
        slow.push(Slow::start(&door, PART_BYTES).await);
        let bytes = count * PART_BYTES as u64;
        await_metric(&broker, "taffrail_arriving_memory_used_bytes", |used| used == bytes).await;
    }
    assert_eq!(metric(&broker, "taffrail_arriving_memory_bytes").await, 8 << 20);

    let Slow { body: _open, answer, .. } = Slow::start(&door, PART_BYTES).await;
    let refused = soon(answer).await.expect("no panic");
    let says = "requests that are not whole in flight exceed 8388608";
    check_status(refused, Code::ResourceExhausted, "OVERLOADED", &[("limit", "8388608")], says);

    assert_eq!(door.append("t", &["whole"]).await, 0, "others have room");
    let finished = slow.pop().expect("nine").finish().await.expect("it is whole now");
    assert_eq!(finished.results[0].base_offset, Some(1));
    let more = Slow::start(&door, PART_BYTES).await;
    let bytes = FITTING * PART_BYTES as u64;
    await_metric(&broker, "taffrail_arriving_memory_used_bytes", |used| used == bytes).await;
    assert!(more.finish().await.is_ok(), "there is room again");
    for Slow { answer, .. } in &slow {
        answer.abort();
    }
    await_metric(&broker, "taffrail_arriving_memory_used_bytes", |used| used == 0).await;
}

#[tokio::test]
async fn a_request_that_is_whole_and_does_not_end_is_counted() {
    let broker = Broker::with(&["memory=16MiB", "max_request_bytes=2MiB"]);
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let slow = Slow::start(&door, usize::MAX).await;
    let all = |used| used > PART_BYTES as u64 + 100_000;
    await_metric(&broker, "taffrail_arriving_memory_used_bytes", all).await;
    let finished = slow.finish().await.expect("it has ended now");
    assert_eq!(finished.results[0].base_offset, Some(0));
    await_metric(&broker, "taffrail_arriving_memory_used_bytes", |used| used == 0).await;
}
