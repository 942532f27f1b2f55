//! Tombstones: they stay so long that whoever reads comes to them, and then they go with their key.

use std::time::{Duration, Instant};

use super::{EAGER, Given};
use crate::broker::PATIENCE;
use crate::http::metric;

#[tokio::test]
async fn a_tombstone_stays_for_its_time_and_goes_by_itself_with_its_key() {
    let settings = [&EAGER[..], &[("delete.retention.ms", "3s")]].concat();
    let mut given = Given::with(&settings, &[]).await;
    given.append(&[(Some(1), false), (Some(2), false), (Some(3), false)]).await;
    given.append(&[(Some(1), true), (Some(2), true), (Some(2), false), (Some(4), true)]).await;
    let before = Instant::now();
    given.compact().await;
    let left = given.left();
    assert_eq!(
        left.iter().filter(|it| it.value.is_none()).map(|it| it.offset).collect::<Vec<_>>(),
        [3, 6]
    );
    let without: Vec<_> = left.iter().filter(|entry| entry.value.is_some()).cloned().collect();
    // Nothing more is appended, and nobody asks for it.
    let deadline = before + PATIENCE;
    loop {
        let found = given.read(0).await;
        if found == without {
            break;
        }
        assert_eq!(found, left, "both, or none");
        assert!(Instant::now() < deadline, "tombstones stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(before.elapsed() >= Duration::from_secs(3), "it went after {:?}", before.elapsed());
    given.settle().await;
    // What was superseded does not come back, whoever looks, and whenever.
    assert!(without.iter().all(|entry| entry.key.as_deref() != Some("key-1")));
    let mut given = given.restart().await;
    assert_eq!(given.read(0).await, without);
    // Its key may come again, like any other.
    let again = given.end();
    given.append(&[(Some(1), false)]).await;
    given.compact().await;
    let found = given.read(0).await;
    let of_key: Vec<_> = found.iter().filter(|it| it.key.as_deref() == Some("key-1")).collect();
    assert_eq!(of_key.iter().map(|it| it.offset).collect::<Vec<_>>(), [again]);
}

#[tokio::test]
async fn without_a_time_of_its_own_a_tombstone_stays_for_a_day() {
    let mut given = Given::new().await;
    given.append(&[(Some(1), false), (Some(1), true)]).await;
    given.compact().await;
    let result = given.door.fetch("t", 0, 0).await;
    let placed = crate::door::placed(&result.data);
    let stated = placed[0].record.delete_after_ms.expect("compaction has seen it");
    let in_a_day = crate::door::batches(&result.data)[0].append_time_ms + 24 * 60 * 60 * 1_000;
    assert!((in_a_day..in_a_day + 60_000).contains(&stated), "{stated} is not {in_a_day}");
    assert_eq!((placed[0].offset, placed[0].record.offset_delta), (1, Some(1)));
    assert_eq!(metric(&given.broker, "taffrail_compacted_records_total").await, 1);
}
