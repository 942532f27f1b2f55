//! Consumer groups: who reads what, how far a group has come, and what people see of it.

mod consumer;
mod crowd;
mod deleted;
mod describe;
mod fencing;
mod many;
mod membership;
mod offsets;
mod refusals;
mod reset;
mod sequence;
mod statics;

use std::collections::BTreeSet;
use std::time::Duration;

use taffrail_proto::v1;
use taffrail_proto::v1::group_service_client::GroupServiceClient;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::broker::{Broker, Home};
use crate::door::{Door, soon};
use crate::pipe::Feed;

/// A session that nobody waits for the end of.
const LONG_MS: u32 = 60_000;

/// A session that ends in a test.
const SHORT_MS: u32 = 500;

/// Places as `topic/partition`.
type Places = BTreeSet<String>;

/// A member that makes the bare calls. It says nothing by itself.
#[derive(Clone)]
struct Member {
    door: Door,
    group: String,
    id: String,
    instance: String,
    /// The last answer.
    said: v1::HeartbeatResponse,
}

/// A member's stream.
struct Line {
    requests: UnboundedSender<v1::MembershipRequest>,
    answers: Streaming<v1::MembershipResponse>,
}

impl Member {
    /// A member of group `g` that has not joined yet.
    fn new(door: &Door, id: &str) -> Self {
        let (group, id) = ("g".to_owned(), id.to_owned());
        let said = v1::HeartbeatResponse::default();
        Self { door: door.clone(), group, id, instance: String::new(), said }
    }

    fn instance(mut self, instance: &str) -> Self {
        instance.clone_into(&mut self.instance);
        self
    }

    /// One that has joined, and reads these topics; with a session that does not end.
    async fn joined(door: &Door, id: &str, topics: &[&str]) -> Self {
        let mut member = Self::new(door, id);
        member.join(topics).await;
        member
    }

    /// What it says, but for what it reads: nothing of that.
    fn request(&self) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            group: self.group.clone(),
            member_id: self.id.clone(),
            instance_id: self.instance.clone(),
            epoch: self.said.epoch,
            ..Default::default()
        }
    }

    async fn send(&mut self, request: v1::HeartbeatRequest) -> Result<(), Status> {
        self.said = soon(groups(&self.door).heartbeat(request)).await?.into_inner();
        Ok(())
    }

    async fn join(&mut self, topics: &[&str]) {
        self.try_join(join(topics)).await.expect("it can join");
    }

    async fn try_join(&mut self, join: v1::Join) -> Result<(), Status> {
        self.send(v1::HeartbeatRequest { join: Some(join), ..self.request() }).await
    }

    /// A heartbeat that says nothing of what it reads.
    async fn beat(&mut self) {
        self.try_beat().await.expect("it is a member");
    }

    async fn try_beat(&mut self) -> Result<(), Status> {
        self.send(self.request()).await
    }

    /// Says that it reads these and nothing else.
    async fn read_only(&mut self, places: &Places) {
        let request = v1::HeartbeatRequest { owned: Some(owned(places)), ..self.request() };
        self.send(request).await.expect("it is a member");
    }

    /// Hears what it is assigned, and stops reading all else.
    async fn settle(&mut self) {
        self.beat().await;
        self.read_only(&self.places()).await;
    }

    async fn leave(&mut self) {
        let request = v1::HeartbeatRequest { leave: true, ..self.request() };
        self.send(request).await.expect("whoever goes may go");
    }

    /// What it was assigned last.
    fn places(&self) -> Places {
        places_of(&self.said)
    }

    /// What it waits for, and whom, as `topic/partition member`.
    fn awaited(&self) -> Places {
        let awaited = self.said.awaited.iter();
        awaited.map(|it| format!("{}/{} {}", it.topic, it.partition, it.member_id)).collect()
    }

    /// Its assignment of a place.
    #[track_caller]
    fn assignment(&self, place: &str) -> v1::AssignedPartition {
        let mut all = self.said.partitions.iter();
        let found = all.find(|it| place == format!("{}/{}", it.topic, it.partition));
        found.unwrap_or_else(|| panic!("{} has no {place}: {:?}", self.id, self.said)).clone()
    }

    /// Commits an offset of a place that it was assigned, under that assignment.
    async fn commit(&self, place: &str, offset: u64) -> Option<v1::Error> {
        let epoch = self.assignment(place).epoch;
        self.commit_as(v1::OffsetCommit { epoch, ..commit_of(place, offset) }).await
    }

    /// Commits one offset.
    async fn commit_as(&self, commit: v1::OffsetCommit) -> Option<v1::Error> {
        let committed = commit_all(&self.door, &self.group, &self.id, vec![commit]).await;
        committed.expect("it answers").remove(0).error
    }

    /// How it reads a place for the group.
    fn reader(&self, place: &str) -> v1::GroupReader {
        v1::GroupReader {
            group: self.group.clone(),
            member_id: self.id.clone(),
            epoch: self.assignment(place).epoch,
            from_committed: true,
        }
    }
}

