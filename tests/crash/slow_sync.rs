//! A disk on which syncs take seconds: only those wait who wait for these, and memory stays bounded.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use taffrail_client::Client;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;

use crate::broker::{Broker, Home};
use crate::full_disk::produce;
use crate::strace::{Strace, strace_works};
use crate::stream::{connect, send};

/// Partitions whose syncs hang: fewer than a broker has committers, which are 8.
const SLOW: u32 = 6;
const HANG: Duration = Duration::from_secs(4);
/// What nobody waits for who is not held up.
const QUICK: Duration = Duration::from_millis(1500);
/// What a broker may take for requests and answers.
const MEMORY: u64 = 16 << 20;
/// What may be taken with what is on its way in connections, up to 32 MiB each, and the ends of logs:
/// two thirds of all that is sent at once.
const MEMORY_PEAK: u64 = 200 << 20;
const CONNECTIONS: u32 = 2;
const BATCHES_OF_A_CONNECTION: u32 = 200;
const LARGE_BATCH_BYTES: usize = 800 << 10;

/// Batches of 8 KB for each of these partitions: a segment holds 8.
const BATCHES: u32 = 12;

/// A topic of so many partitions with segments of the least size; the file of each.
async fn create(home: &Home, broker: &Broker, topic: &str, partitions: u32) -> Vec<PathBuf> {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    let settings = [("segment.bytes", "65536"), ("max.batch.bytes", "65536")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let made = admin.create_topic(topic, partitions, settings).await;
    let id = made.expect("the topic is created").id;
    let path = |partition| home.data.join(format!("logs/{id}-{partition}/{:020}.log", 0));
    (0..partitions).map(path).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_that_hang_hold_up_no_other_partition() {
    if !strace_works("slow syncs") {
        return;
    }
    let home = Home::new().await;
    let broker = home.start().await;
    let slow = create(&home, &broker, "slow", SLOW).await;
    create(&home, &broker, "quick", 1).await;
    let paths: Vec<_> = slow.iter().map(PathBuf::as_path).collect();
    let what = format!("delay_enter={}", HANG.as_micros());
    let strace = Strace::attach(&broker, "fdatasync", &what, &paths).await;

    let begin = Instant::now();
    let mut held_up = JoinSet::new();
    for partition in 0..SLOW {
        for _ in 0..BATCHES {
            let url = broker.url();
            held_up.spawn(async move {
                let result = produce(&url, "slow", partition).await;
                assert_eq!(result.error, None);
                begin.elapsed()
            });
        }
    }
    // All of these are there, and their partitions have to roll.
    sleep(Duration::from_millis(500)).await;
    let mut longest = Duration::ZERO;
    let mut acks = 0;
    while begin.elapsed() < HANG.mul_f32(0.75) {
        let sent = Instant::now();
        assert_eq!(produce(&broker.url(), "quick", 0).await.error, None);
        longest = longest.max(sent.elapsed());
        acks += 1;
    }
    println!("{acks} acknowledgements meanwhile, the longest after {longest:?}");
    assert!(longest < QUICK, "held up for {longest:?}");
    while let Some(elapsed) = held_up.join_next().await {
        let elapsed = elapsed.expect("it is acknowledged");
        assert!(HANG <= elapsed, "acknowledged after {elapsed:?}, before it was synced");
    }
    strace.detach().await;
    assert!(broker.stop().await.success(), "a clean stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_syncs_that_hang_takes_no_more_memory_than_is_allowed() {
    if !strace_works("memory while syncs hang") {
        return;
    }
    let mut home = Home::new().await;
    home.settings = vec![format!("memory={MEMORY}"), format!("tail_memory={MEMORY}")];
    let broker = home.start().await;
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    let id = admin.create_topic("slow", SLOW, BTreeMap::new()).await.expect("it is created").id;
    let segment = |index| home.data.join(format!("logs/{id}-{index}/{:020}.log", 0));
    let slow: Vec<_> = (0..SLOW).map(segment).collect();
    let paths: Vec<_> = slow.iter().map(PathBuf::as_path).collect();
    let what = format!("delay_enter={}", (HANG / 2).as_micros());
    let strace = Strace::attach(&broker, "fdatasync", &what, &paths).await;

    let before = broker.memory_peak();
    let mut producers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let service = connect(&broker.url()).await.expect("the broker listens");
        for number in 0..BATCHES_OF_A_CONNECTION {
            let service = service.clone();
            let value = vec![b'p'; LARGE_BATCH_BYTES];
            producers.spawn(send(service, "slow".into(), number % SLOW, value));
        }
    }
    while let Some(result) = producers.join_next().await {
        match result.expect("it does not panic") {
            Ok(result) => {
                let reason = result.error.map(|error| error.reason);
                assert!(reason.as_deref().is_none_or(|it| it == "OVERLOADED"), "{reason:?}");
            }
            // There was no room for all of the request.
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                assert!(status.message().contains("requests that are not whole"), "{status:?}");
            }
        }
    }
    let more = broker.memory_peak() - before;
    println!("{} MiB more at the most", more >> 20);
    assert!(more < MEMORY_PEAK, "{} MiB more", more >> 20);
    strace.detach().await;
    assert!(broker.stop().await.success(), "a clean stop");
}
