//! A group whose committed offset was deleted: it is told, and goes on with what is there.

use taffrail_client::GroupEvent;
use taffrail_proto::v1;
use taffrail_proto::v1::consume_request::Command;
use taffrail_proto::v1::consume_response::Event;

use super::{Member, commit_outside, given, offset, read_for, stand};
use crate::door::soon;
use crate::pipe::Feed;

#[tokio::test]
async fn a_group_that_stood_below_the_start_is_told_and_goes_on() {
    let (_broker, door) = given(1).await;
    for value in ["a", "b", "c", "d"] {
        door.append("t", &[value]).await;
    }
    commit_outside(&door, "t/0", 1).await;
    door.delete_records("t", 0, Some(3)).await.expect("it can");
    assert_eq!(offset(&door, "t/0").await, Some(1), "nobody commits for it");
    let found = stand(&door, "t/0").await;
    assert_eq!((found.committed, found.lag), (Some(1), 1), "one is left to read");

    let member = Member::joined(&door, "a", &["t"]).await;
    let anybody = v1::GroupReader { group: "g".into(), from_committed: true, ..Default::default() };
    for (number, reader) in [(1, anybody), (2, member.reader("t/0"))] {
        let mut feed = Feed::open(&door).await;
        feed.say(Command::Grant(v1::Grant { bytes: 1 << 20 }));
        read_for(&feed, number, "t/0", reader);
        let gap = Some(v1::Gap { from: 1, to: 3, reason: v1::GapReason::Retention as i32 });
        let expected = Event::Gap(v1::SubscriptionGap { subscription: number, gap });
        assert_eq!(feed.next().await, expected);
        assert_eq!(feed.subscribed().await.offset, 3);
        assert_eq!(feed.values(3, 1).await, ["d"]);
    }
    assert_eq!(member.commit("t/0", 4).await, None);
    // What is gone can be committed: it was read before.
    assert_eq!(member.commit("t/0", 2).await, None);
    assert_eq!(offset(&door, "t/0").await, Some(2));
}

#[tokio::test]
async fn a_member_of_the_client_goes_on_behind_what_was_deleted() {
    let (broker, door) = given(1).await;
    for value in ["a", "b", "c", "d"] {
        door.append("t", &[value]).await;
    }
    commit_outside(&door, "t/0", 1).await;
    door.delete_records("t", 0, Some(3)).await.expect("it can");
    let mut consumer = soon(broker.client().group("g").topic("t").build()).await.expect("joins");
    let mut gaps = Vec::new();
    let batch = loop {
        match soon(consumer.next_event()).await.expect("more").expect("no error") {
            GroupEvent::Batch(batch) => break batch,
            GroupEvent::Gap { from, to, reason, .. } => gaps.push((from.get(), to.get(), reason)),
            _ => {}
        }
    };
    assert_eq!(gaps, [(1, 3, v1::GapReason::Retention)]);
    assert_eq!(batch.first_offset().get(), 3);
    drop(batch);
    soon(consumer.close()).await.expect("it can go");
}
