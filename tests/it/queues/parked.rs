//! Records that are not tried any more: listed, tried again, forgotten.

use taffrail_proto::v1;
use taffrail_proto::v1::parked_selection::Selection;

use super::{ACK, Worker, await_idle, calls, create, describe, parked, reject, value};
use crate::broker::Broker;
use crate::door::{Door, batch, produce_batch, soon};

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
    for partition in 0..2 {
        door.produce(produce_batch("t", partition, batch(&["a", "b", "c"]))).await;
    }
    let mut worker = Worker::start(&door, 100).await;
    for _ in 0..6 {
        let delivery = worker.next().await;
        assert_eq!(worker.settle(&delivery, reject("later")).await, None);
    }
    assert_eq!(describe(&door).await.idle(), v1::QueueIdle::Empty);

    let mut pages = Vec::new();
    let mut behind = None;
    loop {
        let request = v1::ListParkedRequest { queue: "q".into(), behind, max_records: 4 };
        let page = soon(calls(&door).list_parked(request)).await.expect("it is there").into_inner();
        behind = page.records.last().and_then(|it| it.place);
        pages.push(page.records.len());
        if page.records.len() < 4 {
            break;
        }
    }
    assert_eq!(pages, [4, 2]);

    assert_eq!(redrive(&door, Selection::First(1)).await, 1);
    let delivery = worker.next().await;
    assert_eq!((delivery.partition, delivery.offset, delivery.attempt), (0, 0, 1));
    assert_eq!(worker.settle(&delivery, ACK).await, None);

    let place = |partition, offset| v1::RecordPlace { partition, offset };
    // One of them is done, one was never there.
    let places = vec![place(1, 2), place(0, 0), place(1, 99)];
    assert_eq!(redrive(&door, Selection::Places(v1::RecordPlaces { places })).await, 1);
    let delivery = worker.next().await;
    assert_eq!((value(&delivery).as_str(), delivery.partition), ("c", 1));
    assert_eq!(worker.settle(&delivery, ACK).await, None);

    let places = vec![place(0, 1)];
    assert_eq!(discard(&door, Selection::Places(v1::RecordPlaces { places })).await, 1);
    assert_eq!(parked(&door).await.len(), 3);
    assert_eq!(discard(&door, Selection::First(u64::MAX)).await, 3);
    assert!(parked(&door).await.is_empty());
    await_idle(&door, v1::QueueIdle::Empty).await;
}
