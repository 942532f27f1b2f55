//! Heartbeats: how members join, stay and leave, and hear what they are to read.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use taffrail_model::{PartitionIndex, limits};
use tokio::sync::{mpsc, watch};

use super::catalogue::is_pattern;
use super::command::CommandKind;
use super::event::{Profile, Slot};
use super::sessions::Key;
use super::state::View;
use super::{Assignor, GroupError, GroupRefusal, Groups, check_name, key};
use crate::clock;
use crate::shared::Shared;

/// Heartbeats in a session.
const HEARTBEATS: u32 = 3;

/// Time between two looks for groups that nobody uses: their retention, but for these bounds.
const EXPIRY_INTERVALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(600)];

/// Whoever wakes up this late has slept: a process that was paused.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// A sign of life of a member.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    /// The group.
    pub group: String,
    /// Who lives.
    pub member: String,
    /// Its instance; empty: none.
    pub instance: String,
    /// What it says of itself, if it joins or has something new to say.
    pub join: Option<Join>,
    /// The last epoch that it has heard of; 0: none yet.
    pub epoch: u32,
    /// What it reads; `None`: it does not say.
    pub owned: Option<Vec<(String, PartitionIndex)>>,
    /// Whether it leaves.
    pub leave: bool,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default)]
pub struct Join {
    /// Topics to read, and patterns of their names.
    pub topics: Vec<String>,
    /// How long it may be silent; `None`: the default.
    pub session_timeout: Option<Duration>,
    /// How the group shares its partitions from now on; `None`: as it does.
    pub assignor: Option<Assignor>,
    /// For people: who it is.
    pub client: String,
}

/// What a member is to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The group's epoch.
    pub epoch: u32,
    /// What it may read.
    pub partitions: Vec<AssignedPartition>,
    /// What is to be its, once others have stopped.
    pub awaited: Vec<AwaitedPartition>,
    /// How long it may be silent.
    pub session_timeout: Duration,
}

/// A partition that a member may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedPartition {
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// The epoch in which it was assigned.
    pub epoch: u32,
}

/// A partition that a member waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// Who owns it still.
    pub owner: String,
}

impl Assignment {
    /// When to send the next heartbeat.
    pub fn heartbeat_interval(&self) -> Duration {
        self.session_timeout / HEARTBEATS
    }
}

/// Takes a sign of life, and says what the member is to read.
pub(crate) async fn heartbeat(
    shared: &Shared,
    heartbeat: Heartbeat,
) -> Result<Assignment, GroupError> {
    let (key, groups) = (parse(&heartbeat)?, &shared.groups);
    if heartbeat.leave {
        groups.leave(shared, &key).await?;
        return Ok(Assignment::default());
    }
    match &heartbeat.join {
        Some(join) => groups.join(shared, &key, &heartbeat, join).await?,
        None => groups.extend(&key, &heartbeat.instance).await?,
    }
    if let Some(owned) = &heartbeat.owned {
        groups.release(shared, &key, heartbeat.epoch, owned).await?;
    }
    let view = groups.view(&key, &heartbeat.instance).await?;
    groups.assignment(&key, view)
}

fn parse(heartbeat: &Heartbeat) -> Result<Key, GroupError> {
    check_name(&heartbeat.group)?;
    let max = limits::MEMBER_ID_BYTES_MAX;
    if !(1..=max).contains(&heartbeat.member.len()) {
        return Err(GroupError::Request(format!(
            "member_id has {} bytes: give the member a random name of 1 to {max}",
            heartbeat.member.len()
        )));
    }
    if heartbeat.instance.len() > max {
        let found = heartbeat.instance.len();
        return Err(GroupError::Request(format!("instance_id has {found} bytes, not 1 to {max}")));
    }
    Ok(key(&heartbeat.group, &heartbeat.member))
}

