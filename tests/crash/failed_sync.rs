//! Failures that `strace` makes: `fdatasync` that says EIO, and a SIGKILL at any system call.

use std::process::{Command as Probe, Stdio};
use std::time::Duration;

use taffrail_client::{Client, PartitionIndex, ProduceError, Record};
use taffrail_proto::v1;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::broker::Home;
use crate::dice::Dice;
use crate::kills::{TOPICS, create_topics, start_load};
use crate::readback::{conclude, wait_until_online};
use crate::{rounds, skip};

/// What changes files.
const CALLS: &str = "pwrite64,pwritev,write,fdatasync,fsync,ftruncate,openat,rename,unlink,mkdir";

/// Whether `strace` is there and may trace; else `test` is skipped.
fn strace_works(test: &str) -> bool {
    let mut probe = Probe::new("strace");
    probe.args(["-f", "-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null());
    let works = probe.status().is_ok_and(|status| status.success());
    if !works {
        skip(test, "strace is not here, or may not trace");
    }
    works
}

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
    let pid = broker.pid().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]);
    strace.args(["-e", "inject=fdatasync:error=EIO", "-p", &pid]).kill_on_drop(true);
    let mut strace = strace.spawn().expect("strace starts");

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
    strace.kill().await.expect("strace ends");
    sleep(Duration::from_millis(300)).await;
    let record = Record::value(b"").partition(PartitionIndex::new(0));
    assert!(producer.send(record).await.expect("it is taken").await.is_err(), "still read-only");
    load.stop().await;
    assert!(home.said_all().contains("sync failed"), "it says so in the log");
    broker.kill().await;
    let broker = home.start().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_system_call_nothing_acknowledged_is_lost() {
    if !strace_works("system calls") {
        return;
    }
    let mut dice = Dice::new("system calls");
    let home = Home::new().await;
    let broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    sleep(Duration::from_millis(300)).await;
    broker.kill().await;
    for _ in 0..rounds(8, 150) {
        let calls = [60, 600][dice.below(2) as usize];
        let number = 1 + dice.below(calls);
        let inject = format!("inject={CALLS}:signal=SIGKILL:when={number}");
        load.history.note(format!("kill at call {number}"));
        let trace = format!("trace={CALLS}");
        let runner = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let mut broker = home.spawn(&runner);
        if broker.serve(&home).await && !broker.ends_within(Duration::from_secs(2)).await {
            broker.kill().await;
        }
    }
    let broker = home.start().await;
    for (topic, _) in TOPICS {
        wait_until_online(&broker, topic).await;
    }
    sleep(Duration::from_millis(300)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
}
