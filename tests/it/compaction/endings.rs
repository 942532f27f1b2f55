//! A compacted log whose end is a hole: the last record was a tombstone, and its time is over.

use std::time::{Duration, Instant};

use taffrail_client::{Event as Consumed, Position, Until};
use taffrail_proto::v1;
use taffrail_proto::v1::consume_response::Event;

use super::{EAGER, Given, entries};
use crate::broker::PATIENCE;
use crate::commands::taffrail;
use crate::door::soon;
use crate::pipe::{EARLIEST, Feed};

/// Two records of which the second, a tombstone at the very end of the log, has gone. The first batch is
/// left where `is_left`.
async fn given(is_left: bool) -> Given {
    let settings = [("delete.retention.ms", "0"), ("segment.ms", "1s")];
    let mut given = Given::with(&[&EAGER[..], &settings].concat(), &[]).await;
    given.append(&[(Some(1), !is_left)]).await;
    given.append(&[(Some(2), true)]).await;
    let left = usize::from(is_left);
    let deadline = Instant::now() + PATIENCE;
    while given.read(0).await.len() > left {
        assert!(Instant::now() < deadline, "the tombstone stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    given
}

#[tokio::test]
async fn whoever_reads_to_the_end_comes_to_it_where_the_last_records_have_gone() {
    for is_left in [true, false] {
        let given = given(is_left).await;
        let partition = given.door.describe("t").await.partitions.remove(0);
        assert_eq!((partition.log_start, partition.high_watermark, partition.log_end), (0, 2, 2));
        let left = usize::from(is_left);
        let said = taffrail(&given.broker, &["consume", "t", "--no-follow", "--format", "json"]);
        assert_eq!(said.json_lines().len(), left);

        let client = given.broker.client();
        let consumer = client.consumer().topic("t").from(Position::Earliest);
        let mut consumer = consumer.until(Until::HighWatermark).build().await.expect("it starts");
        let mut found = 0;
        while let Some(event) = soon(consumer.next_event()).await {
            if let Consumed::Batch(batch) = event.expect("sound") {
                found += batch.records().count();
            }
        }
        assert_eq!(found, left);

        // On the stream itself it is said: a gap, up to the end.
        let mut feed = Feed::on(&given.door, "t", EARLIEST, 1 << 20).await;
        feed.subscribed().await;
        if is_left {
            assert_eq!(entries(&feed.delivery().await.data).len(), 1);
        }
        match feed.next().await {
            Event::Gap(v1::SubscriptionGap { gap: Some(gap), .. }) => {
                assert_eq!((gap.to, gap.reason()), (2, v1::GapReason::Compaction));
            }
            other => panic!("{other:?}"),
        }
        // A group is done with it, too.
        let arguments = ["consume", "t", "--group", "g", "--count", "1", "--format", "json"];
        if is_left {
            assert_eq!(taffrail(&given.broker, &arguments).json_lines().len(), 1);
        }
    }
}
