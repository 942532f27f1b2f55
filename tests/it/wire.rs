//! Protobuf by hand: what no generated code would write.

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use crate::door::{Door, soon};

/// A field of wire type 2.
pub(crate) fn length(field: u32, value: &[u8]) -> Vec<u8> {
    [varint(u64::from(field << 3 | 2)), varint(value.len() as u64), value.to_vec()].concat()
}

/// A field of wire type 0.
pub(crate) fn number(field: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(field << 3)), varint(value)].concat()
}

/// A field of wire type 5.
pub(crate) fn fixed32(field: u32, value: u32) -> Vec<u8> {
    [varint(u64::from(field << 3 | 5)), value.to_le_bytes().to_vec()].concat()
}

/// A field of wire type 1.
pub(crate) fn fixed64(field: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(field << 3 | 1)), value.to_le_bytes().to_vec()].concat()
}

/// A group of these fields.
pub(crate) fn group(field: u32, fields: &[u8]) -> Vec<u8> {
    let tag = |wire_type| varint(u64::from(field << 3 | wire_type));
    [tag(3), fields.to_vec(), tag(4)].concat()
}

pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Calls a unary method with these bytes as its message, and returns those of its answer.
pub(crate) async fn call(
    door: &Door,
    method: &'static str,
    message: Vec<u8>,
) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(door.channel.clone());
    grpc.ready().await.expect("connected");
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    let answer = grpc.unary(Request::new(Bytes::from(message)), path, Untouched);
    soon(answer).await.map(tonic::Response::into_inner)
}

/// Hands bytes through.
struct Untouched;

impl Codec for Untouched {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Untouched {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Untouched {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}
