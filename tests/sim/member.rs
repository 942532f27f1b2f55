//! Members of a consumer group: they join, stay, fall silent, crash and leave, read nothing, and commit
//! what they might have read. Two of them never have one partition, each by its own clock; and what was
//! committed last is what there is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use taffrail_broker::{
    Assignment, Broker, GroupError, GroupRefusal, Heartbeat, Join, OffsetCommit, Position,
};
use taffrail_model::PartitionIndex;
use tokio::time::sleep;

use crate::refusals::{check_fetch, check_produce};
use crate::world::World;

const GROUP: &str = "workers";

/// The shortest session that there is.
const SESSION: Duration = Duration::from_millis(500);

/// A partition of a topic, by the topic's id.
type Slot = (String, u32);

/// Who is in the group, between and during the broker's lives.
pub(crate) struct Member {
    number: u32,
    /// The last epoch that it has heard of; 0: it is no member, as far as it knows.
    epoch: u32,
    /// When its session may be over, by the world's time.
    session_ends: Duration,
    held: BTreeMap<Slot, Held>,
}

/// A partition that a member reads.
#[derive(Clone, Debug)]
struct Held {
    topic: String,
    epoch: u32,
}

/// What is known of all members together.
#[derive(Default)]
pub(crate) struct Group {
    /// Who reads a partition, and until when at the latest.
    readers: BTreeMap<Slot, (u32, Duration)>,
    committed: BTreeMap<Slot, Committed>,
}

/// What was committed of a partition.
#[derive(Clone, Debug, Default)]
struct Committed {
    known: Option<u64>,
    /// What was committed since, and not answered.
    maybe: Vec<u64>,
    /// All that anybody ever wanted to commit.
    asked: Vec<u64>,
}

impl Member {
    pub(crate) fn new(world: &World) -> Rc<RefCell<Self>> {
        let (epoch, session_ends, held) = (0, Duration::ZERO, BTreeMap::new());
        Rc::new(RefCell::new(Self { number: world.number(), epoch, session_ends, held }))
    }

    fn name(&self) -> String {
        format!("m{}", self.number)
    }

    fn owned(&self) -> Vec<(String, PartitionIndex)> {
        let held = self.held.iter();
        held.map(|((_, index), held)| (held.topic.clone(), PartitionIndex::new(*index))).collect()
    }

    fn lives(&self, world: &World) -> bool {
        world.time() < self.session_ends
    }

    /// It reads nothing any more.
    fn forget(&mut self, world: &World) {
        let readers = &mut world.group.borrow_mut().readers;
        for (slot, _) in std::mem::take(&mut self.held) {
            stop(readers, &slot, self.number);
        }
        self.epoch = 0;
        self.session_ends = Duration::ZERO;
    }

    /// Another process, which is a member of its own.
    fn begin_anew(&mut self, world: &World) {
        self.forget(world);
        self.number = world.number();
    }

    /// Takes note of what it may read, of a heartbeat that was sent then.
    fn take(&mut self, world: &World, sent: Duration, assignment: Assignment) {
        self.epoch = assignment.epoch;
        self.session_ends = self.session_ends.max(sent + SESSION);
        let mut group = world.group.borrow_mut();
        let mut held = BTreeMap::new();
        for it in assignment.partitions {
            let slot = (it.topic_id, it.partition.get());
            let reader = group.readers.get(&slot).copied();
            if let Some((other, until)) = reader.filter(|(other, _)| *other != self.number) {
                assert!(
                    until <= world.time(),
                    "{slot:?} is {}'s, and {other}'s still",
                    self.number
                );
            }
            group.readers.insert(slot.clone(), (self.number, self.session_ends));
            held.insert(slot, Held { topic: it.topic, epoch: it.epoch });
        }
        for (slot, _) in std::mem::replace(&mut self.held, held) {
            if !self.held.contains_key(&slot) {
                stop(&mut group.readers, &slot, self.number);
            }
        }
    }
}

fn stop(readers: &mut BTreeMap<Slot, (u32, Duration)>, slot: &Slot, number: u32) {
    if readers.get(slot).is_some_and(|(reader, _)| *reader == number) {
        readers.remove(slot);
    }
}

