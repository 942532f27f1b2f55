//! Failures that `strace` makes: `fdatasync` that says EIO, and a SIGKILL at any system call.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use taffrail_client::{CallError, Client, PartitionIndex, ProduceError, Record};
use taffrail_proto::v1;
use tokio::time::{sleep, timeout};

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::history::{Event, History};
use crate::kills::{TOPICS, create_topics, start_load};
use crate::load::{Sender, append};
use crate::readback::{conclude, read_back, wait_until_online};
use crate::rounds;
use crate::strace::{Strace, strace_works};

/// How long a sync takes before it fails.
const SLOWLY: Duration = Duration::from_secs(1);

/// What changes files.
const CALLS: &str = "pwrite64,pwritev,write,fdatasync,fsync,syncfs,sync_file_range,ftruncate,openat,rename,unlink,mkdir";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_nothing_more_is_acknowledged_and_nothing_is_lost() {
    if !strace_works("failed sync") {
        return;
    }
    let mut dice = Dice::new("failed sync");
    let home = Home::new().await;
    let broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    sleep(dice.millis(300, 900)).await;
    load.history.note("syncs fail from here on");
    let strace = Strace::attach(&broker, "fdatasync", "error=EIO", &[]).await;

    let client = Client::connect(&broker.url()).expect("a valid address");
    let admin = client.admin();
    let poisoned = async {
        loop {
            let (_, partitions) = admin.describe_topic("synced").await.expect("it is there");
            let is_closed = |it: &v1::Partition| it.status() == v1::PartitionStatus::ReadOnly;
            if partitions.iter().all(is_closed) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), poisoned).await.expect("partitions get read-only");
    let producer = client.producer("synced").build().await.expect("a producer");
    for partition in 0..3 {
        let record = Record::value(b"").partition(PartitionIndex::new(partition));
        let refused = producer.send(record).await.expect("it is taken").await;
        let is_read_only = |error: &ProduceError| matches!(error, ProduceError::Refused(it) if it.reason == "PARTITION_READ_ONLY");
        assert!(refused.as_ref().is_err_and(is_read_only), "{refused:?}");
    }
    // It does not believe a later sync that succeeds.
    strace.detach().await;
    sleep(Duration::from_millis(300)).await;
    let record = Record::value(b"").partition(PartitionIndex::new(0));
    assert!(producer.send(record).await.expect("it is taken").await.is_err(), "still read-only");
    assert!(home.said_all().contains("sync failed"), "it says so in the log");
    // Opened anew they go on, and after a restart too.
    load.history.note("partitions are opened anew");
    for (topic, partitions) in TOPICS {
        for partition in (0..partitions).map(PartitionIndex::new) {
            let reopened = admin.reopen_partition(topic, partition).await.expect("it is there");
            assert_eq!(reopened.status(), v1::PartitionStatus::Online, "{topic}: {reopened:?}");
        }
    }
    let mut sender = Sender { producer: 50, ..Sender::of("synced", 3) };
    assert_eq!(append(&broker.url(), &mut sender, 0, 100, &load.history).await, None);
    sleep(dice.millis(200, 500)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
    broker.kill().await;
    let broker = home.start().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
}

/// Where a topic's partition keeps its first segment.
async fn first_segment(home: &Home, broker: &Broker, topic: &str, partition: u32) -> PathBuf {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    let (topic, _) = admin.describe_topic(topic).await.expect("it is there");
    home.data.join(format!("logs/{}-{partition}/{:020}.log", topic.id, 0))
}

pub(crate) async fn statuses(broker: &Broker, topic: &str) -> Vec<v1::PartitionStatus> {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    let (_, partitions) = admin.describe_topic(topic).await.expect("it is there");
    partitions.iter().map(v1::Partition::status).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_sync_that_fails_is_unknown_and_only_its_partition_is_closed() {
    if !strace_works("one failed sync") {
        return;
    }
    let home = Home::new().await;
    let broker = home.start().await;
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    admin.create_topic("synced", 2, BTreeMap::new()).await.expect("the topic is created");
    let (history, url) = (History::default(), broker.url());
    let mut sender = Sender::of("synced", 2);
    assert_eq!(append(&url, &mut sender, 0, 100, &history).await, None);

    // The first one fails, after a while; those behind it would not.
    let segment = first_segment(&home, &broker, "synced", 0).await;
    let what = format!("error=EIO:delay_enter={}:when=1", SLOWLY.as_micros());
    let strace = Strace::attach(&broker, "fdatasync", &what, &[&segment]).await;
    let mut other = Sender { producer: 2, ..Sender::of("synced", 2) };
    let (first, second) = tokio::join!(append(&url, &mut sender, 0, 100, &history), async {
        sleep(SLOWLY / 4).await;
        append(&url, &mut other, 0, 100, &history).await
    });
    let unknown = Some("RESULT_UNKNOWN".to_owned());
    assert_eq!((first, second), (unknown.clone(), unknown), "both waited for it");
    let read_only = Some("PARTITION_READ_ONLY".to_owned());
    assert_eq!(append(&url, &mut sender, 0, 100, &history).await, read_only);
    strace.detach().await;
    assert_eq!(
        append(&url, &mut sender, 0, 100, &history).await,
        read_only,
        "no later sync is believed"
    );
    assert_eq!(append(&url, &mut sender, 1, 100, &history).await, None, "the other one goes on");
    use v1::PartitionStatus::{Online, ReadOnly};
    assert_eq!(statuses(&broker, "synced").await, [ReadOnly, Online]);
    // What is not known to be on disk is not shown.
    let shown = History::default();
    read_back(&broker, "synced", 2, &shown).await;
    let is_read = |event: &Event| matches!(event, Event::Read { .. });
    let read = shown.events().into_iter().filter(is_read).count();
    assert_eq!(read, 2, "one of each partition");
    assert!(home.said_all().contains("sync failed"), "it says so in the log");
    // Neither a stop in order nor a start hides it.
    broker.stop().await;
    let broker = home.start().await;
    wait_until_online(&broker, "synced").await;
    assert_eq!(
        append(&broker.url(), &mut sender, 0, 100, &history).await,
        None,
        "it is open again"
    );
    conclude(&home, &broker, &[("synced", 2)], &history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_directories_cannot_be_synced_nothing_new_is_believed_and_nothing_is_lost() {
    if !strace_works("failed syncs of directories") {
        return;
    }
    let mut dice = Dice::new("failed syncs of directories");
    let home = Home::new().await;
    let broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    sleep(dice.millis(200, 500)).await;
    load.history.note("syncs of directories fail from here on");
    let strace = Strace::attach(&broker, "fsync", "error=EIO", &[]).await;
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    let refused = admin.create_topic("more", 2, BTreeMap::new()).await;
    let is_refused =
        |error: &CallError| matches!(error, CallError::Refused(it) if it.reason == "STORAGE_ERROR");
    assert!(refused.as_ref().is_err_and(is_refused), "{refused:?}");
    // Every partition has to begin a segment soon, and cannot.
    let mut sender = Sender { producer: 50, ..Sender::of("synced", 3) };
    for partition in 0..3 {
        let refused = async {
            loop {
                let reason =
                    append(&broker.url(), &mut sender, partition, 100, &load.history).await;
                if let Some(reason) = reason {
                    break reason;
                }
            }
        };
        let reason = timeout(Duration::from_secs(30), refused).await.expect("it is full soon");
        assert!(["STORAGE_ERROR", "PARTITION_READ_ONLY"].contains(&&*reason), "{reason}");
    }
    strace.detach().await;
    load.stop().await;
    broker.kill().await;
    let broker = home.start().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    admin.create_topic("more", 2, BTreeMap::new()).await.expect("now it can be created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_system_call_nothing_acknowledged_is_lost() {
    if !strace_works("system calls") {
        return;
    }
    let mut dice = Dice::new("system calls");
    let mut home = Home::new().await;
    home.syncs_together_half_the_time(&mut dice);
    let broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    sleep(Duration::from_millis(300)).await;
    broker.kill().await;
    for _ in 0..rounds(8, 150) {
        let calls = [60, 600][dice.below(2) as usize];
        let number = 1 + dice.below(calls);
        load.history.note(format!("kill at call {number}"));
        let mut broker = home.spawn_killed(CALLS, number);
        if broker.serve(&home).await {
            broker.ends_within(Duration::from_secs(2)).await;
        }
        broker.end().await;
    }
    let broker = home.start().await;
    for (topic, _) in TOPICS {
        wait_until_online(&broker, topic).await;
    }
    sleep(Duration::from_millis(300)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
}