impl Line {
    /// Opens a member's stream. It goes on with what the member has.
    async fn open(member: &Member) -> Self {
        let (requests, receiver) = unbounded_channel();
        let stream = UnboundedReceiverStream::new(receiver);
        let answer = soon(groups(&member.door).membership(stream)).await.expect("it answers");
        Self { requests, answers: answer.into_inner() }
    }

    /// Joins on a stream; the first answer is there.
    async fn joined(member: &Member, topics: &[&str]) -> (Self, v1::HeartbeatResponse) {
        let mut line = Self::open(member).await;
        line.say(v1::HeartbeatRequest { join: Some(join(topics)), number: 1, ..member.request() });
        let first = line.next().await;
        assert_eq!(first.number, 1, "{first:?}");
        (line, first)
    }

    fn say(&self, request: v1::HeartbeatRequest) {
        let request = v1::MembershipRequest { heartbeat: Some(request) };
        self.requests.send(request).expect("the stream is open");
    }

    async fn try_next(&mut self) -> Result<Option<v1::HeartbeatResponse>, Status> {
        let answer = soon(self.answers.message()).await?;
        Ok(answer.map(|answer| answer.heartbeat.expect("a heartbeat's answer")))
    }

    async fn next(&mut self) -> v1::HeartbeatResponse {
        self.try_next().await.expect("no error").expect("the stream goes on")
    }

    /// What is said without having been asked for.
    async fn pushed(&mut self) -> v1::HeartbeatResponse {
        let answer = self.next().await;
        assert_eq!(answer.number, 0, "{answer:?}");
        answer
    }

    /// Waits until it is told that it has exactly these.
    async fn pushed_places(&mut self, expected: &[&str]) -> v1::HeartbeatResponse {
        let expected = places(expected);
        loop {
            let answer = self.pushed().await;
            if places_of(&answer) == expected {
                return answer;
            }
        }
    }

    /// How it ends.
    async fn refusal(&mut self) -> Status {
        loop {
            match self.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ends without a word"),
                Err(status) => return status,
            }
        }
    }
}

fn groups(door: &Door) -> GroupServiceClient<Channel> {
    GroupServiceClient::new(door.channel.clone()).max_decoding_message_size(128 << 20)
}

/// Reads these topics, in a session that does not end.
fn join(topics: &[&str]) -> v1::Join {
    let topics = topics.iter().map(|it| (*it).to_owned()).collect();
    v1::Join { topics, session_timeout_ms: LONG_MS, ..Default::default() }
}

/// The same in a session that ends soon.
fn join_shortly(topics: &[&str]) -> v1::Join {
    v1::Join { session_timeout_ms: SHORT_MS, ..join(topics) }
}

