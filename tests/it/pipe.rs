//! The two streams of the contract, command by command.

use std::time::Duration;

use taffrail_proto::v1;
use taffrail_proto::v1::consume_request::Command;
use taffrail_proto::v1::consume_response::Event;
use taffrail_proto::v1::position::At;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::door::{Door, placed, soon, value};

/// A consumer's stream.
pub(crate) struct Feed {
    commands: UnboundedSender<v1::ConsumeRequest>,
    pub(crate) events: Streaming<v1::ConsumeResponse>,
}

/// A producer's stream.
pub(crate) struct Pipe {
    pub(crate) requests: UnboundedSender<v1::ProduceStreamRequest>,
    pub(crate) answers: Streaming<v1::ProduceStreamResponse>,
    pub(crate) limits: v1::ProduceLimits,
}

impl Feed {
    pub(crate) async fn open(door: &Door) -> Self {
        let (commands, receiver) = unbounded_channel();
        let requests = UnboundedReceiverStream::new(receiver);
        let answer = soon(door.log.clone().consume(requests)).await.expect("it answers");
        Self { commands, events: answer.into_inner() }
    }

    /// A stream with one subscription, number 1, to partition 0.
    pub(crate) async fn on(door: &Door, topic: &str, position: At, credit: u64) -> Self {
        let feed = Self::open(door).await;
        feed.say(Command::Grant(v1::Grant { bytes: credit }));
        feed.subscribe(1, topic, 0, position);
        feed
    }

    pub(crate) fn say(&self, command: Command) {
        let request = v1::ConsumeRequest { command: Some(command) };
        self.commands.send(request).expect("the stream is open");
    }

    pub(crate) fn subscribe(&self, subscription: u64, topic: &str, partition: u32, at: At) {
        self.say(Command::Subscribe(subscribe(subscription, topic, partition, at)));
    }

    /// The next event that is not a heartbeat.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            match self.next_or_heartbeat().await {
                Event::Heartbeat(_) => {}
                event => return event,
            }
        }
    }

    pub(crate) async fn next_or_heartbeat(&mut self) -> Event {
        let event =
            soon(self.events.message()).await.expect("no error").expect("the stream goes on");
        event.event.expect("an event")
    }

    pub(crate) async fn heartbeat(&mut self) -> v1::Heartbeat {
        loop {
            if let Event::Heartbeat(heartbeat) = self.next_or_heartbeat().await {
                return heartbeat;
            }
        }
    }

    pub(crate) async fn subscribed(&mut self) -> v1::Subscribed {
        match self.next().await {
            Event::Subscribed(subscribed) => subscribed,
            other => panic!("not subscribed: {other:?}"),
        }
    }

    pub(crate) async fn delivery(&mut self) -> v1::Delivery {
        match self.next().await {
            Event::Delivery(delivery) => delivery,
            other => panic!("not a delivery: {other:?}"),
        }
    }

    pub(crate) async fn failure(&mut self) -> v1::SubscriptionError {
        match self.next().await {
            Event::Error(error) => error,
            other => panic!("not an error: {other:?}"),
        }
    }

    /// The values of the next `count` records from `next` on, whose offsets must follow each other.
    pub(crate) async fn values(&mut self, mut next: u64, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            let delivery = self.delivery().await;
            let from = next;
            for placed in placed(&delivery.data).iter().filter(|placed| placed.offset >= from) {
                assert_eq!(placed.offset, next, "a seam");
                next += 1;
                found.push(value(placed));
            }
        }
        found
    }

    /// What comes within a while that should bring nothing: heartbeats left out.
    pub(crate) async fn within(&mut self, time: Duration) -> Option<Event> {
        tokio::time::timeout(time, self.next()).await.ok()
    }
}

impl Pipe {
    pub(crate) async fn open(door: &Door) -> Self {
        let (requests, receiver) = unbounded_channel();
        let stream = UnboundedReceiverStream::new(receiver);
        let answer = soon(door.log.clone().produce_stream(stream)).await.expect("it answers");
        let mut answers = answer.into_inner();
        let first = soon(answers.message()).await.expect("no error").expect("a first answer");
        assert_eq!((first.number, first.result), (0, None));
        Self { requests, answers, limits: first.limits.expect("limits") }
    }

    pub(crate) fn send(&self, number: u64, batch: v1::ProduceBatch) {
        self.send_with(v1::ProduceStreamRequest {
            number,
            batch: Some(batch),
            ..Default::default()
        });
    }

    pub(crate) fn send_with(&self, request: v1::ProduceStreamRequest) {
        self.requests.send(request).expect("the stream is open");
    }

    /// The next answer: its number and what became of it.
    pub(crate) async fn next(&mut self) -> (u64, v1::ProduceResult) {
        let answer = self.try_next().await.expect("no error").expect("the stream goes on");
        (answer.number, answer.result.expect("a result"))
    }

    pub(crate) async fn try_next(&mut self) -> Result<Option<v1::ProduceStreamResponse>, Status> {
        soon(self.answers.message()).await
    }
}

pub(crate) fn subscribe(subscription: u64, topic: &str, partition: u32, at: At) -> v1::Subscribe {
    v1::Subscribe {
        subscription,
        topic: topic.to_owned(),
        partition,
        position: Some(v1::Position { at: Some(at) }),
        ..Default::default()
    }
}

pub(crate) const EARLIEST: At = At::Earliest(v1::Earliest {});
pub(crate) const LATEST: At = At::Latest(v1::Latest {});
