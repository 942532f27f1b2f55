//! Partitions that go from one member to another, and members that come, go and come back.

use std::collections::VecDeque;
use std::time::Duration;

use taffrail_client::{Commit, ConsumeError, GroupConsumerBuilder, GroupEvent, Offset};
use taffrail_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{append, at, build, event, member, next, next_batch, place, until_left};
use crate::door::{Door, soon};
use crate::groups::{committed, describe, given, offset};

const SESSION: Duration = Duration::from_secs(1);

/// A consumer that takes batches until it is told to stop, and says where each was.
struct Taking {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Taking {
    fn start(
        builder: GroupConsumerBuilder,
        who: &'static str,
        taken: mpsc::UnboundedSender<(&'static str, (u32, u64))>,
    ) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut consumer = builder.build().await.expect("it can join");
            loop {
                let batch = tokio::select! {
                    biased;
                    _ = &mut stopped => break,
                    batch = consumer.next_batch() => batch.expect("more").expect("sound"),
                };
                // Nobody may want to know any more.
                let _ = taken.send((who, at(&batch)));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            consumer.close().await.expect("all is committed");
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        soon(self.task).await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_share_and_when_one_closes_the_other_takes_over_without_losing_or_repeating() {
    const PARTITIONS: u32 = 4;
    const EACH: usize = 150;
    let (broker, door) = given(PARTITIONS).await;
    door.alter("t", &[("durability", "page_cache")]).await.expect("it can be");
    let producing = tokio::spawn(async move {
        for _ in 0..EACH {
            for partition in 0..PARTITIONS {
                append(&door, partition, 1).await;
            }
        }
    });
    let (sender, mut taken) = mpsc::unbounded_channel();
    let a = Taking::start(member(&broker), "a", sender.clone());
    let (mut seen, mut by_b) = (Vec::new(), 0);
    for _ in 0..40 {
        seen.push(soon(taken.recv()).await.expect("more"));
    }
    let b = Taking::start(member(&broker), "b", sender);
    while by_b < 40 {
        let (who, at) = soon(taken.recv()).await.expect("more");
        by_b += usize::from(who == "b");
        seen.push((who, at));
    }
    a.stop().await;
    while seen.len() < PARTITIONS as usize * EACH {
        seen.push(soon(taken.recv()).await.expect("more"));
    }
    soon(producing).await.expect("no panic");
    b.stop().await;
    for partition in 0..PARTITIONS {
        let offsets = seen.iter().filter(|(_, at)| at.0 == partition).map(|(_, at)| at.1);
        assert!(offsets.eq(0..EACH as u64), "{partition}: {seen:?}");
    }
    let door = Door::open(&broker).await;
    until_left(&door).await;
    assert!(taken.try_recv().is_err(), "more than there is");
    let found = committed(&door, "g").await.expect("it is there");
    assert!(found.iter().all(|it| it.offset == EACH as u64), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_lose_and_repeat_nothing() {
    const PARTITIONS: u32 = 5;
    const EACH: usize = 200;
    let (broker, door) = given(PARTITIONS).await;
    door.alter("t", &[("durability", "page_cache")]).await.expect("it can be");
    let (sender, mut taken) = mpsc::unbounded_channel();
    let mut running = VecDeque::new();
    let mut seen = Vec::new();
    let mut appended = 0;
    for who in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        running.push_back(Taking::start(member(&broker), who, sender.clone()));
        for _ in 0..EACH / 8 {
            for partition in 0..PARTITIONS {
                append(&door, partition, 1).await;
            }
        }
        appended += EACH / 8 * PARTITIONS as usize;
        // Each has had something before the next one comes.
        let mut is_in = false;
        while !is_in && seen.len() < appended {
            let (by, at) = soon(taken.recv()).await.expect("more");
            is_in = by == who;
            seen.push(at);
        }
        if running.len() > 2 {
            running.pop_front().expect("several").stop().await;
        }
    }
    while seen.len() < PARTITIONS as usize * EACH {
        seen.push(soon(taken.recv()).await.expect("more").1);
    }
    for running in running {
        running.stop().await;
    }
    assert!(taken.try_recv().is_err(), "more than there is");
    for partition in 0..PARTITIONS {
        let offsets = seen.iter().filter(|at| at.0 == partition).map(|at| at.1);
        assert!(offsets.eq(0..EACH as u64), "{partition}: {seen:?}");
    }
    let found = committed(&door, "g").await.expect("it is there");
    assert!(found.iter().all(|it| it.offset == EACH as u64), "{found:?}");
}

#[tokio::test]
async fn assignments_are_told_and_what_is_revoked_can_be_committed_first() {
    let (broker, door) = given(2).await;
    append(&door, 0, 1).await;
    append(&door, 1, 1).await;
    let mut a = build(member(&broker).commit(Commit::Manual)).await;
    let GroupEvent::Assigned(all) = event(&mut a).await else { panic!("not assigned") };
    assert_eq!((all, a.assigned()), (vec![place(0), place(1)], vec![place(0), place(1)]));
    let (first, second) = (next(&mut a).await, next(&mut a).await);
    assert_ne!(first.0, second.0);
    let mut b = build(member(&broker)).await;
    let revoked = loop {
        if let GroupEvent::Revoked(places) = event(&mut a).await {
            break places;
        }
    };
    assert_eq!(revoked.len(), 1);
    // As long as the next event was not asked for, it is this one's.
    soon(a.commit_offset(&revoked[0], Offset::new(1), "")).await.expect("it is this one's still");
    let taking_over = tokio::spawn(async move {
        let GroupEvent::Assigned(places) = event(&mut b).await else { panic!("not assigned") };
        (b, places)
    });
    let _ = tokio::time::timeout(Duration::from_millis(100), a.next_event()).await;
    let (mut b, places) = soon(taking_over).await.expect("no panic");
    assert_eq!((&places, a.assigned().len()), (&revoked, 1));
    let gone = soon(a.commit_offset(&revoked[0], Offset::new(1), "")).await;
    assert!(gone.expect_err("refused").to_string().contains("STALE_MEMBER"));
    append(&door, revoked[0].partition.get(), 1).await;
    assert_eq!(
        next(&mut b).await,
        (revoked[0].partition.get(), 1),
        "what is done does not come again"
    );
}

#[tokio::test]
async fn a_slow_application_loses_nothing_and_gives_on_what_it_has_finished() {
    let (broker, door) = given(1).await;
    append(&door, 0, 2).await;
    let mut a = build(member(&broker).session_timeout(SESSION / 2)).await;
    assert_eq!(next(&mut a).await, (0, 0));
    // Longer than its session: heartbeats do not wait for it.
    tokio::time::sleep(SESSION).await;
    let described = describe(&door, "g").await.expect("it is there");
    assert_eq!(described.members[0].member_id, a.member_id());
    assert_eq!(next(&mut a).await, (0, 1));
    soon(a.close()).await.expect("all is committed");
    assert_eq!(offset(&door, "t/0").await, Some(2));
}

#[tokio::test]
async fn a_static_consumer_that_comes_back_has_what_it_had_and_nobody_else_notices() {
    let (broker, door) = given(2).await;
    let mut other = build(member(&broker)).await;
    let GroupEvent::Assigned(_) = event(&mut other).await else { panic!("not assigned") };
    let mut former = build(member(&broker).instance("i")).await;
    let revoked = event(&mut other).await;
    assert!(matches!(revoked, GroupEvent::Revoked(_)), "{revoked:?}");
    let other_goes_on = tokio::spawn(async move {
        let next = other.next_event().await;
        (other, next)
    });
    let GroupEvent::Assigned(had) = event(&mut former).await else { panic!("not assigned") };
    assert_eq!(had.len(), 1);
    append(&door, had[0].partition.get(), 2).await;
    next(&mut former).await;
    soon(former.close()).await.expect("all is committed");
    let members = describe(&door, "g").await.expect("it is there").members;
    assert_eq!(members.len(), 2, "it comes back");

    let mut back = build(member(&broker).instance("i")).await;
    assert_eq!(back.assigned(), had);
    assert_eq!(next(&mut back).await, (had[0].partition.get(), 1));
    assert!(!other_goes_on.is_finished(), "somebody else noticed");
    // Whoever comes while it is there fences it.
    let _third = build(member(&broker).instance("i")).await;
    let fenced = loop {
        match soon(back.next_event()).await.expect("it is told") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let ConsumeError::Refused(refusal) = fenced else { panic!("{fenced}") };
    assert_eq!(refusal.reason, "FENCED_INSTANCE");
    assert!(soon(back.next_event()).await.is_none(), "that is the end");
    assert!(!other_goes_on.is_finished(), "somebody else noticed");
    other_goes_on.abort();
}

#[tokio::test]
async fn a_consumer_goes_on_across_a_restart_of_the_broker() {
    let (broker, door) = given(2).await;
    append(&door, 0, 5).await;
    let mut consumer = build(member(&broker)).await;
    for expected in 0..5 {
        assert_eq!(next(&mut consumer).await, (0, expected));
    }
    let id = consumer.member_id();
    let mut broker = broker;
    for round in 0..2 {
        broker = broker.restart().await;
        let door = Door::open(&broker).await;
        door.online("t").await;
        append(&door, 0, 1).await;
        append(&door, 1, 1).await;
        let mut found = [next(&mut consumer).await, next(&mut consumer).await];
        found.sort_unstable();
        assert_eq!(found, [(0, 5 + round), (1, round)], "neither lost nor repeated");
    }
    assert_eq!(consumer.member_id(), id, "its session went on");
    soon(consumer.close()).await.expect("all is committed");
    let door = Door::open(&broker).await;
    assert_eq!((offset(&door, "t/0").await, offset(&door, "t/1").await), (Some(7), Some(2)));
}

#[tokio::test]
async fn a_consumer_whose_session_may_have_ended_loses_what_it_had_and_begins_anew() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    let manual = member(&broker).commit(Commit::Manual).session_timeout(SESSION);
    let mut consumer = build(manual).await;
    let first = next_batch(&mut consumer).await;
    soon(consumer.commit(&first)).await.expect("it is this one's");
    next(&mut consumer).await;
    broker.program.signal("STOP");
    let lost = loop {
        if let GroupEvent::Lost(places) = event(&mut consumer).await {
            break places;
        }
    };
    assert_eq!((lost, consumer.assigned()), (vec![place(0)], vec![]));
    let late = soon(consumer.commit_offset(&place(0), Offset::new(2), "")).await;
    assert!(late.expect_err("lost").to_string().contains("STALE_MEMBER"));
    broker.program.signal("CONT");
    assert_eq!(next(&mut consumer).await, (0, 1), "what was not committed comes again");
    assert_eq!(offset(&door, "t/0").await, Some(1));
}

#[tokio::test]
async fn a_forced_reset_moves_a_running_consumer() {
    let (broker, door) = given(1).await;
    append(&door, 0, 3).await;
    let mut consumer = build(member(&broker)).await;
    for expected in 0..3 {
        assert_eq!(next(&mut consumer).await, (0, expected));
    }
    let request = v1::ResetOffsetsRequest {
        group: "g".into(),
        to: Some(v1::reset_offsets_request::To::Position(v1::Position {
            at: Some(crate::pipe::EARLIEST),
        })),
        force: true,
        ..Default::default()
    };
    let moved = broker.client().groups().reset(request).await.expect("it moves");
    assert_eq!((moved.len(), moved[0].after), (1, 0));
    let lost = event(&mut consumer).await;
    assert!(matches!(&lost, GroupEvent::Lost(it) if *it == [place(0)]), "{lost:?}");
    let again = event(&mut consumer).await;
    assert!(matches!(&again, GroupEvent::Assigned(it) if *it == [place(0)]), "{again:?}");
    assert_eq!(next(&mut consumer).await, (0, 0));
    assert!(offset(&door, "t/0").await <= Some(1), "what was in hand does not count");
}

#[tokio::test]
async fn a_consumer_that_is_closed_at_once_is_no_member_any_more() {
    let (broker, door) = given(1).await;
    for round in 0..5 {
        let consumer = build(member(&broker)).await;
        soon(consumer.close()).await.expect("there is nothing to commit");
        let members = describe(&door, "g").await.expect("it is there").members;
        assert_eq!(members, [], "round {round}: it has not left");
    }
}

#[tokio::test]
async fn a_consumer_that_is_dropped_at_once_is_soon_no_member_any_more() {
    let (broker, door) = given(1).await;
    drop(build(member(&broker)).await);
    // Long before its session of ten seconds ends.
    let left = tokio::time::timeout(Duration::from_secs(5), until_left(&door)).await;
    assert!(left.is_ok(), "it has not left");
}
