//! Reads partitions from any place on: replay turns into the live tail without a seam.
//!
//! One stream carries all partitions. The broker sends as many bytes ahead as it was granted; a
//! broken stream is opened again and every partition goes on at exactly the next offset. There is
//! no task behind a consumer: it works while [`Consumer::next_event`] is awaited, and what came in
//! the meantime waits in the connection's window.

mod answers;
mod error;
mod event;
mod messages;
mod settings;
mod state;

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use taffrail_model::{PartitionIndex, TopicName};
use taffrail_proto::v1;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::Status;
use v1::consume_request::Command;

use answers::Answers;
pub use error::ConsumeError;
pub use event::{ConsumedBatch, Event, PartitionPlace};
pub use settings::ConsumerBuilder;
pub(crate) use settings::ENVELOPE_BYTES;
use state::Subscriptions;
pub use state::Until;
pub(crate) use state::{Bounds, Wanted};

use crate::connections::Traffic;
use crate::retry::{self, Backoff};
use crate::{CallError, Client, Position};

/// Reads partitions of topics.
pub struct Consumer {
    client: Client,
    state: Subscriptions,
    link: Link,
    attempts: u32,
    /// The broker refused the stream for good: said once, then the consumer has ended.
    refusal: Option<ConsumeError>,
    has_ended: bool,
}

/// The stream to the broker.
enum Link {
    /// None; to be opened at this time.
    Down(Instant),
    /// Being opened.
    Opening(Pin<Box<dyn Future<Output = Result<Answers, Status>> + Send>>, Commands),
    /// Open.
    Up(Box<Answers>, Commands),
}

/// Bounded by what it carries: a grant per part of the prefetch, and what the application asks.
type Commands = UnboundedSender<v1::ConsumeRequest>;

impl Consumer {
    fn start(client: Client, state: Subscriptions) -> Self {
        let link = Link::Down(Instant::now());
        Self { client, state, link, attempts: 0, refusal: None, has_ended: false }
    }

