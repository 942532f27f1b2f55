//! What a member works at: commits, places, handlers, and what it is refused.

use std::time::Duration;

use taffrail_client::{
    CallError, Commit, ConsumeError, Offset, PartitionIndex, Position, TopicName,
};
use taffrail_proto::v1;
use tokio::sync::mpsc;

use super::{append, at, build, member, next, next_batch, place, until_left};
use crate::door::{Door, soon};
use crate::groups::{committed, describe, given, groups, offset, stand, until};

#[tokio::test]
async fn what_is_in_hand_is_not_committed_and_comes_again() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    let every = Commit::Auto(Duration::from_millis(10));
    let mut consumer = build(member(&broker).commit(every)).await;
    assert_eq!((next(&mut consumer).await, next(&mut consumer).await), ((0, 0), (0, 1)));
    until(async || offset(&door, "t/0").await == Some(1)).await;
    drop(consumer);
    until_left(&door).await;
    assert_eq!(offset(&door, "t/0").await, Some(1));
    let mut consumer = build(member(&broker).commit(every)).await;
    assert_eq!(next(&mut consumer).await, (0, 1));
    // Whoever closes says that it is done.
    soon(consumer.close()).await.expect("all is committed");
    assert_eq!(offset(&door, "t/0").await, Some(2));
    assert_eq!(describe(&door, "g").await.expect("it is there").members, []);
}

#[tokio::test]
async fn without_a_commit_nothing_is_committed_where_the_application_does_it() {
    let (broker, door) = given(1).await;
    append(&door, 0, 4).await;
    let mut consumer = build(member(&broker).commit(Commit::Manual)).await;
    next(&mut consumer).await;
    let second = next_batch(&mut consumer).await;
    soon(consumer.commit(&second)).await.expect("it is this one's");
    assert_eq!(offset(&door, "t/0").await, Some(2), "durable on return");
    next(&mut consumer).await;
    next(&mut consumer).await;
    soon(consumer.close()).await.expect("nothing was to be done");
    assert_eq!(offset(&door, "t/0").await, Some(2));

    let mut consumer = build(member(&broker).commit(Commit::Manual)).await;
    assert_eq!(next(&mut consumer).await, (0, 2));
    let first = place(0);
    let half = consumer.commit_offset(&first, Offset::new(3), "half");
    soon(half).await.expect("it is this one's");
    let beyond = soon(consumer.commit_offset(&place(0), Offset::new(5), "")).await;
    assert!(beyond.expect_err("refused").to_string().contains("OFFSET_OUT_OF_RANGE"));
    let other = soon(consumer.commit_offset(&place(1), Offset::new(0), "")).await;
    assert!(other.expect_err("refused").to_string().contains("STALE_MEMBER"));
    drop(consumer);
    let found = committed(&door, "g").await.expect("it is there");
    assert_eq!((found[0].offset, found[0].metadata.as_str()), (3, "half"));
}

#[tokio::test]
async fn before_delivery_means_at_most_once() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    let mut consumer = build(member(&broker).commit(Commit::BeforeDelivery)).await;
    for expected in 0..2 {
        assert_eq!(next(&mut consumer).await, (0, expected));
        assert_eq!(offset(&door, "t/0").await, Some(expected + 1), "committed by then");
    }
    drop(consumer);
    until_left(&door).await;
    let mut consumer = build(member(&broker).commit(Commit::BeforeDelivery)).await;
    assert_eq!(next(&mut consumer).await, (0, 2), "what was in hand does not come again");
}

#[tokio::test]
async fn a_consumer_can_be_moved_and_held_back() {
    let (broker, door) = given(2).await;
    append(&door, 0, 3).await;
    let mut consumer = build(member(&broker)).await;
    for expected in 0..3 {
        assert_eq!(next(&mut consumer).await, (0, expected));
    }
    assert!(consumer.seek(&place(0), Position::Offset(Offset::new(1))));
    assert_eq!(next(&mut consumer).await, (0, 1));
    assert_eq!(next(&mut consumer).await, (0, 2));
    assert!(!consumer.seek(&place(2), Position::Earliest), "it has no such partition");
    assert!(!consumer.pause(&place(2)) && !consumer.resume(&place(2)));

    assert!(consumer.pause(&place(0)));
    until(async || stand(&door, "t/0").await.state() == v1::DeliveryState::Paused).await;
    append(&door, 0, 1).await;
    append(&door, 1, 2).await;
    assert_eq!((next(&mut consumer).await, next(&mut consumer).await), ((1, 0), (1, 1)));
    let held_back = tokio::time::timeout(Duration::from_millis(100), consumer.next_batch()).await;
    assert!(held_back.is_err(), "{held_back:?}");
    assert!(consumer.resume(&place(0)));
    assert_eq!(next(&mut consumer).await, (0, 3));
    soon(consumer.close()).await.expect("all is committed");
    let ends = (offset(&door, "t/0").await, offset(&door, "t/1").await);
    assert_eq!(ends, (Some(4), Some(2)));
}

