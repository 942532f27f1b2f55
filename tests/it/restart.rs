//! A broker that stops in order and starts again: nothing is lost, and clients go on.

use std::time::Duration;

use taffrail_client::{Client, PartitionIndex, Placed, Position, ProduceError, Record, Until};
use taffrail_proto::v1;

use crate::broker::Broker;
use crate::door::{Door, batch, batches, produce_batch, soon};
use crate::pipe::Pipe;

#[tokio::test]
async fn records_offsets_and_epochs_outlive_the_process() {
    let mut broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 2).await;
    door.create_with("u", 1, &[("durability", "page_cache")]).await;
    let (mut ends, mut epochs) = (Vec::new(), Vec::new());
    for round in 0..4_u64 {
        let door = Door::open(&broker).await;
        for topic in ["t", "u"] {
            let partition = door.online(topic).await.partitions.remove(0);
            assert_eq!(partition.log_end, round, "{topic}");
            assert_eq!(partition.high_watermark, round, "{topic}");
            assert_eq!(door.append(topic, &[&round.to_string()]).await, round);
            let data = door.fetch(topic, 0, round).await.data;
            let epoch = batches(&data).last().expect("a batch").leader_epoch;
            assert_eq!(epoch, partition.leader_epoch);
            epochs.push((topic, epoch));
        }
        ends.push(round.to_string());
        assert_eq!((door.values("t").await, door.values("u").await), (ends.clone(), ends.clone()));
        broker = broker.restart().await;
    }
    for topic in ["t", "u"] {
        let of_topic = epochs.iter().filter(|(of, _)| *of == topic).map(|(_, epoch)| *epoch);
        assert!(of_topic.is_sorted_by(|a, b| a < b), "{epochs:?}");
    }
}

#[tokio::test]
async fn everything_in_flight_at_a_stop_is_answered_or_not_there() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let mut pipe = Pipe::open(&door).await;
    let request = |number: u64| v1::ProduceStreamRequest {
        number,
        batch: Some(produce_batch("t", 0, batch(&[&number.to_string()]))),
        ..Default::default()
    };
    // An answer brings the next request, so that some are on their way at any time.
    let mut sent = 200;
    (1..=sent).for_each(|number| pipe.send_with(request(number)));
    let sending = tokio::spawn(async move {
        let (mut acked, mut refused) = (Vec::new(), Vec::new());
        let end = loop {
            let answer = match pipe.try_next().await {
                Ok(Some(answer)) => answer,
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            };
            match answer.result.expect("a result").error {
                None => acked.push(answer.number),
                Some(_) => refused.push(answer.number),
            }
            sent += 1;
            // The broker may have ended the stream.
            let _ = pipe.requests.send(request(sent));
        };
        (acked, refused, end)
    });
    while door.find("t", 0, crate::pipe::LATEST).await.offset < 500 && !sending.is_finished() {
        tokio::task::yield_now().await;
    }
    let home = broker.stop().await;
    let (acked, refused, end) = soon(sending).await.expect("no panic");
    assert!(!acked.is_empty(), "it was not in the middle");
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    let stored: Vec<u64> =
        door.values("t").await.iter().map(|text| text.parse().expect("a number")).collect();
    assert!(end.is_ok(), "the stream ends in order: {end:?}");
    assert_eq!(stored, acked);
    assert!(!refused.iter().any(|number| stored.contains(number)), "refused and there");
    assert!(stored.iter().copied().eq(1..=stored.len() as u64), "order: {stored:?}");
}

#[tokio::test]
async fn a_waiting_fetch_and_a_consumer_do_not_hold_up_a_stop() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let own = door.clone();
    let fetch = tokio::spawn(async move {
        let request = crate::door::fetch_request("t", 0, 0);
        let request = taffrail_proto::v1::FetchRequest { max_wait_ms: 60_000, ..request };
        own.log.clone().fetch(request).await.is_ok()
    });
    let feed = crate::pipe::Feed::on(&door, "t", crate::pipe::LATEST, 1).await;
    door.describe("t").await;
    let began = std::time::Instant::now();
    broker.stop().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    soon(fetch).await.expect("no panic");
    drop(feed);
}

