//! Subscriptions: from replay to the live tail, seek, pause, errors, signs of life.

use std::time::Duration;

use taffrail_proto::v1;
use taffrail_proto::v1::consume_request::Command;
use taffrail_proto::v1::consume_response::Event;
use taffrail_proto::v1::position::At;

use crate::broker::Broker;
use crate::door::{Door, batch, check_error, placed, produce_batch, value};
use crate::pipe::{EARLIEST, Feed, LATEST, subscribe};

const CREDIT: u64 = 64 << 20;
/// Long enough for what should not come to come if it did.
const A_WHILE: Duration = Duration::from_millis(150);

fn seek(subscription: u64, new_subscription: u64, at: At) -> Command {
    let position = Some(v1::Position { at: Some(at) });
    Command::Seek(v1::Seek { subscription, new_subscription, position })
}

#[tokio::test]
async fn replay_becomes_the_live_tail_without_a_seam() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    // Small segments, so that the replay crosses files.
    let settings =
        [("durability", "page_cache"), ("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")];
    door.create_with("t", 1, &settings).await;
    let own = door.clone();
    let producer = tokio::spawn(async move {
        let filler = "x".repeat(200);
        for number in 0..1_500 {
            let values: Vec<_> = (0..3).map(|part| format!("{number}/{part} {filler}")).collect();
            own.append("t", &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
    });
    // Some begin while it runs, wherever it is; each at a place of its own.
    let mut feeds = Vec::new();
    for begin in [0, 1, 500, 1_000] {
        while door.find("t", 0, LATEST).await.offset < begin {
            tokio::task::yield_now().await;
        }
        let own = Door::open(&broker).await;
        feeds.push(tokio::spawn(async move {
            let mut feed = Feed::on(&own, "t", At::Offset(begin), CREDIT).await;
            assert_eq!(feed.subscribed().await.offset, begin);
            let count = 4_500 - begin as usize;
            (begin, feed.values(begin, count).await)
        }));
    }
    for feed in feeds {
        let (begin, values) = feed.await.expect("no panic");
        for (offset, value) in (begin..).zip(values) {
            let expected = format!("{}/{} ", offset / 3, offset % 3);
            assert!(value.starts_with(&expected), "offset {offset}: {value}");
        }
    }
    producer.await.expect("no panic");
}

#[tokio::test]
async fn what_comes_after_a_seek_bears_its_number() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    for number in 0..200 {
        door.append("t", &[&number.to_string()]).await;
    }
    let mut feed = Feed::on(&door, "t", EARLIEST, CREDIT).await;
    feed.subscribed().await;
    for (new, to) in (2..).zip([150, 10, 199, 0]) {
        feed.say(seek(new - 1, new, At::Offset(to)));
        // Until the seek is confirmed, all belongs to the old number; behind it all to the new one.
        let subscribed = loop {
            match feed.next().await {
                Event::Delivery(old) => assert_eq!(old.subscription, new - 1),
                Event::Subscribed(subscribed) => break subscribed,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((subscribed.subscription, subscribed.offset), (new, to));
        let first = feed.delivery().await;
        assert_eq!((first.subscription, placed(&first.data)[0].offset), (new, to));
    }
    // The old number is free of meaning.
    feed.say(Command::Pause(v1::Pause { subscription: 1 }));
    loop {
        match feed.next().await {
            Event::Delivery(delivery) => assert_eq!(delivery.subscription, 5),
            Event::Error(error) => break assert_eq!(error.subscription, 1),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_seek_to_nowhere_ends_the_subscription_and_says_where_it_could_go() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a"]).await;
    let mut feed = Feed::on(&door, "t", LATEST, CREDIT).await;
    feed.subscribed().await;
    feed.say(seek(1, 2, At::Offset(9)));
    let failure = feed.failure().await;
    let range: &[_] = &[("offset", "9"), ("start", "0"), ("end", "1")];
    check_error(failure.error.as_ref(), "OFFSET_OUT_OF_RANGE", range, "0 to 1");
    assert_eq!(failure.subscription, 2);
    feed.subscribe(2, "t", 0, EARLIEST);
    assert_eq!(feed.subscribed().await.offset, 0);
    assert_eq!(feed.values(0, 1).await, ["a"]);
}

#[tokio::test]
async fn a_paused_subscription_is_silent_and_goes_on_where_it_was() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 2).await;
    let mut feed = Feed::on(&door, "t", EARLIEST, CREDIT).await;
    feed.subscribed().await;
    feed.subscribe(2, "t", 1, EARLIEST);
    feed.subscribed().await;
    for round in 0..5_u64 {
        feed.say(Command::Pause(v1::Pause { subscription: 1 }));
        // Commands are obeyed in order: once the second is answered, the first has been obeyed.
        feed.say(Command::Pause(v1::Pause { subscription: 99 }));
        assert_eq!(feed.failure().await.subscription, 99);
        door.append("t", &[&round.to_string()]).await;
        door.produce(produce_batch("t", 1, batch(&[&round.to_string()]))).await;
        // The other one is not held back.
        let delivery = feed.delivery().await;
        assert_eq!((delivery.subscription, placed(&delivery.data)[0].offset), (2, round));
        assert_eq!(feed.within(A_WHILE).await, None);
        feed.say(Command::Resume(v1::Resume { subscription: 1 }));
        let delivery = feed.delivery().await;
        assert_eq!(
            (delivery.subscription, value(&placed(&delivery.data)[0])),
            (1, round.to_string())
        );
    }
}

#[tokio::test]
async fn pausing_and_resuming_often_changes_nothing() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a", "b"]).await;
    let mut feed = Feed::open(&door).await;
    feed.subscribe(1, "t", 0, EARLIEST);
    for _ in 0..1_000 {
        feed.say(Command::Pause(v1::Pause { subscription: 1 }));
        feed.say(Command::Resume(v1::Resume { subscription: 1 }));
    }
    feed.say(Command::Grant(v1::Grant { bytes: CREDIT }));
    feed.subscribed().await;
    assert_eq!(feed.values(0, 2).await, ["a", "b"]);
    assert_eq!(feed.within(A_WHILE).await, None);
    door.append("t", &["c"]).await;
    assert_eq!(feed.values(2, 1).await, ["c"]);
    assert_eq!(feed.within(A_WHILE).await, None);
}

#[tokio::test]
async fn an_ended_subscription_brings_nothing_more_and_its_number_can_be_used_again() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let mut feed = Feed::on(&door, "t", EARLIEST, CREDIT).await;
    feed.subscribed().await;
    feed.say(Command::Unsubscribe(v1::Unsubscribe { subscription: 1 }));
    feed.say(Command::Pause(v1::Pause { subscription: 1 }));
    assert_eq!(feed.failure().await.subscription, 1);
    door.append("t", &["a"]).await;
    assert_eq!(feed.within(A_WHILE).await, None);
    feed.subscribe(1, "t", 0, EARLIEST);
    assert_eq!(feed.subscribed().await.high_watermark, 1);
    assert_eq!(feed.values(0, 1).await, ["a"]);
}

