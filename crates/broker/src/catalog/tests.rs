//! The catalog's state machine, by tables: events before, command, events after.

use std::collections::BTreeMap;

use taffrail_model::{Timestamp, TopicId, TopicName};

use super::event::Event;
use super::state::{Catalog, Command};
use crate::coordinator::StateMachine;

const ID: TopicId = TopicId::new([7; 12]);

fn name(text: &str) -> TopicName {
    TopicName::parse(text).expect("a valid name")
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn created(topic: &str, partitions: u32) -> Event {
    Event::TopicCreated {
        name: topic.to_owned(),
        id: ID.to_string(),
        partitions,
        settings: BTreeMap::new(),
        created_ms: 5,
    }
}

/// Either the events that a command leads to, or a part of the refusal's text.
#[track_caller]
fn check(before: &[Event], command: Command, expected: Result<Vec<Event>, &str>) {
    let mut catalog = Catalog::default();
    for event in before {
        catalog.apply(event);
    }
    match (catalog.decide(command, Timestamp::from_millis(5)), expected) {
        (Ok(((), events)), Ok(expected)) => assert_eq!(events, expected),
        (Err(refusal), Err(part)) => {
            assert!(refusal.to_string().contains(part), "{refusal} does not say {part:?}");
        }
        (decided, expected) => panic!("decided {decided:?}, expected {expected:?}"),
    }
}

fn create(topic: &str, partitions: u32, set: &[(&str, &str)]) -> Command {
    Command::Create { name: name(topic), id: ID, partitions, settings: settings(set) }
}

#[test]
fn topics_are_created_once_and_only_as_they_may_be() {
    check(&[], create("a", 3, &[]), Ok(vec![created("a", 3)]));
    check(&[created("a", 3)], create("a", 3, &[]), Err("exists already"));
    check(&[], create("__a", 1, &[]), Err("the broker's own"));
    check(&[], create("a", 0, &[]), Err("give 1 to"));
    check(&[], create("a", 10_001, &[]), Err("give 1 to"));
    check(&[created("b", 9_990)], create("a", 10_000, &[]), Ok(vec![created("a", 10_000)]));
    let named = |number| created(&format!("t{number}"), 1);
    let full: Vec<_> = (0..10_000).map(named).collect();
    check(&full, create("a", 1, &[]), Err("delete some first"));
    check(&full[1..], create("a", 1, &[]), Ok(vec![created("a", 1)]));
}

#[test]
fn settings_are_known_typed_and_agree_with_one_another() {
    check(&[], create("a", 1, &[("durabilty", "fsync")]), Err("did you mean \"durability\"?"));
    check(&[], create("a", 1, &[("durability", "maybe")]), Err("fsync | page_cache"));
    check(&[], create("a", 1, &[("segment.bytes", "1KiB")]), Err("64KiB to 1GiB"));
    check(&[], create("a", 1, &[("segment.ms", "soon")]), Err("such as 90s"));
    let clash = [("max.batch.bytes", "2MiB"), ("segment.bytes", "1MiB")];
    check(&[], create("a", 1, &clash), Err("raise segment.bytes"));
}

#[test]
fn an_empty_value_goes_back_to_the_default() {
    let alter = |set| Command::Alter { name: name("a"), settings: settings(set) };
    let altered = |set| Event::TopicAltered { name: "a".to_owned(), settings: settings(set) };
    let before = [created("a", 1), altered(&[("segment.ms", "7d")])];
    let page_cache = [("durability", "page_cache"), ("segment.ms", "7d")];
    check(&before, alter(&[("durability", "page_cache")]), Ok(vec![altered(&page_cache)]));
    check(&before, alter(&[("segment.ms", "")]), Ok(vec![altered(&[])]));
    check(&before, alter(&[("segment.mss", "")]), Err("did you mean"));
    check(&[], alter(&[]), Err("there is no topic \"a\""));
}

#[test]
fn partitions_are_only_added() {
    let add = |partitions| Command::AddPartitions { name: name("a"), partitions };
    let added = Event::PartitionsAdded { name: "a".to_owned(), partitions: 4 };
    check(&[created("a", 3)], add(4), Ok(vec![added]));
    check(&[created("a", 3)], add(3), Err("give more than that"));
    check(&[], add(3), Err("no topic"));
}

#[test]
fn a_deleted_topic_is_noted_until_its_files_are_gone() {
    let mut catalog = Catalog::default();
    catalog.apply(&created("a", 3));
    catalog.apply(&Event::TopicDeleted { name: "a".to_owned() });
    assert_eq!(catalog.topics().count(), 0);
    assert_eq!(catalog.doomed(), [(ID, 3)]);
    catalog.apply(&Event::TopicRemoved { id: ID.to_string() });
    assert_eq!(catalog, Catalog::default());
    check(&[], Command::Delete { name: name("a") }, Err("no topic"));
}
