//! What those say who have lost a partition does not count, and nothing is delivered to them.

use taffrail_proto::v1;
use taffrail_proto::v1::consume_request::Command;
use tonic::Code;

use super::{
    Line, Member, Places, commit_all, commit_of, given, join_shortly, offset, places, read_for,
    until,
};
use crate::door::{Door, check_error, check_status};
use crate::pipe::Feed;

const GRANT: Command = Command::Grant(v1::Grant { bytes: 1 << 30 });

/// Two partitions of three records each, which belong to `a`.
async fn one_member() -> (crate::broker::Broker, Door, Member) {
    let (broker, door) = given(2).await;
    for partition in 0..2 {
        let batch = crate::door::batch(&["x", "y", "z"]);
        let result = door.produce(crate::door::produce_batch("t", partition, batch)).await;
        assert_eq!(result.error, None);
    }
    let a = Member::joined(&door, "a", &["t"]).await;
    (broker, door, a)
}

/// The place that `a` is to give on once `b` has joined; both know of it, and `a` reads it still.
async fn b_joins(door: &Door, a: &mut Member) -> (Member, String) {
    let before = a.places();
    let b = Member::joined(door, "b", &["t"]).await;
    let keeps = super::places_of(&{
        let mut looks = a.clone();
        looks.beat().await;
        looks.said
    });
    let leaving: Places = before.difference(&keeps).cloned().collect();
    (b, leaving.into_iter().next().expect("one goes"))
}

#[tokio::test]
async fn a_commit_under_another_epoch_is_refused_and_changes_nothing() {
    let (_broker, door, a) = one_member().await;
    assert_eq!(a.commit("t/0", 1).await, None);
    let epoch = a.assignment("t/0").epoch;
    for wrong in [0, epoch - 1, epoch + 1, u32::MAX] {
        let commit = v1::OffsetCommit { epoch: wrong, ..commit_of("t/0", 2) };
        let (error, wrong) = (a.commit_as(commit).await, wrong.to_string());
        let owner = epoch.to_string();
        let names = [
            ("group", "g"),
            ("member_id", "a"),
            ("epoch", wrong.as_str()),
            ("owner", "a"),
            ("owner_epoch", owner.as_str()),
        ];
        check_error(error.as_ref(), "STALE_MEMBER", &names, "since epoch");
    }
    assert_eq!(offset(&door, "t/0").await, Some(1));
}

#[tokio::test]
async fn a_former_owner_commits_until_it_has_released_and_not_afterwards() {
    let (_broker, door, mut a) = one_member().await;
    let (mut b, place) = b_joins(&door, &mut a).await;
    // What it still reads it may still commit; whoever waits for it may not.
    assert_eq!(a.commit(&place, 1).await, None);
    let early = v1::OffsetCommit { epoch: b.said.epoch, ..commit_of(&place, 3) };
    check_stale(b.commit_as(early).await.as_ref(), "b", "a");
    assert_eq!(offset(&door, &place).await, Some(1));
    let had = a.clone();
    a.settle().await;
    b.beat().await;
    check_stale(had.commit(&place, 3).await.as_ref(), "a", "b");
    assert_eq!(offset(&door, &place).await, Some(1));
    assert_eq!(b.commit(&place, 2).await, None);
    // It lost it and got it again: what it read before is another assignment's.
    b.leave().await;
    a.beat().await;
    assert!(a.assignment(&place).epoch > had.assignment(&place).epoch);
    check_stale(had.commit(&place, 3).await.as_ref(), "a", "a");
    assert_eq!(offset(&door, &place).await, Some(2));
    assert_eq!(a.commit(&place, 3).await, None);
}

#[track_caller]
fn check_stale(error: Option<&v1::Error>, member: &str, owner: &str) {
    let names = [
        ("group", "g"),
        ("member_id", member),
        ("epoch", "*"),
        ("owner", owner),
        ("owner_epoch", "*"),
    ];
    check_error(error, "STALE_MEMBER", &names, "another");
}

