//! What people see of groups: how far behind they are, and why nothing is being delivered.

use std::time::{Duration, Instant};

use taffrail_proto::v1;
use taffrail_proto::v1::DeliveryState as State;
use taffrail_proto::v1::consume_request::Command;
use tonic::Code;

use super::{
    Member, commit_all, commit_of, commit_outside, describe, given, groups, kill_and_start,
    read_for, stand, until,
};
use crate::door::{Door, check_status, soon};
use crate::pipe::Feed;

async fn list(door: &Door) -> Vec<v1::GroupSummary> {
    let request = v1::ListGroupsRequest {};
    soon(groups(door).list_groups(request)).await.expect("it answers").into_inner().groups
}

async fn delete(door: &Door, group: &str) -> Result<(), tonic::Status> {
    let request = v1::DeleteGroupRequest { group: group.to_owned() };
    soon(groups(door).delete_group(request)).await.map(drop)
}

#[tokio::test]
async fn the_lag_is_what_is_not_done_in_records_and_bytes() {
    let (_broker, door) = given(2).await;
    let value = "x".repeat(10_000);
    for _ in 0..40 {
        door.append("t", &[&value, &value]).await;
    }
    let whole: u64 = 40 * 20_000;
    let member = Member::joined(&door, "a", &["t"]).await;
    for (committed, left) in
        [(None, 80), (Some(0), 80), (Some(31), 49), (Some(79), 1), (Some(80), 0)]
    {
        if let Some(offset) = committed {
            assert_eq!(member.commit("t/0", offset).await, None);
        }
        let found = stand(&door, "t/0").await;
        assert_eq!((found.committed, found.lag, found.end), (committed, left, 80));
        let expected = whole * left / 80;
        let near = expected.saturating_sub(32 << 10)..=expected + (32 << 10);
        assert!(near.contains(&found.lag_bytes), "{} of {expected}", found.lag_bytes);
        assert_eq!((found.lag_bytes == 0, found.age_ms == 0), (left == 0, left == 0), "{found:?}");
        assert_eq!((found.log_start, found.owner.as_str(), found.error), (0, "a", None));
    }
    let empty = stand(&door, "t/1").await;
    assert_eq!((empty.committed, empty.lag, empty.lag_bytes, empty.age_ms), (None, 0, 0, 0));
    assert_eq!(list(&door).await[0].lag, 0);
}

#[tokio::test]
async fn the_age_is_that_of_the_oldest_record_that_is_not_done() {
    let (_broker, door) = given(1).await;
    let now = async || describe(&door, "g").await.expect("it is there").broker_time_ms;
    commit_outside(&door, "t/0", 0).await;
    let mut appended = Vec::new();
    for offset in 0..3 {
        door.append("t", &["x"]).await;
        let batch = crate::door::batches(&door.fetch("t", 0, offset).await.data).remove(0);
        appended.push(batch.append_time_ms);
        // The broker's clock goes on between them.
        until(async || now().await > batch.append_time_ms + 5).await;
    }
    for (offset, appended) in (0..).zip(appended) {
        commit_outside(&door, "t/0", offset).await;
        let earliest = now().await;
        let described = describe(&door, "g").await.expect("it is there");
        let age = described.partitions[0].age_ms as i64;
        let range = earliest - appended..=described.broker_time_ms - appended;
        assert!(range.contains(&age), "{age} is not in {range:?}");
    }
}

#[tokio::test]
async fn what_has_not_got_on_is_stalled_for_so_long() {
    let (_broker, door) = given(1).await;
    let member = Member::joined(&door, "a", &["t"]).await;
    assert_eq!(stand(&door, "t/0").await.stalled_ms, 0, "there is nothing to do");
    door.append("t", &["a", "b"]).await;
    until(async || stand(&door, "t/0").await.stalled_ms >= 200).await;
    let committing = Instant::now();
    assert_eq!(member.commit("t/0", 1).await, None);
    let found = stand(&door, "t/0").await;
    let most = committing.elapsed().as_millis() as u64;
    assert!(found.stalled_ms <= most && found.age_ms >= 200, "{found:?}");
    until(async || stand(&door, "t/0").await.stalled_ms > most).await;
    assert_eq!(member.commit("t/0", 2).await, None);
    assert_eq!(stand(&door, "t/0").await.stalled_ms, 0);
}

