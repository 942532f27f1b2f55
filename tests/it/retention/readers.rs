//! What readers hear of records that were deleted: never anything but that they are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use taffrail_client::{Event as ClientEvent, Offset, Position, TopicName, Until};
use taffrail_proto::v1;
use taffrail_proto::v1::consume_request::Command;
use taffrail_proto::v1::consume_response::Event;
use taffrail_proto::v1::position::At;

use super::{check_read, fill, given, stand};
use crate::broker::Broker;
use crate::door::{Door, batch_of, check_error, placed, produce_batch, record, soon};
use crate::pipe::{EARLIEST, Feed, LATEST, subscribe};

const CREDIT: u64 = 1 << 30;

/// Deleted on request: nothing else says why offsets are missing here.
const RETENTION: i32 = v1::GapReason::Retention as i32;

#[track_caller]
fn check_gap(event: Event, subscription: u64, from: u64, to: u64) {
    let gap = Some(v1::Gap { from, to, reason: RETENTION });
    assert_eq!(event, Event::Gap(v1::SubscriptionGap { subscription, gap }));
}

#[tokio::test]
async fn an_offset_that_is_named_and_gone_is_out_of_range() {
    let (_broker, door) = given(&[]).await;
    fill(&door, 0, 100).await;
    door.delete_records("t", 0, Some(45)).await.expect("it can");
    let mut feed = Feed::open(&door).await;
    for (number, offset) in (1..).zip([0, 1, 31, 44]) {
        let text = offset.to_string();
        let range: &[_] = &[("offset", &*text), ("start", "45"), ("end", "100")];
        let found = door.fetch("t", 0, offset).await;
        check_error(found.error.as_ref(), "OFFSET_OUT_OF_RANGE", range, "45 to 100");
        let found = door.find("t", 0, At::Offset(offset)).await;
        check_error(found.error.as_ref(), "OFFSET_OUT_OF_RANGE", range, "45 to 100");
        feed.subscribe(number, "t", 0, At::Offset(offset));
        let failure = feed.failure().await;
        assert_eq!(failure.subscription, number);
        check_error(failure.error.as_ref(), "OFFSET_OUT_OF_RANGE", range, "45 to 100");
    }
    feed.subscribe(9, "t", 0, At::Offset(45));
    assert_eq!(feed.subscribed().await.offset, 45);
}

#[tokio::test]
async fn other_positions_begin_with_what_is_there() {
    let (broker, door) = given(&[]).await;
    let at = |timestamp_ms| v1::Record { timestamp_ms, ..record("x") };
    let times = [(0, [100, 200, 300]), (3, [400, 500, 600]), (6, [700, 800, 900])];
    for (offset, times) in times {
        let sent = batch_of(times.into_iter().map(at).collect());
        let result = door.produce(produce_batch("t", 0, sent)).await;
        assert_eq!(result.base_offset, Some(offset));
    }
    door.delete_records("t", 0, Some(4)).await.expect("it can");
    let positions = [
        (EARLIEST, 4, None),
        (LATEST, 9, None),
        (At::Last(3), 6, None),
        (At::Last(8), 4, None),
        (At::TimestampMs(i64::MIN), 4, Some(500)),
        (At::TimestampMs(150), 4, Some(500)),
        (At::TimestampMs(400), 4, Some(500)),
        (At::TimestampMs(501), 5, Some(600)),
        (At::TimestampMs(601), 6, Some(700)),
        (At::TimestampMs(901), 9, None),
    ];
    let check = async |door: &Door| {
        for (position, offset, time) in positions {
            let found = door.find("t", 0, position).await;
            let place = (found.offset, found.timestamp_ms, found.log_start);
            assert_eq!((found.error, place), (None, (offset, time, 4)), "{position:?}");
            let mut feed = Feed::on(door, "t", position, 1).await;
            let subscribed = feed.subscribed().await;
            assert_eq!((subscribed.offset, subscribed.log_start), (offset, 4), "{position:?}");
        }
    };
    check(&door).await;
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("t").await;
    check(&door).await;
    door.delete_records("t", 0, None).await.expect("it can");
    for position in [EARLIEST, LATEST, At::Last(3), At::TimestampMs(1)] {
        let found = door.find("t", 0, position).await;
        assert_eq!((found.error, found.offset, found.timestamp_ms), (None, 9, None));
    }
}

