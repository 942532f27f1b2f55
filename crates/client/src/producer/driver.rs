//! Keeps a produce stream open, takes its answers, and minds the time.
//!
//! One task per producer. All decisions are `state`'s; here is only the I/O around them. Ends when
//! the producer is closed and nothing is left to deliver.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use taffrail_model::{Offset, PartitionIndex, limits};
use taffrail_proto::v1;
use tokio::time::Interval;
use tonic::{Status, Streaming};

use super::renewal;
use super::shared::{Requests, Shared};
use crate::connections::Traffic;
use crate::retry::{self, Backoff};
use crate::{CallError, Client, ServerError};

/// How often unanswered requests are looked through.
const OVERDUE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a closed producer waits for the broker to end the stream.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no stream any more.
enum Ended {
    /// Closed and everything delivered.
    Done,
    /// It broke, or could not be opened.
    Broken(CallError),
}

/// Runs until the producer of this name is closed and everything is settled.
pub(super) async fn run(client: Client, shared: Arc<Shared>, name: String) {
    // Side by side: what is late is minded, and streams are opened, while an identity is asked for.
    tokio::select! {
        () = run_streams(&client, &shared) => {}
        never = renewal::run(&client, &shared, &name) => match never {},
    }
}

async fn run_streams(client: &Client, shared: &Arc<Shared>) {
    let mut attempts = 0;
    loop {
        let (ended, has_worked) = run_stream(client, shared, attempts).await;
        let Ended::Broken(error) = ended else { return shared.wake_sender() };
        attempts = if has_worked { 1 } else { attempts + 1 };
        if attempts == 1 {
            tracing::warn!(topic = %shared.topic, %error, "the produce stream broke");
        } else {
            tracing::debug!(topic = %shared.topic, %error, attempts, "no produce stream yet");
        }
        let cause = error.to_string();
        let sender = shared.lock().broken(&cause);
        sender.inspect(Waker::wake_by_ref);
        if let CallError::Refused(refusal) = error
            && retry::is_final_for_call(&refusal)
        {
            shared.lock().fail_all(&refusal);
        }
        shared.announce_room();
        let pause = Backoff::CONNECTION.delay(attempts, retry::dice());
        if minding_time(shared, &cause, tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Opens a stream, after so many attempts that failed, and serves it until it ends; also says whether
/// it ever worked.
async fn run_stream(client: &Client, shared: &Arc<Shared>, attempts: u32) -> (Ended, bool) {
    const CONNECTING: &str = "no connection to the broker";
    let broken = |status: &Status| Ended::Broken(CallError::from_status(client.server(), status));
    let place = client.place(Traffic::Records, attempts);
    let open = async {
        let answer = place
            .connection()
            .log_service()
            .produce_stream(Requests::new(Arc::clone(shared)))
            .await?;
        let mut answers = answer.into_inner();
        let first = answers.message().await?;
        Ok::<_, Status>((answers, first))
    };
    let (mut answers, first) = match minding_time(shared, CONNECTING, open).await {
        None => return (Ended::Done, false),
        Some(Ok(opened)) => opened,
        Some(Err(status)) => return (broken(&status), false),
    };
    let limits = first.and_then(|first| first.limits).unwrap_or_default();
    let bytes_max = match limits.max_in_flight_bytes {
        0 => limits::IN_FLIGHT_BYTES_MAX,
        stated => stated,
    };
    let requests_max = match limits.max_in_flight_requests {
        0 => limits::IN_FLIGHT_REQUESTS_MAX,
        stated => stated,
    };
    let sender = shared.lock().opened(bytes_max, requests_max);
    sender.inspect(Waker::wake_by_ref);
    let mut look = tokio::time::interval(OVERDUE_CHECK_INTERVAL);
    loop {
        let next = next_answer(shared, &mut answers, &mut look);
        let answer = match minding_time(shared, CONNECTING, next).await {
            None => {
                finish(shared, answers).await;
                return (Ended::Done, true);
            }
            Some(Ok(Some(answer))) => answer,
            // Without acknowledgement the last request may end the stream from this side.
            Some(Ok(None)) if shared.lock().is_finished() => return (Ended::Done, true),
            Some(Ok(None)) => {
                return (broken(&Status::unavailable("the broker ended the stream")), true);
            }
            Some(Err(status)) => return (broken(&status), true),
        };
        take_answer(shared, answer);
        shared.announce_room();
    }
}

/// The next answer, or `None` at the stream's end; an error if none comes for too long.
async fn next_answer(
    shared: &Shared,
    answers: &mut Streaming<v1::ProduceStreamResponse>,
    look: &mut Interval,
) -> Result<Option<v1::ProduceStreamResponse>, Status> {
    loop {
        tokio::select! {
            answer = answers.message() => return answer,
            _ = look.tick() => {
                if shared.lock().is_overdue(Instant::now()) {
                    return Err(Status::unavailable("no answer within the delivery timeout"));
                }
            }
        }
    }
}

/// Ends the requests and waits for the broker to end its answers, so that what was handed to the
/// connection without acknowledgement leaves it.
async fn finish(shared: &Shared, mut answers: Streaming<v1::ProduceStreamResponse>) {
    shared.wake_sender();
    let rest = async {
        while let Ok(Some(answer)) = answers.message().await {
            take_answer(shared, answer);
        }
    };
    if tokio::time::timeout(FINISH_TIMEOUT, rest).await.is_err() {
        tracing::debug!(topic = %shared.topic, "the broker did not end the produce stream");
    }
}

fn take_answer(shared: &Shared, answer: v1::ProduceStreamResponse) {
    let v1::ProduceStreamResponse { number, result, .. } = answer;
    let Some(result) = result else { return };
    let partition = result.partition.map(PartitionIndex::new);
    let outcome = match result.error {
        None => Ok(result.base_offset.map(Offset::new)),
        Some(error) => Err(ServerError::from(error)),
    };
    let sender = shared.lock().answered(number, outcome, partition, Instant::now());
    sender.inspect(Waker::wake_by_ref);
}

/// Waits for `work`, and meanwhile does what is due; `cause` is said of what is late.
///
/// `None`: the producer is closed and nothing is left to deliver.
async fn minding_time<F: Future>(shared: &Shared, cause: &str, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    loop {
        let (sender, due) = shared.lock().tick(Instant::now(), cause);
        sender.inspect(Waker::wake_by_ref);
        if shared.lock().is_finished() {
            return None;
        }
        if shared.lock().to_renew().is_some() {
            shared.renewal.notify_one();
        }
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            output = &mut work => return Some(output),
            () = timer => shared.announce_room(),
            () = shared.driver.notified() => {}
        }
    }
}
