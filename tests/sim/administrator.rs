//! Creates, grows, alters and deletes topics, and knows which ones must be there; deletes records, and
//! knows where partitions may begin; opens what fails anew; makes backups.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use taffrail_broker::{
    Broker, CatalogError, DeleteRecordsError, PartitionDescription, PartitionStatus, ProduceError,
    TopicDescription,
};
use taffrail_model::{Offset, PartitionIndex};
use tokio::time::sleep;

use crate::backup::back_up;
use crate::history::Event;
use crate::producer::place_of;
use crate::refusals::check_produce;
use crate::world::{State, Topic, World};

/// What retention is told to keep by size, and how much that is.
const SIZES: [(&str, Option<u64>); 4] = [
    ("64KiB", Some(64 << 10)),
    ("100KiB", Some(100 << 10)),
    ("200KiB", Some(200 << 10)),
    ("none", None),
];

/// What retention is told to keep by time, and how long that is.
const AGES: [(&str, Option<u64>); 4] =
    [("1s", Some(1_000)), ("2s", Some(2_000)), ("3s", Some(3_000)), ("none", None)];

/// Topics that there are at a time.
const TOPICS_MAX: usize = 3;

/// Lives as long as the broker does.
pub(crate) async fn live(world: Rc<World>, broker: Arc<Broker>) {
    loop {
        sleep(Duration::from_millis(world.dice.below(30))).await;
        if world.is_closing.get() {
            continue;
        }
        let there: Vec<_> = {
            let topics = world.topics.borrow();
            let there = topics.iter().filter(|(_, topic)| topic.state == State::There);
            there.map(|(name, _)| name.clone()).collect()
        };
        if world.dice.once_in(4)
            && let Some(place) = world.dice.pick(&sick(&broker))
        {
            reopen(&world, &broker, place).await;
        }
        look(&world, &broker);
        match world.dice.pick(&there) {
            None => create(&world, &broker).await,
            Some(_) if there.len() < TOPICS_MAX && world.dice.once_in(6) => {
                create(&world, &broker).await;
            }
            Some(name) => match world.dice.below(60) {
                0 if there.len() > 1 => delete(&world, &broker, name).await,
                1..4 => grow(&world, &broker, name).await,
                4..12 => alter(&world, &broker, name).await,
                12..16 => delete_records(&world, &broker, name).await,
                16 => back_up(&world, &broker).await,
                _ => {}
            },
        }
    }
}

async fn create(world: &World, broker: &Arc<Broker>) {
    let is_cached = world.dice.once_in(2);
    let name = format!("{}{}", if is_cached { "cached" } else { "synced" }, world.number());
    let partitions = 1 + world.dice.below(2) as u32;
    let is_compacted = world.dice.once_in(3);
    // What is old can only be told by a clock that does not jump.
    let is_aged = world.clock.is_steady && world.dice.once_in(2);
    let state = State::Creating;
    let topic = Topic { partitions, is_cached, is_compacted, is_aged, least: None, state };
    world.topics.borrow_mut().insert(name.clone(), topic);
    let durability = if is_cached { "page_cache" } else { "fsync" };
    let settings = [
        ("durability", durability),
        ("segment.bytes", "64KiB"),
        ("max.batch.bytes", "64KiB"),
        ("cleanup", if is_compacted { "both" } else { "delete" }),
        ("min.cleanable.dirty.ratio", "0.1"),
    ];
    let settings: BTreeMap<_, _> =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let created = broker.create_topic(&name, partitions, settings).await.map(drop);
    world.reach("topics");
    conclude(world, &name, created, State::There, State::Gone);
}

async fn delete(world: &World, broker: &Arc<Broker>, name: &str) {
    set_state(world, name, State::Deleting);
    let deleted = broker.delete_topic(name).await;
    world.reach("deleted topics");
    conclude(world, name, deleted, State::Gone, State::There);
}

async fn grow(world: &World, broker: &Arc<Broker>, name: &str) {
    let wanted = world.topics.borrow().get(name).map_or(0, |topic| topic.partitions) + 1;
    if wanted <= 3
        && let Ok(description) = broker.add_partitions(name, wanted).await
        && let Some(topic) = world.topics.borrow_mut().get_mut(name)
    {
        topic.partitions = description.topic.partitions;
        world.reach("added partitions");
    }
}