#[tokio::test]
async fn what_is_committed_after_a_session_has_ended_does_not_count() {
    let (_broker, door) = given(1).await;
    door.append("t", &["x"]).await;
    let mut a = Member::new(&door, "a");
    a.try_join(join_shortly(&["t"])).await.expect("it can join");
    assert_eq!(a.commit("t/0", 0).await, None);
    until(async || super::describe(&door, "g").await.expect("there").members.is_empty()).await;
    let epoch = a.assignment("t/0").epoch;
    let late = v1::OffsetCommit { epoch, ..commit_of("t/0", 1) };
    let committed = commit_all(&door, "g", "a", vec![late]).await;
    let names = [("group", "g"), ("member_id", "a")];
    check_status(committed, Code::NotFound, "UNKNOWN_MEMBER", &names, "session has ended");
    assert_eq!(offset(&door, "t/0").await, Some(0));
}

#[tokio::test]
async fn a_commit_of_what_is_another_s_does_not_hold_up_one_s_own() {
    let (_broker, door, mut a) = one_member().await;
    let (mut b, _) = b_joins(&door, &mut a).await;
    a.settle().await;
    b.beat().await;
    let (own, other) = (a.places().pop_first().expect("one"), b.places().pop_first().expect("one"));
    let epoch = a.assignment(&own).epoch;
    let offsets =
        [commit_of("tt/0", 0), commit_of(&other, 1), commit_of(&own, 1), commit_of(&other, 2)];
    let offsets = offsets.map(|commit| v1::OffsetCommit { epoch, ..commit });
    let results = commit_all(&door, "g", "a", offsets.into()).await.expect("it answers");
    let reasons: Vec<_> =
        results.into_iter().map(|it| it.error.map_or(String::new(), |it| it.reason)).collect();
    assert_eq!(reasons, ["UNKNOWN_TOPIC", "STALE_MEMBER", "", "STALE_MEMBER"]);
    assert_eq!((offset(&door, &own).await, offset(&door, &other).await), (Some(1), None));
}

#[tokio::test]
async fn a_subscription_ends_when_the_partition_goes_to_another_and_the_others_go_on() {
    let (_broker, door, mut a) = one_member().await;
    let mut feed = Feed::open(&door).await;
    feed.say(GRANT);
    for (number, place) in [(1, "t/0"), (2, "t/1")] {
        read_for(&feed, number, place, a.reader(place));
        assert_eq!(feed.subscribed().await.offset, 0);
        feed.delivery().await;
    }
    let (mut b, place) = b_joins(&door, &mut a).await;
    let failure = feed.failure().await;
    let (_, partition) = super::split(&place);
    assert_eq!(failure.subscription, u64::from(partition) + 1);
    let names = [("group", "g"), ("member_id", "a"), ("epoch", "*")];
    check_error(failure.error.as_ref(), "STALE_MEMBER", &names, "");

    // Not before it was released: what is awaited is nobody's to begin.
    let mut early = Feed::open(&door).await;
    let reader = v1::GroupReader { member_id: "b".into(), epoch: b.said.epoch, ..a.reader(&place) };
    read_for(&early, 1, &place, reader);
    assert_eq!(early.failure().await.error.expect("refused").reason, "STALE_MEMBER");
    let former = a.reader(&place);
    a.settle().await;
    b.beat().await;
    read_for(&feed, 7, &place, former);
    let failure = feed.failure().await;
    assert_eq!(failure.subscription, 7);
    check_stale_reader(failure.error.as_ref(), "a");
    read_for(&early, 2, &place, b.reader(&place));
    assert_eq!(early.subscribed().await.subscription, 2);

    // The subscription that stays goes on.
    let kept = a.places().pop_first().expect("one");
    let (_, partition) = super::split(&kept);
    let more = crate::door::produce_batch("t", partition, crate::door::batch(&["more"]));
    assert_eq!(door.produce(more).await.error, None);
    assert_eq!(feed.delivery().await.subscription, u64::from(partition) + 1);
}