#[tokio::test]
async fn rates_are_said_once_they_are_known() {
    let (_broker, door) = given(1).await;
    let member = Member::joined(&door, "a", &["t"]).await;
    assert_eq!(member.commit("t/0", 0).await, None);
    assert_eq!(stand(&door, "t/0").await.rate_in, None, "not known yet");
    door.append("t", &["a", "b", "c", "d"]).await;
    assert_eq!(member.commit("t/0", 2).await, None);
    until(async || stand(&door, "t/0").await.rate_out.is_some()).await;
    let found = stand(&door, "t/0").await;
    let (rate_in, rate_out) = (found.rate_in.expect("known"), found.rate_out.expect("known"));
    assert!(0.0 < rate_out && rate_out < rate_in && rate_in <= 4.0, "{found:?}");
    assert_eq!(found.drain_ms, None, "more comes than is done");
    assert_eq!(member.commit("t/0", 4).await, None);
    assert_eq!(stand(&door, "t/0").await.drain_ms, Some(0));
}

#[tokio::test]
async fn it_is_said_what_is_being_delivered_or_why_nothing_is() {
    let (_broker, door) = given(1).await;
    let state = async || stand(&door, "t/0").await.state();
    commit_outside(&door, "t/0", 0).await;
    assert_eq!(state().await, State::NoMember);
    let mut a = Member::joined(&door, "a", &["t"]).await;
    assert_eq!(state().await, State::Unspecified, "it does not read");
    assert!(stand(&door, "t/0").await.state_message.contains("Consume"));
    let mut feed = Feed::open(&door).await;
    read_for(&feed, 1, "t/0", a.reader("t/0"));
    feed.subscribed().await;
    door.append("t", &["a", "b"]).await;
    until(async || state().await == State::NoCredit).await;
    feed.say(Command::Grant(v1::Grant { bytes: 1 << 20 }));
    feed.delivery().await;
    until(async || state().await == State::AtEnd).await;
    feed.say(Command::Pause(v1::Pause { subscription: 1 }));
    until(async || state().await == State::Paused).await;
    feed.say(Command::Resume(v1::Resume { subscription: 1 }));
    until(async || state().await == State::AtEnd).await;
    // Who is to have it next, and waits.
    let b = Member { id: "0".into(), ..Member::new(&door, "0") };
    let mut b = b;
    a.try_join(v1::Join { assignor: v1::Assignor::Range as i32, ..super::join(&["t"]) })
        .await
        .expect("it is a member");
    b.join(&["t"]).await;
    let found = stand(&door, "t/0").await;
    assert_eq!(
        (found.state(), found.owner.as_str(), found.next_owner.as_str()),
        (State::AwaitsRelease, "a", "0")
    );
    assert!(found.state_message.contains("a has not stopped"), "{}", found.state_message);
    a.settle().await;
    let found = stand(&door, "t/0").await;
    assert_eq!((found.owner.as_str(), found.next_owner.as_str()), ("0", ""));
    assert_eq!(found.state(), State::Unspecified);
    b.leave().await;
    a.leave().await;
    assert_eq!(state().await, State::NoMember);
    assert_eq!(stand(&door, "t/0").await.owner, "");
}

#[tokio::test]
async fn a_member_that_takes_nothing_of_what_it_granted_is_being_delivered_to() {
    let (broker, door) = given(1).await;
    door.alter("t", &[("durability", "page_cache")]).await.expect("it can be");
    let value = "x".repeat(900_000);
    for _ in 0..24 {
        door.append("t", &[&value]).await;
    }
    let stalled = Door::open(&broker).await;
    let a = Member::joined(&door, "a", &["t"]).await;
    let feed = Feed::open(&stalled).await;
    feed.say(Command::Grant(v1::Grant { bytes: 1 << 30 }));
    read_for(&feed, 1, "t/0", a.reader("t/0"));
    until(async || stand(&door, "t/0").await.state() == State::Delivering).await;
    // It ends with the stream.
    drop((feed, stalled));
    until(async || stand(&door, "t/0").await.state() == State::Unspecified).await;
}

