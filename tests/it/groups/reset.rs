//! Moving a group's committed offsets.

use taffrail_proto::v1;
use taffrail_proto::v1::reset_offsets_request::To;
use tonic::{Code, Status};

use super::{
    Line, Member, commit_all, commit_of, commit_outside, given, groups, offset, places_of, read_for,
};
use crate::broker::Broker;
use crate::door::{Door, batch_of, check_status, produce_batch, record, soon};
use crate::pipe::{EARLIEST, Feed, LATEST};

/// `t` with partitions of five and two records; the group has done three of the first.
async fn set_up() -> (Broker, Door) {
    let (broker, door) = given(2).await;
    let at = |timestamp_ms| v1::Record { timestamp_ms, ..record("x") };
    for (partition, times) in [(0, &[100, 200, 300, 400, 500][..]), (1, &[100, 600])] {
        let batch = batch_of(times.iter().map(|time| at(*time)).collect());
        assert_eq!(door.produce(produce_batch("t", partition, batch)).await.error, None);
    }
    commit_outside(&door, "t/0", 3).await;
    (broker, door)
}

fn to_position(at: v1::position::At) -> To {
    To::Position(v1::Position { at: Some(at) })
}

/// A reset of all of `t`.
fn reset_to(to: To) -> v1::ResetOffsetsRequest {
    v1::ResetOffsetsRequest {
        group: "g".into(),
        topics: vec!["t".into()],
        to: Some(to),
        ..Default::default()
    }
}

/// Where each partition stood, and stands.
type Moves = Vec<(u32, Option<u64>, u64)>;

async fn reset(door: &Door, request: v1::ResetOffsetsRequest) -> Result<Moves, Status> {
    let offsets = soon(groups(door).reset_offsets(request)).await?.into_inner().offsets;
    assert!(offsets.iter().all(|it| it.topic == "t"), "{offsets:?}");
    Ok(offsets.iter().map(|it| (it.partition, it.before, it.after)).collect())
}

#[tokio::test]
async fn every_place_can_be_gone_to_and_a_dry_run_goes_nowhere() {
    let (_broker, door) = set_up().await;
    commit_all(&door, "other", "", vec![commit_of("t/1", 1)]).await.expect("it answers");
    let both = |first, second| vec![(0, Some(3), first), (1, None, second)];
    let cases = [
        (to_position(EARLIEST), both(0, 0)),
        (to_position(LATEST), both(5, 2)),
        (to_position(v1::position::At::Offset(1)), both(1, 1)),
        (to_position(v1::position::At::TimestampMs(400)), both(3, 1)),
        (to_position(v1::position::At::TimestampMs(601)), both(5, 2)),
        (to_position(v1::position::At::Last(1)), both(4, 1)),
        (To::Shift(-1), both(2, 0)),
        (To::Shift(1), both(4, 1)),
        (To::Shift(-100), both(0, 0)),
        (To::Shift(i64::MAX), both(5, 2)),
        (To::Shift(i64::MIN), both(0, 0)),
        (To::OtherGroup("other".into()), vec![(1, None, 1)]),
    ];
    for (to, expected) in cases {
        let dry = v1::ResetOffsetsRequest { dry_run: true, ..reset_to(to.clone()) };
        assert_eq!(reset(&door, dry).await.expect("it answers"), expected, "{to:?}");
        assert_eq!((offset(&door, "t/0").await, offset(&door, "t/1").await), (Some(3), None));
        // The same in earnest, of another group that stands where this one does.
        let group = "h".to_owned();
        commit_all(&door, "h", "", vec![commit_of("t/0", 3)]).await.expect("it answers");
        let request = v1::ResetOffsetsRequest { group: group.clone(), ..reset_to(to.clone()) };
        assert_eq!(reset(&door, request).await.expect("it answers"), expected, "{to:?}");
        let found = super::committed(&door, "h").await.expect("it is there");
        for (partition, _, after) in expected {
            let found = found.iter().find(|it| it.partition == partition).expect("committed");
            assert_eq!(found.offset, after, "{to:?}");
        }
        let delete = v1::DeleteGroupRequest { group };
        soon(groups(&door).delete_group(delete)).await.expect("it can go");
    }
}

