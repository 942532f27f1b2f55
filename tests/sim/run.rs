//! One run: several lives of a broker, and the judgement on all that happened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use crate::consumer::Consumer;
use crate::history::checker::judge;
use crate::history::{self, Event, LAST_READER};
use crate::life::{self, End, People};
use crate::member::Member;
use crate::producer::{Kind, Producer};
use crate::world::{State, World};

/// How often each kind of thing happened.
pub(crate) type Reached = BTreeMap<&'static str, u64>;

/// Runs what follows from a seed, and panics if anything is not as it should be.
pub(crate) fn run(seed: u64) -> Reached {
    let world = World::new(seed);
    let dice = &world.dice;
    let idempotent = |name: &str| Kind::Idempotent { name: name.to_owned() };
    let kinds =
        [Kind::Plain, idempotent(""), idempotent("billing"), idempotent("billing"), idempotent("")];
    let count = 2 + dice.below(4) as usize;
    let people = People {
        producers: kinds
            .into_iter()
            .take(count)
            .map(|kind| Producer::new(&world, kind, 20 + dice.below(150)))
            .collect(),
        consumers: (0..=dice.below(2)).map(|_| Consumer::new(&world)).collect(),
        members: (0..if dice.once_in(3) { 1 + dice.below(4) } else { 0 })
            .map(|_| Member::new(&world))
            .collect(),
        workers: (0..if dice.once_in(3) { 1 + dice.below(3) } else { 0 })
            .map(|_| Rc::default())
            .collect(),
    };
    let lives = 1 + dice.below(6);
    for _ in 0..lives {
        let end = match dice.below(5) {
            0 => End::Stopped,
            1 | 2 => End::Killed,
            _ => End::PowerLost,
        };
        life::live(&world, &people, end, dice.once_in(2));
    }
    world.is_closing.set(true);
    life::conclude(&world, &people);
    conclude(&world, seed);
    let aside = world.disk.borrow().files();
    let aside = aside.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "aside"));
    let mut reached = world.reached.take();
    reached.insert("files kept aside", aside.count() as u64);
    reached.insert("acknowledged records", world.history.acknowledged() as u64);
    reached
}

fn conclude(world: &Rc<World>, seed: u64) {
    let events = of_places_that_are_there(world);
    let violations = judge(&events);
    let fenced = behind_a_fence(world, &events);
    if violations.is_empty() && fenced.is_empty() {
        return;
    }
    let path = write_down(&seed.to_string(), &events);
    let first: Vec<_> = violations.iter().take(10).collect();
    panic!("{} violations, {first:#?}, {fenced:#?} in {}", violations.len(), path.display());
}

/// Writes a history down for people, and returns where.
pub(crate) fn write_down(name: &str, events: &[Event]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("taffrail-sim-{name}.jsonl"));
    history::write(&path, events).expect("the history is written");
    path
}

/// What happened, but for what happened in topics that are deleted.
fn of_places_that_are_there(world: &World) -> Vec<Event> {
    let topics = world.topics.borrow();
    of_places(world.history.events(), |place| {
        let topic = place.split('/').next().and_then(|name| topics.get(name));
        topic.is_some_and(|topic| topic.state == State::There)
    })
}

/// What happened in some places.
pub(crate) fn of_places(
    events: impl IntoIterator<Item = Event>,
    is_there: impl Fn(&str) -> bool,
) -> Vec<Event> {
    let events: Vec<_> = events.into_iter().collect();
    let gone: std::collections::HashSet<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Invoke { record, place, .. } if !is_there(place) => Some(*record),
            _ => None,
        })
        .collect();
    let counts = |event: &Event| match event {
        Event::Invoke { place, .. }
        | Event::Read { place, .. }
        | Event::Gap { place, .. }
        | Event::Superseded { place, .. }
        | Event::Deletable { place, .. }
        | Event::Cut { place, .. }
        | Event::End { place, .. }
        | Event::Loss { place } => is_there(place),
        Event::Ok { record, .. } | Event::Fail { record } | Event::Unknown { record } => {
            !gone.contains(record)
        }
        Event::Unordered { .. } | Event::Note { .. } => true,
    };
    events.into_iter().filter(counts).collect()
}

/// Records of producers that had lost their names before these were appended.
fn behind_a_fence(world: &World, events: &[Event]) -> Vec<String> {
    let fenced = world.fenced.borrow();
    let late = |event: &Event| match event {
        Event::Read { reader: LAST_READER, place, offset, record: Some(record), .. } => {
            let is_late = fenced.iter().any(|it| {
                it.producer == record.producer && it.place == *place && it.end <= *offset
            });
            is_late.then(|| format!("{place}: {record:?} at {offset}, behind the fence"))
        }
        _ => None,
    };
    events.iter().filter_map(late).take(10).collect()
}
