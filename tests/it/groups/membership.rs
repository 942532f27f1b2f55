//! Heartbeats: joining, sharing, handing over, and falling silent.

use taffrail_proto::v1;
use tonic::Code;

use super::{
    LONG_MS, Line, Member, SHORT_MS, describe, given, join, join_shortly, kill_and_start, owned,
    places, places_of,
};
use crate::broker::Broker;
use crate::door::{Door, check_error, check_status, error_of};
use crate::pipe::Feed;

const ALL: [&str; 4] = ["t/0", "t/1", "t/2", "t/3"];

#[tokio::test]
async fn whoever_joins_alone_has_everything_at_once() {
    let (broker, door) = given(4).await;
    let id = door.describe("t").await.topic.expect("a topic").id;
    let mut member = Member::new(&door, "a");
    let join = v1::Join { topics: vec!["t".into()], ..Default::default() };
    let request = v1::HeartbeatRequest { join: Some(join), number: 7, ..member.request() };
    member.send(request).await.expect("it can join");
    let said = member.said.clone();
    assert_eq!(member.places(), places(&ALL));
    assert!(said.partitions.iter().all(|it| it.topic_id == id && it.epoch == said.epoch));
    assert!(said.epoch > 0 && said.awaited.is_empty(), "{said:?}");
    assert_eq!((said.number, said.session_timeout_ms), (7, 10_000), "the default");
    assert!((1..=5_000).contains(&said.heartbeat_interval_ms), "{said:?}");
    member.beat().await;
    assert_eq!((member.said.number, &member.said.partitions), (0, &said.partitions));
    assert_eq!(member.said.epoch, said.epoch, "nothing has changed");
    drop(broker);
}

#[tokio::test]
async fn a_share_goes_over_once_its_owner_says_that_it_has_stopped() {
    let (_broker, door) = given(4).await;
    let mut a = Member::joined(&door, "a", &["t"]).await;
    let before = a.said.clone();
    let mut b = Member::joined(&door, "b", &["t"]).await;
    assert_eq!((b.places().len(), b.awaited().len()), (0, 2), "{:?}", b.said);
    let awaited = b.said.awaited.clone();
    assert!(awaited.iter().all(|it| it.member_id == "a"), "{awaited:?}");

    // To hear of it is not to stop; nor is it to say nothing, or that all is still being read.
    a.beat().await;
    let kept = a.places();
    assert_eq!(kept.len(), 2);
    a.read_only(&places(&ALL)).await;
    b.beat().await;
    assert_eq!((b.places().len(), &b.said.awaited), (0, &awaited));
    a.read_only(&kept).await;
    b.beat().await;
    let taken: super::Places = places(&ALL).difference(&kept).cloned().collect();
    assert_eq!((b.places(), b.awaited()), (taken.clone(), places(&[])));

    // Nothing has moved that need not: what is kept is the same assignment, what has moved another.
    assert!(kept.iter().all(|place| a.assignment(place).epoch == before.epoch), "{:?}", a.said);
    assert!(taken.iter().all(|place| b.assignment(place).epoch > before.epoch), "{:?}", b.said);
}

#[tokio::test]
async fn one_at_a_time_can_be_given_on() {
    let (_broker, door) = given(4).await;
    let mut a = Member::joined(&door, "a", &["t"]).await;
    let mut b = Member::joined(&door, "b", &["t"]).await;
    a.beat().await;
    let mut reading = places(&ALL);
    let leaving: Vec<_> = reading.difference(&a.places()).cloned().collect();
    for (index, place) in leaving.iter().enumerate() {
        reading.remove(place);
        a.read_only(&reading).await;
        b.beat().await;
        assert_eq!(b.places(), leaving[..=index].iter().cloned().collect());
    }
}

#[tokio::test]
async fn what_a_member_has_not_heard_of_yet_it_does_not_release() {
    let (_broker, door) = given(2).await;
    let mut a = Member::joined(&door, "a", &["t"]).await;
    let mut b = Member::joined(&door, "b", &["t"]).await;
    a.settle().await;
    b.beat().await;
    let (kept, given) = (a.places(), b.places());
    assert_eq!((kept.len(), given.len()), (1, 1));
    // a hears nothing while it is given the other one, which it may begin to read, and is to give it on.
    b.leave().await;
    let mut c = Member::joined(&door, "c", &["t"]).await;
    let awaited: Vec<_> = given.iter().map(|place| format!("{place} a")).collect();
    assert_eq!(c.awaited(), awaited.iter().cloned().collect());
    a.read_only(&kept).await;
    c.beat().await;
    assert_eq!(c.places().len(), 0, "released by a heartbeat that knew nothing of it");
    a.read_only(&kept).await;
    c.beat().await;
    assert_eq!(c.places(), given);
}

