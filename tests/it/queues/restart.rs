//! What a queue knows after the broker was gone.

use std::time::{Duration, Instant};

use taffrail_proto::v1;

use super::{ACK, Worker, await_idle, create, describe, nack, parked, reject, value};
use crate::broker::Home;
use crate::commands::taffrail;
use crate::door::{Door, soon};
use crate::program::run;

#[tokio::test]
async fn leases_attempts_delays_and_what_is_parked_outlive_the_broker() {
    let home = Home::new();
    let mut broker = home.start(&[]);
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings { lease_ms: Some(1_000), ..Default::default() }).await;
    door.append("t", &["held", "failed", "parked", "done", "new"]).await;
    let mut worker = Worker::start(&door, 4).await;
    let mut deliveries = Vec::new();
    for _ in 0..4 {
        deliveries.push(worker.next().await);
    }
    assert_eq!(worker.settle(&deliveries[1], nack(1)).await, None);
    assert_eq!(worker.settle(&deliveries[2], reject("why")).await, None);
    assert_eq!(worker.settle(&deliveries[3], ACK).await, None);
    drop(worker);

    broker.program.kill();
    drop(broker);
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    assert_eq!(parked(&door).await[0].reason, "why");
    let is_open = async {
        while door.status("t", 0).await != v1::PartitionStatus::Online {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(is_open).await;
    let described = describe(&door).await.partitions[0];
    assert_eq!((described.leased, described.delayed, described.fresh), (1, 1, 1));
    let mut worker = Worker::start(&door, 10).await;
    let mut values = worker.take_values(2).await;
    values.sort_unstable();
    assert_eq!(values, [("failed".into(), 2), ("new".into(), 1)]);
    // Its lease has its full time again.
    assert!(worker.gets_nothing(Duration::from_millis(700)).await);
    let held = worker.next().await;
    assert_eq!((value(&held).as_str(), held.attempt), ("held", 2));
    assert_eq!(worker.settle(&deliveries[0], ACK).await.as_deref(), Some("LEASE_EXPIRED"));
    assert_eq!(worker.settle(&held, ACK).await, None);
    await_idle(&door, v1::QueueIdle::AllLeased).await;
}

#[tokio::test]
async fn leases_count_from_the_start_of_the_broker_whenever_a_worker_comes() {
    let home = Home::new();
    let mut broker = home.start(&[]);
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings { lease_ms: Some(2_000), ..Default::default() }).await;
    let texts: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    door.append("t", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut worker = Worker::start(&door, 50).await;
    worker.take_values(50).await;
    drop(worker);
    broker.program.kill();
    drop(broker);

    let before = Instant::now();
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    let after = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut worker = Worker::start(&door, 100).await;
    for _ in 0..50 {
        assert_eq!(worker.next().await.attempt, 2);
        // Not before the lease has ended, and not a second later than that.
        assert!(Duration::from_secs(2) <= before.elapsed());
        assert!(after.elapsed() < Duration::from_secs(3), "{:?}", after.elapsed());
    }
}

#[tokio::test]
async fn a_restored_broker_gives_out_no_lease_again() {
    let home = Home::new();
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    door.append("t", &["a"]).await;
    let backup = home.path().join("backup").display().to_string();
    taffrail(&broker, &["backup", &backup]).success();
    let mut worker = Worker::start(&door, 1).await;
    let before = worker.next().await;
    drop(worker);
    drop(broker);

    let restored = Home::new();
    run(&["restore", &backup, &restored.data().display().to_string()]).success();
    for _ in 0..2 {
        let broker = restored.start(&[]);
        let door = Door::open(&broker).await;
        door.online("t").await;
        let mut worker = Worker::start(&door, 1).await;
        let after = worker.next().await;
        assert_eq!(value(&after), "a");
        assert_ne!(before.ack_id, after.ack_id);
        let late = worker.settle(&before, ACK).await;
        assert_eq!(late.as_deref(), Some("LEASE_EXPIRED"));
        assert_eq!(worker.settle(&after, super::RELEASE).await, None);
        broker.stop().await;
    }
}
