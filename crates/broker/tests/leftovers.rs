//! What deletions leave when they are interrupted: it goes with its topic, and with nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_broker::{Broker, BrokerConfig, Crew, Machine, SystemClock};
use taffrail_log::vfs::{Memory, Vfs};

async fn start(memory: &Memory) -> Arc<Broker> {
    let (vfs, clock) = (Arc::new(memory.clone()), Arc::new(SystemClock));
    let machine = Machine { vfs, clock, crew: Crew::Threads };
    let started = Broker::start(machine, Path::new("/d"), false, BrokerConfig::default()).await;
    started.expect("it starts")
}

/// Leaves what a deletion leaves that did not end.
fn leave(memory: &Memory, log: &str) -> PathBuf {
    let left = Path::new("/d/logs").join(format!("{log}.deleted"));
    memory.create_directory(&left).expect("the place is free");
    memory.create(&left.join("00000000000000000000.log")).expect("the place is free");
    left
}

#[tokio::test]
async fn what_is_left_of_any_partition_goes_with_its_topic() {
    let memory = Memory::new(1);
    let broker = start(&memory).await;
    let id = broker.create_topic("t", 2, BTreeMap::new()).await.expect("it is created").topic.id;
    // Of a partition that the topic was about to get.
    let ours = leave(&memory, &format!("{id}-7"));
    let other = leave(&memory, "abababababababababababab-0");
    broker.delete_topic("t").await.expect("it is deleted");
    assert!(memory.list(&ours).is_err(), "the deletion of the topic names it");
    assert!(memory.list(&other).is_ok(), "no deletion names it");
}