    /// The next batch; `None` when every partition has ended.
    ///
    /// An error ends its partition only, but for [`ConsumeError::Refused`]. Gaps are passed over:
    /// use [`Self::next_event`] to see them. Cancelled, it has taken nothing.
    pub async fn next_batch(&mut self) -> Option<Result<ConsumedBatch, ConsumeError>> {
        loop {
            match self.next_event().await? {
                Ok(Event::Batch(batch)) => return Some(Ok(batch)),
                Ok(Event::Gap { topic, partition, from, to, reason }) => {
                    tracing::info!(%topic, %partition, %from, %to, ?reason, "offsets are missing");
                }
                Ok(Event::Heartbeat { .. }) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next thing that happens; `None` when every partition has ended.
    ///
    /// Waits for ever while the broker cannot be reached, and goes on where it was when it can.
    /// Cancelled, it has taken nothing.
    pub async fn next_event(&mut self) -> Option<Result<Event, ConsumeError>> {
        loop {
            if let Some(event) = self.state.next_event() {
                let mut commands = Vec::new();
                self.state.grant(&mut commands);
                self.say(commands);
                return Some(event);
            }
            if let Some(refusal) = self.refusal.take() {
                return Some(Err(refusal));
            }
            if self.has_ended || self.state.is_finished() {
                return None;
            }
            self.step().await;
        }
    }

    /// Goes on elsewhere in a partition, which also revives it after an error; what came of it and
    /// was not taken is dropped. False if this consumer does not read it.
    pub fn seek(&mut self, topic: &TopicName, partition: PartitionIndex, to: Position) -> bool {
        let Some(index) = self.state.find(topic, partition) else { return false };
        let commands = self.state.seek(index, to, Instant::now());
        self.say(commands);
        true
    }

    /// Holds a partition back; what was sent before still comes. False if this consumer does not
    /// read it.
    pub fn pause(&mut self, topic: &TopicName, partition: PartitionIndex) -> bool {
        let Some(index) = self.state.find(topic, partition) else { return false };
        let command = self.state.pause(index);
        self.say(command);
        true
    }

    /// Lets a paused partition go on. False if this consumer does not read it.
    pub fn resume(&mut self, topic: &TopicName, partition: PartitionIndex) -> bool {
        let Some(index) = self.state.find(topic, partition) else { return false };
        let command = self.state.resume(index);
        self.say(command);
        true
    }

    /// A consumer that reads nothing yet, for a group.
    pub(crate) fn of_nothing(client: Client, bounds: Bounds) -> Self {
        Self::start(client, Subscriptions::new(Vec::new(), bounds))
    }

    /// Reads another partition, or one anew.
    pub(crate) fn add(&mut self, wanted: Wanted) {
        let commands = self.state.add(wanted);
        self.say(commands);
    }

    /// Reads a partition no more; what of it was not taken yet is dropped.
    pub(crate) fn remove(&mut self, topic: &TopicName, partition: PartitionIndex) {
        if let Some(index) = self.state.find(topic, partition) {
            let commands = self.state.remove(index);
            self.say(commands);
        }
    }

    /// Whether nothing comes any more of what it reads.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended || self.state.is_finished()
    }

    /// Where it stands in each partition, as far as the broker has told.
    pub fn places(&self) -> impl Iterator<Item = &PartitionPlace> {
        self.state.places()
    }

    /// Whether everything that there is has been taken, as far as the broker has told.
    pub fn is_caught_up(&self) -> bool {
        self.state.is_caught_up()
    }

    /// One step towards the next event. Safe to cancel: nothing is held but in `self`.
    async fn step(&mut self) {
        match &mut self.link {
            Link::Down(until) => {
                tokio::time::sleep_until((*until).into()).await;
                self.open();
            }
            Link::Opening(opening, commands) => match opening.await {
                Ok(answers) => self.link = Link::Up(Box::new(answers), commands.clone()),
                Err(status) => self.broke(&status),
            },
            Link::Up(answers, _) => {
                let wake = self.state.next_wake();
                let answer = tokio::select! {
                    answer = answers.message() => answer,
                    () = sleep_until(wake) => {
                        let commands = self.state.wake(Instant::now());
                        return self.say(commands);
                    }
                };
                match answer {
                    Ok(Some(v1::ConsumeResponse { event })) => {
                        self.attempts = 0;
                        let answer = event.map(|event| self.state.take(event, Instant::now()));
                        self.say(answer.into_iter().flatten());
                    }
                    Ok(None) => self.broke(&Status::unavailable("the broker ended the stream")),
                    Err(status) => self.broke(&status),
                }
            }
        }
    }

    fn open(&mut self) {
        let (commands, mut receiver) = unbounded_channel();
        for command in self.state.open() {
            // The receiver is right here.
            drop(commands.send(v1::ConsumeRequest { command: Some(command) }));
        }
        let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let opening = Answers::open(self.client.place(Traffic::Records, self.attempts), requests);
        self.link = Link::Opening(Box::pin(opening), commands);
    }

    fn broke(&mut self, status: &Status) {
        let error = CallError::from_status(self.client.server(), status);
        self.attempts += 1;
        if self.attempts == 1 {
            tracing::warn!(%error, "the consume stream broke");
        } else {
            tracing::debug!(%error, attempts = self.attempts, "no consume stream yet");
        }
        let pause = Backoff::CONNECTION.delay(self.attempts, retry::dice());
        self.link = Link::Down(Instant::now() + pause);
        if let CallError::Refused(refusal) = error
            && retry::is_final_for_call(&refusal)
        {
            self.refusal = Some(ConsumeError::Refused(refusal));
            self.has_ended = true;
        }
    }

    /// Tells the broker. Without a stream nobody listens, and a new one begins with all of it.
    fn say(&self, commands: impl IntoIterator<Item = Command>) {
        if let Link::Up(_, sender) | Link::Opening(_, sender) = &self.link {
            for command in commands {
                drop(sender.send(v1::ConsumeRequest { command: Some(command) }));
            }
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending::<()>().await,
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places: Vec<_> = self.places().collect();
        f.debug_struct("Consumer").field("places", &places).finish()
    }
}
