//! A `Consume` stream: what the broker says, message by message.

use std::future::poll_fn;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, StatusCode};
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
        let mut channel = place.connection().channel();
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
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return check(&trailers, StatusCode::OK).map(|()| None);
                }
                None => return Err(Status::unavailable("the stream was cut off")),
            }
        }
    }
}

/// The refusal that stands in headers or trailers, if any.
fn check(headers: &HeaderMap, code: StatusCode) -> Result<(), Status> {
    let status = match Status::from_header_map(headers) {
        Some(status) => status,
        None if code == StatusCode::OK => return Ok(()),
        // Somebody in between answers. What the codes mean is gRPC's own list.
        None => {
            let meaning = match code {
                StatusCode::BAD_REQUEST => Code::Internal,
                StatusCode::UNAUTHORIZED => Code::Unauthenticated,
                StatusCode::FORBIDDEN => Code::PermissionDenied,
                StatusCode::NOT_FOUND => Code::Unimplemented,
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
                _ => Code::Unknown,
            };
            Status::new(meaning, format!("this is not gRPC: the answer is {code}"))
        }
    };
    if status.code() == Code::Ok { Ok(()) } else { Err(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_grpc_says_what_it_is() {
        let code = |code| check(&HeaderMap::new(), code).map_err(|status| status.code());
        assert_eq!(code(StatusCode::OK), Ok(()));
        for (http, expected) in [
            (StatusCode::NOT_FOUND, Code::Unimplemented),
            (StatusCode::FORBIDDEN, Code::PermissionDenied),
            (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
            (StatusCode::IM_A_TEAPOT, Code::Unknown),
        ] {
            assert_eq!(code(http), Err(expected));
        }
        let mut trailers = HeaderMap::new();
        Status::aborted("why").add_header(&mut trailers).expect("it can be said");
        let refused = check(&trailers, StatusCode::OK).expect_err("it is refused");
        assert_eq!((refused.code(), refused.message()), (Code::Aborted, "why"));
    }
}