#[tokio::test]
async fn producer_and_consumer_of_the_client_go_on_across_a_restart() {
    let broker = Broker::new();
    let url = broker.url.clone();
    Door::open(&broker).await.create("t", 2).await;
    let consuming = tokio::spawn(consume(Client::connect(&url).expect("an address"), 400));
    let client = broker.client();
    let producer = client.producer("t").build().await.expect("starts");
    send(&producer, 0..100).await;
    // While nothing is in flight nothing can be uncertain.
    let broker = broker.restart().await;
    send(&producer, 100..200).await;
    let broker = broker.restart().await;
    send(&producer, 200..400).await;
    let found = soon(consuming).await.expect("no panic");
    assert_eq!(found.len(), 2);
    let mut all: Vec<u32> = found.iter().flatten().copied().collect();
    assert!(found.iter().all(|of_partition| of_partition.is_sorted()), "order per partition");
    all.sort_unstable();
    assert!(all.into_iter().eq(0..400), "each record once");
    drop(broker);
}

#[tokio::test]
async fn a_producer_under_way_at_a_restart_knows_what_became_of_each_record() {
    let broker = Broker::new();
    Door::open(&broker).await.create("t", 1).await;
    let producer = broker.client().producer("t").batch_bytes(1).batch_bytes_busy(200).build();
    let producer = std::sync::Arc::new(producer.await.expect("starts"));
    let own = std::sync::Arc::clone(&producer);
    let sending = tokio::spawn(async move {
        let mut deliveries = Vec::new();
        for number in 0..2_000_u32 {
            let text = number.to_string();
            deliveries.push(own.send(Record::value(text.as_bytes())).await.expect("taken"));
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let mut outcomes = Vec::new();
        for delivery in deliveries {
            outcomes.push(delivery.await);
        }
        outcomes
    });
    let door = Door::open(&broker).await;
    while door.find("t", 0, crate::pipe::LATEST).await.offset < 100 {
        tokio::task::yield_now().await;
    }
    let broker = broker.restart().await;
    let outcomes = soon(sending).await.expect("no panic");
    let door = Door::open(&broker).await;
    let stored = door.values("t").await;
    let mut delivered = 0;
    for (number, outcome) in outcomes.iter().enumerate() {
        let times = stored.iter().filter(|value| **value == number.to_string()).count();
        match outcome {
            Ok(Placed { offset, .. }) => {
                let offset = offset.expect("acknowledged").get() as usize;
                assert_eq!((times, &stored[offset]), (1, &number.to_string()));
                delivered += 1;
            }
            Err(ProduceError::ResultUnknown { .. }) => assert!(times <= 1, "{number} twice"),
            Err(other) => panic!("{number}: {other}"),
        }
    }
    assert!(delivered > 500, "{delivered} delivered");
}

async fn send(producer: &taffrail_client::Producer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let text = number.to_string();
        let record = Record::value(text.as_bytes()).partition(PartitionIndex::new(number % 2));
        drop(soon(producer.send(record)).await.expect("taken"));
    }
    soon(producer.flush()).await.expect("all delivered");
}

/// The first `count` numbers of each partition of `t`, in order.
async fn consume(client: Client, count: usize) -> Vec<Vec<u32>> {
    let consumer = client.consumer().topic("t").from(Position::Earliest).until(Until::Forever);
    let mut consumer = consumer.build().await.expect("starts");
    let mut found = vec![Vec::new(); 2];
    while found.iter().map(Vec::len).sum::<usize>() < count {
        let batch = soon(consumer.next_batch()).await.expect("more").expect("sound");
        for record in batch.records() {
            let value = record.expect("sound").value.expect("a value");
            let number = std::str::from_utf8(value).expect("text").parse().expect("a number");
            found[batch.partition.get() as usize].push(number);
        }
    }
    found
}
