//! A broker that is closed answers whatever still comes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use taffrail_broker::{
    Acks, Broker, BrokerConfig, Crew, IncomingBatch, Machine, Placement, ProduceBatch,
    ProduceError, SystemClock,
};
use taffrail_log::vfs::Memory;
use taffrail_model::PartitionIndex;
use taffrail_model::batch::{RecordFields, RecordSetBuilder};
use tokio::time::timeout;

fn batch() -> ProduceBatch {
    let mut records = RecordSetBuilder::default();
    records.push(&RecordFields { value: Some(b"late"), ..RecordFields::default() });
    ProduceBatch {
        topic: "t".to_owned(),
        placement: Placement::Partition(PartitionIndex::new(0)),
        batch: IncomingBatch {
            payload: records.finish(),
            records_crc: None,
            compression: 0,
            is_compressed: false,
            is_control: false,
            producer: None,
        },
        expected_next_offset: None,
    }
}

#[tokio::test]
async fn every_batch_that_comes_after_the_close_is_refused() {
    let (vfs, clock) = (Arc::new(Memory::new(1)), Arc::new(SystemClock));
    let machine = Machine { vfs, clock, crew: Crew::Threads };
    let started = Broker::start(machine, Path::new("/d"), false, BrokerConfig::default()).await;
    let broker = started.expect("it starts");
    broker.create_topic("t", 1, BTreeMap::new()).await.expect("it is created");
    let closing = Arc::clone(&broker);
    tokio::task::spawn_blocking(move || closing.close()).await.expect("it closes");
    for _ in 0..3 {
        let answered = broker.produce(vec![batch()], Acks::Committed);
        let outcomes = timeout(Duration::from_secs(10), answered).await.expect("an answer");
        assert!(matches!(outcomes[0].result, Err(ProduceError::Stopping)), "{outcomes:?}");
    }
}
