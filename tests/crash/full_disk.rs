//! A disk that is full: writes are refused and say why, reads go on, and when there is room again
//! everything goes on by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use taffrail_client::Client;
use taffrail_proto::v1;
use tokio::time::{sleep, timeout};
use v1::produce_batch::Placement;

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::history::History;
use crate::kills::{TOPICS, create_topics, start_load};
use crate::readback::{conclude, read_back};
use crate::skip;
use crate::stream::{batch_of, connect};

/// Long enough for the slowest, the lazy sync and the retries of clients.
const PATIENCE: Duration = Duration::from_secs(20);

/// A small file system of our own. Unmounted when dropped.
struct Mount {
    path: PathBuf,
}

impl Mount {
    /// Mounts one, or notes that this cannot be.
    fn new(folder: &Path, kind: &str) -> Option<Self> {
        let (path, image) = (folder.join("disk"), folder.join("image"));
        std::fs::create_dir_all(&path).expect("a folder to mount on");
        let (disk, file) = (path.display(), image.display());
        let script = match kind {
            "ext4" => format!(
                "truncate -s 48M {file} && mkfs.ext4 -q -F {file} && mount -o loop {file} {disk}"
            ),
            _ => format!("mount -t {kind} -o size=32m {kind} {disk}"),
        };
        let mounted = shell(&script);
        if !mounted {
            skip(&format!("full {kind}"), "this machine does not let us mount it");
        }
        mounted.then_some(Self { path })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        shell(&format!("umount -l {}", self.path.display()));
    }
}

fn shell(script: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

async fn check(kind: &str) {
    let mut dice = Dice::new(kind);
    let mut home = Home::new().await;
    let Some(mount) = Mount::new(home.folder(), kind) else { return };
    home.data = mount.path.join("data");
    let broker = home.start().await;
    create_topics(&broker).await;
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    admin.create_topic("probe", 2, BTreeMap::new()).await.expect("the topic is created");
    let load = start_load(&home, &mut dice);
    sleep(Duration::from_millis(500)).await;

    let ballast = mount.path.join("ballast");
    // It ends when the disk is full; a little later it takes what was still free then.
    let fill = format!("cat /dev/zero >> {}", ballast.display());
    load.history.note("the disk is full");
    wait_for(&broker, |reason| {
        shell(&fill);
        reason == Some("STORAGE_FULL")
    })
    .await;
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

/// Appends to a topic of its own until `is_right` likes how that ends in every partition.
async fn wait_for(broker: &Broker, mut is_right: impl FnMut(Option<&str>) -> bool) {
    let mut last = String::new();
    let waiting = async {
        for partition in 0..2 {
            loop {
                let error = produce(broker, partition).await;
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

async fn produce(broker: &Broker, partition: u32) -> Option<v1::Error> {
    let mut service = connect(&broker.url()).await.expect("the broker listens");
    let batch = v1::ProduceBatch {
        topic: "probe".to_owned(),
        placement: Some(Placement::Partition(partition)),
        batch: Some(batch_of(vec![vec![b'p'; 8000]])),
        expected_next_offset: None,
    };
    let request = v1::ProduceRequest { batches: vec![batch], acks: v1::Acks::Committed.into() };
    let answer = service.produce(request).await.expect("it is answered").into_inner();
    answer.results.into_iter().next().expect("a result for the batch").error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tmpfs_refuses_writes_and_recovers_by_itself() {
    check("tmpfs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ext4_refuses_writes_and_recovers_by_itself() {
    check("ext4").await;
}
