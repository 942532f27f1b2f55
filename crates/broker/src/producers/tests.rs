//! Who producers are, by tables: events before, command, events after.

use taffrail_model::{ProducerId, Timestamp, limits};

use super::event::Event;
use super::state::{Command, Registry, TakeName, named, unnamed};
use crate::coordinator::StateMachine;

fn taken(name: &str, number: u64, epoch: u32, attempt: u64) -> Event {
    Event::NameTaken { name: name.to_owned(), number, epoch, attempt }
}

fn reserved(end: u64) -> Event {
    Event::NumbersReserved { end }
}

fn take(name: &str, former: Option<ProducerId>, attempt: u64) -> Command {
    Command::Take(TakeName { name: name.to_owned(), former, attempt })
}

/// Either the events that a command leads to, or a part of the refusal's text.
#[track_caller]
fn check(before: &[Event], command: Command, expected: Result<&[Event], &str>) {
    let mut registry = Registry::default();
    for event in before {
        registry.apply(event);
    }
    match (registry.decide(command, Timestamp::default()), expected) {
        (Ok((_, events)), Ok(expected)) => assert_eq!(events, expected),
        (Err(refusal), Err(part)) => {
            assert!(refusal.to_string().contains(part), "{refusal} does not say {part:?}");
        }
        (decided, expected) => panic!("decided {decided:?}, expected {expected:?}"),
    }
}

#[test]
fn no_number_is_given_out_twice() {
    check(&[], Command::Reserve, Ok(&[reserved(1_000)]));
    check(&[reserved(1_000)], Command::Reserve, Ok(&[reserved(2_000)]));
    check(&[reserved(1_000)], take("a", None, 0), Ok(&[taken("a", 1_000, 0, 0)]));
    check(&[taken("a", 7, 0, 0)], Command::Reserve, Ok(&[reserved(1_008)]));
    let mut registry = Registry::default();
    for event in [taken("a", 0, 0, 0), reserved(1_001)] {
        registry.apply(&event);
    }
    for number in [0, 1_000] {
        assert!(unnamed(number) < named(number) && named(number) < registry.ids_end());
    }
}

#[test]
fn a_name_goes_to_whoever_takes_it() {
    let before = [taken("a", 3, 4, 77)];
    check(&before, take("a", None, 78), Ok(&[taken("a", 4, 5, 78)]));
    check(&before, take("b", None, 0), Ok(&[taken("b", 4, 0, 0)]));
    check(&before, take("a", None, 77), Ok(&[]));
    check(&[taken("a", 3, 4, 0)], take("a", None, 0), Ok(&[taken("a", 4, 5, 0)]));
}

#[test]
fn only_whoever_has_a_name_gets_another_id_for_it() {
    let before = [taken("a", 3, 0, 77), taken("a", 5, 1, 78)];
    check(&before, take("a", Some(named(5)), 79), Ok(&[taken("a", 6, 2, 79)]));
    check(&before, take("a", Some(named(3)), 79), Err("lost its name"));
    check(&before, take("b", Some(named(5)), 79), Err("lost its name"));
    // The answer to this was lost.
    check(&before, take("a", Some(named(3)), 78), Ok(&[]));
}

#[test]
fn names_end_at_a_bound() {
    let many = |number: u64| taken(&number.to_string(), number, 0, 0);
    let full: Vec<_> = (0..limits::PRODUCER_NAMES_MAX as u64).map(many).collect();
    check(&full, take("one more", None, 0), Err("use names again"));
    check(&full, take("7", None, 0), Ok(&[taken("7", full.len() as u64, 1, 0)]));
}