/// Lives as long as the broker does.
pub(crate) async fn live(world: Rc<World>, broker: Arc<Broker>, member: Rc<RefCell<Member>>) {
    loop {
        world.moment().await;
        let over = {
            let member = member.borrow();
            member.epoch > 0 && !member.lives(&world)
        };
        if over {
            // It has given up all that it read; the broker may not know yet.
            member.borrow_mut().begin_anew(&world);
            world.reach("sessions that ended");
        }
        match world.dice.below(40) {
            0 if !world.is_closing.get() => {
                // Killed: the broker thinks that it lives.
                member.borrow_mut().begin_anew(&world);
                world.reach("members that crashed");
            }
            1 if !world.is_closing.get() => leave(&world, &broker, &member).await,
            2 if !world.is_closing.get() => {
                sleep(Duration::from_millis(world.dice.below(1_000))).await;
            }
            3..25 => commit(&world, &broker, &member).await,
            _ => beat(&world, &broker, &member).await,
        }
        sleep(Duration::from_millis(world.dice.below(40))).await;
    }
}

fn heartbeat(member: &Member, leave: bool) -> Heartbeat {
    let join = (member.epoch == 0).then(|| Join {
        topics: vec!["*".to_owned()],
        session_timeout: Some(SESSION),
        ..Join::default()
    });
    Heartbeat {
        group: GROUP.to_owned(),
        member: member.name(),
        epoch: member.epoch,
        owned: Some(member.owned()),
        join,
        leave,
        ..Heartbeat::default()
    }
}

async fn beat(world: &World, broker: &Broker, member: &RefCell<Member>) {
    let (sent, said, number) = {
        let member = member.borrow();
        (world.time(), heartbeat(&member, false), member.number)
    };
    let answer = broker.heartbeat(said).await;
    let mut member = member.borrow_mut();
    if member.number != number {
        return;
    }
    match answer {
        // Too late to be gone by: nobody knows what has happened since.
        Ok(_) if sent + SESSION <= world.time() => {}
        Ok(assignment) => {
            world.reach("heartbeats");
            member.take(world, sent, assignment);
        }
        Err(GroupError::Refused(GroupRefusal::UnknownMember { .. })) => {
            assert!(!member.lives(world), "{} is a member still", member.name());
            member.begin_anew(world);
        }
        Err(error) => check(world, &error),
    }
}

async fn leave(world: &World, broker: &Broker, member: &RefCell<Member>) {
    let said = {
        let mut member = member.borrow_mut();
        if member.epoch == 0 {
            return;
        }
        let said = heartbeat(&member, true);
        member.begin_anew(world);
        said
    };
    match broker.heartbeat(said).await {
        Ok(_) => world.reach("members that left"),
        Err(error) => check(world, &error),
    }
}

/// Commits an offset of a partition that it reads, after it has looked at what is committed.
async fn commit(world: &World, broker: &Broker, member: &RefCell<Member>) {
    let (name, number, held) = {
        let member = member.borrow();
        let held: Vec<_> = member.held.clone().into_iter().collect();
        (member.name(), member.number, held)
    };
    let Some((slot, Held { topic, epoch })) = world.dice.pick(&held).cloned() else { return };
    let (place, index) = ((topic.clone(), slot.1), PartitionIndex::new(slot.1));
    if world.dice.once_in(2) {
        look(world, broker, &slot, &place).await;
    }
    let end = match broker.find_offset(&topic, index, Position::Latest).await {
        Ok(found) => found.high_watermark,
        Err(error) => return check_fetch(world, &place, &error),
    };
    if !(member.borrow().number == number && member.borrow().lives(world)) {
        return;
    }
    let offset = taffrail_model::Offset::new(world.dice.below(end.get() + 1));
    // Whatever becomes of it, it may be there.
    {
        let mut group = world.group.borrow_mut();
        let committed = group.committed.entry(slot.clone()).or_default();
        committed.maybe.push(offset.get());
        committed.asked.push(offset.get());
    }
    let commit = OffsetCommit {
        topic,
        topic_id: slot.0.clone(),
        partition: index,
        offset,
        epoch,
        ..OffsetCommit::default()
    };
    let result = broker.commit_offsets(GROUP, &name, vec![commit]).await;
    let result = result.and_then(|results| results.into_iter().next().expect("a result"));
    let is_ours = {
        let member = member.borrow();
        let has = member.held.get(&slot).is_some_and(|held| held.epoch == epoch);
        member.number == number && has && member.lives(world)
    };
    let mut group = world.group.borrow_mut();
    let committed = group.committed.entry(slot.clone()).or_default();
    match result {
        Ok(()) => {
            world.reach("commits");
            (committed.known, committed.maybe) = (Some(offset.get()), Vec::new());
        }
        Err(error) => {
            let is_refused =
                matches!(error, GroupError::Refused(_) | GroupError::OtherTopic { .. });
            if is_refused {
                committed.maybe.retain(|maybe| *maybe != offset.get());
                let is_stale = matches!(error, GroupError::Refused(_));
                assert!(!(is_stale && is_ours), "{slot:?} is {name}'s: {error}");
                world.reach("stale commits");
                return;
            }
            drop(group);
            match &error {
                GroupError::Partition(error) => check_fetch(world, &place, error),
                error => check(world, error),
            }
        }
    }
}