#[tokio::test]
async fn a_consumer_begins_where_it_says_if_nothing_was_committed() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    let mut consumer = build(member(&broker).from(Position::Last(1))).await;
    assert_eq!(next(&mut consumer).await, (0, 2));
    soon(consumer.close()).await.expect("all is committed");
    let mut consumer = build(member(&broker).from(Position::Earliest)).await;
    append(&door, 0, 1).await;
    assert_eq!(next(&mut consumer).await, (0, 3));
}

/// What a handler may fail with.
#[derive(Debug)]
enum Failed {
    Handler(u64),
    Consume { _error: ConsumeError },
}

impl From<ConsumeError> for Failed {
    fn from(error: ConsumeError) -> Self {
        Self::Consume { _error: error }
    }
}

#[tokio::test]
async fn a_batch_whose_handler_fails_is_not_committed() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    for (fails_at, done) in [(1, 1), (2, 2)] {
        let mut consumer = build(member(&broker)).await;
        let mut seen = Vec::new();
        let ran = consumer.run(|batch| {
            let (_, offset) = at(&batch);
            seen.push(offset);
            async move { if offset == fails_at { Err(Failed::Handler(offset)) } else { Ok(()) } }
        });
        match soon(ran).await {
            Err(Failed::Handler(offset)) => assert_eq!(offset, fails_at),
            other => panic!("{other:?}"),
        }
        assert_eq!(seen.first().copied(), Some(done - 1), "{seen:?}");
        soon(consumer.close()).await.expect("what is done is committed");
        assert_eq!(offset(&door, "t/0").await, Some(done));
    }
}

#[tokio::test]
async fn a_handler_is_dropped_when_its_partition_is_lost() {
    let (broker, door) = given(1).await;
    append(&door, 0, 1).await;
    let mut consumer = build(member(&broker)).await;
    let mut calls = 0;
    let (entered, mut entries) = mpsc::unbounded_channel();
    let ran = consumer.run(|_| {
        calls += 1;
        let (is_first, entered) = (calls == 1, entered.clone());
        async move {
            let _ = entered.send(());
            if is_first {
                std::future::pending::<()>().await;
            }
            Err(Failed::Handler(7))
        }
    });
    let reset = async {
        soon(entries.recv()).await.expect("the handler is called");
        let request = v1::ResetOffsetsRequest {
            group: "g".into(),
            to: Some(v1::reset_offsets_request::To::Shift(0)),
            force: true,
            ..Default::default()
        };
        soon(groups(&door).reset_offsets(request)).await.expect("it moves");
    };
    let (ran, ()) = soon(async { tokio::join!(ran, reset) }).await;
    assert!(matches!(ran, Err(Failed::Handler(7))), "{ran:?}");
    assert_eq!(calls, 2, "what was lost in the middle comes again");
}