#[tokio::test]
async fn a_stream_whose_next_records_are_deleted_is_told_and_goes_on() {
    let (_broker, door) = given(&[("durability", "page_cache")]).await;
    fill(&door, 0, 200).await;
    // Room for one batch; what comes then must wait.
    let mut feed = Feed::on(&door, "t", At::Offset(3), 1).await;
    assert_eq!(feed.subscribed().await.offset, 3);
    assert_eq!(feed.values(3, 1).await.len(), 1);
    door.delete_records("t", 0, Some(150)).await.expect("it can");
    feed.say(Command::Grant(v1::Grant { bytes: CREDIT }));
    check_gap(feed.next().await, 1, 4, 150);
    let values = feed.values(150, 50).await;
    assert!((150..).zip(&values).all(|(at, value)| value.starts_with(&format!("{at} "))));
    // At the end of all, and all that came is gone.
    door.delete_records("t", 0, None).await.expect("it can");
    fill(&door, 200, 1).await;
    assert_eq!(feed.values(200, 1).await.len(), 1, "nothing is missing to it");
}

#[tokio::test]
async fn one_that_is_held_back_hears_of_it_when_it_goes_on() {
    let (_broker, door) = given(&[]).await;
    fill(&door, 0, 10).await;
    let mut feed = Feed::on(&door, "t", EARLIEST, CREDIT).await;
    feed.subscribed().await;
    feed.values(0, 10).await;
    feed.say(Command::Pause(v1::Pause { subscription: 1 }));
    // Commands are obeyed in order.
    feed.say(Command::Pause(v1::Pause { subscription: 99 }));
    assert_eq!(feed.failure().await.subscription, 99);
    fill(&door, 10, 10).await;
    door.delete_records("t", 0, None).await.expect("it can");
    feed.say(Command::Resume(v1::Resume { subscription: 1 }));
    check_gap(feed.next().await, 1, 10, 20);
    fill(&door, 20, 1).await;
    assert_eq!(feed.values(20, 1).await.len(), 1);
}

#[tokio::test]
async fn whoever_resumes_below_the_start_is_told_and_goes_on() {
    let (_broker, door) = given(&[]).await;
    fill(&door, 0, 100).await;
    door.delete_records("t", 0, Some(45)).await.expect("it can");
    let mut feed = Feed::open(&door).await;
    feed.say(Command::Grant(v1::Grant { bytes: CREDIT }));
    for (number, offset) in (1..).zip([0, 44]) {
        let subscribe = subscribe(number, "t", 0, At::Offset(offset));
        feed.say(Command::Subscribe(v1::Subscribe { resume: true, ..subscribe }));
        check_gap(feed.next().await, number, offset, 45);
        assert_eq!(feed.subscribed().await.offset, 45);
        feed.values(45, 55).await;
        feed.say(Command::Unsubscribe(v1::Unsubscribe { subscription: number }));
    }
    // Where the log begins nothing is missing.
    let subscribe = subscribe(3, "t", 0, At::Offset(45));
    feed.say(Command::Subscribe(v1::Subscribe { resume: true, ..subscribe }));
    assert_eq!(feed.subscribed().await.offset, 45);
}

#[tokio::test]
async fn a_consumer_of_the_client_is_told_and_goes_on() {
    let (broker, door) = given(&[("durability", "page_cache")]).await;
    fill(&door, 0, 300).await;
    let consumer = broker.client().consumer().topic("t").from(Position::Earliest);
    let consumer = consumer.until(Until::Offset(Offset::new(300))).prefetch_bytes(10_000);
    let mut consumer = consumer.build().await.expect("starts");
    let (mut next, mut gaps) = (0, Vec::new());
    while let Some(event) = soon(consumer.next_event()).await {
        match event.expect("it goes on") {
            ClientEvent::Batch(batch) => {
                for record in batch.records() {
                    assert_eq!(record.expect("sound").offset.get(), next, "a seam");
                    next += 1;
                }
                if next == 5 {
                    door.delete_records("t", 0, Some(260)).await.expect("it can");
                }
            }
            ClientEvent::Gap { from, to, reason, .. } => {
                assert_eq!((from.get(), reason), (next, v1::GapReason::Retention));
                gaps.push(next);
                next = to.get();
            }
            ClientEvent::Heartbeat { .. } => {}
        }
    }
    assert_eq!((next, gaps.len()), (300, 1), "{gaps:?}");
    // It is told where it cannot begin, and can go elsewhere.
    let nowhere = broker.client().consumer().topic("t").from(Position::Offset(Offset::new(7)));
    let mut consumer = nowhere.build().await.expect("starts");
    let error = soon(consumer.next_batch()).await.expect("more").expect_err("it is gone");
    assert!(error.to_string().contains("260 to 300"), "{error}");
    let topic = TopicName::parse("t").expect("a name");
    assert!(consumer.seek(&topic, taffrail_client::PartitionIndex::new(0), Position::Earliest));
    let batch = soon(consumer.next_batch()).await.expect("more").expect("sound");
    assert_eq!(batch.first_offset().get(), 260);
}

