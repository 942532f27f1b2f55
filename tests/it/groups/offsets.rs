//! Committed offsets: kept, given back, refused, and begun at.

use std::path::Path;

use taffrail_client::{Offset, PartitionIndex, TopicName};
use taffrail_proto::v1;
use tonic::Code;

use super::{
    Member, commit_all, commit_of, commit_outside, committed, given, kill_and_start, offset,
    places, read_for, stand, until,
};
use crate::broker::Broker;
use crate::door::{Door, check_error, check_status, soon};
use crate::pipe::Feed;

/// Whoever reads for group `g` without being a member of it.
fn anybody() -> v1::GroupReader {
    v1::GroupReader { group: "g".into(), from_committed: true, ..Default::default() }
}

#[tokio::test]
async fn what_is_committed_comes_back_with_what_went_with_it() {
    let (_broker, door) = given(3).await;
    let id = door.create("u", 1).await.id;
    door.append("u", &["a", "b"]).await;
    let before = door.fetch("u", 0, 0).await;
    let metadata = "x".repeat(1_024);
    let offsets = vec![
        v1::OffsetCommit {
            metadata: metadata.clone(),
            topic_id: id.clone(),
            ..commit_of("u/0", 2)
        },
        commit_of("t/2", 0),
        v1::OffsetCommit { metadata: "grüße \0".into(), ..commit_of("t/1", 0) },
    ];
    let results = commit_all(&door, "g", "", offsets).await.expect("it answers");
    let results: Vec<_> =
        results.iter().map(|it| (it.topic.as_str(), it.partition, it.error.is_none())).collect();
    assert_eq!(results, [("u", 0, true), ("t", 2, true), ("t", 1, true)], "in order");
    let found = committed(&door, "g").await.expect("it answers");
    let brief: Vec<_> = found
        .iter()
        .map(|it| (it.topic.as_str(), it.partition, it.offset, it.metadata.as_str()))
        .collect();
    assert_eq!(brief, [("t", 1, 0, "grüße \0"), ("t", 2, 0, ""), ("u", 0, 2, metadata.as_str())]);
    assert_eq!(found[2].topic_id, id);
    let appended = crate::door::batches(&before.data)[0].append_time_ms;
    assert!(found.iter().all(|it| appended <= it.committed_ms), "{found:?}");

    // Of some partitions only; those that have none are left out.
    let partition = |topic: &str, partition| v1::TopicPartition { topic: topic.into(), partition };
    let partitions =
        vec![partition("u", 0), partition("t", 0), partition("t", 9), partition("nope", 0)];
    let request = v1::GetOffsetsRequest { group: "g".into(), partitions };
    let chosen = soon(super::groups(&door).get_offsets(request)).await.expect("it answers");
    assert_eq!(chosen.into_inner().offsets, found[2..]);
    // The last one counts, forward or backward.
    commit_outside(&door, "u/0", 1).await;
    let found = committed(&door, "g").await.expect("it answers").remove(2);
    assert_eq!((found.offset, found.metadata.as_str()), (1, ""));
}

#[tokio::test]
async fn what_was_committed_survives_a_kill() {
    let (mut broker, mut door) = given(2).await;
    for round in 0..3_u64 {
        door.online("t").await;
        door.append("t", &["x"]).await;
        let mut member = Member::new(&door, &format!("m{round}"));
        member.join(&["t"]).await;
        let epoch = member.assignment("t/0").epoch;
        let metadata = format!("round {round}");
        let commit = v1::OffsetCommit { epoch, metadata, ..commit_of("t/0", round + 1) };
        assert_eq!(member.commit_as(commit).await, None);
        let before = committed(&door, "g").await.expect("it is there");
        (broker, door) = kill_and_start(broker).await;
        assert_eq!(committed(&door, "g").await.expect("it is there"), before);
        assert_eq!(
            (before[0].offset, before[0].metadata.as_str()),
            (round + 1, &*format!("round {round}"))
        );
        member.door = door.clone();
        member.leave().await;
    }
    drop(broker);
}

#[tokio::test]
async fn an_offset_beyond_the_end_is_refused_with_the_numbers() {
    let (_broker, door) = given(1).await;
    door.append("t", &["a", "b", "c"]).await;
    commit_outside(&door, "t/0", 3).await;
    for (beyond, text) in [(4, "4"), (u64::MAX, "18446744073709551615")] {
        let results = commit_all(&door, "g", "", vec![commit_of("t/0", beyond)]).await;
        let error = results.expect("it answers").remove(0).error;
        let numbers = [("offset", text), ("start", "0"), ("end", "3")];
        check_error(error.as_ref(), "OFFSET_OUT_OF_RANGE", &numbers, "0 to 3");
    }
    assert_eq!(offset(&door, "t/0").await, Some(3));
}