#[tokio::test]
async fn whoever_leaves_hands_over_at_once_and_that_is_pushed() {
    let (_broker, door) = given(4).await;
    let a = Member::new(&door, "a");
    let (mut line, first) = Line::joined(&a, &["t"]).await;
    assert_eq!(places_of(&first), places(&ALL));
    let mut b = Member::joined(&door, "b", &["t"]).await;
    let pushed = line.pushed().await;
    assert_eq!(pushed.partitions.len(), 2, "told without being asked: {pushed:?}");
    assert!(pushed.epoch > first.epoch);
    let request = v1::HeartbeatRequest {
        number: 2,
        epoch: pushed.epoch,
        owned: Some(owned(&places_of(&pushed))),
        ..a.request()
    };
    line.say(request);
    // The answer, and perhaps what has changed by it.
    while line.next().await.number != 2 {}
    b.beat().await;
    assert_eq!(b.places().len(), 2);
    b.leave().await;
    line.pushed_places(&ALL).await;
    let described = describe(&door, "g").await.expect("it is there");
    assert_eq!(described.members.len(), 1);
    let gone = b.try_beat().await;
    let names = [("group", "g"), ("member_id", "b")];
    check_status(gone, Code::NotFound, "UNKNOWN_MEMBER", &names, "join anew");
    // Whoever has gone may go again, and come back.
    b.leave().await;
    b.said = v1::HeartbeatResponse::default();
    b.join(&["t"]).await;
    assert_eq!(b.awaited().len(), 2);
}

#[tokio::test]
async fn a_member_on_a_stream_leaves_and_may_join_again_on_it() {
    let (_broker, door) = given(1).await;
    let a = Member::new(&door, "a");
    let (mut line, _) = Line::joined(&a, &["t"]).await;
    line.say(v1::HeartbeatRequest { leave: true, number: 2, ..a.request() });
    let left = line.next().await;
    assert_eq!((left.number, left.partitions.len()), (2, 0));
    assert_eq!(describe(&door, "g").await.expect("it is there").members.len(), 0);
    line.say(v1::HeartbeatRequest { join: Some(join(&["t"])), number: 3, ..a.request() });
    let back = line.next().await;
    assert_eq!((back.number, back.partitions.len()), (3, 1));
}

#[tokio::test]
async fn a_member_that_falls_silent_is_none_any_more() {
    let (_broker, door) = given(4).await;
    let mut silent = Member::new(&door, "silent");
    silent.try_join(join_shortly(&["t"])).await.expect("it can join");
    assert_eq!(silent.said.session_timeout_ms, SHORT_MS);
    assert!(silent.said.heartbeat_interval_ms < SHORT_MS / 2, "{:?}", silent.said);
    let a = Member::new(&door, "a");
    let (mut line, first) = Line::joined(&a, &["t"]).await;
    assert_eq!(first.partitions.len(), 0, "{first:?}");
    line.pushed_places(&ALL).await;
    let names = [("group", "g"), ("member_id", "silent")];
    let refused = silent.try_beat().await;
    check_status(refused, Code::NotFound, "UNKNOWN_MEMBER", &names, "join anew");
    let described = describe(&door, "g").await.expect("it is there");
    assert_eq!(described.members.iter().map(|it| &it.member_id).collect::<Vec<_>>(), ["a"]);
    // It has lost what it had, and says so by its epoch if it joins all the same.
    let refused = silent.try_join(join(&["t"])).await;
    check_status(refused, Code::NotFound, "UNKNOWN_MEMBER", &names, "join anew");
    silent.said = v1::HeartbeatResponse::default();
    silent.join(&["t"]).await;
    assert_eq!(silent.awaited().len(), 2);
}

#[tokio::test]
async fn heartbeats_of_either_kind_keep_a_session() {
    let (_broker, door) = given(2).await;
    let mut unary = Member::new(&door, "unary");
    unary.try_join(join_shortly(&["t"])).await.expect("it can join");
    let streaming = Member::new(&door, "streaming");
    let mut line = Line::open(&streaming).await;
    let first = v1::HeartbeatRequest { join: Some(join_shortly(&["t"])), ..streaming.request() };
    line.say(v1::HeartbeatRequest { number: 1, ..first });
    while line.next().await.number != 1 {}
    // Several times as long as a session.
    for number in 2..=22 {
        tokio::time::sleep(std::time::Duration::from_millis(u64::from(SHORT_MS) / 5)).await;
        unary.beat().await;
        line.say(v1::HeartbeatRequest { number, ..streaming.request() });
        while line.next().await.number != number {}
    }
    let described = describe(&door, "g").await.expect("it is there");
    assert_eq!(described.members.len(), 2);
    assert!(described.members.iter().all(|it| it.silent_ms < SHORT_MS.into()), "{described:?}");
}