#[tokio::test]
async fn some_topics_and_partitions_can_be_chosen() {
    let (_broker, door) = set_up().await;
    door.create("u", 2).await;
    let one = v1::ResetOffsetsRequest { partitions: vec![1], ..reset_to(To::Shift(1)) };
    assert_eq!(reset(&door, one).await.expect("it answers"), [(1, None, 1)]);
    // Without topics: what it has committed.
    let known = v1::ResetOffsetsRequest { topics: vec![], ..reset_to(To::Shift(-1)) };
    assert_eq!(reset(&door, known).await.expect("it answers"), [(0, Some(3), 2), (1, Some(1), 0)]);
    let none = v1::ResetOffsetsRequest { partitions: vec![2], ..reset_to(To::Shift(1)) };
    check_status(reset(&door, none).await, Code::InvalidArgument, "INVALID_REQUEST", &[], "2");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_moves_nothing() {
    let (_broker, door) = set_up().await;
    let beyond = reset_to(to_position(v1::position::At::Offset(4)));
    let numbers = [("offset", "4"), ("start", "0"), ("end", "2")];
    let says = "0 to 2";
    let refused = reset(&door, beyond).await;
    check_status(refused, Code::OutOfRange, "OFFSET_OUT_OF_RANGE", &numbers, says);
    let nowhere = v1::ResetOffsetsRequest { to: None, ..reset_to(To::Shift(0)) };
    check_status(reset(&door, nowhere).await, Code::InvalidArgument, "INVALID_REQUEST", &[], "to");
    let topic = v1::ResetOffsetsRequest { topics: vec!["tt".into()], ..reset_to(To::Shift(0)) };
    let names = [("topic", "tt")];
    check_status(reset(&door, topic).await, Code::NotFound, "UNKNOWN_TOPIC", &names, "\"t\"");
    let names = [("group", "nobody")];
    let other = reset(&door, reset_to(To::OtherGroup("nobody".into()))).await;
    check_status(other, Code::NotFound, "UNKNOWN_GROUP", &names, "joins it");
    let nobody = v1::ResetOffsetsRequest {
        group: "nobody".into(),
        topics: vec![],
        ..reset_to(To::Shift(0))
    };
    check_status(reset(&door, nobody).await, Code::NotFound, "UNKNOWN_GROUP", &names, "joins it");
    assert_eq!((offset(&door, "t/0").await, offset(&door, "t/1").await), (Some(3), None));
}

#[tokio::test]
async fn a_group_with_members_is_moved_only_by_force_and_they_begin_anew() {
    let (_broker, door) = set_up().await;
    let mut a = Member::new(&door, "a");
    let (mut line, first) = Line::joined(&a, &["t"]).await;
    a.said = first;
    let mut feed = Feed::open(&door).await;
    read_for(&feed, 1, "t/0", a.reader("t/0"));
    assert_eq!(feed.subscribed().await.offset, 3);
    assert_eq!(a.commit("t/0", 4).await, None);

    let request = v1::ResetOffsetsRequest { partitions: vec![0], ..reset_to(To::Shift(-3)) };
    let names = [("group", "g"), ("members", "1")];
    let refused = reset(&door, request.clone()).await;
    let says = "force";
    check_status(refused, Code::FailedPrecondition, "GROUP_HAS_MEMBERS", &names, says);
    let dry = v1::ResetOffsetsRequest { dry_run: true, ..request.clone() };
    assert_eq!(reset(&door, dry).await.expect("it may look"), [(0, Some(4), 1)]);
    assert_eq!(offset(&door, "t/0").await, Some(4));
    let had = a.clone();
    assert_eq!(had.commit("t/0", 4).await, None, "a dry run fences nobody");

    let forced = v1::ResetOffsetsRequest { force: true, ..request };
    assert_eq!(reset(&door, forced).await.expect("it moves"), [(0, Some(4), 1)]);
    let stale = had.commit("t/0", 5).await.expect("refused");
    assert_eq!((stale.reason.as_str(), offset(&door, "t/0").await), ("STALE_MEMBER", Some(1)));
    assert_eq!(had.commit("t/1", 1).await, None, "what was not moved goes on");
    assert_eq!(feed.failure().await.error.expect("ended").reason, "STALE_MEMBER");
    let pushed = line.pushed().await;
    assert_eq!(places_of(&pushed), had.places());
    a.said = pushed;
    assert!(a.assignment("t/0").epoch > had.assignment("t/0").epoch);
    assert_eq!(a.assignment("t/1").epoch, had.assignment("t/1").epoch);
    read_for(&feed, 2, "t/0", a.reader("t/0"));
    assert_eq!(feed.subscribed().await.offset, 1);
    assert_eq!(a.commit("t/0", 2).await, None);
}

#[tokio::test]
async fn a_group_can_be_begun_by_a_reset() {
    let (_broker, door) = set_up().await;
    let new = v1::ResetOffsetsRequest { group: "new".into(), ..reset_to(to_position(LATEST)) };
    assert_eq!(reset(&door, new).await.expect("it begins"), [(0, None, 5), (1, None, 2)]);
    let found = super::committed(&door, "new").await.expect("it is there");
    assert_eq!(found.iter().map(|it| it.offset).collect::<Vec<_>>(), [5, 2]);
}
