//! Requests that make no sense, each refused with what to do instead.

use taffrail_proto::v1;
use tonic::{Code, Status};

use super::{LONG_MS, Member, commit_all, commit_of, committed, describe, given, groups, join};
use crate::broker::Broker;
use crate::door::{Door, check_error, check_status, soon};

/// A call that is refused, whatever it would answer.
type Refused = Result<(), Status>;

#[tokio::test]
async fn what_cannot_be_a_group_s_name_is_refused_by_every_call() {
    let (_broker, door) = given(1).await;
    let long = "g".repeat(201);
    for name in ["", "a b", "a/b", "grün", "a\0", long.as_str()] {
        let mut member = Member { group: name.to_owned(), ..Member::new(&door, "a") };
        let reset = v1::ResetOffsetsRequest {
            group: name.to_owned(),
            to: Some(v1::reset_offsets_request::To::Shift(0)),
            ..Default::default()
        };
        let delete = v1::DeleteGroupRequest { group: name.to_owned() };
        let answers: [Refused; 6] = [
            member.try_join(join(&["t"])).await,
            commit_all(&door, name, "", vec![commit_of("t/0", 0)]).await.map(drop),
            committed(&door, name).await.map(drop),
            describe(&door, name).await.map(drop),
            soon(groups(&door).reset_offsets(reset)).await.map(drop),
            soon(groups(&door).delete_group(delete)).await.map(drop),
        ];
        for answer in answers {
            let names = [("group", "*")];
            check_status(answer, Code::InvalidArgument, "INVALID_GROUP_NAME", &names, "1 to 200");
        }
    }
    let longest = &long[1..];
    for name in ["a", "A.b_c-9", longest] {
        let mut member = Member { group: name.to_owned(), ..Member::new(&door, "a") };
        member.join(&["t"]).await;
        assert_eq!(describe(&door, name).await.expect("it is there").group, name);
    }
}

/// Checks that nobody joins so.
async fn check_join(member: &Member, join: v1::Join, says: &str) {
    let refused = member.clone().try_join(join).await;
    check_status(refused, Code::InvalidArgument, "INVALID_REQUEST", &[], says);
    let group = describe(&member.door, "g").await;
    assert!(group.is_err(), "there is a group now: {group:?}");
}

#[tokio::test]
async fn whoever_says_what_makes_no_sense_of_itself_does_not_get_in() {
    let (_broker, door) = given(1).await;
    let (good, long) = (join(&["t"]), "x".repeat(201));
    for id in ["", &long] {
        let says = if id.is_empty() { "member_id has 0 bytes" } else { "1 to 200" };
        check_join(&Member::new(&door, id), good.clone(), says).await;
    }
    let instance = Member::new(&door, "a").instance(&long);
    check_join(&instance, good.clone(), "instance_id has 201 bytes").await;
    let a = Member::new(&door, "a");
    for session_timeout_ms in [1, 499, 1_800_001, u32::MAX] {
        let refused = v1::Join { session_timeout_ms, ..good.clone() };
        check_join(&a, refused, "500 to 1800000").await;
    }
    check_join(&a, v1::Join { client_id: long.clone(), ..good.clone() }, "client_id").await;
    check_join(&a, join(&[]), "0 topics").await;
    check_join(&a, join(&["t"; 101]), "101 topics").await;
    check_join(&a, join(&[&format!("{long}*")]), "pattern").await;
    check_join(&a, v1::Join { assignor: 9, ..good.clone() }, "no such assignor").await;
    let mut a = a;
    a.try_join(v1::Join { session_timeout_ms: 1_800_000, ..good }).await.expect("the longest");
    assert_eq!(a.said.session_timeout_ms, 1_800_000);
    a.try_join(join(&["t"; 100])).await.expect("as many as can be");
    assert_eq!(a.said.session_timeout_ms, LONG_MS);
    assert_eq!(describe(&door, "g").await.expect("it is there").members[0].topics, ["t"]);
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_refused_with_the_nearest() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 1).await;
    let mut a = Member::new(&door, "a");
    let refused = a.try_join(join(&["orders", "order"])).await;
    let names = [("topic", "order")];
    check_status(refused, Code::NotFound, "UNKNOWN_TOPIC", &names, "\"orders\"");
    let refused = a.try_join(join(&["a b"])).await;
    check_status(refused, Code::InvalidArgument, "INVALID_TOPIC_NAME", &[], "' '");
    assert!(describe(&door, "g").await.is_err(), "nobody got in");
    // A pattern needs no topic yet.
    a.join(&["bills.*"]).await;
    assert_eq!(a.places().len(), 0);
}

#[tokio::test]
async fn a_group_that_is_not_there_is_named() {
    let (_broker, door) = given(1).await;
    let delete = v1::DeleteGroupRequest { group: "g".into() };
    let answers: [Refused; 3] = [
        describe(&door, "g").await.map(drop),
        committed(&door, "g").await.map(drop),
        soon(groups(&door).delete_group(delete)).await.map(drop),
    ];
    for answer in answers {
        check_status(answer, Code::NotFound, "UNKNOWN_GROUP", &[("group", "g")], "\"g\"");
    }
    let mut nobody = Member::new(&door, "nobody");
    let names = [("group", "g"), ("member_id", "nobody")];
    for refused in [nobody.try_beat().await, {
        nobody.said.epoch = 4;
        nobody.try_join(join(&["t"])).await
    }] {
        let reason = super::super::door::error_of(&refused.clone().expect_err("refused")).reason;
        assert!(reason == "UNKNOWN_MEMBER" || reason == "UNKNOWN_GROUP", "{reason}");
        if reason == "UNKNOWN_MEMBER" {
            check_status(refused, Code::NotFound, "UNKNOWN_MEMBER", &names, "");
        }
    }
    assert!(describe(&door, "g").await.is_err(), "asking makes no group");
}

#[tokio::test]
async fn reading_what_is_no_partition_is_ignored_as_it_can_release_nothing() {
    let (_broker, door) = given(1).await;
    let mut a = Member::joined(&door, "a", &["t"]).await;
    a.read_only(&super::places(&["t/0", "t/9", "nope/0"])).await;
    assert_eq!(a.places(), super::places(&["t/0"]));
    // What is assigned stays assigned, even if it does not say that it reads it.
    a.read_only(&super::places(&[])).await;
    assert_eq!(a.places(), super::places(&["t/0"]));
    assert_eq!(a.commit("t/0", 0).await, None);
}

#[tokio::test]
async fn the_broker_s_own_topics_are_none_of_a_group_s() {
    let (_broker, door) = given(1).await;
    let own = [("topic", "__groups")];
    let commit = commit_all(&door, "g", "", vec![commit_of("__groups/0", 0)]).await;
    let error = commit.expect("it answers").remove(0).error;
    check_error(error.as_ref(), "INTERNAL_TOPIC", &own, "__groups");
    let refused = Member::new(&door, "a").try_join(join(&["t", "__groups"])).await;
    check_status(refused, Code::PermissionDenied, "INTERNAL_TOPIC", &own, "__groups");
}
