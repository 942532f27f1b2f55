//! Order per key: at most one record of a key is in flight, and one that is delayed holds up its key alone.

use std::time::Duration;

use taffrail_proto::v1;

use super::{ACK, Worker, await_idle, create, nack, value};
use crate::broker::Broker;
use crate::door::{Door, batch_of, produce_batch};

fn keyed(pairs: &[(&str, &str)]) -> v1::ProduceBatch {
    let record = |(key, value): &(&str, &str)| v1::Record {
        key: (!key.is_empty()).then(|| key.as_bytes().to_vec().into()),
        value: Some(value.as_bytes().to_vec().into()),
        ..Default::default()
    };
    produce_batch("t", 0, batch_of(pairs.iter().map(record).collect()))
}

fn per_key() -> v1::QueueSettings {
    v1::QueueSettings { order: v1::QueueOrder::PerKey.into(), ..Default::default() }
}

#[tokio::test]
async fn records_of_a_key_wait_for_one_another_and_others_do_not() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, per_key()).await;
    door.produce(keyed(&[
        ("a", "a1"),
        ("a", "a2"),
        ("b", "b1"),
        ("", "x"),
        ("a", "a3"),
        ("", "y"),
    ]))
    .await;
    let mut worker = Worker::start(&door, 100).await;
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(worker.next().await);
    }
    let values: Vec<_> = first.iter().map(value).collect();
    assert_eq!(values, ["a1", "b1", "x", "y"]);
    assert!(worker.gets_nothing(Duration::from_millis(100)).await);
    await_idle(&door, v1::QueueIdle::KeysBlocked).await;
    // One that is delayed holds up its key.
    assert_eq!(worker.settle(&first[0], nack(300)).await, None);
    assert_eq!(worker.settle(&first[1], ACK).await, None);
    let again = worker.next().await;
    assert_eq!((value(&again).as_str(), again.attempt), ("a1", 2));
    for expected in ["a2", "a3"] {
        assert!(worker.gets_nothing(Duration::from_millis(50)).await);
        let done = if expected == "a2" { again.clone() } else { first[0].clone() };
        assert_eq!(worker.settle(&done, ACK).await, None);
        let next = worker.next().await;
        assert_eq!(value(&next), expected);
        first[0] = next;
    }
}

#[tokio::test]
async fn keys_are_known_again_after_a_restart() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, per_key()).await;
    door.produce(keyed(&[("a", "a1"), ("b", "b1"), ("a", "a2")])).await;
    let mut worker = Worker::start(&door, 100).await;
    let a1 = worker.next().await;
    let b1 = worker.next().await;
    drop(worker);
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    let mut worker = Worker::start(&door, 100).await;
    assert!(worker.gets_nothing(Duration::from_millis(200)).await, "a1 is still being worked on");
    assert_eq!(worker.settle(&b1, ACK).await, None);
    assert_eq!(worker.settle(&a1, ACK).await, None);
    assert_eq!(value(&worker.next().await), "a2");
}
