//! Files changed by hand after a kill: what is torn behind the acknowledged is cut and kept aside;
//! what is missing of the acknowledged is damage, and said to be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use taffrail_client::{Client, PartitionIndex, ProduceError, Record};
use taffrail_proto::v1;
use tokio::time::sleep;

use crate::broker::{Broker, Home};
use crate::readback::wait_until_online;
use crate::stream::connect;

const TOPIC: &str = "torn";
const RECORDS: u64 = 40;

/// How long recovery points may be behind.
const POINTS_LATE: Duration = Duration::from_millis(2500);

/// A topic of two partitions with records in each, the broker killed; the last file of partition 0.
async fn killed_with_records(home: &Home) -> PathBuf {
    let broker = home.start().await;
    let client = Client::connect(&broker.url()).expect("a valid address");
    let made = client.admin().create_topic(TOPIC, 2, BTreeMap::new()).await;
    let id = made.expect("the topic is created").id;
    for expected in 0..RECORDS {
        for partition in 0..2 {
            assert_eq!(produce(&broker, partition).await, Ok(expected));
        }
    }
    sleep(POINTS_LATE).await;
    broker.kill().await;
    home.data.join(format!("logs/{id}-0/00000000000000000000.log"))
}

async fn produce(broker: &Broker, partition: u32) -> Result<u64, ProduceError> {
    let client = Client::connect(&broker.url()).expect("a valid address");
    let producer = client.producer(TOPIC).build().await.expect("a producer");
    let record = Record::value(b"a record").partition(PartitionIndex::new(partition));
    let placed = producer.send(record).await?.await?;
    Ok(placed.offset.expect("it was acknowledged").get())
}

async fn fetch(broker: &Broker, partition: u32, offset: u64) -> v1::FetchResult {
    let mut service = connect(&broker.url()).await.expect("the broker listens");
    let at = v1::FetchPartition { topic: TOPIC.to_owned(), partition, offset };
    let request = v1::FetchRequest { partitions: vec![at], ..Default::default() };
    let answer = service.fetch(request).await.expect("a fetch is answered").into_inner();
    answer.results.into_iter().next().expect("a result for the partition")
}

/// All records are there, the partition takes more, and what was cut is kept in a file.
async fn check_healed(change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let home = Home::new().await;
    let path = killed_with_records(&home).await;
    let bytes = std::fs::read(&path).expect("the segment is there");
    let length = bytes.len();
    let changed = change(bytes);
    assert!(length < changed.len(), "something lies behind the acknowledged");
    let torn = changed[length..].to_vec();
    std::fs::write(&path, &changed).expect("the segment is changed");
    for _ in 0..2 {
        let broker = home.start().await;
        wait_until_online(&broker, TOPIC).await;
        let result = fetch(&broker, 0, 0).await;
        assert!(result.error.is_none() && result.high_watermark >= RECORDS, "{result:?}");
        broker.kill().await;
    }
    let folder = path.parent().expect("it lies in a folder");
    assert!(any_file_holds(folder, &torn), "what was cut is kept aside");
    let broker = home.start().await;
    wait_until_online(&broker, TOPIC).await;
    assert_eq!(produce(&broker, 0).await, Ok(RECORDS), "the next offset");
    assert_eq!(fetch(&broker, 0, 0).await.next_offset, RECORDS + 1);
}

fn any_file_holds(folder: &Path, wanted: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).expect("the folder is there").flatten();
    let mut files = entries.filter_map(|entry| std::fs::read(entry.path()).ok());
    files.any(|bytes| bytes.windows(wanted.len()).any(|part| part == wanted))
}

#[tokio::test]
async fn garbage_behind_the_last_batch_is_kept_aside_and_nothing_else_is_lost() {
    check_healed(|mut bytes| {
        bytes.extend((0..777_u32).map(|i| (i * 31 % 251) as u8));
        bytes
    })
    .await;
}

#[tokio::test]
async fn half_of_a_batch_behind_the_last_one_is_kept_aside() {
    check_healed(|mut bytes| {
        let batch = bytes[bytes.len() - 100..].to_vec();
        bytes.extend(&batch[..60]);
        bytes
    })
    .await;
}

#[tokio::test]
async fn zeros_behind_the_last_batch_are_kept_aside() {
    check_healed(|mut bytes| {
        bytes.extend([0; 4096]);
        bytes
    })
    .await;
}

#[tokio::test]
async fn acknowledged_records_that_are_missing_are_damage_and_not_healed() {
    let home = Home::new().await;
    let path = killed_with_records(&home).await;
    let bytes = std::fs::read(&path).expect("the segment is there");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("the segment is cut");
    for _ in 0..2 {
        let broker = home.start().await;
        let admin = Client::connect(&broker.url()).expect("a valid address").admin();
        let partition = loop {
            let (_, partitions) = admin.describe_topic(TOPIC).await.expect("the topic is there");
            let partition = partitions.into_iter().next().expect("a partition");
            if partition.status() != v1::PartitionStatus::Recovering {
                break partition;
            }
            sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(partition.status(), v1::PartitionStatus::ReadOnly, "{partition:?}");
        assert!(partition.error.is_some(), "it says why: {partition:?}");
        let refused = produce(&broker, 0).await;
        let is_read_only = |error: &ProduceError| matches!(error, ProduceError::Refused(it) if it.reason == "PARTITION_READ_ONLY");
        assert!(refused.as_ref().is_err_and(is_read_only), "{refused:?}");
        let sound = fetch(&broker, 0, 0).await;
        assert!(sound.error.is_none() && 0 < sound.next_offset, "{sound:?}");
        let lost = fetch(&broker, 0, sound.next_offset).await;
        let error = lost.error.as_ref().expect("what is missing is an error");
        assert_eq!(error.reason, "DATA_LOSS", "{lost:?}");
        assert_eq!(error.metadata["from"], sound.next_offset.to_string(), "{lost:?}");
        assert_eq!(error.metadata["to"], RECORDS.to_string(), "{lost:?}");
        let range = v1::OffsetRange { from: sound.next_offset, to: RECORDS };
        assert_eq!(partition.damaged, [range], "it is described");
        let beyond = fetch(&broker, 0, RECORDS + 7).await;
        let error = beyond.error.as_ref().expect("nobody knows what was there");
        assert_eq!(error.reason, "PARTITION_READ_ONLY", "{beyond:?}");
        assert!(produce(&broker, 1).await.is_ok(), "the other partition goes on");
        broker.kill().await;
    }
    assert!(home.said_all().contains("damaged"), "it says so in the log");
    let now = std::fs::read(&path).expect("the segment is there");
    assert_eq!(now, bytes[..bytes.len() / 2], "nothing was changed");
}
