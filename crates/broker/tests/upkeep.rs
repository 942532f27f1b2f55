//! Retention where the disk is full, and where the clock is wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use taffrail_broker::{
    Acks, Broker, BrokerConfig, Clock, Crew, IncomingBatch, Machine, Placement, ProduceBatch,
    SystemClock,
};
use taffrail_log::vfs::{Fault, Memory};
use taffrail_model::batch::{RecordFields, RecordSetBuilder};
use taffrail_model::{PartitionIndex, Timestamp};
use tokio::time::{sleep, timeout};

const HOURS: i64 = 3_600_000;

/// The time of day, and so many milliseconds more.
#[derive(Debug, Default)]
struct Wrong {
    ahead_ms: AtomicI64,
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        Timestamp::from_millis(SystemClock.now().as_millis() + ahead_ms)
    }
}

/// A broker with topic `t` that keeps records for two seconds; it has one.
async fn given(memory: &Memory, clock: &Arc<Wrong>) -> Arc<Broker> {
    let clock: Arc<dyn Clock> = Arc::<Wrong>::clone(clock);
    let machine = Machine { vfs: Arc::new(memory.clone()), clock, crew: Crew::Threads };
    let config = BrokerConfig { spare_bytes: 64 << 10, ..BrokerConfig::default() };
    let started = Broker::start(machine, Path::new("/d"), false, config).await;
    let broker = started.expect("it starts");
    let settings = [("retention.ms", "2s"), ("segment.ms", "1s")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    broker.create_topic("t", 1, BTreeMap::from(settings)).await.expect("it is created");
    let mut records = RecordSetBuilder::default();
    records.push(&RecordFields { value: Some(b"old"), ..RecordFields::default() });
    let batch = ProduceBatch {
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
    };
    let outcomes = broker.produce(vec![batch], Acks::Committed).await;
    assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
    broker
}

fn log_start(broker: &Broker) -> u64 {
    broker.describe_topic("t").expect("it is there").partitions[0].log_start.get()
}

async fn until_gone(broker: &Broker) {
    let gone = async {
        while log_start(broker) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("it is old");
}

#[tokio::test]
async fn what_is_old_goes_where_no_segment_can_be_begun() {
    let memory = Memory::new(1);
    let broker = given(&memory, &Arc::default()).await;
    memory.set_fault(Some(Fault::DiskFull { bytes_left: 0 }));
    until_gone(&broker).await;
    assert_eq!(log_start(&broker), 1);
}

#[tokio::test]
async fn nothing_is_old_after_the_clock_leapt_ahead_until_it_is_set_back() {
    let clock = Arc::<Wrong>::default();
    let broker = given(&Memory::new(1), &clock).await;
    let is_paused = || broker.metrics().retention_paused.load(Ordering::Relaxed);
    clock.ahead_ms.store(2 * HOURS, Ordering::Relaxed);
    sleep(Duration::from_secs(5)).await;
    assert_eq!((log_start(&broker), is_paused()), (0, 1));
    clock.ahead_ms.store(0, Ordering::Relaxed);
    until_gone(&broker).await;
    assert_eq!(is_paused(), 0);
}

#[tokio::test]
async fn nothing_is_old_where_the_broker_was_away_for_long() {
    let (memory, clock) = (Memory::new(1), Arc::<Wrong>::default());
    let broker = given(&memory, &clock).await;
    let closing = Arc::clone(&broker);
    tokio::task::spawn_blocking(move || closing.close()).await.expect("it closes");
    drop(broker);
    clock.ahead_ms.store(25 * HOURS, Ordering::Relaxed);
    let machine = Machine { vfs: Arc::new(memory), clock, crew: Crew::Threads };
    let started = Broker::start(machine, Path::new("/d"), false, BrokerConfig::default()).await;
    let broker = started.expect("it starts");
    sleep(Duration::from_secs(4)).await;
    assert_eq!(log_start(&broker), 0);
    assert_eq!(broker.metrics().retention_paused.load(Ordering::Relaxed), 1);
}