#[tokio::test]
async fn a_client_whose_stream_broke_goes_on_behind_what_was_deleted_meanwhile() {
    let (broker, door) = given(&[]).await;
    fill(&door, 0, 20).await;
    let consumer = broker.client().consumer().topic("t").from(Position::Earliest);
    let mut consumer =
        consumer.until(Until::Offset(Offset::new(40))).build().await.expect("starts");
    let mut next = 0;
    while next < 20 {
        let batch = soon(consumer.next_batch()).await.expect("more").expect("sound");
        next = batch.batch.header.end_offset().get();
    }
    let broker: Broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("t").await;
    fill(&door, 20, 20).await;
    door.delete_records("t", 0, Some(30)).await.expect("it can");
    let batch = soon(consumer.next_batch()).await.expect("more").expect("sound");
    assert_eq!(batch.first_offset().get(), 30);
}

/// Reads again and again, from where the log says that it begins and from before it.
async fn look(door: Door, is_over: Arc<AtomicBool>) -> (u64, u64) {
    let (mut from, mut read, mut refused) = (0, 0, 0);
    while !is_over.load(Ordering::Acquire) {
        let result = door.fetch("t", 0, from).await;
        match result.error {
            None => {
                assert_eq!(result.gap, None);
                let found = placed(&result.data);
                let is_right = |it: &crate::door::Placed| {
                    crate::door::value(it).starts_with(&format!("{} ", it.offset))
                };
                assert!(found.iter().all(is_right));
                read += found.len() as u64;
                from = result.next_offset;
                if from == result.high_watermark {
                    from = result.log_start;
                }
            }
            Some(error) => {
                assert_eq!(error.reason, "OFFSET_OUT_OF_RANGE", "{error:?}");
                let start: u64 = error.metadata["start"].parse().expect("a number");
                assert!(from < start, "{from}: {error:?}");
                (from, refused) = (start, refused + 1);
            }
        }
        for position in [EARLIEST, At::TimestampMs(1), At::Last(40)] {
            let found = door.find("t", 0, position).await;
            assert_eq!(found.error, None, "{position:?}");
        }
    }
    (read, refused)
}

/// Follows a stream to the end; gaps and records, nothing else, and no seam.
async fn follow(door: Door, end: u64) -> u64 {
    // Slower than those who write.
    let mut feed = Feed::on(&door, "t", EARLIEST, 1).await;
    let (mut next, mut gaps) = (feed.subscribed().await.offset, 0);
    while next < end {
        match feed.next().await {
            Event::Delivery(delivery) => {
                let from = next;
                for placed in placed(&delivery.data).iter().filter(|it| from <= it.offset) {
                    assert_eq!(placed.offset, next, "a seam");
                    next += 1;
                }
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
                feed.say(Command::Grant(v1::Grant { bytes: delivery.charged_bytes }));
            }
            Event::Gap(v1::SubscriptionGap { gap: Some(gap), .. }) => {
                assert_eq!((gap.from, gap.reason), (next, RETENTION));
                assert!(next < gap.to, "{gap:?}");
                (next, gaps) = (gap.to, gaps + 1);
            }
            other => panic!("{other:?}"),
        }
    }
    gaps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_what_is_being_deleted_hear_nothing_but_that_it_is_gone() {
    const RECORDS: u64 = 3_000;
    let settings = [("durability", "page_cache"), ("retention.bytes", "64KiB")];
    let (broker, door) = given(&settings).await;
    fill(&door, 0, 10).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut looking = Vec::new();
    for _ in 0..2 {
        let own = Door::open(&broker).await;
        looking.push(tokio::spawn(look(own, Arc::clone(&is_over))));
    }
    let following = tokio::spawn(follow(Door::open(&broker).await, RECORDS));
    let mut end = 10;
    while end < RECORDS {
        let count = (RECORDS - end).min(50);
        fill(&door, end, count).await;
        end += count;
        let before = (end % 3 == 0).then_some(end - end % 40);
        door.delete_records("t", 0, before).await.expect("it can");
    }
    let gaps = tokio::time::timeout(crate::broker::PATIENCE, following).await;
    let gaps = gaps.expect("it comes to the end").expect("no panic");
    is_over.store(true, Ordering::Release);
    let (mut read, mut refused) = (0, 0);
    for looking in looking {
        let found = looking.await.expect("nothing else goes wrong");
        (read, refused) = (read + found.0, refused + found.1);
    }
    assert!(read > 0 && refused > 0 && gaps > 0, "{read} records, {refused} times gone, {gaps}");
    let partition = stand(&door).await;
    check_read(&door, partition.log_start, RECORDS).await;
}