#[tokio::test]
async fn each_offset_is_judged_by_itself() {
    let (_broker, door) = given(2).await;
    let id = door.describe("t").await.topic.expect("a topic").id;
    let offsets = vec![
        commit_of("t/0", 0),
        commit_of("t/2", 0),
        commit_of("tt/0", 0),
        v1::OffsetCommit { topic_id: "0123456789abcdef01234567".into(), ..commit_of("t/1", 0) },
        v1::OffsetCommit { metadata: "x".repeat(1_025), ..commit_of("t/1", 0) },
        commit_of("t/1", 1),
        commit_of("a b/0", 0),
        commit_of("t/1", 0),
    ];
    let results = commit_all(&door, "g", "", offsets).await.expect("it answers");
    let errors: Vec<_> = results.into_iter().map(|it| it.error).collect();
    assert_eq!((&errors[0], &errors[7]), (&None, &None));
    let partition = [("topic", "t"), ("partition", "2"), ("partitions", "2")];
    check_error(errors[1].as_ref(), "UNKNOWN_PARTITION", &partition, "2");
    check_error(errors[2].as_ref(), "UNKNOWN_TOPIC", &[("topic", "tt")], "\"t\"");
    let other = [("topic", "t"), ("expected", "0123456789abcdef01234567"), ("found", id.as_str())];
    check_error(errors[3].as_ref(), "UNKNOWN_TOPIC", &other, "deleted");
    check_error(errors[4].as_ref(), "INVALID_REQUEST", &[], "1025 bytes");
    let range = [("offset", "1"), ("start", "0"), ("end", "0")];
    check_error(errors[5].as_ref(), "OFFSET_OUT_OF_RANGE", &range, "");
    check_error(errors[6].as_ref(), "INVALID_TOPIC_NAME", &[], "' '");
    assert_eq!(committed(&door, "g").await.expect("it is there").len(), 2);
}

#[tokio::test]
async fn one_to_a_thousand_offsets_are_committed_at_once() {
    let (_broker, door) = given(2).await;
    for count in [0, 1_001] {
        let refused = commit_all(&door, "g", "", vec![commit_of("t/0", 0); count]).await;
        let says = format!("{count} offsets");
        check_status(refused, Code::InvalidArgument, "INVALID_REQUEST", &[], &says);
    }
    let unknown = committed(&door, "g").await;
    check_status(unknown, Code::NotFound, "UNKNOWN_GROUP", &[("group", "g")], "joins it");
    let all = commit_all(&door, "g", "", vec![commit_of("t/1", 0); 1_000]).await;
    assert!(all.expect("it answers").iter().all(|it| it.error.is_none()));
    assert_eq!(committed(&door, "g").await.expect("it is there").len(), 1);
}

#[tokio::test]
async fn nobody_commits_from_outside_while_there_are_members() {
    let (_broker, door) = given(1).await;
    commit_outside(&door, "t/0", 0).await;
    let mut member = Member::joined(&door, "a", &["t"]).await;
    door.append("t", &["x"]).await;
    let refused = commit_all(&door, "g", "", vec![commit_of("t/0", 1)]).await;
    let names = [("group", "g"), ("members", "1")];
    check_status(refused, Code::FailedPrecondition, "GROUP_HAS_MEMBERS", &names, "stop them");
    assert_eq!(offset(&door, "t/0").await, Some(0));
    member.leave().await;
    commit_outside(&door, "t/0", 1).await;
    assert_eq!(offset(&door, "t/0").await, Some(1));
}

#[tokio::test]
async fn a_subscription_begins_at_the_committed_offset_and_else_where_it_says() {
    let (_broker, door) = given(2).await;
    door.append("t", &["a", "b", "c", "d"]).await;
    commit_outside(&door, "t/0", 2).await;
    let mut feed = Feed::open(&door).await;
    read_for(&feed, 1, "t/0", anybody());
    assert_eq!(feed.subscribed().await.offset, 2);
    let elsewhere = v1::GroupReader { from_committed: false, ..anybody() };
    read_for(&feed, 2, "t/0", elsewhere);
    assert_eq!(feed.subscribed().await.offset, 0, "it did not ask for it");
    let stranger = v1::GroupReader { group: "another".into(), ..anybody() };
    read_for(&feed, 3, "t/0", stranger.clone());
    assert_eq!(feed.subscribed().await.offset, 0, "nothing was committed");
    let latest = crate::pipe::subscribe(4, "t", 0, crate::pipe::LATEST);
    let latest = v1::Subscribe { reader: Some(stranger), ..latest };
    feed.say(v1::consume_request::Command::Subscribe(latest));
    assert_eq!(feed.subscribed().await.offset, 4);
    commit_outside(&door, "t/0", 4).await;
    read_for(&feed, 5, "t/0", anybody());
    assert_eq!(feed.subscribed().await.offset, 4, "all is done");
    // A member begins there too.
    let member = Member::joined(&door, "a", &["t"]).await;
    read_for(&feed, 6, "t/0", member.reader("t/0"));
    assert_eq!(feed.subscribed().await.offset, 4);
    read_for(&feed, 7, "t/1", member.reader("t/1"));
    assert_eq!(feed.subscribed().await.offset, 0);
}

