//! HTTP/2 by hand: a client that does what no library would, such as never to read its socket.

use std::io;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::door::soon;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a connection's window is until it is made wider.
const WINDOW_DEFAULT: u32 = 65_535;

/// The widest window that there can be: nothing but the socket holds up what is sent.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// A connection that has spoken HTTP/2. What comes is read only when somebody asks.
pub(crate) struct Raw {
    stream: TcpStream,
    calls: u32,
}

impl Raw {
    /// Connects, says hello, and waits until it is answered: the broker serves this connection.
    pub(crate) async fn open(broker: &Broker) -> Self {
        let mut raw = Self::knock(broker).await;
        raw.welcome().await;
        raw
    }

    /// Connects and says hello: who comes too many waits for the answer.
    pub(crate) async fn knock(broker: &Broker) -> Self {
        let mut stream = soon(TcpStream::connect(broker.address)).await.expect("it is taken");
        // No trace is left of it when it goes: there may be thousands.
        stream.set_zero_linger().expect("a socket");
        let initial_window = [&4_u16.to_be_bytes()[..], &WINDOW_MAX.to_be_bytes()].concat();
        let more = (WINDOW_MAX - WINDOW_DEFAULT).to_be_bytes();
        let hello = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &initial_window),
            frame(WINDOW_UPDATE, 0, 0, &more),
        ];
        soon(stream.write_all(&hello.concat())).await.expect("it listens");
        Self { stream, calls: 0 }
    }

    /// Waits for the answer to the hello.
    pub(crate) async fn welcome(&mut self) {
        let welcome = async {
            while self.read().await.expect("it answers").0 != SETTINGS {}
            self.say(&frame(SETTINGS, ACK, 0, &[])).await.expect("it listens");
        };
        soon(welcome).await;
    }

    /// Whether anything comes, be it the end, within a while.
    pub(crate) async fn has_heard_within(&self, time: Duration) -> bool {
        timeout(time, self.stream.readable()).await.is_ok()
    }

    /// Calls a method, and says one thing after another; with `is_all` that is all there is to say.
    pub(crate) async fn call<M: Message>(&mut self, path: &str, messages: &[M], is_all: bool) {
        let id = 2 * self.calls + 1;
        self.calls += 1;
        let body: Vec<u8> = messages.iter().flat_map(framed).collect();
        let flags = if is_all { END_STREAM } else { 0 };
        let called =
            [frame(HEADERS, END_HEADERS, id, &headers(path)), frame(DATA, flags, id, &body)];
        soon(self.say(&called.concat())).await.expect("it listens");
    }

    /// Says that it lives whenever it is asked, and nothing else, until the broker ends it.
    pub(crate) async fn idle(mut self) {
        while let Ok((kind, flags, payload)) = self.read().await {
            if kind == PING
                && flags != ACK
                && self.say(&frame(PING, ACK, 0, &payload)).await.is_err()
            {
                return;
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next frame: its kind, its flags, and what is in it.
    async fn read(&mut self) -> io::Result<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await?;
        Ok((kind, flags, payload))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short one").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A call's headers in HPACK, without any table or Huffman code.
fn headers(path: &str) -> Vec<u8> {
    let post_over_http = vec![0x83, 0x86];
    let literal = |name: &str, value: &str| {
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    };
    [
        post_over_http,
        literal(":authority", "localhost"),
        literal(":path", path),
        literal("te", "trailers"),
        literal("content-type", "application/grpc"),
    ]
    .concat()
}

/// A message as gRPC frames it.
fn framed(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).expect("a short one").to_be_bytes();
    [&[0][..], &length, &message.encode_to_vec()].concat()
}
