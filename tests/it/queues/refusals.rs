//! What makes no sense is refused, and changes nothing.

use bytes::Bytes;
use taffrail_proto::v1;
use taffrail_proto::v1::receive_request::Command;
use tonic::Code;

use super::{ACK, Worker, calls, create, try_create, value};
use crate::broker::Broker;
use crate::door::{Door, check_status, soon};

#[tokio::test]
async fn queues_that_cannot_be_are_refused() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let none = v1::QueueSettings::default;
    let exists = try_create(&door, "q", "t", none()).await;
    check_status(exists, Code::AlreadyExists, "QUEUE_EXISTS", &[("queue", "q")], "another name");
    let named = try_create(&door, "a b", "t", none()).await;
    check_status(
        named,
        Code::InvalidArgument,
        "INVALID_QUEUE_NAME",
        &[("queue", "a b")],
        "1 to 200 of the letters",
    );
    let lost = try_create(&door, "r", "nowhere", none()).await;
    check_status(lost, Code::NotFound, "UNKNOWN_TOPIC", &[("topic", "nowhere")], "no topic");
    let own = try_create(&door, "r", "__queues", none()).await;
    let says = "no queue can be on it";
    check_status(own, Code::PermissionDenied, "INTERNAL_TOPIC", &[("topic", "__queues")], says);
    for (settings, says) in [
        (v1::QueueSettings { lease_ms: Some(99), ..none() }, "100 ms to 12 h"),
        (v1::QueueSettings { max_attempts: Some(0), ..none() }, "1 to 1,000"),
        (
            v1::QueueSettings { min_backoff_ms: Some(700_000), ..none() },
            "a shorter time and a longer one",
        ),
        (v1::QueueSettings { max_backoff_ms: Some(u32::MAX), ..none() }, "up to 7 days"),
        (v1::QueueSettings { max_outstanding: Some(0), ..none() }, "1 to 1,000,000"),
        (v1::QueueSettings { max_parked: Some(0), ..none() }, "1 to 10,000,000"),
        (v1::QueueSettings { order: 9, ..none() }, "none or per-key"),
        (v1::QueueSettings { retention: 9, ..none() }, "hold or copy"),
        (v1::QueueSettings { retention: 2, ..none() }, "there is a dead-letter topic"),
    ] {
        let refused = try_create(&door, "r", "t", settings).await;
        check_status(refused, Code::InvalidArgument, "INVALID_REQUEST", &[], says);
    }
    let listed = soon(calls(&door).list_queues(v1::ListQueuesRequest {})).await;
    let names = listed.expect("it answers").into_inner().queues.into_iter().map(|it| it.queue);
    assert_eq!(names.collect::<Vec<_>>(), ["q"]);
    let delete = v1::DeleteQueueRequest { queue: "p".into() };
    let gone = soon(calls(&door).delete_queue(delete)).await;
    let says = "create it first";
    check_status(gone, Code::NotFound, "UNKNOWN_QUEUE", &[("queue", "p")], says);
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_ends_with_the_reason() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let mut lost = Worker::open(&door, "p").await;
    let refused = soon(lost.take()).await;
    check_status(refused, Code::NotFound, "UNKNOWN_QUEUE", &[("queue", "p")], "create it first");
    for (command, says) in [
        (None, "no command"),
        (Some(Command::Open(v1::OpenQueue { queue: "q".into() })), "open already"),
        (Some(Command::Settle(v1::SettleRecords { settlements: Vec::new() })), "send 1 to 1000"),
        (
            Some(Command::Settle(v1::SettleRecords {
                settlements: vec![v1::Settlement::default()],
            })),
            "says nothing",
        ),
    ] {
        let mut worker = Worker::open(&door, "q").await;
        soon(worker.take()).await.expect("it is open");
        worker.commands.send(v1::ReceiveRequest { command }).expect("it is open");
        let refused = soon(worker.take()).await;
        check_status(refused, Code::InvalidArgument, "INVALID_REQUEST", &[], says);
    }
}

#[tokio::test]
async fn ids_that_are_forged_or_of_another_queue_settle_nothing() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    try_create(&door, "other", "t", v1::QueueSettings::default()).await.expect("it is new");
    door.append("t", &["a"]).await;
    let mut worker = Worker::start(&door, 10).await;
    let mut other = Worker::open(&door, "other").await;
    other.grant(10);
    let (own, foreign) = (worker.next().await, other.next().await);
    let mut forged = own.ack_id.to_vec();
    *forged.last_mut().expect("an id") ^= 0x40;
    for ack_id in [Bytes::new(), Bytes::from_static(b"what"), forged.into(), foreign.ack_id] {
        let refused = worker.settle_id(ack_id, ACK).await;
        assert_eq!(refused.as_deref(), Some("UNKNOWN_ACK_ID"));
    }
    assert_eq!(worker.settle(&own, ACK).await, None, "{}", value(&own));
}

#[tokio::test]
async fn workers_of_a_queue_that_is_deleted_are_told() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let mut worker = Worker::start(&door, 10).await;
    soon(worker.take()).await.expect("it is open");
    let delete = v1::DeleteQueueRequest { queue: "q".into() };
    soon(calls(&door).delete_queue(delete)).await.expect("it was there");
    let ended = soon(worker.take()).await;
    check_status(ended, Code::NotFound, "UNKNOWN_QUEUE", &[("queue", "q")], "create it first");
}

#[tokio::test]
async fn there_are_so_many_queues_and_no_more() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let mut making = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let door = door.clone();
        making.spawn(async move {
            try_create(&door, &format!("q{number}"), "t", v1::QueueSettings::default()).await
        });
    }
    while let Some(made) = making.join_next().await {
        made.expect("no panic").expect("there is room");
    }
    let refused = try_create(&door, "more", "t", v1::QueueSettings::default()).await;
    let says = "delete those that nobody needs";
    check_status(refused, Code::ResourceExhausted, "TOO_MANY_QUEUES", &[("limit", "1000")], says);
}