#[tokio::test]
async fn an_idle_stream_gives_a_sign_of_life_that_says_where_things_stand() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let append_time = {
        let result = door.produce(produce_batch("t", 0, batch(&["a", "b"]))).await;
        result.append_time_ms
    };
    let mut feed = Feed::on(&door, "t", At::Offset(1), 1 << 20).await;
    feed.subscribed().await;
    let charged = feed.delivery().await.charged_bytes;
    let (first, second) = (feed.heartbeat().await, feed.heartbeat().await);
    assert!(append_time <= first.broker_time_ms && first.broker_time_ms < second.broker_time_ms);
    assert!(second.broker_time_ms - first.broker_time_ms < 10_000, "every few seconds");
    let stands =
        v1::PartitionState { subscription: 1, log_start: 0, high_watermark: 2, next_offset: 2 };
    assert_eq!(second.partitions, [stands]);
    assert_eq!(second.credit_bytes, (1 << 20) - charged as i64);
}

#[tokio::test]
async fn a_topic_that_is_deleted_ends_its_subscriptions_and_no_others() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.create("u", 1).await;
    let mut feed = Feed::on(&door, "t", EARLIEST, CREDIT).await;
    feed.subscribed().await;
    feed.subscribe(2, "u", 0, EARLIEST);
    feed.subscribed().await;
    door.delete("t").await.expect("it was there");
    let failure = feed.failure().await;
    assert_eq!(failure.subscription, 1);
    check_error(failure.error.as_ref(), "UNKNOWN_TOPIC", &[("topic", "t")], "no topic");
    door.append("u", &["x"]).await;
    let delivery = feed.delivery().await;
    assert_eq!(delivery.subscription, 2);
    feed.subscribe(3, "t", 0, EARLIEST);
    let failure = feed.failure().await;
    check_error(failure.error.as_ref(), "UNKNOWN_TOPIC", &[("topic", "t")], "no topic");
}

#[tokio::test]
async fn resuming_is_like_subscribing_where_nothing_is_missing() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a", "b", "c"]).await;
    let mut feed = Feed::open(&door).await;
    feed.say(Command::Grant(v1::Grant { bytes: CREDIT }));
    let resume = |number, offset| {
        let subscribe = subscribe(number, "t", 0, At::Offset(offset));
        Command::Subscribe(v1::Subscribe { resume: true, ..subscribe })
    };
    feed.say(resume(1, 1));
    assert_eq!(feed.subscribed().await.offset, 1);
    assert_eq!(feed.values(1, 2).await, ["b", "c"]);
    // Beyond the end there is nothing to resume.
    feed.say(resume(2, 4));
    let range: &[_] = &[("offset", "4"), ("start", "0"), ("end", "3")];
    check_error(feed.failure().await.error.as_ref(), "OFFSET_OUT_OF_RANGE", range, "0 to 3");
}

#[tokio::test]
async fn a_batch_that_the_client_cannot_receive_ends_the_subscription_by_name() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let large = "x".repeat(10_000);
    door.append("t", &["small"]).await;
    door.append("t", &[&large]).await;
    let mut feed = Feed::open(&door).await;
    feed.say(Command::Grant(v1::Grant { bytes: CREDIT }));
    let subscribe = subscribe(1, "t", 0, EARLIEST);
    feed.say(Command::Subscribe(v1::Subscribe { max_message_bytes: 5_000, ..subscribe }));
    feed.subscribed().await;
    assert_eq!(feed.values(0, 1).await, ["small"]);
    let error = feed.failure().await.error;
    let metadata: &[_] = &[("batch_bytes", "*"), ("max_message_bytes", "5000")];
    check_error(error.as_ref(), "MESSAGE_TOO_SMALL", metadata, "raise max_message_bytes");
}
