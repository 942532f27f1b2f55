//! Hands on what a client says on a stream, one thing after another.

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::status::Explained;

/// Converts what comes and hands it to a session, until either of them ends. What makes no sense, or
/// cannot be received, is the last: it comes out again, to be said to the client.
pub(crate) fn forward<T: Send + 'static, C: Send + 'static>(
    mut requests: Streaming<T>,
    session: mpsc::Sender<C>,
    convert: impl Fn(T) -> Result<C, Explained> + Send + 'static,
) -> ReceiverStream<Status> {
    let (invalid, refusals) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                // An open stream of requests would hold up a stop.
                () = session.closed() => return,
            };
            let Some(request) = request else { return };
            match request.and_then(|it| convert(it).map_err(Explained::into_status)) {
                Ok(next) => {
                    if session.send(next).await.is_err() {
                        return;
                    }
                }
                Err(status) => {
                    // Nobody may be there to hear it.
                    let _ = invalid.send(status).await;
                    return;
                }
            }
        }
    });
    ReceiverStream::new(refusals)
}
