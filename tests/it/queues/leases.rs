//! Leases end, are extended, and outlive the stream on which they began.

use std::time::{Duration, Instant};

use taffrail_proto::v1;
use taffrail_proto::v1::settlement::Verdict;

use super::{ACK, Worker, create, parked, value};
use crate::broker::Broker;
use crate::door::Door;

/// A lease that ends in a test.
const SHORT_MS: u32 = 500;

fn short() -> v1::QueueSettings {
    v1::QueueSettings { lease_ms: Some(SHORT_MS), max_attempts: Some(3), ..Default::default() }
}

#[tokio::test]
async fn a_record_that_nobody_settles_comes_again_soon_after_its_lease_and_is_parked_in_the_end() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, short()).await;
    door.append("t", &["deadly"]).await;
    let mut worker = Worker::start(&door, 10).await;
    let first = worker.next().await;
    assert!(first.lease_ms <= SHORT_MS && SHORT_MS - 100 < first.lease_ms, "{}", first.lease_ms);
    let mut begun = Instant::now();
    for attempt in 2..=3 {
        let again = worker.next().await;
        assert_eq!(again.attempt, attempt);
        let waited = begun.elapsed().as_millis();
        assert!((400..1_500).contains(&waited), "{waited} ms");
        begun = Instant::now();
    }
    assert_eq!(worker.settle(&first, ACK).await.as_deref(), Some("LEASE_EXPIRED"));
    assert!(worker.gets_nothing(Duration::from_secs(1)).await);
    assert_eq!(parked(&door).await[0].reason, "lease ended at attempt 3");
}

#[tokio::test]
async fn a_lease_that_is_extended_does_not_end() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, short()).await;
    door.append("t", &["slow"]).await;
    let mut worker = Worker::start(&door, 10).await;
    let delivery = worker.next().await;
    for _ in 0..4 {
        let extend = Verdict::Extend(v1::Extend { lease_ms: None });
        assert_eq!(worker.settle(&delivery, extend).await, None);
        assert!(worker.gets_nothing(Duration::from_millis(300)).await);
    }
    assert_eq!(worker.settle(&delivery, ACK).await, None);
    let extend = Verdict::Extend(v1::Extend { lease_ms: None });
    assert_eq!(worker.settle(&delivery, extend).await.as_deref(), Some("LEASE_EXPIRED"));
}

#[tokio::test]
async fn who_lost_its_stream_settles_on_another_one() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    door.append("t", &["a"]).await;
    let mut worker = Worker::start(&door, 10).await;
    let delivery = worker.next().await;
    drop(worker);
    let mut again = Worker::start(&door, 10).await;
    assert!(again.gets_nothing(Duration::from_millis(100)).await, "{}", value(&delivery));
    assert_eq!(again.settle(&delivery, ACK).await, None);
}
