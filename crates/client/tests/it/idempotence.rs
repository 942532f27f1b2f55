//! What an idempotent producer promises: each record once and in order, whatever breaks.

use std::collections::HashSet;
use std::time::Duration;

use taffrail_client::{Acks, Client, PartitionIndex, ProduceError, Record, StartError};

use crate::fake_broker::{FakeBroker, Plan};
use crate::produce::{numbers, one_by_one, send_numbers, values};

#[tokio::test]
async fn broken_streams_lose_nothing_and_double_nothing() {
    let plan = Plan {
        break_after: [5, 6, 60].into(),
        break_before: [20, 21, 90].into(),
        max_in_flight_requests: 7,
        ..Default::default()
    };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).build().await.expect("starts");
    let offsets = send_numbers(&producer, 200).await;
    assert!(offsets.iter().cloned().eq((0..200).map(Ok)), "{offsets:?}");
    producer.close().await.expect("nothing failed");
    assert_eq!((broker.streams(), broker.producers()), (7, 1));
    assert_eq!(values(&broker).await[&0], numbers(0..200));
    assert!(broker.duplicates() >= 3, "at least those that were not answered came again");
}

#[tokio::test]
async fn what_is_refused_when_it_is_sent_again_may_still_be_in_the_log() {
    let refuse = [(6, "OVERLOADED"), (7, "PRECEDING_FAILED")].into();
    let plan = Plan { break_after: [5].into(), refuse, ..Default::default() };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).build().await.expect("starts");
    let offsets = send_numbers(&producer, 20).await;
    assert!(offsets.iter().cloned().eq((0..20).map(Ok)), "{offsets:?}");
    assert_eq!(values(&broker).await[&0], numbers(0..20));
}

#[tokio::test]
async fn a_forgotten_producer_goes_on_under_a_new_identity() {
    let plan = Plan { forget_before: [10, 50].into(), failing_renewals: 2, ..Default::default() };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).name("ferry").build().await.expect("starts");
    let offsets = send_numbers(&producer, 100).await;
    assert!(offsets.iter().cloned().eq((0..100).map(Ok)), "{offsets:?}");
    producer.close().await.expect("nothing failed");
    assert_eq!((broker.streams(), broker.producers()), (1, 3));
    assert_eq!(values(&broker).await[&0], numbers(0..100));
}

#[tokio::test]
async fn only_what_was_sent_to_a_broker_that_forgot_it_is_unknown() {
    let plan = Plan {
        break_after: [5].into(),
        forget_before: [6].into(),
        max_in_flight_requests: 3,
        ..Default::default()
    };
    let broker = FakeBroker::start(1, plan).await;
    let producer = one_by_one(&broker).build().await.expect("starts");
    let outcomes = send_numbers(&producer, 30).await;
    let is_unknown = |outcome: &Result<_, _>| {
        matches!(outcome, Err(ProduceError::ResultUnknown { cause })
            if cause.contains("UNKNOWN_PRODUCER_STATE"))
    };
    let unknown = outcomes.iter().filter(|outcome| is_unknown(outcome)).count();
    assert!(is_unknown(&outcomes[4]) && unknown <= 3, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 30 - unknown);
    let stats = producer.stats();
    assert_eq!((stats.unknown_records, stats.failed_records), (unknown as u64, 0));
    let values = values(&broker).await.remove(&0).expect("has records");
    assert_eq!(values.iter().collect::<HashSet<_>>().len(), values.len(), "nothing came twice");
    assert_eq!(values.len(), 30 - unknown + 1, "one was appended and not answered");
}

#[tokio::test]
async fn whoever_takes_a_name_ends_the_producer_that_had_it() {
    let broker = FakeBroker::start(1, Plan::default()).await;
    let former = one_by_one(&broker).name("ferry").build().await.expect("starts");
    assert!(send_numbers(&former, 3).await.into_iter().eq((0..3).map(Ok)));
    let other = one_by_one(&broker).name("tug").build().await.expect("starts");
    let new = one_by_one(&broker).name("ferry").build().await.expect("starts");
    assert!(send_numbers(&new, 3).await.into_iter().eq((3..6).map(Ok)));

    let delivery = former.send(Record::value(b"late")).await.expect("taken");
    let refused = delivery.await.expect_err("fenced");
    assert!(matches!(&refused, ProduceError::Refused(e) if e.reason == "PRODUCER_FENCED"));
    let error = former.send(Record::value(b"too late")).await.expect_err("fenced");
    assert_eq!(error, ProduceError::Fenced);
    assert_eq!(former.close().await, Err(refused));
    assert!(send_numbers(&other, 3).await.into_iter().eq((6..9).map(Ok)));
}

#[tokio::test]
async fn what_waits_for_room_fails_with_its_producer() {
    let plan = Plan { max_in_flight_requests: 1, ..Default::default() };
    let broker = FakeBroker::start(2, plan).await;
    let client = Client::connect(&broker.url).expect("an address");
    let former = client.producer("t").name("ferry").build().await.expect("starts");
    client.producer("t").name("ferry").build().await.expect("starts");
    let mut deliveries = Vec::new();
    for partition in [0, 1] {
        let record = Record::value(b"late").partition(PartitionIndex::new(partition));
        deliveries.push(former.send(record).await.expect("taken"));
    }
    for delivery in deliveries {
        let outcome = tokio::time::timeout(Duration::from_secs(5), delivery).await;
        let error = outcome.expect("it fails at once").expect_err("fenced");
        assert!(matches!(error, ProduceError::Refused(_)), "{error}");
    }
}

#[tokio::test]
async fn a_new_identity_is_refused_to_a_producer_whose_name_was_taken() {
    let refuse = [(4, "UNKNOWN_PRODUCER_STATE")].into();
    let broker = FakeBroker::start(1, Plan { refuse, ..Default::default() }).await;
    let former = one_by_one(&broker).name("ferry").build().await.expect("starts");
    assert!(send_numbers(&former, 3).await.into_iter().eq((0..3).map(Ok)));
    let new = one_by_one(&broker).name("ferry").build().await.expect("starts");
    let outcomes = send_numbers(&former, 1).await;
    assert!(
        matches!(&outcomes[0], Err(ProduceError::Refused(e)) if e.reason == "PRODUCER_FENCED"),
        "{outcomes:?}"
    );
    let error = former.send(Record::value(b"too late")).await.expect_err("fenced");
    assert_eq!(error, ProduceError::Fenced);
    assert!(send_numbers(&new, 3).await.into_iter().eq((3..6).map(Ok)));
}

#[tokio::test]
async fn names_and_acknowledgement_go_together() {
    let broker = FakeBroker::start(1, Plan::default()).await;
    let client = Client::connect(&broker.url).expect("an address");
    let table = [
        (client.producer("t").name("ferry").acks(Acks::None), "takes acks=committed"),
        (client.producer("t").name(""), "1 to 200 bytes, not 0"),
        (client.producer("t").name("x".repeat(201)), "1 to 200 bytes, not 201"),
    ];
    for (builder, expected) in table {
        let error = builder.build().await.expect_err("refused");
        let is_its_own = !matches!(error, StartError::Call(_));
        assert!(is_its_own && error.to_string().contains(expected), "{error}");
    }
    assert_eq!(broker.producers(), 0);
    client.producer("t").acks(Acks::None).build().await.expect("starts");
    client.producer("t").idempotent(false).build().await.expect("starts");
    assert_eq!(broker.producers(), 0);
    client.producer("t").idempotent(false).name("ferry").build().await.expect("starts");
    assert_eq!(broker.producers(), 1);
}