#[tokio::test]
async fn members_are_described_by_what_they_say_of_themselves() {
    let (_broker, door) = given(3).await;
    let mut a = Member::new(&door, "a").instance("i");
    let join = v1::Join {
        client_id: "who I am".into(),
        session_timeout_ms: 20_000,
        ..super::join(&["t", "o*", "t"])
    };
    a.try_join(join).await.expect("it can join");
    let begun = Instant::now();
    let described = describe(&door, "g").await.expect("it is there");
    let member = &described.members[0];
    assert!(Duration::from_millis(member.silent_ms) < begun.elapsed() + Duration::from_secs(10));
    let expected = v1::GroupMember {
        member_id: "a".into(),
        instance_id: "i".into(),
        client_id: "who I am".into(),
        topics: vec!["o*".into(), "t".into()],
        session_timeout_ms: 20_000,
        silent_ms: member.silent_ms,
        partitions: 3,
        idle_because: String::new(),
    };
    assert_eq!(*member, expected);
    assert_eq!((described.group.as_str(), described.epoch), ("g", a.said.epoch));
    assert_eq!(described.assignor(), v1::Assignor::UniformSticky);
    let places: Vec<_> =
        described.partitions.iter().map(|it| (it.topic.as_str(), it.partition)).collect();
    assert_eq!(places, [("t", 0), ("t", 1), ("t", 2)]);
}

#[tokio::test]
async fn groups_are_listed_by_name_with_what_they_have_to_do() {
    let (_broker, door) = given(2).await;
    door.create("u", 1).await;
    assert_eq!(list(&door).await, []);
    door.append("t", &["a", "b", "c"]).await;
    door.append("u", &["a"]).await;
    let zebra = Member { group: "zebra".into(), ..Member::new(&door, "a") };
    zebra.clone().join(&["t", "u"]).await;
    let commit = commit_all(&door, "ant", "", vec![commit_of("t/0", 1)]).await;
    commit.expect("it answers");
    let found = list(&door).await;
    let brief: Vec<_> = found
        .iter()
        .map(|it| (it.group.as_str(), it.members, it.lag, it.topics.join(" ")))
        .collect();
    assert_eq!(brief, [("ant", 0, 2, "t".into()), ("zebra", 1, 4, "t u".into())]);
    assert_eq!(found[1].epoch, describe(&door, "zebra").await.expect("it is there").epoch);
    let parts = describe(&door, "ant").await.expect("it is there").partitions;
    assert_eq!(parts.len(), 2, "every partition of what it has committed something of");
}

#[tokio::test]
async fn a_group_that_is_deleted_is_forgotten_for_good() {
    let (broker, door) = given(1).await;
    door.append("t", &["a"]).await;
    commit_outside(&door, "t/0", 1).await;
    let mut a = Member::joined(&door, "a", &["t"]).await;
    let names = [("group", "g"), ("members", "1")];
    let refused = delete(&door, "g").await;
    check_status(refused, Code::FailedPrecondition, "GROUP_HAS_MEMBERS", &names, "stop them");
    a.leave().await;
    delete(&door, "g").await.expect("it can go");
    assert_eq!(list(&door).await, []);
    let names = [("group", "g")];
    check_status(describe(&door, "g").await, Code::NotFound, "UNKNOWN_GROUP", &names, "");
    check_status(delete(&door, "g").await, Code::NotFound, "UNKNOWN_GROUP", &names, "");
    let (_broker, door) = kill_and_start(broker).await;
    assert_eq!(list(&door).await, []);
    // Whoever begins it anew begins with nothing.
    let anew = Member::joined(&door, "a", &["t"]).await;
    assert_eq!(stand(&door, "t/0").await.committed, None);
    assert_eq!(anew.places().len(), 1);
}