#[tokio::test]
async fn a_committed_offset_that_is_not_there_is_an_error_and_never_the_end() {
    let (broker, door) = given(1).await;
    door.append("t", &["a", "b"]).await;
    let id = door.describe("__groups").await.topic.expect("a topic").id;
    let own = broker.partition_folder(&id, 0);
    let home = broker.stop().await;
    let (kept, newer) = (home.path().join("kept"), home.path().join("newer"));
    copy(&home.data(), &kept);

    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    assert_eq!(door.append("t", &["c", "d"]).await, 2);
    commit_outside(&door, "t/0", 4).await;
    let home = broker.stop().await;
    // Somebody restores all from before, but for the log of groups.
    std::fs::rename(&own, &newer).expect("ours");
    std::fs::remove_dir_all(home.data()).expect("ours");
    copy(&kept, &home.data());
    std::fs::remove_dir_all(&own).expect("ours");
    std::fs::rename(&newer, &own).expect("ours");

    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    let numbers = [("offset", "4"), ("start", "0"), ("end", "2")];
    let mut feed = Feed::open(&door).await;
    read_for(&feed, 1, "t/0", anybody());
    let failure = feed.failure().await;
    check_error(failure.error.as_ref(), "OFFSET_OUT_OF_RANGE", &numbers, "0 to 2");
    let mut member = Member::joined(&door, "a", &["t"]).await;
    read_for(&feed, 2, "t/0", member.reader("t/0"));
    let failure = feed.failure().await;
    check_error(failure.error.as_ref(), "OFFSET_OUT_OF_RANGE", &numbers, "0 to 2");
    let found = stand(&door, "t/0").await;
    assert_eq!(
        (found.state(), found.committed, found.lag),
        (v1::DeliveryState::Failed, Some(4), 0)
    );
    check_error(found.error.as_ref(), "OFFSET_OUT_OF_RANGE", &numbers, "");

    // The client says so, and takes nothing else instead.
    member.leave().await;
    let mut consumer = broker.client().group("g").topic("t").build().await.expect("it can join");
    let error =
        soon(consumer.next_batch()).await.expect("more").expect_err("there is no such place");
    assert!(error.to_string().contains('4'), "{error}");
    soon(consumer.close()).await.expect("it can go");
    assert_eq!(offset(&door, "t/0").await, Some(4));
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("room");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(path, to).expect("room");
        }
    }
}

#[tokio::test]
async fn a_topic_that_is_made_anew_under_its_name_has_nothing_committed() {
    let (broker, door) = given(1).await;
    let former = door.describe("t").await.topic.expect("a topic").id;
    door.append("t", &["a", "b"]).await;
    commit_outside(&door, "t/0", 2).await;
    door.delete("t").await.expect("it can go");
    assert_eq!(committed(&door, "g").await.expect("it is there"), []);
    door.create("t", 1).await;
    door.append("t", &["c"]).await;
    assert_eq!(offset(&door, "t/0").await, None);
    let mut feed = Feed::open(&door).await;
    read_for(&feed, 1, "t/0", anybody());
    assert_eq!(feed.subscribed().await.offset, 0);
    let late = v1::OffsetCommit { topic_id: former, ..commit_of("t/0", 1) };
    let results = commit_all(&door, "g", "", vec![late]).await.expect("it answers");
    assert_eq!(results[0].error.as_ref().expect("refused").reason, "UNKNOWN_TOPIC");
    assert_eq!(offset(&door, "t/0").await, None);
    let (_broker, door) = kill_and_start(broker).await;
    assert_eq!(offset(&door, "t/0").await, None);
}

#[tokio::test]
async fn a_group_that_nobody_uses_is_forgotten_and_one_with_members_is_not() {
    let broker = Broker::with(&["group_retention=1s"]);
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let groups = broker.client().groups();
    let topic = TopicName::parse("t").expect("a name");
    groups.commit("idle", &topic, PartitionIndex::new(0), Offset::ZERO).await.expect("committed");
    let mut member = Member::joined(&door, "m", &["t"]).await;
    let names = async || {
        let listed = groups.list().await.expect("it lists");
        listed.into_iter().map(|group| group.group).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["g", "idle"]);
    until(async || names().await == ["g"]).await;
    member.beat().await;
    assert_eq!(member.places(), places(&["t/0"]));
}