fn places(names: &[&str]) -> Places {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn places_of(answer: &v1::HeartbeatResponse) -> Places {
    answer.partitions.iter().map(|it| format!("{}/{}", it.topic, it.partition)).collect()
}

/// The topic and the number of a place.
#[track_caller]
fn split(place: &str) -> (String, u32) {
    let (topic, partition) = place.split_once('/').expect("a place");
    (topic.to_owned(), partition.parse().expect("a number"))
}

fn owned(places: &Places) -> v1::Owned {
    let partition = |place: &String| {
        let (topic, partition) = split(place);
        v1::TopicPartition { topic, partition }
    };
    v1::Owned { partitions: places.iter().map(partition).collect() }
}

/// A commit without an epoch.
fn commit_of(place: &str, offset: u64) -> v1::OffsetCommit {
    let (topic, partition) = split(place);
    v1::OffsetCommit { topic, partition, offset, ..Default::default() }
}

async fn commit_all(
    door: &Door,
    group: &str,
    member: &str,
    offsets: Vec<v1::OffsetCommit>,
) -> Result<Vec<v1::CommitResult>, Status> {
    let (group, member_id, count) = (group.to_owned(), member.to_owned(), offsets.len());
    let request = v1::CommitOffsetsRequest { group, member_id, offsets };
    let results = soon(groups(door).commit_offsets(request)).await?.into_inner().results;
    assert_eq!(results.len(), count, "a result per offset");
    Ok(results)
}

/// Commits from outside of group `g`.
async fn commit_outside(door: &Door, place: &str, offset: u64) {
    let results = commit_all(door, "g", "", vec![commit_of(place, offset)]).await;
    assert_eq!(results.expect("it answers").remove(0).error, None);
}

/// What a group has committed.
async fn committed(door: &Door, group: &str) -> Result<Vec<v1::CommittedOffset>, Status> {
    let request = v1::GetOffsetsRequest { group: group.to_owned(), partitions: Vec::new() };
    Ok(soon(groups(door).get_offsets(request)).await?.into_inner().offsets)
}

/// What group `g` has committed of a place.
async fn offset(door: &Door, place: &str) -> Option<u64> {
    let offsets = committed(door, "g").await.expect("it answers");
    let found = offsets.iter().find(|it| place == format!("{}/{}", it.topic, it.partition));
    found.map(|it| it.offset)
}

async fn describe(door: &Door, group: &str) -> Result<v1::DescribeGroupResponse, Status> {
    let request = v1::DescribeGroupRequest { group: group.to_owned() };
    Ok(soon(groups(door).describe_group(request)).await?.into_inner())
}

/// Where group `g` stands in a place.
async fn stand(door: &Door, place: &str) -> v1::GroupPartition {
    let described = describe(door, "g").await.expect("there is such a group");
    let mut all = described.partitions.into_iter();
    all.find(|it| place == format!("{}/{}", it.topic, it.partition)).expect("it is listed")
}

/// Subscribes a place for a group from the first record on, as subscription `number`.
fn read_for(feed: &Feed, number: u64, place: &str, reader: v1::GroupReader) {
    let (topic, partition) = split(place);
    let subscribe = crate::pipe::subscribe(number, &topic, partition, crate::pipe::EARLIEST);
    let subscribe = v1::Subscribe { reader: Some(reader), ..subscribe };
    feed.say(v1::consume_request::Command::Subscribe(subscribe));
}

/// Asks again until it is so.
#[track_caller]
fn until(mut is_so: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    soon(async move {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// Ends a broker without a word, and starts one on the same data, with a door to it.
async fn kill_and_start(broker: Broker) -> (Broker, Door) {
    let home: Home = broker.home.clone();
    drop(broker);
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    (broker, door)
}

/// A broker with topic `t` of so many partitions.
async fn given(partitions: u32) -> (Broker, Door) {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", partitions).await;
    (broker, door)
}
