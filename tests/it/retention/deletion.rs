//! Records that are deleted on request.

use taffrail_client::{Offset, PartitionIndex};
use tonic::Code;

use super::{bases, check_read, fill, folder, given, stand};
use crate::door::{check_status, soon};
use crate::http::metric;

#[tokio::test]
async fn all_below_the_offset_goes_and_the_files_that_hold_nothing_else() {
    for durability in ["fsync", "page_cache"] {
        let (broker, door) = given(&[("durability", durability)]).await;
        fill(&door, 0, 200).await;
        let folder = folder(&broker, &door).await;
        let before = bases(&folder);
        assert!(before.len() > 5, "{before:?}");
        let (second, third) = (before[1], before[2]);
        for start in [1, second - 1, second, second + 1, third + 7] {
            let deleted = door.delete_records("t", 0, Some(start)).await.expect("it can");
            assert_eq!((deleted.log_start, deleted.high_watermark), (start, 200), "{durability}");
            let kept: Vec<_> = {
                let first = before.iter().rfind(|base| **base <= start).expect("one");
                before.iter().filter(|base| first <= base).copied().collect()
            };
            assert_eq!(bases(&folder), kept, "{start}");
            assert_eq!(deleted.segments as usize, kept.len());
            check_read(&door, start, 200).await;
        }
        assert_eq!(metric(&broker, "taffrail_deleted_segments_total").await, 2);
    }
}

#[tokio::test]
async fn a_batch_that_lies_across_the_start_is_sent_whole_and_begins_with_what_is_gone() {
    let (_broker, door) = given(&[]).await;
    assert_eq!(door.append("t", &["a", "b", "c", "d"]).await, 0);
    assert_eq!(door.append("t", &["e"]).await, 4);
    door.delete_records("t", 0, Some(2)).await.expect("it can");
    let found = door.fetch("t", 0, 2).await;
    assert_eq!((&found.error, &found.gap, found.log_start), (&None, &None, 2));
    let values: Vec<_> = door.read("t", 0, 2).await.iter().map(crate::door::value).collect();
    assert_eq!(values, ["c", "d", "e"]);
    // To whoever names an offset that is gone it is, although its bytes are there.
    let refused = door.fetch("t", 0, 1).await.error.expect("refused");
    assert_eq!(refused.reason, "OFFSET_OUT_OF_RANGE");
}

#[tokio::test]
async fn everything_goes_where_no_offset_is_named_and_the_next_one_goes_on() {
    for durability in ["fsync", "page_cache"] {
        let (broker, door) = given(&[("durability", durability)]).await;
        fill(&door, 0, 70).await;
        let deleted = door.delete_records("t", 0, None).await.expect("it can");
        assert_eq!((deleted.log_start, deleted.high_watermark, deleted.segments), (70, 70, 1));
        assert_eq!(bases(&folder(&broker, &door).await), [70]);
        assert!(deleted.size_bytes < 1_000, "{deleted:?}");
        let deleted = door.delete_records("t", 0, None).await.expect("there is nothing to do");
        assert_eq!((deleted.log_start, deleted.segments), (70, 1));
        fill(&door, 70, 10).await;
        check_read(&door, 70, 80).await;
    }
}

#[tokio::test]
async fn nothing_happens_where_nothing_is_below() {
    let (broker, door) = given(&[]).await;
    fill(&door, 0, 100).await;
    door.delete_records("t", 0, Some(50)).await.expect("it can");
    let (before, files) = (stand(&door).await, bases(&folder(&broker, &door).await));
    for below in [0, 1, 49, 50] {
        let deleted = door.delete_records("t", 0, Some(below)).await.expect("it is so");
        assert_eq!(deleted, before, "{below}");
    }
    assert_eq!(bases(&folder(&broker, &door).await), files);
    check_read(&door, 50, 100).await;
}

#[tokio::test]
async fn what_cannot_be_deleted_is_refused_and_stays() {
    let (_broker, door) = given(&[]).await;
    door.append("t", &["a", "b", "c"]).await;
    door.delete_records("t", 0, Some(1)).await.expect("it can");
    for beyond in [4, u64::MAX] {
        let text = beyond.to_string();
        let range: &[_] = &[("offset", &*text), ("start", "1"), ("end", "3")];
        check_status(
            door.delete_records("t", 0, Some(beyond)).await,
            Code::OutOfRange,
            "OFFSET_OUT_OF_RANGE",
            range,
            "1 to 3",
        );
    }
    check_status(
        door.delete_records("tt", 0, None).await,
        Code::NotFound,
        "UNKNOWN_TOPIC",
        &[("topic", "tt")],
        "did you mean \"t\"?",
    );
    check_status(
        door.delete_records("t", 1, None).await,
        Code::NotFound,
        "UNKNOWN_PARTITION",
        &[("topic", "t"), ("partition", "1"), ("partitions", "1")],
        "1",
    );
    check_status(
        door.delete_records("__catalog", 0, None).await,
        Code::PermissionDenied,
        "INTERNAL_TOPIC",
        &[("topic", "__catalog")],
        "the broker's own",
    );
    check_status(
        door.delete_records("a b", 0, None).await,
        Code::InvalidArgument,
        "INVALID_TOPIC_NAME",
        &[],
        "' '",
    );
    let partition = stand(&door).await;
    assert_eq!((partition.log_start, partition.high_watermark), (1, 3));
}

#[tokio::test]
async fn an_administrator_of_the_client_deletes_records() {
    let (broker, door) = given(&[]).await;
    door.append("t", &["a", "b", "c"]).await;
    let admin = broker.client().admin();
    let (zero, one) = (PartitionIndex::new(0), PartitionIndex::new(1));
    let deleted = soon(admin.delete_records("t", zero, Some(Offset::new(2)))).await;
    assert_eq!(deleted.expect("it can").log_start, 2);
    assert_eq!(soon(admin.delete_records("t", zero, None)).await.expect("it can").log_start, 3);
    let refused = soon(admin.delete_records("t", one, None)).await.expect_err("there is none");
    assert!(refused.to_string().contains("UNKNOWN_PARTITION"), "{refused}");
}
