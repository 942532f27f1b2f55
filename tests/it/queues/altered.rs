//! A queue whose settings change while somebody works on it.

use std::time::Duration;

use bytes::Bytes;
use taffrail_proto::v1;

use super::{ACK, Worker, calls, create, describe, nack, parked, value};
use crate::broker::Broker;
use crate::door::{Door, batch_of, produce_batch, record, soon};

async fn alter(door: &Door, settings: v1::QueueSettings) {
    let request = v1::AlterQueueRequest { queue: "q".into(), settings: Some(settings) };
    soon(calls(door).alter_queue(request)).await.expect("it can be");
}

#[tokio::test]
async fn settings_that_change_while_leases_are_out_count_from_then_on() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let keyed = |value: &str| v1::Record { key: Some(Bytes::from_static(b"k")), ..record(value) };
    let append = |records| door.produce(produce_batch("t", 0, batch_of(records)));
    append(vec![keyed("a"), keyed("b")]).await;
    let mut worker = Worker::start(&door, 10).await;
    let (a, b) = (worker.next().await, worker.next().await);

    let order = v1::QueueOrder::PerKey.into();
    alter(&door, v1::QueueSettings { order, max_attempts: Some(1), ..Default::default() }).await;
    append(vec![keyed("c"), record("keyless")]).await;
    assert_eq!(value(&worker.next().await), "keyless", "those of the key wait for it");
    assert!(worker.gets_nothing(Duration::from_millis(200)).await);
    assert_eq!(worker.settle(&b, ACK).await, None, "what is leased stays so");
    assert!(worker.gets_nothing(Duration::from_millis(200)).await);
    assert_eq!(worker.settle(&a, nack(1)).await, None);
    assert_eq!(parked(&door).await.len(), 1, "it was the last attempt");
    let c = worker.next().await;
    assert_eq!(value(&c), "c");

    // A lease that is shorter from now on is so from the next one on.
    alter(&door, v1::QueueSettings { lease_ms: Some(100), ..Default::default() }).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(worker.settle(&c, ACK).await, None);
    append(vec![keyed("d")]).await;
    let d = worker.next().await;
    assert!(d.lease_ms <= 100, "{d:?}");
    assert_eq!(describe(&door).await.settings.expect("it has some").lease_ms, Some(100));
}