async fn alter(world: &World, broker: &Arc<Broker>, name: &str) {
    let dice = &world.dice;
    let is_aged = world.topics.borrow().get(name).is_some_and(|topic| topic.is_aged);
    let (retention, amounts) =
        if is_aged { ("retention.ms", AGES) } else { ("retention.bytes", SIZES) };
    let (setting, value) = match dice.below(14) {
        12.. => ("cleanup", ["delete", "both"][dice.below(2) as usize]),
        0..4 => (retention, amounts[dice.below(4) as usize].0),
        4 => ("durability", ["fsync", "page_cache"][dice.below(2) as usize]),
        5..7 => ("segment.ms", ["1s", "2s", "none"][dice.below(3) as usize]),
        _ => ("segment.bytes", ["64KiB", "100KiB", "200KiB"][dice.below(3) as usize]),
    };
    if value == "page_cache"
        && let Some(topic) = world.topics.borrow_mut().get_mut(name)
    {
        topic.is_cached = true;
    }
    if value == "both"
        && let Some(topic) = world.topics.borrow_mut().get_mut(name)
    {
        topic.is_compacted = true;
    }
    let least = amounts.iter().find(|(name, _)| *name == value).and_then(|(_, amount)| *amount);
    if setting == retention
        && let Some(topic) = world.topics.borrow_mut().get_mut(name)
    {
        // Whether or not it is answered.
        topic.least = topic.least.into_iter().chain(least).min();
    }
    let settings = BTreeMap::from([(setting.to_owned(), value.to_owned())]);
    if broker.alter_topic(name, settings).await.is_ok() {
        world.reach(if setting == "durability" {
            "altered durabilities"
        } else {
            "altered topics"
        });
    }
}

/// Deletes records below an offset, or all that there are.
async fn delete_records(world: &World, broker: &Arc<Broker>, name: &str) {
    let partitions = world.topics.borrow().get(name).map_or(1, |topic| topic.partitions);
    let place = (name.to_owned(), world.dice.below(partitions.into()) as u32);
    let index = PartitionIndex::new(place.1);
    let Ok(described) = broker.describe_topic(name) else { return };
    let end = described.partitions.get(place.1 as usize).map_or(0, |it| it.high_watermark.get());
    // Sometimes all, sometimes one that nobody knows of yet.
    let before = (!world.dice.once_in(4)).then(|| world.dice.below(end + 2));
    {
        let mut starts = world.starts.borrow_mut();
        let start = starts.entry(place.clone()).or_default();
        match before {
            Some(before) => start.asked = start.asked.max(before),
            None => start.asked_for_all = true,
        }
    }
    world.history.note(format!("{place:?}: records below {before:?} are deleted"));
    match broker.delete_records(name, index, before.map(Offset::new)).await {
        Ok(PartitionDescription { log_start, .. }) => {
            world.reach(if before.is_some() { "deleted records" } else { "deletions of all" });
            let start = log_start.get();
            assert!(before.unwrap_or(end) <= start, "{place:?} begins at {start}, not {before:?}");
            world.note_start(&place, start);
            if let Some(known) = world.starts.borrow_mut().get_mut(&place)
                && before.is_none()
            {
                (known.asked, known.asked_for_all) = (known.asked.max(start), false);
            }
        }
        Err(DeleteRecordsError::OutOfRange { .. }) => {
            let is_known = before.is_none_or(|before| before <= end);
            assert!(!is_known || world.is_faulty.get(), "{place:?} has {end} and not {before:?}");
            world.reach("deletions out of range");
        }
        Err(DeleteRecordsError::Partition(error)) => check_produce(world, &place, &error),
        Err(DeleteRecordsError::Storage { cause }) => {
            assert!(world.is_faulty.get(), "{place:?}: {cause}");
            world.reach("deletions that failed");
        }
        Err(DeleteRecordsError::Topic(error)) => {
            assert!(!world.is_there(name), "{place:?}: {error}");
        }
    }
}

/// Looks where all partitions begin.
pub(crate) fn look(world: &World, broker: &Broker) {
    for TopicDescription { topic, partitions } in broker.describe_all() {
        let name = topic.name.to_string();
        if !world.is_there(&name) {
            continue;
        }
        for it in partitions.iter().filter(|it| matches!(it.status, PartitionStatus::Online)) {
            let place = (name.clone(), it.partition.get());
            world.look_at_start(&place, it.log_start.get(), it.size_bytes);
        }
    }
}