/// What a member says of itself, once it is found to make sense.
fn profile(instance: &str, join: &Join) -> Result<Profile, GroupError> {
    let max = limits::GROUP_TOPICS_MAX;
    if !(1..=max).contains(&join.topics.len()) {
        let found = join.topics.len();
        return Err(GroupError::Request(format!("{found} topics are named: name 1 to {max}")));
    }
    let max = limits::TOPIC_NAME_BYTES_MAX;
    if join.topics.iter().any(|topic| topic.len() > max) {
        return Err(GroupError::Request(format!("a topic or pattern has more than {max} bytes")));
    }
    if join.client.len() > limits::MEMBER_ID_BYTES_MAX {
        let max = limits::MEMBER_ID_BYTES_MAX;
        return Err(GroupError::Request(format!("client_id has more than {max} bytes")));
    }
    let timeout = join.session_timeout.unwrap_or(limits::SESSION_TIMEOUT_DEFAULT);
    let range = limits::SESSION_TIMEOUT_FLOOR..=limits::SESSION_TIMEOUT_MAX;
    if !range.contains(&timeout) {
        let (least, most) = (range.start().as_millis(), range.end().as_millis());
        return Err(GroupError::Request(format!(
            "session_timeout_ms is {}: give {least} to {most}",
            timeout.as_millis()
        )));
    }
    let topics: BTreeSet<_> = join.topics.iter().cloned().collect();
    Ok(Profile {
        topics: topics.into_iter().collect(),
        instance: instance.to_owned(),
        client: join.client.clone(),
        session_ms: timeout.as_millis() as u32,
    })
}

/// Refuses topics that there are not.
fn check_topics(shared: &Shared, profile: &Profile) -> Result<(), GroupError> {
    for topic in profile.topics.iter().filter(|topic| !is_pattern(topic)) {
        super::partition(shared, topic, PartitionIndex::new(0))?;
    }
    Ok(())
}

impl Groups {
    /// Lets a member's session go on.
    async fn extend(&self, key: &Key, instance: &str) -> Result<(), GroupError> {
        if self.sessions.extend(key).is_ok() {
            return Ok(());
        }
        // The group may know why; and if it does not know yet that the member is gone, it is all the same.
        self.view(key, instance).await?;
        Err(unknown(key).into())
    }

    async fn join(
        self: &Arc<Self>,
        shared: &Shared,
        key: &Key,
        heartbeat: &Heartbeat,
        join: &Join,
    ) -> Result<(), GroupError> {
        let profile = profile(&heartbeat.instance, join)?;
        let was_there = self.sessions.silence(key).is_some();
        let is_known = self.sessions.begin(key, &profile).map_err(|_| unknown(key))?;
        if is_known && join.assignor.is_none() {
            return Ok(());
        }
        let joined = self.join_as(shared, key, heartbeat, &profile, is_known).await;
        match &joined {
            Ok(()) => self.sessions.confirm(key, &profile),
            Err(_) if !was_there => self.sessions.remove(key),
            Err(_) => {}
        }
        joined
    }

    async fn join_as(
        self: &Arc<Self>,
        shared: &Shared,
        key: &Key,
        heartbeat: &Heartbeat,
        profile: &Profile,
        is_known: bool,
    ) -> Result<(), GroupError> {
        if !is_known {
            // Somebody who comes back may read a topic that is gone.
            check_topics(shared, profile)?;
        }
        let assignor = heartbeat.join.as_ref().and_then(|join| join.assignor);
        let (member, is_back) = (key.member.to_string(), heartbeat.epoch > 0);
        let kind = CommandKind::Join { member, profile: profile.clone(), assignor, is_back };
        self.ask(&key.group, kind, shared.now()).await.map(drop)
    }