#[tokio::test]
async fn the_end_of_a_session_ends_the_stream_with_its_reason() {
    let (_broker, door) = given(1).await;
    let a = Member::new(&door, "a");
    let mut line = Line::open(&a).await;
    let request = v1::HeartbeatRequest { join: Some(join_shortly(&["t"])), ..a.request() };
    line.say(request);
    let status = line.refusal().await;
    let names = [("group", "g"), ("member_id", "a")];
    check_error(Some(&error_of(&status)), "UNKNOWN_MEMBER", &names, "session has ended");
}

#[tokio::test]
async fn the_end_of_a_stream_does_not_end_the_session() {
    let (_broker, door) = given(2).await;
    let mut a = Member::new(&door, "a");
    let (line, first) = Line::joined(&a, &["t"]).await;
    drop(line);
    a.said = first.clone();
    let mut b = Member::joined(&door, "b", &["t"]).await;
    assert_eq!(b.places().len(), 0);
    a.settle().await;
    b.beat().await;
    assert_eq!((a.places().len(), b.places().len()), (1, 1));
    // It goes on with another stream.
    let mut line = Line::open(&a).await;
    line.say(v1::HeartbeatRequest { number: 9, ..a.request() });
    assert_eq!((line.next().await.number, a.places().len()), (9, 1));
}

#[tokio::test]
async fn a_stream_is_one_member_s() {
    let (_broker, door) = given(1).await;
    let (a, b) = (Member::new(&door, "a"), Member::new(&door, "b"));
    let (mut line, _) = Line::joined(&a, &["t"]).await;
    line.say(v1::HeartbeatRequest { join: Some(join(&["t"])), ..b.request() });
    let error = error_of(&line.refusal().await);
    check_error(Some(&error), "INVALID_REQUEST", &[], "open another");
    let members = describe(&door, "g").await.expect("it is there").members;
    assert_eq!(members.len(), 1, "{members:?}");
}

#[tokio::test]
async fn topics_and_partitions_that_come_and_go_are_pushed() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders.de", 1).await;
    door.create("returns", 1).await;
    let a = Member::new(&door, "a");
    let (mut line, first) = Line::joined(&a, &["orders.*", "?eturns", "__*"]).await;
    assert_eq!(places_of(&first), places(&["orders.de/0", "returns/0"]));
    door.create("orders.fr", 2).await;
    line.pushed_places(&["orders.de/0", "orders.fr/0", "orders.fr/1", "returns/0"]).await;
    door.create("order", 1).await;
    let grow = v1::AddPartitionsRequest { name: "orders.de".into(), partitions: 2 };
    crate::door::soon(door.admin.clone().add_partitions(grow)).await.expect("it grows");
    let more = ["orders.de/0", "orders.de/1", "orders.fr/0", "orders.fr/1", "returns/0"];
    let grown = line.pushed_places(&more).await;
    let epoch = |answer: &v1::HeartbeatResponse, place: &str| {
        let mut all = answer.partitions.iter();
        let found = all.find(|it| place == format!("{}/{}", it.topic, it.partition));
        found.expect("assigned").epoch
    };
    assert_eq!(epoch(&grown, "orders.de/0"), epoch(&first, "orders.de/0"), "it was not touched");
    assert!(epoch(&grown, "orders.de/1") > epoch(&first, "orders.de/0"));
    door.delete("orders.fr").await.expect("it can go");
    line.pushed_places(&["orders.de/0", "orders.de/1", "returns/0"]).await;
    // One that is made anew under the name is another one.
    let id = door.create("orders.fr", 1).await.id;
    let anew = ["orders.de/0", "orders.de/1", "orders.fr/0", "returns/0"];
    let again = line.pushed_places(&anew).await;
    let fr = again.partitions.iter().find(|it| it.topic == "orders.fr").expect("assigned");
    assert_eq!(fr.topic_id, id);
}

#[tokio::test]
async fn everything_is_never_the_broker_s_own() {
    let (_broker, door) = given(1).await;
    let all = Member::joined(&door, "a", &["*"]).await;
    assert_eq!(all.places(), places(&["t/0"]));
    let none = Member::joined(&door, "c", &["__g*"]).await;
    assert_eq!((none.places().len(), none.awaited().len()), (0, 0));
}

