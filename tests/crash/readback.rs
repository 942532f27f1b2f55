//! Reads what is there in the end: with bare `Fetch`, decoded by the protobuf library.

use std::time::Duration;

use prost::Message as _;
use taffrail_client::Client;
use taffrail_proto::v1;
use tokio::time::{sleep, timeout};
use v1::record_batch::Payload;

use crate::broker::{Broker, Home};
use crate::history::checker::judge;
use crate::history::{self, Event, History, LAST_READER, read_event};
use crate::stream::connect;

const ONLINE_MAX: Duration = Duration::from_secs(30);

/// Waits until every partition of a topic reads and writes; nobody helps.
pub(crate) async fn wait_until_online(broker: &Broker, topic: &str) {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    let online = async {
        loop {
            let (_, partitions) = admin.describe_topic(topic).await.expect("the topic is there");
            let is_online = |it: &v1::Partition| it.status() == v1::PartitionStatus::Online;
            let is_waiting = |it: &v1::Partition| it.status() == v1::PartitionStatus::Recovering;
            if partitions.iter().all(is_online) {
                return;
            }
            let wrong: Vec<_> = partitions.iter().filter(|it| !is_online(it)).collect();
            assert!(wrong.iter().all(|it| is_waiting(it)), "{topic}: {wrong:#?}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(ONLINE_MAX, online).await.unwrap_or_else(|_| panic!("{topic} did not get online"));
}

/// Reads a topic's partitions to their ends, into the history.
pub(crate) async fn read_back(broker: &Broker, topic: &str, partitions: u32, history: &History) {
    let mut service = connect(&broker.url()).await.expect("the broker listens");
    for partition in 0..partitions {
        let place = format!("{topic}/{partition}");
        let mut offset = 0;
        loop {
            let at = v1::FetchPartition { topic: topic.to_owned(), partition, offset };
            let request = v1::FetchRequest { partitions: vec![at], ..Default::default() };
            let answer = service.fetch(request).await.expect("a fetch is answered").into_inner();
            let result = answer.results.into_iter().next().expect("a result for the partition");
            assert!(result.error.is_none(), "{place} at {offset}: {:?}", result.error);
            take(&place, offset, result.data, history);
            if let Some(gap) = result.gap {
                history.add(gap_event(LAST_READER, place.clone(), gap));
            }
            if result.next_offset >= result.high_watermark {
                let (start, end) = (result.log_start, result.high_watermark);
                history.add(Event::End { place, start, end });
                break;
            }
            assert!(offset < result.next_offset, "{place}: a fetch makes progress at {offset}");
            offset = result.next_offset;
        }
    }
}

fn take(place: &str, from: u64, data: prost::bytes::Bytes, history: &History) {
    let data = v1::FetchedData::decode(data).expect("what was fetched is a message");
    for batch in data.batches.iter().filter(|it| it.kind() == v1::BatchKind::Data) {
        let Some(Payload::Records(payload)) = &batch.payload else {
            panic!("{place}: a batch without records at {}", batch.base_offset);
        };
        assert_eq!(batch.records_crc, Some(crc32fast::hash(payload)), "{place}");
        let set = v1::RecordSet::decode(payload.clone()).expect("records are a message");
        for (index, record) in set.records.iter().enumerate() {
            let offset = batch.base_offset + index as u64;
            if from <= offset {
                let value = record.value.clone().unwrap_or_default();
                history.add(read_event(LAST_READER, place.to_owned(), offset, &value));
            }
        }
    }
}

/// Reads the topics back and judges the history, which is kept if it is not sound.
pub(crate) async fn conclude(home: &Home, broker: &Broker, topics: &[(&str, u32)], run: &History) {
    // What one test reads twice must not count as a reader's stumbling.
    let history = History::default();
    run.events().into_iter().for_each(|event| history.add(event));
    for (topic, partitions) in topics {
        wait_until_online(broker, topic).await;
        read_back(broker, topic, *partitions, &history).await;
    }
    let events = history.events();
    let violations = judge(&events);
    if !violations.is_empty() {
        let path = home.folder().join("history.jsonl");
        history::write(&path, &events).expect("the history is written");
        let first: Vec<_> = violations.iter().take(20).collect();
        panic!("{} violations, {first:#?} in {}", violations.len(), path.display());
    }
}

/// A gap that a reader was told of. Only offsets that a topic reserved before a machine was started
/// anew, or a sync failed, may be missing here.
#[track_caller]
pub(crate) fn gap_event(reader: u32, place: String, gap: v1::Gap) -> Event {
    let is_power_loss = gap.reason() == v1::GapReason::PowerLoss;
    assert!(is_power_loss && place.starts_with("cached/"), "reader {reader} of {place}: {gap:?}");
    Event::Gap { reader, place, from: gap.from, to: gap.to }
}
