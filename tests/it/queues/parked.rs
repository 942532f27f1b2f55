//! Records that are not tried any more: listed, tried again, forgotten.

use std::time::Duration;

use taffrail_proto::v1;
use taffrail_proto::v1::parked_selection::Selection;

use super::{ACK, Worker, await_idle, calls, create, describe, parked, parked_page, reject, value};
use crate::broker::Broker;
use crate::door::{Door, batch, produce_batch, soon};

/// Asks for what is parked in `q`.
fn q() -> v1::ListParkedRequest {
    v1::ListParkedRequest { queue: "q".into(), ..Default::default() }
}

fn selection(selection: Selection) -> v1::ParkedSelection {
    v1::ParkedSelection { selection: Some(selection) }
}

async fn redrive(door: &Door, which: Selection) -> u64 {
    let request = v1::RedriveParkedRequest { queue: "q".into(), selection: Some(selection(which)) };
    soon(calls(door).redrive_parked(request)).await.expect("it is there").into_inner().records
}

async fn discard(door: &Door, which: Selection) -> u64 {
    let request = v1::DiscardParkedRequest { queue: "q".into(), selection: Some(selection(which)) };
    soon(calls(door).discard_parked(request)).await.expect("it is there").into_inner().records
}

#[tokio::test]
async fn parked_records_are_listed_in_pages_tried_again_and_forgotten() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 2, v1::QueueSettings::default()).await;
    for (partition, texts) in [(0, ["a", "b", "c"]), (1, ["d", "e", "f"])] {
        door.produce(produce_batch("t", partition, batch(&texts))).await;
    }
    let mut worker = Worker::start(&door, 100).await;
    for _ in 0..6 {
        let delivery = worker.next().await;
        assert_eq!(worker.settle(&delivery, reject("later")).await, None);
    }
    assert_eq!(describe(&door).await.idle(), v1::QueueIdle::Empty);

    let (mut pages, mut values, mut behind) = (Vec::new(), Vec::new(), None);
    loop {
        let page =
            parked_page(&door, v1::ListParkedRequest { behind, max_records: 4, ..q() }).await;
        behind = page.records.last().and_then(|it| it.place);
        pages.push(page.records.len());
        values.extend(page.records.into_iter().filter_map(|it| it.record?.value));
        if !page.has_more {
            break;
        }
    }
    assert_eq!(pages, [4, 2]);
    assert_eq!(values, ["a", "b", "c", "d", "e", "f"]);
    // As many as there are: no more than that.
    let page = parked_page(&door, v1::ListParkedRequest { max_records: 6, ..q() }).await;
    assert!(!page.has_more);

    assert_eq!(redrive(&door, Selection::First(1)).await, 1);
    let delivery = worker.next().await;
    assert_eq!((delivery.partition, delivery.offset, delivery.attempt), (0, 0, 1));
    assert_eq!(worker.settle(&delivery, ACK).await, None);

    let place = |partition, offset| v1::RecordPlace { partition, offset };
    // One of them is done, one was never there.
    let places = vec![place(1, 2), place(0, 0), place(1, 99)];
    assert_eq!(redrive(&door, Selection::Places(v1::RecordPlaces { places })).await, 1);
    let delivery = worker.next().await;
    assert_eq!((value(&delivery).as_str(), delivery.partition), ("f", 1));
    assert_eq!(worker.settle(&delivery, ACK).await, None);

    let places = vec![place(0, 1)];
    assert_eq!(discard(&door, Selection::Places(v1::RecordPlaces { places })).await, 1);
    assert_eq!(parked(&door).await.len(), 3);
    assert_eq!(discard(&door, Selection::First(u64::MAX)).await, 3);
    assert!(parked(&door).await.is_empty());
    await_idle(&door, v1::QueueIdle::Empty).await;
}

#[tokio::test]
async fn a_page_ends_where_its_records_are_large_and_what_they_hold_can_be_left_out() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let values: Vec<_> = (0..8).map(|number| format!("{number} {}", "x".repeat(300_000))).collect();
    // Some of them in one batch, and one between them that is not parked.
    door.append("t", &values[..3].iter().map(String::as_str).collect::<Vec<_>>()).await;
    door.append("t", &["fine"]).await;
    for value in &values[3..] {
        door.append("t", &[value]).await;
    }
    let mut worker = Worker::start(&door, 100).await;
    for offset in 0..9 {
        let delivery = worker.next().await;
        let verdict = if offset == 3 { ACK } else { reject("too large") };
        assert_eq!(worker.settle(&delivery, verdict).await, None);
    }

    let (mut found, mut pages, mut behind) = (Vec::new(), Vec::new(), None);
    loop {
        let page = parked_page(&door, v1::ListParkedRequest { behind, ..q() }).await;
        behind = page.records.last().and_then(|it| it.place);
        pages.push(page.records.len());
        let held = page.records.into_iter().map(|it| it.record.and_then(|it| it.value));
        found.extend(held.map(|value| value.expect("a value")));
        if !page.has_more {
            break;
        }
    }
    assert_eq!((pages, found.len()), (vec![3, 3, 2], values.len()), "no more than 1 MiB");
    assert!(found.iter().eq(&values), "what they hold is not right");

    let page = parked_page(&door, v1::ListParkedRequest { without_records: true, ..q() }).await;
    assert_eq!((page.records.len(), page.has_more), (8, false));
    assert!(page.records.iter().all(|it| it.record.is_none() && it.reason == "too large"));
}

#[tokio::test]
async fn a_queue_hands_out_nothing_while_as_many_are_parked_as_may_be() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings { max_parked: Some(2), ..Default::default() }).await;
    door.append("t", &["a", "b", "c", "d"]).await;
    let mut worker = Worker::start(&door, 1).await;
    for text in ["a", "b"] {
        let delivery = worker.next().await;
        assert_eq!(value(&delivery), text);
        assert_eq!(worker.settle(&delivery, reject("no use")).await, None);
        worker.grant(1);
    }
    await_idle(&door, v1::QueueIdle::ParkedFull).await;
    assert!(worker.gets_nothing(Duration::from_millis(1_500)).await);
    assert_eq!(discard(&door, Selection::First(1)).await, 1);
    let delivery = worker.next().await;
    assert_eq!((value(&delivery).as_str(), delivery.attempt), ("c", 1));
    assert_eq!(worker.settle(&delivery, reject("no use")).await, None);
    worker.grant(1);
    await_idle(&door, v1::QueueIdle::ParkedFull).await;
    // More may be parked: what is set counts from then on.
    let settings = v1::QueueSettings { max_parked: Some(3), ..Default::default() };
    let request = v1::AlterQueueRequest { queue: "q".into(), settings: Some(settings) };
    soon(calls(&door).alter_queue(request)).await.expect("it is there");
    assert_eq!(value(&worker.next().await), "d");
}
