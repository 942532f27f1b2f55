//! Work queues: who gets which record, what becomes of it, and what people see of that.

mod altered;
mod dead_letters;
mod keys;
mod leases;
mod many;
mod parked;
mod refusals;
mod restart;
mod settling;
mod topic;
mod worker;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use taffrail_proto::v1;
use taffrail_proto::v1::queue_service_client::QueueServiceClient;
use taffrail_proto::v1::receive_request::Command;
use taffrail_proto::v1::receive_response::Event;
use taffrail_proto::v1::settlement::Verdict;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::door::{Door, soon};

const ACK: Verdict = Verdict::Ack(v1::Ack {});
const RELEASE: Verdict = Verdict::Release(v1::Release {});

fn nack(delay_ms: u32) -> Verdict {
    Verdict::Nack(v1::Nack { delay_ms: Some(delay_ms) })
}

fn reject(reason: &str) -> Verdict {
    Verdict::Reject(v1::Reject { reason: reason.to_owned() })
}

fn calls(door: &Door) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(door.channel.clone())
}

/// A queue `q` on a new topic `t`.
async fn create(door: &Door, partitions: u32, settings: v1::QueueSettings) {
    door.create("t", partitions).await;
    try_create(door, "q", "t", settings).await.expect("it can be made");
}

async fn try_create(
    door: &Door,
    queue: &str,
    topic: &str,
    settings: v1::QueueSettings,
) -> Result<(), Status> {
    let (queue, topic, settings) = (queue.to_owned(), topic.to_owned(), Some(settings));
    let request = v1::CreateQueueRequest { queue, topic, settings, from: None };
    soon(calls(door).create_queue(request)).await.map(drop)
}

async fn describe(door: &Door) -> v1::DescribeQueueResponse {
    let request = v1::DescribeQueueRequest { queue: "q".into() };
    soon(calls(door).describe_queue(request)).await.expect("it is there").into_inner()
}

/// Waits until the queue is idle for this reason.
async fn await_idle(door: &Door, idle: v1::QueueIdle) -> v1::DescribeQueueResponse {
    let wait = async {
        loop {
            let described = describe(door).await;
            if described.idle() == idle {
                return described;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(wait).await
}

/// Somebody who works on `q`.
struct Worker {
    commands: UnboundedSender<v1::ReceiveRequest>,
    events: Streaming<v1::ReceiveResponse>,
    deliveries: VecDeque<v1::QueueDelivery>,
    results: VecDeque<v1::SettleResult>,
}

impl Worker {
    /// A worker that may be sent so many records.
    async fn start(door: &Door, records: u32) -> Self {
        let mut worker = Self::open(door, "q").await;
        worker.grant(records);
        worker
    }

    async fn open(door: &Door, queue: &str) -> Self {
        let (commands, receiver) = unbounded_channel();
        let requests = UnboundedReceiverStream::new(receiver);
        let (deliveries, results) = (VecDeque::new(), VecDeque::new());
        let open = Command::Open(v1::OpenQueue { queue: queue.to_owned() });
        commands.send(v1::ReceiveRequest { command: Some(open) }).expect("it is open");
        let events = soon(calls(door).receive(requests)).await.expect("it answers").into_inner();
        Self { commands, events, deliveries, results }
    }

    fn say(&self, command: Command) {
        let request = v1::ReceiveRequest { command: Some(command) };
        self.commands.send(request).expect("the stream is open");
    }

    fn grant(&mut self, records: u32) {
        self.say(Command::Grant(v1::QueueGrant { records, bytes: 0 }));
    }

    /// Takes what the broker says next.
    async fn take(&mut self) -> Result<(), Status> {
        let event = self.events.message().await?.expect("the stream goes on");
        match event.event.expect("an event") {
            Event::Opened(opened) => assert_eq!(opened.topic, "t"),
            Event::Deliveries(more) => self.deliveries.extend(more.deliveries),
            Event::Settled(settled) => self.results.extend(settled.results),
        }
        Ok(())
    }

    /// The next record.
    async fn next(&mut self) -> v1::QueueDelivery {
        loop {
            if let Some(delivery) = self.deliveries.pop_front() {
                return delivery;
            }
            soon(self.take()).await.expect("the stream goes on");
        }
    }

    /// The values of the next records, and their attempts.
    async fn take_values(&mut self, count: usize) -> Vec<(String, u32)> {
        let mut values = Vec::new();
        for _ in 0..count {
            let delivery = self.next().await;
            values.push((value(&delivery), delivery.attempt));
        }
        values
    }

    /// Whether no record comes for so long.
    async fn gets_nothing(&mut self, time: Duration) -> bool {
        let waiting = async {
            while self.deliveries.is_empty() {
                self.take().await.expect("the stream goes on");
            }
        };
        tokio::time::timeout(time, waiting).await.is_err()
    }

    /// Says what became of a record, and what is answered: the reason if it does not count.
    async fn settle(&mut self, delivery: &v1::QueueDelivery, verdict: Verdict) -> Option<String> {
        self.settle_id(delivery.ack_id.clone(), verdict).await
    }

    async fn settle_id(&mut self, ack_id: Bytes, verdict: Verdict) -> Option<String> {
        let settlement = v1::Settlement { ack_id: ack_id.clone(), verdict: Some(verdict) };
        self.say(Command::Settle(v1::SettleRecords { settlements: vec![settlement] }));
        loop {
            if let Some(result) = self.results.pop_front() {
                assert_eq!(result.ack_id, ack_id);
                return result.error.map(|error| error.reason);
            }
            soon(self.take()).await.expect("the stream goes on");
        }
    }
}

fn value(delivery: &v1::QueueDelivery) -> String {
    let record = delivery.record.as_ref().expect("a record");
    String::from_utf8(record.value.clone().expect("a value").to_vec()).expect("text")
}

async fn parked(door: &Door) -> Vec<v1::ParkedRecord> {
    let request = v1::ListParkedRequest { queue: "q".into(), ..Default::default() };
    parked_page(door, request).await.records
}

async fn parked_page(door: &Door, request: v1::ListParkedRequest) -> v1::ListParkedResponse {
    soon(calls(door).list_parked(request)).await.expect("it is there").into_inner()
}