/// Partitions that take nothing, or cannot be opened.
fn sick(broker: &Broker) -> Vec<(String, u32)> {
    let mut sick = Vec::new();
    for TopicDescription { topic, partitions } in broker.describe_all() {
        let partitions = partitions.into_iter().filter(|it| {
            matches!(it.status, PartitionStatus::ReadOnly { .. } | PartitionStatus::Offline { .. })
        });
        if !topic.name.is_internal() {
            sick.extend(partitions.map(|it| (topic.name.to_string(), it.partition.get())));
        }
    }
    sick
}

/// Opens the log of a partition anew, and returns where it stands then, if it is still there.
async fn reopen(
    world: &World,
    broker: &Arc<Broker>,
    place: &(String, u32),
) -> Option<PartitionStatus> {
    if world.has_lost.get() && world.is_cached(&place.0) {
        world.history.add(Event::Loss { place: place_of(place) });
    }
    world.history.note(format!("{place:?} is opened anew"));
    let partition = PartitionIndex::new(place.1);
    let before = broker.describe_topic(&place.0).ok();
    let before =
        before.and_then(|it| Some(it.partitions.into_iter().nth(place.1 as usize)?.status));
    match broker.reopen_partition(&place.0, partition).await {
        Ok(PartitionDescription { status, .. }) => {
            let could_be_read = matches!(before, Some(PartitionStatus::ReadOnly { .. }));
            let can_be_read = !matches!(status, PartitionStatus::Offline { .. });
            assert!(can_be_read || !could_be_read, "{place:?} was {before:?}, and is {status:?}");
            world.reach("partitions opened anew");
            Some(status)
        }
        Err(error) => {
            assert!(!world.is_there(&place.0), "{place:?}: {error}");
            None
        }
    }
}

/// Opens all that failed anew, on a disk that does not fail any more: nothing is left that takes
/// nothing.
pub(crate) async fn heal(world: &World, broker: &Arc<Broker>) {
    for place in sick(broker) {
        while let Some(status) = reopen(world, broker, &place).await {
            match status {
                PartitionStatus::Online => break,
                PartitionStatus::Recovering => sleep(Duration::from_millis(1)).await,
                PartitionStatus::ReadOnly { cause } | PartitionStatus::Offline { cause } => {
                    panic!("{place:?} is opened anew, and not healed: {cause}")
                }
            }
        }
    }
    world.reach("all healed");
}

/// What is known of a topic after a change of it was answered.
fn conclude(world: &World, name: &str, answer: Result<(), CatalogError>, done: State, not: State) {
    match answer {
        Ok(()) => set_state(world, name, done),
        // It shows at the broker's next start.
        Err(CatalogError::Storage(ProduceError::ResultUnknown { .. })) => {}
        Err(CatalogError::Recovering(_)) => set_state(world, name, not),
        Err(error) => {
            assert!(world.is_faulty.get(), "{name}: {error}");
            set_state(world, name, not);
        }
    }
}

fn set_state(world: &World, name: &str, state: State) {
    if let Some(topic) = world.topics.borrow_mut().get_mut(name) {
        topic.state = state;
    }
}

/// Compares what a broker knows at its start with what was answered before.
pub(crate) fn check(world: &World, broker: &Broker) {
    let listed: BTreeMap<_, _> = broker
        .list_topics(false)
        .into_iter()
        .map(|it| (it.name.to_string(), it.partitions))
        .collect();
    let mut topics = world.topics.borrow_mut();
    for (name, topic) in &mut *topics {
        let found = listed.get(name);
        match (topic.state, found) {
            (State::There, None) => panic!("{name} was created, and is not there"),
            (State::Gone, Some(_)) => panic!("{name} was deleted or refused, and is there"),
            (State::Creating | State::Deleting | State::There, Some(partitions)) => {
                assert!(topic.partitions <= *partitions, "{name} had {}", topic.partitions);
                (topic.state, topic.partitions) = (State::There, *partitions);
            }
            (State::Creating | State::Deleting | State::Gone, None) => topic.state = State::Gone,
        }
    }
    let known: BTreeSet<_> = topics.keys().collect();
    // Those of dead letters are a queue's.
    let is_known = |name: &String| known.contains(name) || name.starts_with("dead");
    assert!(listed.keys().all(is_known), "{listed:?}, known are {known:?}");
}
