//! Many members of one group at once.

use std::collections::BTreeSet;

use taffrail_proto::v1;
use tokio::sync::oneshot;

use super::{Line, Member, Places, describe, given, join, owned, places_of, until};
use crate::door::{Door, soon};

const PARTITIONS: u32 = 120;
const MEMBERS: usize = 40;

/// Stays in the group on a stream, and reads what it may and nothing else, until it is told to leave.
async fn obey(door: Door, id: String, mut leave: oneshot::Receiver<()>) {
    let member = Member::new(&door, &id);
    let mut line = Line::open(&member).await;
    line.say(v1::HeartbeatRequest { join: Some(join(&["t"])), number: 1, ..member.request() });
    let mut number = 1;
    let mut reads = Places::new();
    loop {
        let answer = tokio::select! {
            answer = line.answers.message() => answer.expect("no error").expect("it goes on"),
            _ = &mut leave => break,
        };
        let answer = answer.heartbeat.expect("a heartbeat's answer");
        let may = places_of(&answer);
        let more = may != reads;
        if more {
            number += 1;
            reads = may;
            let (epoch, owned) = (answer.epoch, Some(owned(&reads)));
            line.say(v1::HeartbeatRequest { epoch, owned, number, ..member.request() });
        }
    }
    line.say(v1::HeartbeatRequest { leave: true, number: u64::MAX, ..member.request() });
    while line.next().await.number != u64::MAX {}
}

/// Waits until so many members have as much as each other.
async fn shared(door: &Door, members: usize) {
    until(async || {
        let described = describe(door, "g").await.expect("it is there");
        let share = PARTITIONS / members as u32;
        described.members.len() == members
            && described.members.iter().all(|it| it.partitions == share)
            && described.partitions.iter().all(|it| it.next_owner.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_members_come_and_go_at_once_and_all_is_shared_out() {
    let (broker, door) = given(PARTITIONS).await;
    // Nobody can ask for a group that is not there.
    let mut first = Member::new(&door, "first");
    first.join(&["t"]).await;
    let mut running = Vec::new();
    for number in 0..MEMBERS {
        let (leave, left) = oneshot::channel();
        let door = Door::open(&broker).await;
        let task = tokio::spawn(obey(door, format!("m{number}"), left));
        running.push((leave, task));
    }
    first.leave().await;
    shared(&door, MEMBERS).await;
    let (gone, stay) = running.split_at_mut(MEMBERS / 2);
    let leaves = gone.iter_mut().map(|(leave, _)| std::mem::replace(leave, oneshot::channel().0));
    leaves.for_each(|leave| leave.send(()).expect("it runs"));
    for (_, task) in gone {
        soon(task).await.expect("no panic");
    }
    shared(&door, MEMBERS / 2).await;
    let described = describe(&door, "g").await.expect("it is there");
    let owners: BTreeSet<_> = described.partitions.iter().map(|it| it.owner.as_str()).collect();
    assert_eq!(owners.len(), stay.len(), "{owners:?}");
    assert!(stay.iter().all(|(_, task)| !task.is_finished()), "somebody has ended");
}

#[tokio::test]
async fn every_stream_of_a_member_hears_what_changes() {
    let (_broker, door) = given(2).await;
    let a = Member::new(&door, "a");
    let (mut first, _) = Line::joined(&a, &["t"]).await;
    let (mut second, _) = Line::joined(&a, &["t"]).await;
    let mut b = Member::joined(&door, "b", &["t"]).await;
    for line in [&mut first, &mut second] {
        assert_eq!(line.pushed().await.partitions.len(), 1);
    }
    b.leave().await;
    for line in [&mut first, &mut second] {
        line.pushed_places(&["t/0", "t/1"]).await;
    }
}