    async fn leave(self: &Arc<Self>, shared: &Shared, key: &Key) -> Result<(), GroupError> {
        self.sessions.end(key);
        let leave = CommandKind::Leave { member: key.member.to_string() };
        match self.ask(&key.group, leave, shared.now()).await {
            // It is gone, and that was asked for.
            Ok(_) | Err(GroupError::Refused(_)) => {
                self.sessions.remove(key);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes note of what a member has stopped reading.
    async fn release(
        self: &Arc<Self>,
        shared: &Shared,
        key: &Key,
        epoch: u32,
        owned: &[(String, PartitionIndex)],
    ) -> Result<(), GroupError> {
        let topics = self.topics.load();
        let slot = |(topic, partition): &(String, PartitionIndex)| topics.slot(topic, *partition);
        let kept: BTreeSet<Slot> = owned.iter().filter_map(slot).collect();
        let has_released = self.look(|registry| {
            let group = registry.get(&key.group);
            group.is_some_and(|group| !group.releasable(&key.member, epoch, &kept).is_empty())
        });
        if has_released.await? {
            let member = key.member.to_string();
            let release = CommandKind::Release { member, epoch, kept };
            self.ask(&key.group, release, shared.now()).await?;
        }
        Ok(())
    }

    /// A view as the member is told it.
    fn assignment(&self, key: &Key, view: View) -> Result<Assignment, GroupError> {
        let topics = self.topics.load();
        let session_timeout = self.sessions.timeout(key).ok_or_else(|| unknown(key))?;
        let named = |slot: Slot| {
            let (id, partition) = slot.0.split();
            topics.name(slot).map(|topic| (topic.clone(), id, partition))
        };
        let assigned = view.assigned.into_iter().filter_map(|(slot, epoch)| {
            let (topic, id, partition) = named(slot)?;
            Some(AssignedPartition { topic, topic_id: id.to_string(), partition, epoch })
        });
        let awaited = view.awaited.into_iter().filter_map(|(slot, owner)| {
            let (topic, _, partition) = named(slot)?;
            Some(AwaitedPartition { topic, partition, owner })
        });
        Ok(Assignment {
            epoch: view.epoch,
            partitions: assigned.collect(),
            awaited: awaited.collect(),
            session_timeout,
        })
    }
}

fn unknown(key: &Key) -> GroupRefusal {
    let (group, member) = (key.group.to_string(), key.member.to_string());
    GroupRefusal::UnknownMember { group, member }
}

/// One member's stream of heartbeats.
pub struct MemberStream {
    shared: Arc<Shared>,
    /// What was said last.
    said: Option<Assignment>,
    member: Option<Member>,
}

/// Whose stream it is.
struct Member {
    key: Key,
    instance: String,
    changes: Option<watch::Receiver<()>>,
}

impl MemberStream {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, said: None, member: None }
    }

    /// Answers heartbeats, each with its number, and says what has changed in between, with the number
    /// 0; until the stream ends, the member is none any more, or the broker stops.
    pub async fn run(
        mut self,
        mut heartbeats: mpsc::Receiver<(u64, Heartbeat)>,
        answers: mpsc::Sender<Result<(u64, Assignment), GroupError>>,
    ) {
        let shared = Arc::clone(&self.shared);
        loop {
            let answer = tokio::select! {
                biased;
                () = shared.stopping() => return,
                heartbeat = heartbeats.recv() => match heartbeat {
                    Some((number, heartbeat)) => {
                        self.hear(heartbeat).await.map(|said| Some((number, said)))
                    }
                    None => return,
                },
                () = changed(self.member.as_mut()) => self.news().await,
            };
            let answer = match answer {
                Ok(None) => continue,
                Ok(Some(answer)) => Ok(answer),
                Err(error) => Err(error),
            };
            let is_over = answer.is_err();
            if answers.send(answer).await.is_err() || is_over {
                return;
            }
        }
    }

    async fn hear(&mut self, heard: Heartbeat) -> Result<Assignment, GroupError> {
        let (key, instance, leaves) = (parse(&heard)?, heard.instance.clone(), heard.leave);
        if self.member.as_ref().is_some_and(|member| member.key != key) {
            return Err(GroupError::Request("a stream is one member's: open another one".into()));
        }
        let said = heartbeat(&self.shared, heard).await?;
        if leaves {
            self.member = None;
        } else if self.member.as_ref().is_none_or(|member| member.changes.is_none()) {
            let changes = self.shared.groups.sessions.watch(&key);
            self.member = Some(Member { key, instance, changes });
            // It may have changed before anybody listened.
            return self.look().await;
        }
        self.said = Some(said.clone());
        Ok(said)
    }

    /// What has changed, if that is worth telling.
    async fn news(&mut self) -> Result<Option<(u64, Assignment)>, GroupError> {
        let before = self.said.clone();
        let now = self.look().await?;
        Ok((before.as_ref() != Some(&now)).then_some((0, now)))
    }

    async fn look(&mut self) -> Result<Assignment, GroupError> {
        let Some(Member { key, instance, .. }) = &self.member else {
            return Ok(Assignment::default());
        };
        let groups = &self.shared.groups;
        let said = groups.assignment(key, groups.view(key, instance).await?)?;
        self.said = Some(said.clone());
        Ok(said)
    }
}

/// Returns when something has changed for a member, or its session is gone.
async fn changed(member: Option<&mut Member>) {
    let Some(member) = member else { return std::future::pending().await };
    match &mut member.changes {
        // The session is gone: whoever looks hears why, and at the next heartbeat there may be another.
        Some(changes) => {
            if changes.changed().await.is_err() {
                member.changes = None;
            }
        }
        None => std::future::pending().await,
    }
}

/// Takes those out of their groups who were silent for too long, and forgets groups that nobody uses, as
/// long as there is a broker.
pub(crate) async fn end_sessions(shared: Weak<Shared>) {
    let Some(broker) = shared.upgrade() else { return };
    // The broker itself is not held: it may go away meanwhile.
    let (sessions, mut stopping) = (Arc::clone(&broker.groups.sessions), pin!(broker.stop()));
    // Not at once: a clock that is wrong may be set, and whoever was away comes back.
    let mut expiry = clock::instant() + expiry_interval(&broker);
    drop(broker);
    loop {
        let due = sessions.next_look().map_or(expiry, |look| look.min(expiry));
        // What was due before took long itself.
        let due = due.max(clock::instant());
        tokio::select! {
            biased;
            () = &mut stopping => return,
            () = sessions.wait_until(due) => {}
        }
        let Some(broker) = shared.upgrade() else { return };
        if clock::instant() > due + OVERSLEPT {
            tracing::warn!(
                "the broker was held up: every member's session gets its full time anew"
            );
            sessions.renew_all();
        }
        let over = sessions.end_overdue();
        let ends = over.iter().map(|key| end_session(&broker, key));
        futures_util::future::join_all(ends).await;
        if expiry <= clock::instant() {
            expire(&broker).await;
            expiry = clock::instant() + expiry_interval(&broker);
        }
    }
}

async fn end_session(shared: &Shared, key: &Key) {
    let (group, member) = (&*key.group, &*key.member);
    tracing::info!(group, member, "a member was silent for too long: it is none any more");
    if let Err(error) = shared.groups.leave(shared, key).await {
        tracing::warn!(group, member, %error, "that a member is gone could not be stored; retrying");
    }
}

/// Forgets groups that nobody uses, if that is wanted.
async fn expire(shared: &Shared) {
    let retention = shared.config.group_retention;
    if !retention.is_zero() {
        let now = shared.now();
        shared.groups.expire(now.minus(retention), now).await;
    }
    shared.groups.tidy().await;
}

fn expiry_interval(shared: &Shared) -> Duration {
    let (retention, [least, most]) = (shared.config.group_retention, EXPIRY_INTERVALS);
    if retention.is_zero() { most } else { retention.clamp(least, most) }
}