/// What is committed is what was committed last.
async fn look(world: &World, broker: &Broker, slot: &Slot, place: &(String, u32)) {
    let partitions = [(place.0.clone(), PartitionIndex::new(place.1))];
    let before = world.group.borrow().committed.get(slot).cloned().unwrap_or_default();
    let found = match broker.committed_offsets(GROUP, &partitions).await {
        Ok(found) => found,
        Err(error) => return check(world, &error),
    };
    let after = world.group.borrow().committed.get(slot).cloned().unwrap_or_default();
    let found = found.into_iter().find(|it| it.topic_id == slot.0).map(|it| it.offset.get());
    // Whoever has the partition may have committed meanwhile.
    let is_known = [&before, &after]
        .iter()
        .any(|it| found == it.known || found.is_some_and(|found| it.maybe.contains(&found)));
    let is_there = world.is_there(&place.0);
    assert!(is_known || !is_there, "{slot:?}: {found:?}, {before:?}, {after:?}");
    world.reach("committed offsets read back");
}

/// What was committed at a time, of all partitions.
#[derive(Clone, Debug)]
pub(crate) struct Commits(BTreeMap<Slot, Committed>);

/// What is committed now, as far as anybody knows.
pub(crate) fn commits(world: &World) -> Commits {
    Commits(world.group.borrow().committed.clone())
}

/// A backup has what was committed when it began, or what was since, and nothing that its logs lack.
pub(crate) async fn check_backup(
    world: &World,
    broker: &Broker,
    place: &(String, u32),
    end: u64,
    Commits(before): &Commits,
) {
    let described = broker.describe_topic(&place.0).expect("it was read");
    let slot = (described.topic.id.to_string(), place.1);
    let partitions = [(place.0.clone(), PartitionIndex::new(place.1))];
    let found = match broker.committed_offsets(GROUP, &partitions).await {
        Ok(found) => found.into_iter().find(|it| it.topic_id == slot.0).map(|it| it.offset.get()),
        Err(GroupError::Refused(GroupRefusal::UnknownGroup { .. })) => None,
        Err(error) => panic!("{error}"),
    };
    let before = before.get(&slot).cloned().unwrap_or_default();
    let group = world.group.borrow();
    let asked = group.committed.get(&slot).map(|it| &it.asked[before.asked.len()..]);
    let since = asked.unwrap_or_default();
    let is_known = found == before.known
        || found.is_some_and(|found| before.maybe.contains(&found) || since.contains(&found));
    assert!(is_known, "{slot:?}: {found:?} is committed, {before:?}, {since:?}");
    assert!(found <= Some(end), "{slot:?}: {found:?} is committed of {end}");
    if found.is_some() {
        world.reach("commits in backups");
    }
}

/// In the end every partition has an owner, and nobody waits.
pub(crate) async fn settle(world: &World, broker: &Broker) {
    loop {
        sleep(SESSION / 5).await;
        let Ok(group) = broker.describe_group(GROUP).await else { return };
        let of_ours = |topic: &str| world.is_there(topic);
        let partitions: Vec<_> = group.partitions.iter().filter(|it| of_ours(&it.topic)).collect();
        let is_owned = |place: &(String, u32)| {
            partitions.iter().any(|it| {
                it.topic == place.0
                    && it.partition.get() == place.1
                    && it.owner.is_some()
                    && it.next_owner.is_none()
            })
        };
        let counts = group.members.iter().map(|member| member.partitions);
        let spread = counts.clone().max().zip(counts.min()).map_or(0, |(max, min)| max - min);
        if world.places().iter().all(is_owned) && spread <= 1 {
            world.reach("groups that settled");
            return;
        }
    }
}

/// Checks why somebody was refused.
fn check(world: &World, error: &GroupError) {
    let place = ("__groups".to_owned(), 0);
    match error {
        GroupError::Storage(error) => check_produce(world, &place, error),
        GroupError::Damaged { .. } => assert!(world.is_faulty.get(), "{error}"),
        // Nobody has ever joined it.
        GroupError::Refused(
            GroupRefusal::UnknownGroup { .. } | GroupRefusal::UnknownMember { .. },
        ) => {}
        error => panic!("{error}"),
    }
}
