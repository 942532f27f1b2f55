//! Commits without end: the log of groups is cut off in front, and nothing is forgotten by that.

use futures_util::future::join_all;
use taffrail_proto::v1;

use super::{commit_all, committed, given, kill_and_start};
use crate::door::Door;

/// As many as one call may have, each with about as much beside it as it may have.
const PARTITIONS: u32 = 250;
const OFFSETS: u32 = 1_000;

/// Calls until the log must have been cut off.
const CALLS_MAX: u32 = 400;

fn metadata(call: u32, index: u32) -> String {
    format!("{call} {index} {}", "x".repeat(980))
}

fn offsets(call: u32) -> Vec<v1::OffsetCommit> {
    let commit = |index: u32| v1::OffsetCommit {
        topic: "t".into(),
        partition: index % PARTITIONS,
        metadata: metadata(call, index),
        ..Default::default()
    };
    (0..OFFSETS).map(commit).collect()
}

async fn log_start(door: &Door) -> u64 {
    door.describe("__groups").await.partitions[0].log_start
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commits_do_not_grow_the_log_of_groups_for_ever_and_none_is_lost() {
    let (broker, door) = given(PARTITIONS).await;
    let mut last = 0;
    while log_start(&door).await == 0 {
        assert!(last < CALLS_MAX, "{last} calls, and nothing of __groups has gone");
        let calls = (last + 1..=last + 4).map(|call| {
            let (door, group) = (door.clone(), format!("g{}", call % 4));
            async move { commit_all(&door, &group, "", offsets(call)).await.expect("it answers") }
        });
        let results = join_all(calls).await;
        assert!(results.iter().flatten().all(|it| it.error.is_none()));
        last += 4;
    }
    let (_broker, door) = kill_and_start(broker).await;
    assert!(log_start(&door).await > 0);
    for call in last - 3..=last {
        let found = committed(&door, &format!("g{}", call % 4)).await.expect("it is there");
        assert_eq!(found.len() as u32, PARTITIONS);
        for (partition, found) in (0..PARTITIONS).zip(found) {
            let expected = metadata(call, OFFSETS - PARTITIONS + partition);
            assert_eq!((found.partition, found.offset), (partition, 0));
            assert!(found.metadata == expected, "{}", &found.metadata[..20]);
        }
    }
}
