//! A disk that is full: writes are refused and say why, reads go on, and when there is room again
//! everything goes on by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use taffrail_client::Client;
use taffrail_proto::v1;
use tokio::time::{sleep, timeout};

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::history::History;
use crate::kills::{TOPICS, create_topics, start_load};
use crate::mount::{Mount, shell};
use crate::readback::{conclude, read_back};
use crate::stream::{connect, send};

/// Long enough for the slowest, the lazy sync and the retries of clients.
const PATIENCE: Duration = Duration::from_secs(20);

async fn check(kind: &str) {
    let mut dice = Dice::new(kind);
    let mut home = Home::new().await;
    let test = format!("full {kind}");
    let Some(mount) = Mount::new(home.folder(), kind, &test) else { return };
    home.data = mount.path.join("data");
    let broker = home.start().await;
    create_topics(&broker).await;
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    admin.create_topic("probe", 2, BTreeMap::new()).await.expect("the topic is created");
    let load = start_load(&home, &mut dice);
    sleep(Duration::from_millis(500)).await;

    load.history.note("the disk is full");
    let ballast = fill(&broker, &mount).await;
    sleep(Duration::from_secs(1)).await;
    for (topic, partitions) in TOPICS {
        read_back(&broker, topic, partitions, &History::default()).await;
    }
    load.history.note("there is room again");
    std::fs::remove_file(&ballast).expect("the ballast is removed");
    wait_for(&broker, |reason| reason.is_none()).await;
    sleep(Duration::from_millis(500)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;

    assert!(broker.stop().await.success(), "a clean stop");
    let broker = home.start().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
    broker.kill().await;
}

/// Fills a disk until the broker says that it is full; what fills it.
pub(crate) async fn fill(broker: &Broker, mount: &Mount) -> PathBuf {
    let ballast = mount.path.join("ballast");
    // It ends when the disk is full; a little later it takes what was still free then.
    let fill = format!("cat /dev/zero >> {}", ballast.display());
    wait_for(broker, |reason| {
        shell(&fill);
        reason == Some("STORAGE_FULL")
    })
    .await;
    ballast
}

/// Appends to a topic of its own until `is_right` likes how that ends in every partition.
pub(crate) async fn wait_for(broker: &Broker, mut is_right: impl FnMut(Option<&str>) -> bool) {
    let mut last = String::new();
    let waiting = async {
        for partition in 0..2 {
            loop {
                let error = produce(&broker.url(), "probe", partition).await.error;
                if is_right(error.as_ref().map(|error| error.reason.as_str())) {
                    break;
                }
                last = format!("{error:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let in_time = timeout(PATIENCE, waiting).await.is_ok();
    assert!(in_time, "the last answer: {last}");
}

/// Appends a batch of 8 KB.
pub(crate) async fn produce(url: &str, topic: &str, partition: u32) -> v1::ProduceResult {
    let service = connect(url).await.expect("the broker listens");
    let sent = send(service, topic.to_owned(), partition, vec![b'p'; 8000]).await;
    sent.expect("it is answered")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tmpfs_refuses_writes_and_recovers_by_itself() {
    check("tmpfs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ext4_refuses_writes_and_recovers_by_itself() {
    check("ext4").await;
}
