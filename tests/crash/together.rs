//! Many partitions that are synced with one call, and what becomes of each when that call fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taffrail_client::Client;
use taffrail_proto::v1::PartitionStatus;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::broker::{Broker, Home};
use crate::failed_sync::statuses;
use crate::history::History;
use crate::load::{Sender, append};
use crate::readback::{conclude, wait_until_online};
use crate::strace::{Strace, strace_works};

const TOPIC: &str = "synced";
const PARTITIONS: u32 = 12;
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody who appends to each partition, one record after another, until told to stop: the reasons of
/// refusals, by partition.
struct Crowd {
    tasks: JoinSet<(u32, Vec<String>)>,
    is_over: Arc<AtomicBool>,
}

impl Crowd {
    fn start(broker: &Broker, history: &History, producers: u32) -> Self {
        let (mut tasks, is_over) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for partition in 0..PARTITIONS {
            let (url, history, is_over) = (broker.url(), history.clone(), Arc::clone(&is_over));
            let producer = producers + partition;
            let mut sender = Sender { producer, ..Sender::of(TOPIC, PARTITIONS) };
            tasks.spawn(async move {
                let mut refusals = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    refusals.extend(append(&url, &mut sender, partition, 100, &history).await);
                }
                (partition, refusals)
            });
        }
        Self { tasks, is_over }
    }

    async fn stop(self) -> BTreeMap<u32, Vec<String>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_sync_for_many_fails_each_partition_says_for_itself_what_is_lost() {
    if !strace_works("syncs of many partitions") {
        return;
    }
    let mut home = Home::new().await;
    let settings = ["sync_together_min=2", "committer_threads=1"];
    home.settings.extend(settings.map(str::to_owned));
    let broker = home.start().await;
    if !can_sync_together(&home) {
        crate::skip("syncs of many partitions", "it takes ext4 and Linux 6.5");
        return;
    }
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    admin.create_topic(TOPIC, PARTITIONS, BTreeMap::new()).await.expect("the topic is created");
    let history = History::default();

    // If it fails, each file is synced by itself, and nothing was lost.
    let strace = Strace::attach(&broker, "syncfs", "error=EIO", &[]).await;
    let crowd = Crowd::start(&broker, &history, 0);
    sleep(Duration::from_millis(500)).await;
    let refusals = crowd.stop().await;
    strace.detach().await;
    assert!(refusals.values().all(Vec::is_empty), "{refusals:?}");
    assert!(statuses(&broker, TOPIC).await.iter().all(|it| *it == PartitionStatus::Online));

    // If it does not, each file says whether it is one of those that are lost.
    let crowd = Crowd::start(&broker, &history, 100);
    let strace = Strace::attach(&broker, "sync_file_range", "error=EIO:when=1", &[]).await;
    let is_closed = |it: &PartitionStatus| *it == PartitionStatus::ReadOnly;
    let closed = async {
        while !statuses(&broker, TOPIC).await.iter().any(is_closed) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let was_closed = timeout(PATIENCE, closed).await;
    strace.detach().await;
    sleep(Duration::from_millis(200)).await;
    let refusals = crowd.stop().await;
    was_closed.expect("one partition is closed");
    let closed = statuses(&broker, TOPIC).await;
    assert_eq!(closed.iter().filter(|it| is_closed(it)).count(), 1, "{closed:?}");
    for (partition, refusals) in refusals {
        if is_closed(&closed[partition as usize]) {
            assert_eq!(refusals.first().map(String::as_str), Some("RESULT_UNKNOWN"));
            assert!(refusals[1..].iter().all(|it| it == "PARTITION_READ_ONLY"), "{refusals:?}");
        } else {
            assert!(refusals.is_empty(), "{partition}: {refusals:?}");
        }
    }
    assert!(home.said_all().contains("sync failed"), "it says so in the log");

    broker.kill().await;
    let broker = home.start().await;
    wait_until_online(&broker, TOPIC).await;
    conclude(&home, &broker, &[(TOPIC, PARTITIONS)], &history).await;
}

/// Whether the product trusts one sync for many files here: ext4, since Linux 6.5.
fn can_sync_together(home: &Home) -> bool {
    const EXT4: i64 = 0xef53;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').filter_map(|number| number.parse::<u32>().ok());
    let linux = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let is_ext4 = rustix::fs::statfs(&home.data).is_ok_and(|it| it.f_type == EXT4);
    is_ext4 && (6, 5) <= linux
}