#[track_caller]
fn check_stale_reader(error: Option<&v1::Error>, member: &str) {
    let names = [
        ("group", "g"),
        ("member_id", member),
        ("epoch", "*"),
        ("owner", "*"),
        ("owner_epoch", "*"),
    ];
    check_error(error, "STALE_MEMBER", &names, "another");
}

#[tokio::test]
async fn the_end_of_a_session_ends_what_is_delivered() {
    let (_broker, door) = given(1).await;
    door.append("t", &["x"]).await;
    let mut a = Member::new(&door, "a");
    a.try_join(join_shortly(&["t"])).await.expect("it can join");
    let mut feed = Feed::open(&door).await;
    feed.say(GRANT);
    read_for(&feed, 1, "t/0", a.reader("t/0"));
    feed.subscribed().await;
    feed.delivery().await;
    assert_eq!(feed.failure().await.error.expect("ended").reason, "STALE_MEMBER");
    read_for(&feed, 2, "t/0", a.reader("t/0"));
    assert_eq!(feed.failure().await.error.expect("refused").reason, "UNKNOWN_MEMBER");
}

#[tokio::test]
async fn a_subscription_that_has_moved_ends_under_its_new_number() {
    let (_broker, door, mut a) = one_member().await;
    let mut feed = Feed::open(&door).await;
    feed.say(GRANT);
    for (number, place) in [(1, "t/0"), (2, "t/1")] {
        read_for(&feed, number, place, a.reader(place));
        feed.subscribed().await;
        feed.delivery().await;
        let position = Some(v1::Position { at: Some(crate::pipe::LATEST) });
        let new_subscription = number + 10;
        feed.say(Command::Seek(v1::Seek { subscription: number, new_subscription, position }));
        assert_eq!(feed.subscribed().await.offset, 3);
    }
    let (_, place) = b_joins(&door, &mut a).await;
    let (_, partition) = super::split(&place);
    assert_eq!(feed.failure().await.subscription, u64::from(partition) + 11);
}

#[tokio::test]
async fn a_partition_is_delivered_to_its_member_under_its_epoch_only() {
    let (_broker, door, a) = one_member().await;
    let mut feed = Feed::open(&door).await;
    let good = a.reader("t/0");
    let cases = [
        (v1::GroupReader { epoch: good.epoch + 1, ..good.clone() }, "STALE_MEMBER"),
        (v1::GroupReader { epoch: 0, ..good.clone() }, "STALE_MEMBER"),
        (v1::GroupReader { member_id: "b".into(), ..good.clone() }, "UNKNOWN_MEMBER"),
        (v1::GroupReader { group: "h".into(), ..good.clone() }, "UNKNOWN_MEMBER"),
        (v1::GroupReader { group: "g h".into(), ..good.clone() }, "INVALID_GROUP_NAME"),
    ];
    for (number, (reader, reason)) in (1..).zip(cases) {
        read_for(&feed, number, "t/0", reader);
        let failure = feed.failure().await;
        assert_eq!(failure.subscription, number);
        assert_eq!(failure.error.expect("refused").reason, reason);
    }
    read_for(&feed, 9, "t/0", good);
    assert_eq!(feed.subscribed().await.subscription, 9);
}

#[tokio::test]
async fn a_member_that_leaves_is_delivered_nothing_more() {
    let (_broker, door, a) = one_member().await;
    let (mut line, _) = Line::joined(&a, &["t"]).await;
    let mut feed = Feed::open(&door).await;
    feed.say(GRANT);
    read_for(&feed, 1, "t/0", a.reader("t/0"));
    feed.subscribed().await;
    feed.delivery().await;
    line.say(v1::HeartbeatRequest { leave: true, number: 2, ..a.request() });
    assert_eq!(feed.failure().await.error.expect("ended").reason, "STALE_MEMBER");
    assert_eq!(super::describe(&door, "g").await.expect("there").members.len(), 0);
    assert_eq!(places(&[]), super::places_of(&line.next().await));
}
