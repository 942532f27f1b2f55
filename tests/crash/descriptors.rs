//! More clients than a process may have open files (EMFILE): those who are in are served, those who are
//! not wait, and all goes on when some leave.

use std::collections::BTreeMap;
use std::time::Duration;

use taffrail_client::{CallError, Client};
use taffrail_proto::v1;
use taffrail_proto::v1::log_service_client::LogServiceClient;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::broker::{Broker, Home};
use crate::history::{Event, History};
use crate::load::Sender;
use crate::readback::{conclude, wait_until_online};
use crate::stream::{connect, send};

/// Files that the broker may have open: some 40 more than it needs with nobody there.
const FILES_MAX: usize = 64;
const CROWD: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "crowded";
/// Batches that surely do not fit into one segment.
const BATCHES: usize = 1_000;

/// Somebody with a connection of their own, who appends to one topic.
struct Member {
    service: LogServiceClient<Channel>,
    sender: Sender,
    history: History,
}

impl Member {
    async fn append(&mut self) -> Option<String> {
        let (record, value) = self.sender.next(&self.history, 0);
        let sent = send(self.service.clone(), self.sender.topic.clone(), 0, value).await;
        let result = sent.expect("it is answered");
        let reason = result.error.as_ref().map(|error| error.reason.clone());
        self.history.add(match reason.as_deref() {
            None => Event::Ok { record, offset: result.base_offset() },
            Some("RESULT_UNKNOWN") => Event::Unknown { record },
            Some(_) => Event::Fail { record },
        });
        reason
    }

    /// Why nothing can be read at an offset, if that is so.
    async fn fetch(&mut self, offset: u64) -> Option<String> {
        let at = v1::FetchPartition { topic: TOPIC.to_owned(), partition: 0, offset };
        let request = v1::FetchRequest { partitions: vec![at], ..Default::default() };
        let answer = self.service.fetch(request).await.expect("a fetch is answered").into_inner();
        let result = answer.results.into_iter().next().expect("a result for the partition");
        result.error.map(|error| error.reason)
    }
}

fn open_files(broker: &Broker) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", broker.pid()));
    files.expect("Linux says what is open").count()
}

#[tokio::test]
async fn with_no_descriptors_left_those_who_are_in_are_served_and_the_others_later() {
    let home = Home::new().await;
    let limit = format!("ulimit -n {FILES_MAX}; exec \"$@\"");
    let mut broker = home.spawn(&["sh", "-c", &limit, "sh"]);
    assert!(broker.serve(&home).await, "the broker did not get ready:\n{}", home.said());
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    let settings = [("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let made = admin.create_topic(TOPIC, 1, BTreeMap::from(settings)).await;
    made.expect("the topic is created");
    let service = connect(&broker.url()).await.expect("the broker listens");
    let mut member = Member { service, sender: Sender::of(TOPIC, 1), history: History::default() };
    assert_eq!(member.append().await, None);

    let url = broker.url();
    let address = url.strip_prefix("http://").expect("it is one");
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
        crowd.push(connected.expect("in time").expect("the kernel takes it"));
    }
    let full = async {
        while !home.said_all().contains("cannot accept connections") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, full).await.expect("it has no descriptors left");
    // What needs no further file goes on. What does is refused, and says why.
    for _ in 0..20 {
        assert_eq!(member.append().await, None);
    }
    assert_eq!(member.fetch(20).await, None);
    let mut refused = 0;
    for _ in 0..BATCHES {
        refused += usize::from(member.append().await.is_some_and(|it| it == "STORAGE_ERROR"));
    }
    assert!(refused > 0, "{BATCHES} batches need no second segment");
    let another = admin.create_topic("another", 1, BTreeMap::new()).await;
    let is_refused =
        |error: &CallError| matches!(error, CallError::Refused(it) if it.reason == "STORAGE_ERROR");
    assert!(another.as_ref().is_err_and(is_refused), "{another:?}");
    assert!(open_files(&broker) >= FILES_MAX, "it still has none left");

    // Whoever comes now waits until others leave.
    let late = Client::connect(&url).expect("a valid address").admin();
    let asking = tokio::spawn(async move { late.list_topics(false).await });
    sleep(Duration::from_millis(300)).await;
    assert!(!asking.is_finished(), "there was room");
    drop(crowd);
    let listed = timeout(PATIENCE, asking).await.expect("in time").expect("no panic");
    assert_eq!(listed.expect("it is served").len(), 1);
    wait_until_online(&broker, TOPIC).await;
    for _ in 0..BATCHES {
        assert_eq!(member.append().await, None);
    }
    admin.create_topic("another", 1, BTreeMap::new()).await.expect("now it can be created");
    conclude(&home, &broker, &[(TOPIC, 1)], &member.history).await;
    assert!(!home.said_all().contains("panicked"), "the broker panicked");
    assert!(broker.stop().await.success(), "a clean stop");
    let broker = home.start().await;
    conclude(&home, &broker, &[(TOPIC, 1)], &member.history).await;
}
