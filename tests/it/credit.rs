//! Credit: the broker sends what was granted and at most one batch more, and whoever does not take
//! what he was sent holds up nobody else.

use std::time::Duration;

use futures_util::future::join_all;
use taffrail_proto::v1;
use taffrail_proto::v1::consume_request::Command;

use crate::broker::Broker;
use crate::door::{Door, batch, batches, placed, produce_batch};
use crate::http::{await_metric, metric};
use crate::pipe::{EARLIEST, Feed, Pipe};

const A_WHILE: Duration = Duration::from_millis(150);

/// Fills partition 0 of `t` with batches of about `bytes` each.
async fn fill(door: &Door, batches: u64, bytes: usize) {
    let value = "x".repeat(bytes);
    let mut pipe = Pipe::open(door).await;
    for number in 1..=batches {
        pipe.send(number, produce_batch("t", 0, batch(&[&value])));
    }
    for _ in 0..batches {
        assert_eq!(pipe.next().await.1.error, None);
    }
}

#[tokio::test]
async fn no_more_is_sent_than_was_granted_and_one_batch() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    fill(&door, 100, 1_000).await;
    let batch_bytes = door.fetch("t", 0, 99).await.data.len() as u64;
    let mut feed = Feed::open(&door).await;
    feed.subscribe(1, "t", 0, EARLIEST);
    feed.subscribed().await;
    assert_eq!(feed.within(A_WHILE).await, None, "sent without a grant");
    let (mut granted, mut received) = (0, 0);
    for grant in [1, 1, 3 * batch_bytes, batch_bytes / 2, 10 * batch_bytes, 1 << 30] {
        feed.say(Command::Grant(v1::Grant { bytes: grant }));
        granted += grant;
        let expected = granted.min(100 * batch_bytes);
        while received < expected {
            let delivery = feed.delivery().await;
            assert_eq!(delivery.charged_bytes, delivery.data.len() as u64);
            received += delivery.charged_bytes;
        }
        assert!(received < granted + batch_bytes, "{received} of {granted}");
        assert_eq!(feed.within(A_WHILE).await, None, "more than was granted");
    }
    assert_eq!(received, 100 * batch_bytes);
}

#[tokio::test]
async fn subscriptions_of_one_stream_take_turns() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 2).await;
    fill(&door, 64, 100_000).await;
    door.produce(produce_batch("t", 1, batch(&["x"]))).await;
    let mut feed = Feed::open(&door).await;
    feed.subscribe(1, "t", 0, EARLIEST);
    feed.subscribe(2, "t", 1, EARLIEST);
    feed.subscribed().await;
    feed.subscribed().await;
    feed.say(Command::Grant(v1::Grant { bytes: 1 << 30 }));
    let mut before = 0;
    while feed.delivery().await.subscription != 2 {
        before += 1;
    }
    assert!(before <= 2, "{before} deliveries of a long replay came before a short one");
}

#[tokio::test]
async fn a_consumer_that_takes_nothing_stops_nobody() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("durability", "page_cache")]).await;
    fill(&door, 40, 900_000).await;
    // It grants everything, and then does not read: its connection fills up.
    let stalled = Door::open(&broker).await;
    let stuck = Feed::on(&stalled, "t", EARLIEST, 1 << 30).await;
    let mut feed = Feed::on(&door, "t", EARLIEST, 1 << 30).await;
    feed.subscribed().await;
    let mut seen = 0;
    while seen < 40 {
        seen += batches(&feed.delivery().await.data).len();
    }
    door.append("t", &["live"]).await;
    assert_eq!(feed.values(40, 1).await, ["live"]);
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_grants_nothing_more_is_sent_nothing_more_and_nothing_waits_for_him() {
    const BATCHES: u64 = 64;
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("durability", "page_cache")]).await;
    fill(&door, BATCHES, 500_000).await;
    let mut stingy = Vec::new();
    for number in 0..20 {
        let feed = Feed::open(&door).await;
        // Half of them grant a byte, once.
        if number % 2 == 0 {
            feed.say(Command::Grant(v1::Grant { bytes: 1 }));
        }
        feed.subscribe(1, "t", 0, EARLIEST);
        stingy.push(feed);
    }
    for (number, feed) in stingy.iter_mut().enumerate() {
        feed.subscribed().await;
        if number % 2 == 0 {
            assert_eq!(batches(&feed.delivery().await.data).len(), 1);
        }
    }
    // Others get everything, old and new.
    let mut feed = Feed::on(&door, "t", EARLIEST, 1 << 30).await;
    feed.subscribed().await;
    let mut seen = 0;
    while seen < BATCHES as usize {
        seen += batches(&feed.delivery().await.data).len();
    }
    for number in 0..50 {
        let text = number.to_string();
        assert_eq!(door.append("t", &[&text]).await, BATCHES + number);
        assert_eq!(feed.values(BATCHES + number, 1).await, [text]);
    }
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == 21).await;
    await_metric(&broker, "taffrail_read_memory_used_bytes", |bytes| bytes == 0).await;
    let read = metric(&broker, "taffrail_read_bytes_total").await;
    let quiet = stingy.iter_mut().map(|feed| feed.within(A_WHILE));
    for event in join_all(quiet).await {
        assert_eq!(event, None, "more than was granted");
    }
    assert_eq!(metric(&broker, "taffrail_read_bytes_total").await, read, "read for nobody");
    // It is his as soon as he grants it.
    stingy[1].say(Command::Grant(v1::Grant { bytes: 1 }));
    assert_eq!(placed(&stingy[1].delivery().await.data)[0].offset, 0);
}
