//! Static members: a process that restarts under its instance's name keeps what it had.

use tonic::Code;

use super::{Line, Member, committed, describe, given, join_shortly, places, places_of};
use crate::door::{check_error, check_status, error_of};

const FENCED: [(&str, &str); 3] = [("group", "g"), ("instance_id", "i"), ("member_id", "former")];

#[tokio::test]
async fn whoever_comes_back_as_an_instance_has_what_it_had_and_nobody_else_notices() {
    let (_broker, door) = given(4).await;
    let mut former = Member::new(&door, "former").instance("i");
    former.join(&["t"]).await;
    let mut other = Member::joined(&door, "other", &["t"]).await;
    former.settle().await;
    other.settle().await;
    let before = other.said.clone();
    let mut back = Member::new(&door, "back").instance("i");
    back.join(&["t"]).await;
    assert_eq!((back.places(), back.awaited()), (former.places(), places(&[])));
    other.beat().await;
    assert_eq!(other.said.partitions, before.partitions);
    assert_eq!(other.said.awaited, before.awaited);
    // The assignments are new ones: what the former says of them does not count.
    for place in &back.places() {
        assert!(back.assignment(place).epoch > former.assignment(place).epoch, "{place}");
        assert_eq!(back.commit(place, 0).await, None);
    }
    let described = describe(&door, "g").await.expect("it is there");
    let members: Vec<_> = described
        .members
        .iter()
        .map(|it| (it.member_id.as_str(), it.instance_id.as_str()))
        .collect();
    assert_eq!(members, [("back", "i"), ("other", "")]);
}

#[tokio::test]
async fn the_former_process_of_an_instance_is_told_that_it_is_fenced() {
    let (_broker, door) = given(2).await;
    let former = Member::new(&door, "former").instance("i");
    let (mut line, first) = Line::joined(&former, &["t"]).await;
    let mut unary = former.clone();
    unary.said = first.clone();
    let mut back = Member::new(&door, "back").instance("i");
    back.join(&["t"]).await;
    assert_eq!(back.places(), places_of(&first));
    let error = error_of(&line.refusal().await);
    check_error(Some(&error), "FENCED_INSTANCE", &FENCED, "another process");
    let says = "instance of its own";
    let beat = unary.try_beat().await;
    check_status(beat, Code::FailedPrecondition, "FENCED_INSTANCE", &FENCED, says);
    // Nor does it get in by joining as the member that it was.
    let joined = unary.try_join(super::join(&["t"])).await;
    check_status(joined, Code::FailedPrecondition, "FENCED_INSTANCE", &FENCED, says);
    let commit = super::commit_all(&door, "g", "former", vec![super::commit_of("t/0", 0)]).await;
    let names = [("group", "g"), ("member_id", "former")];
    check_status(commit, Code::NotFound, "UNKNOWN_MEMBER", &names, "");
    assert_eq!(committed(&door, "g").await.expect("it is there"), []);
    // The one that has it goes on.
    back.beat().await;
    assert_eq!(back.places().len(), 2);
}

#[tokio::test]
async fn of_two_processes_with_one_instance_the_last_one_has_it() {
    let (_broker, door) = given(2).await;
    let mut ids = Vec::new();
    for round in 0..6 {
        let mut next = Member::new(&door, &format!("process-{round}")).instance("i");
        next.join(&["t"]).await;
        assert_eq!(next.places().len(), 2, "{round}");
        ids.push(next);
    }
    let last = ids.pop().expect("several");
    for mut fenced in ids {
        let error = error_of(&fenced.try_beat().await.expect_err("fenced"));
        assert_eq!(error.reason, "FENCED_INSTANCE");
    }
    last.clone().beat().await;
    assert_eq!(describe(&door, "g").await.expect("it is there").members.len(), 1);
}

#[tokio::test]
async fn an_instance_whose_session_has_ended_is_gone_as_any_other() {
    let (_broker, door) = given(2).await;
    let mut former = Member::new(&door, "former").instance("i");
    former.try_join(join_shortly(&["t"])).await.expect("it can join");
    let (mut line, _) = Line::joined(&Member::new(&door, "other"), &["t"]).await;
    line.pushed_places(&["t/0", "t/1"]).await;
    let names = [("group", "g"), ("member_id", "former")];
    let beat = former.try_beat().await;
    check_status(beat, Code::NotFound, "UNKNOWN_MEMBER", &names, "session has ended");
    let mut back = Member::new(&door, "back").instance("i");
    back.join(&["t"]).await;
    assert_eq!((back.places().len(), back.awaited().len()), (0, 1));
}

#[tokio::test]
async fn what_awaits_an_instance_awaits_whoever_comes_back_as_it() {
    let (_broker, door) = given(2).await;
    let mut first = Member::joined(&door, "first", &["t"]).await;
    let mut former = Member::new(&door, "former").instance("i");
    former.join(&["t"]).await;
    let awaited = former.awaited();
    assert_eq!(awaited.len(), 1);
    let mut back = Member::new(&door, "back").instance("i");
    back.join(&["t"]).await;
    assert_eq!(back.awaited(), awaited);
    first.settle().await;
    back.beat().await;
    assert_eq!((first.places().len(), back.places().len()), (1, 1));
}

#[tokio::test]
async fn a_process_that_comes_back_while_its_former_is_to_give_something_on_gives_it_on() {
    let (_broker, door) = given(2).await;
    let mut former = Member::new(&door, "former").instance("i");
    former.join(&["t"]).await;
    let mut other = Member::joined(&door, "other", &["t"]).await;
    assert_eq!(other.awaited().len(), 1);
    let mut back = Member::new(&door, "back").instance("i");
    back.join(&["t"]).await;
    assert_eq!(back.places().len(), 1);
    back.read_only(&back.places()).await;
    other.beat().await;
    assert_eq!((back.places().len(), other.places().len()), (1, 1));
}