#[tokio::test]
async fn members_that_want_different_topics_get_what_they_want() {
    let (_broker, door) = given(2).await;
    door.create("u", 2).await;
    let mut a = Member::joined(&door, "a", &["t"]).await;
    let mut b = Member::joined(&door, "b", &["u"]).await;
    assert_eq!((a.places(), b.places()), (places(&["t/0", "t/1"]), places(&["u/0", "u/1"])));
    // It wants something else from now on.
    b.join(&["t", "u"]).await;
    b.settle().await;
    a.settle().await;
    b.beat().await;
    assert_eq!(a.places().union(&b.places()).count(), 4);
    assert!(a.places().iter().all(|place| place.starts_with("t/")) && !a.places().is_empty());
    a.join(&["u"]).await;
    a.read_only(&places(&[])).await;
    b.settle().await;
    a.beat().await;
    b.beat().await;
    assert!(a.places().iter().all(|place| place.starts_with("u/")), "{:?}", a.said);
    assert_eq!(a.places().union(&b.places()).count(), 4);
}

#[tokio::test]
async fn range_gives_each_member_a_run_of_every_topic() {
    let (_broker, door) = given(4).await;
    door.create("u", 4).await;
    let range = v1::Join { assignor: v1::Assignor::Range as i32, ..join(&["t", "u"]) };
    let mut a = Member::new(&door, "a");
    a.try_join(range).await.expect("it can join");
    // Whoever says nothing of it takes it as it is.
    let mut b = Member::joined(&door, "b", &["t", "u"]).await;
    a.settle().await;
    b.beat().await;
    assert_eq!(a.places(), places(&["t/0", "t/1", "u/0", "u/1"]));
    assert_eq!(b.places(), places(&["t/2", "t/3", "u/2", "u/3"]));
    let described = describe(&door, "g").await.expect("it is there");
    assert_eq!(described.assignor(), v1::Assignor::Range);
}

#[tokio::test]
async fn more_members_than_partitions_leave_one_idle_that_knows_why() {
    let (_broker, door) = given(1).await;
    let a = Member::joined(&door, "a", &["t"]).await;
    let mut b = Member::joined(&door, "b", &["t"]).await;
    let c = Member::joined(&door, "c", &["nothing.*"]).await;
    assert_eq!((a.places().len(), b.places().len(), c.places().len()), (1, 0, 0));
    assert_eq!(b.awaited().len(), 0, "it waits for nothing that is to be its");
    let described = describe(&door, "g").await.expect("it is there");
    let idle: Vec<_> = described.members.iter().map(|it| it.idle_because.as_str()).collect();
    assert_eq!(idle[0], "");
    assert!(idle[1].contains("more members than partitions"), "{idle:?}");
    assert!(idle[2].contains("no partition"), "{idle:?}");
    a.clone().leave().await;
    b.beat().await;
    assert_eq!(b.places(), places(&["t/0"]));
}

#[tokio::test]
async fn members_and_what_they_have_outlive_the_process() {
    let (broker, door) = given(4).await;
    let mut a = Member::joined(&door, "a", &["t"]).await;
    let mut b = Member::joined(&door, "b", &["t"]).await;
    a.settle().await;
    b.beat().await;
    let (before_a, before_b) = (a.said.clone(), b.said.clone());
    let (_broker, door) = kill_and_start(broker).await;
    (a.door, b.door) = (door.clone(), door.clone());
    a.beat().await;
    b.beat().await;
    assert_eq!((&a.said, &b.said), (&before_a, &before_b));
    assert_eq!(a.said.session_timeout_ms, LONG_MS);
}

#[tokio::test]
async fn a_session_that_ends_in_a_broker_that_was_started_anew_hands_over() {
    let (broker, door) = given(1).await;
    let mut silent = Member::new(&door, "silent");
    silent.try_join(join_shortly(&["t"])).await.expect("it can join");
    let (_broker, door) = kill_and_start(broker).await;
    let (mut line, _) = Line::joined(&Member::new(&door, "a"), &["t"]).await;
    line.pushed_places(&["t/0"]).await;
    silent.door = door;
    assert!(silent.try_beat().await.is_err());
}

#[tokio::test]
async fn open_streams_do_not_hold_up_a_stop() {
    let (broker, door) = given(1).await;
    let a = Member::new(&door, "a");
    let (mut line, _) = Line::joined(&a, &["t"]).await;
    let feed = Feed::open(&door).await;
    let began = std::time::Instant::now();
    let stopping = tokio::spawn(broker.stop());
    while let Ok(Some(_)) = line.try_next().await {}
    drop(line);
    stopping.await.expect("it stops");
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
    drop(feed);
}
