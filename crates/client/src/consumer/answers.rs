//! A `Consume` stream: what the broker says, message by message.

use std::future::poll_fn;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use http::header::{CONTENT_TYPE, TE};
use http_body::{Body as _, Frame};
use prost::Message as _;
use taffrail_proto::v1;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::codec::{Codec as _, EncodeBody};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::messages::Messages;
use crate::client::MESSAGE_BYTES_MAX;
use crate::connections::Place;

/// The answers of a stream that is open.
pub(super) struct Answers {
    body: Body,
    messages: Messages,
    _place: Place,
}

impl Answers {
    /// Opens a stream.
    pub(super) async fn open(
        place: Place,
        requests: impl Stream<Item = v1::ConsumeRequest> + Send + 'static,
    ) -> Result<Self, Status> {
        let encoder = ProstCodec::<v1::ConsumeRequest, v1::ConsumeResponse>::default().encoder();
        let requests = EncodeBody::new_client(encoder, requests.map(Ok), None, None);
        let request = http::Request::post("/taffrail.v1.LogService/Consume")
            .version(http::Version::HTTP_2)
            .header(TE, "trailers")
            .header(CONTENT_TYPE, "application/grpc")
            .body(Body::new(requests))
            .expect("path and headers are well-formed");
        let failed = |error| Status::from_error(Box::new(error));
        let mut channel = place.channel();
        poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
        let response = channel.call(request).await.map_err(failed)?;
        check(response.headers(), response.status())?;
        let messages = Messages::new(MESSAGE_BYTES_MAX);
        Ok(Self { body: response.into_body(), messages, _place: place })
    }

    /// The next message; `None` at the end. Cancelled, it has taken nothing.
    pub(super) async fn message(&mut self) -> Result<Option<v1::ConsumeResponse>, Status> {
        loop {
            if let Some(message) = self.messages.next()? {
                let decoded = v1::ConsumeResponse::decode(message);
                return decoded.map(Some).map_err(|error| Status::internal(error.to_string()));
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.messages.push(data),
                Some(Err(frame)) => {
                    check(&frame.into_trailers().unwrap_or_default(), http::StatusCode::OK)?;
                }
                None if self.messages.is_cut() => {
                    return Err(Status::unavailable("the stream ended within a message"));
                }
                None => return Ok(None),
            }
        }
    }
}

/// The refusal that stands in headers or trailers, if any.
fn check(headers: &http::HeaderMap, code: http::StatusCode) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status),
        None if code == http::StatusCode::OK => Ok(()),
        None => Err(Status::unavailable(format!("this is not gRPC: the answer is {code}"))),
    }
}
