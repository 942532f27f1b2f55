//! What workers say of records, and what comes of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use taffrail_proto::v1;

use super::{ACK, RELEASE, Worker, await_idle, create, describe, nack, parked, reject, value};
use crate::broker::Broker;
use crate::door::{Door, batch, produce_batch, soon};

#[tokio::test]
async fn each_record_goes_to_one_worker_and_is_done_when_it_is_acknowledged() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 3, v1::QueueSettings::default()).await;
    let mut expected = BTreeSet::new();
    for number in 0..60 {
        let text = number.to_string();
        door.produce(produce_batch("t", number % 3, batch(&[&text]))).await;
        expected.insert(text);
    }
    // Neither has credit for all.
    let mut workers = [Worker::start(&door, 40).await, Worker::start(&door, 40).await];
    let mut found = BTreeSet::new();
    for worker in &mut workers {
        let mut share = 0;
        while !worker.gets_nothing(Duration::from_millis(300)).await {
            let delivery = worker.next().await;
            assert_eq!(delivery.attempt, 1);
            assert!(found.insert(value(&delivery)), "{} came twice", value(&delivery));
            assert_eq!(worker.settle(&delivery, ACK).await, None);
            share += 1;
        }
        assert!((20..=40).contains(&share), "{share}");
    }
    assert_eq!(found, expected);
    let described = await_idle(&door, v1::QueueIdle::Empty).await;
    let ends: Vec<_> = described.partitions.iter().map(|it| it.first_open).collect();
    assert_eq!((ends, described.workers), (vec![20, 20, 20], 2));
    let [mut worker, other] = workers;
    drop(other);
    worker.grant(1);
    // What comes later is handed out too.
    door.append("t", &["late"]).await;
    let late = worker.next().await;
    assert_eq!((value(&late), late.partition, late.offset), ("late".into(), 0, 20));
}

#[tokio::test]
async fn a_worker_gets_new_records_of_a_partition_in_their_order() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let texts: Vec<_> = (0..3_000).map(|number| number.to_string()).collect();
    let values: Vec<_> = texts.iter().map(String::as_str).collect();
    door.append("t", &values).await;
    let mut worker = Worker::open(&door, "q").await;
    for _ in &texts {
        // So that many leases are stored side by side.
        worker.grant(1);
    }
    for offset in 0..3_000 {
        assert_eq!(worker.next().await.offset, offset);
    }
}

#[tokio::test]
async fn a_record_that_failed_comes_again_not_before_its_delay_and_is_parked_after_the_last_attempt()
 {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings { max_attempts: Some(3), ..Default::default() }).await;
    door.append("t", &["poison", "fine"]).await;
    let mut worker = Worker::start(&door, 10).await;
    for attempt in 1..=3 {
        let begun = Instant::now();
        let delivery = worker.next().await;
        assert_eq!((value(&delivery), delivery.attempt), ("poison".into(), attempt));
        if attempt == 1 {
            assert_eq!(worker.take_values(1).await, [("fine".into(), 1)]);
        } else {
            assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
        }
        assert_eq!(worker.settle(&delivery, nack(300)).await, None);
    }
    let described = await_idle(&door, v1::QueueIdle::AllLeased).await.partitions[0];
    assert_eq!((described.leased, described.parked, described.first_open), (1, 1, 1));
    let parked = parked(&door).await;
    assert_eq!(parked.len(), 1);
    assert_eq!((parked[0].attempts, parked[0].reason.as_str()), (3, "failed at attempt 3"));
    assert_eq!(parked[0].record.as_ref().and_then(|it| it.value.as_deref()), Some(&b"poison"[..]));
}

#[tokio::test]
async fn what_is_released_counts_as_no_attempt_and_what_is_rejected_is_parked_at_once() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    door.append("t", &["a"]).await;
    let mut worker = Worker::start(&door, 10).await;
    for _ in 0..7 {
        let delivery = worker.next().await;
        assert_eq!(delivery.attempt, 1);
        assert_eq!(worker.settle(&delivery, RELEASE).await, None);
    }
    let delivery = worker.next().await;
    assert_eq!(worker.settle(&delivery, reject("no such customer")).await, None);
    let parked = parked(&door).await;
    assert_eq!((parked[0].attempts, parked[0].reason.as_str()), (1, "no such customer"));
    assert_eq!(describe(&door).await.idle(), v1::QueueIdle::Empty);
}

#[tokio::test]
async fn what_is_settled_twice_or_by_the_wrong_lease_does_not_count() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    door.append("t", &["a"]).await;
    let mut worker = Worker::start(&door, 10).await;
    let first = worker.next().await;
    assert_eq!(worker.settle(&first, nack(0)).await, None);
    let second = worker.next().await;
    assert_eq!(second.attempt, 2);
    assert_eq!(worker.settle(&first, ACK).await.as_deref(), Some("LEASE_EXPIRED"));
    assert_eq!(worker.settle(&second, ACK).await, None);
    assert_eq!(worker.settle(&second, ACK).await.as_deref(), Some("ALREADY_SETTLED"));
    assert_eq!(worker.settle(&second, nack(0)).await.as_deref(), Some("ALREADY_SETTLED"));
    assert!(worker.gets_nothing(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn a_worker_is_sent_no_more_than_it_asked_for_and_others_are_not_held_up() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let mut greedy = Worker::start(&door, 5).await;
    door.append("t", &["0", "1", "2", "3", "4", "5", "6", "7"]).await;
    for _ in 0..5 {
        greedy.next().await;
    }
    assert!(greedy.gets_nothing(Duration::from_millis(100)).await);
    assert_eq!(describe(&door).await.idle(), v1::QueueIdle::NoCredit);
    let mut modest = Worker::start(&door, 1).await;
    for _ in 0..3 {
        let delivery = modest.next().await;
        assert_eq!(modest.settle(&delivery, ACK).await, None);
        modest.grant(1);
    }
    assert_eq!(await_idle(&door, v1::QueueIdle::AllLeased).await.partitions[0].leased, 5);
}

#[tokio::test]
async fn a_worker_that_reads_nothing_is_given_little_however_much_it_asks_for() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let large = "x".repeat(100_000);
    for _ in 0..20 {
        door.append("t", &[&*large; 10]).await;
    }
    let deaf = Worker::start(&Door::narrow(broker.url.clone(), 64 << 10).await, 1_000_000).await;
    let is_stuck = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let leased = describe(&door).await.partitions[0].leased;
            if before > 0 && leased == before {
                return leased;
            }
            before = leased;
        }
    };
    let leased = soon(is_stuck).await;
    assert!(leased < 120, "{leased} of 200 records");
    let mut other = Worker::start(&door, 10).await;
    assert_eq!(value(&other.next().await).len(), 100_000);
    drop(deaf);
}