#[tokio::test]
async fn what_cannot_be_joined_is_told_when_it_is_built() {
    let (broker, _door) = given(1).await;
    let cases = [
        (broker.client().group("g").topic("tt"), "\"t\""),
        (broker.client().group("g h").topic("t"), "g h"),
        (broker.client().group("g"), "topics"),
        (member(&broker).session_timeout(Duration::from_millis(10)), "500"),
        (member(&broker).session_timeout(Duration::MAX), "1800000"),
    ];
    for (builder, says) in cases {
        let error = soon(builder.build()).await.expect_err("refused").to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_made_anew_is_read_from_its_start() {
    let (broker, door) = given(1).await;
    append(&door, 0, 2).await;
    let mut consumer =
        soon(broker.client().group("g").topic("t*").build()).await.expect("it can join");
    assert_eq!((next(&mut consumer).await, next(&mut consumer).await), ((0, 0), (0, 1)));
    door.delete("t").await.expect("it can go");
    door.create("t", 1).await;
    append(&door, 0, 1).await;
    assert_eq!(next(&mut consumer).await, (0, 0));
    soon(consumer.close()).await.expect("all is committed");
    assert_eq!(offset(&door, "t/0").await, Some(1));
}

#[tokio::test]
async fn groups_are_looked_at_and_changed_from_outside() {
    let (broker, door) = given(2).await;
    append(&door, 0, 3).await;
    let groups = broker.client().groups();
    assert_eq!(groups.list().await.expect("it answers"), []);
    let (topic, first) = (TopicName::parse("t").expect("a name"), PartitionIndex::new(0));
    groups.commit("g", &topic, first, Offset::new(2)).await.expect("nobody is in it");
    let beyond = groups.commit("g", &topic, first, Offset::new(4)).await;
    assert!(beyond.expect_err("refused").to_string().contains("OFFSET_OUT_OF_RANGE"));
    let offsets = groups.offsets("g").await.expect("it answers");
    assert_eq!((offsets.len(), offsets[0].offset), (1, 2));
    let described = groups.describe("g").await.expect("it is there");
    assert_eq!(described.partitions.iter().map(|it| it.lag).collect::<Vec<_>>(), [1, 0]);
    let request = v1::ResetOffsetsRequest {
        group: "g".into(),
        to: Some(v1::reset_offsets_request::To::Shift(-1)),
        ..Default::default()
    };
    let moved = groups.reset(request).await.expect("it moves");
    assert_eq!((moved[0].before, moved[0].after), (Some(2), 1));
    assert_eq!(groups.list().await.expect("it answers")[0].lag, 2);
    groups.delete("g").await.expect("it can go");
    let gone = groups.describe("g").await.expect_err("it is gone").to_string();
    assert!(gone.contains("UNKNOWN_GROUP"), "{gone}");
}

#[tokio::test]
async fn a_handler_that_is_cut_short_has_done_nothing_and_gets_its_batch_again() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    let mut consumer = build(member(&broker)).await;
    let (begun, mut beginning) = tokio::sync::mpsc::unbounded_channel();
    let running = consumer.run(|batch| {
        begun.send(at(&batch)).expect("somebody listens");
        std::future::pending::<Result<(), Failed>>()
    });
    tokio::select! {
        _ = running => panic!("its handler never ends"),
        first = beginning.recv() => assert_eq!(first, Some((0, 0))),
    }
    // Once more, with one that fails; and then as they come.
    let failed = consumer.run(|batch| {
        begun.send(at(&batch)).expect("somebody listens");
        async { Err(Failed::Handler(0)) }
    });
    assert!(soon(failed).await.is_err());
    assert_eq!(beginning.recv().await, Some((0, 0)));
    assert_eq!(next(&mut consumer).await, (0, 0));
    consumer.abandon_batch();
    assert_eq!(next(&mut consumer).await, (0, 0));
    assert_eq!(next(&mut consumer).await, (0, 1));
    consumer.abandon_batch();
    consumer.close().await.expect("it can commit");
    assert_eq!(offset(&door, "t/0").await, Some(1));
}

#[tokio::test]
async fn a_batch_of_before_a_forced_reset_cannot_be_committed() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    let mut consumer = build(member(&broker).commit(Commit::Manual)).await;
    let first = next_batch(&mut consumer).await;
    let second = next_batch(&mut consumer).await;
    soon(consumer.commit(&first)).await.expect("it is this one's");
    let reset = v1::ResetOffsetsRequest {
        group: "g".into(),
        to: Some(v1::reset_offsets_request::To::Shift(-1)),
        force: true,
        ..Default::default()
    };
    broker.client().groups().reset(reset).await.expect("it is forced");
    let refused = soon(consumer.commit(&second)).await;
    let Err(CallError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.reason, "STALE_MEMBER");
    // It begins anew, and what it had before is of another assignment for good.
    assert_eq!(next(&mut consumer).await, (0, 0));
    soon(consumer.commit(&second)).await.expect_err("stale");
    assert_eq!(offset(&door, "t/0").await, Some(0));
}

#[tokio::test]
async fn a_member_goes_on_with_what_is_left_when_one_of_its_topics_is_gone() {
    let (broker, door) = given(1).await;
    door.create("u", 1).await;
    let mut consumer = build(member(&broker).topic("u")).await;
    append(&door, 0, 1).await;
    assert_eq!(next(&mut consumer).await, (0, 0));
    broker.client().admin().delete_topic("u").await.expect("it can go");
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("t").await;
    append(&door, 0, 1).await;
    assert_eq!(next(&mut consumer).await, (0, 1));
}
