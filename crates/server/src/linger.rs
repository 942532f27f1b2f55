//! A connection that is closed without losing what is still on its way to the client.
//!
//! A socket that is closed while the client still sends is reset, and then the client loses answers
//! that it has not read yet. So the last answer is followed by the end of our side, and what still
//! comes is read and dropped until the client closes its own, for a bounded time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a client may take to see that we are done.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// A stream that hands itself back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    stream: Option<TcpStream>,
    back: Option<oneshot::Sender<TcpStream>>,
}

impl Lent {
    /// The stream, and where it comes back.
    pub(crate) fn new(stream: TcpStream) -> (Self, oneshot::Receiver<TcpStream>) {
        let (back, returned) = oneshot::channel();
        (Self { stream: Some(stream), back: Some(back) }, returned)
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("it is handed back only when this is dropped"))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Where nobody waits for it, it is closed.
            drop(back.send(stream));
        }
    }
}

/// Closes a connection on which everything has been said.
pub(crate) async fn close(mut stream: TcpStream) {
    let listen = async {
        // Not on the stack, which each connection would have from its beginning.
        let mut dropped = vec![0; 8 << 10];
        stream.shutdown().await?;
        while stream.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever goes wrong, it is closed.
    let _ = timeout(LINGER_TIMEOUT, listen).await;
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}
