//! The Rust client's worker: a handler for each record, several at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use taffrail_client::{Job, Verdict};
use taffrail_proto::v1;
use tokio::sync::oneshot;

use super::{await_idle, create, parked};
use crate::broker::{Broker, Home};
use crate::door::{Door, soon};

/// How often each value was handled.
type Handled = Arc<Mutex<BTreeMap<String, u32>>>;

fn text(job: &Job) -> String {
    String::from_utf8(job.value().expect("a value").to_vec()).expect("text")
}

#[tokio::test]
async fn a_handler_gets_each_record_keeps_its_lease_and_is_waited_for() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 2, v1::QueueSettings { lease_ms: Some(300), ..Default::default() }).await;
    door.append("t", &["slow", "reject", "fail", "a", "b", "c"]).await;
    let handled = Handled::default();
    let count = Arc::clone(&handled);
    let handle = move |job: Job| {
        let value = text(&job);
        *count.lock().expect("no panic").entry(value.clone()).or_default() += 1;
        async move {
            match value.as_str() {
                // Longer than three leases.
                "slow" => tokio::time::sleep(Duration::from_secs(1)).await,
                "reject" => return Verdict::Reject { reason: "no use".into() },
                "fail" if job.attempt() == 1 => {
                    return Verdict::Retry { delay: Some(Duration::from_millis(100)) };
                }
                _ => {}
            }
            Verdict::Done
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = broker.client().queue("q").concurrency(3);
    let working = tokio::spawn(worker.run(handle, async { drop(stopped.await) }));
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.send(()).expect("it works");
    let stats = soon(working).await.expect("no panic").expect("it is not refused");
    assert_eq!((stats.settled, stats.late), (stats.received, 0));
    let handled = handled.lock().expect("no panic").clone();
    let expected = [("a", 1), ("b", 1), ("c", 1), ("fail", 2), ("reject", 1), ("slow", 1)];
    let expected = expected.map(|(value, times)| (value.to_owned(), times));
    assert_eq!(handled, expected.into());
    assert_eq!(parked(&door).await.len(), 1);
    await_idle(&door, v1::QueueIdle::Empty).await;
}

#[tokio::test]
async fn a_worker_goes_on_when_its_broker_was_killed() {
    const RECORDS: usize = 200;
    let home = Home::new();
    let mut broker = home.start(&[]);
    let address = broker.address.to_string();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings { lease_ms: Some(1_000), ..Default::default() }).await;
    let values: Vec<_> = (0..RECORDS).map(|number| number.to_string()).collect();
    door.append("t", &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let handled = Handled::default();
    let count = Arc::clone(&handled);
    let handle = move |job: Job| {
        *count.lock().expect("no panic").entry(text(&job)).or_default() += 1;
        async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Verdict::Done
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = broker.client().queue("q").concurrency(4);
    let working = tokio::spawn(worker.run(handle, async { drop(stopped.await) }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    broker.program.kill();
    drop(broker);
    let broker = home.start_at(&address, &[]);
    let door = Door::open(&broker).await;
    await_idle(&door, v1::QueueIdle::Empty).await;
    stop.send(()).expect("it works");
    let stats = soon(working).await.expect("no panic").expect("it is not refused");
    let handled = handled.lock().expect("no panic").clone();
    assert_eq!(handled.len(), RECORDS, "none is lost");
    // Twice come those that it had when the broker was killed, at the most.
    let again: u32 = handled.values().map(|times| times - 1).sum();
    assert!(again <= 8, "{again} records came again: {stats:?}");
}

#[tokio::test]
async fn a_worker_of_no_queue_is_refused() {
    let broker = Broker::new();
    let worker = broker.client().queue("nowhere");
    let refused = soon(worker.run(|_| async { Verdict::Done }, std::future::pending())).await;
    assert!(refused.expect_err("there is none").to_string().contains("UNKNOWN_QUEUE"));
}
