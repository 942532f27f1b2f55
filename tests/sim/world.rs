//! What outlives a broker: the disk, the time, what the clients know, and what happened.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use taffrail_broker::Turns;
use taffrail_log::vfs::Memory;
use taffrail_model::ProducerEpoch;
use tokio::time::Instant;

use crate::clock::SimulatedClock;
use crate::dice::Dice;
use crate::history::{Event, History};
use crate::member::Group;

/// What outlives a broker.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) history: History,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) disk: RefCell<Memory>,
    pub(crate) topics: RefCell<BTreeMap<String, Topic>>,
    /// Whether something went wrong in this life of the broker, so that it may refuse.
    pub(crate) is_faulty: Cell<bool>,
    /// Whether something that was written before this life ended may never have been synced.
    pub(crate) has_lost: Cell<bool>,
    /// Whether the machine does nothing any more in this life.
    pub(crate) stands_still: Cell<bool>,
    /// Whether nothing new is to be begun.
    pub(crate) is_closing: Cell<bool>,
    /// Of the former holders of a name: behind which offset of a place nothing of theirs may be.
    pub(crate) fenced: RefCell<Vec<Fenced>>,
    /// Who has a name: its epoch, and the number of the producer.
    pub(crate) holders: RefCell<BTreeMap<String, (ProducerEpoch, u32)>>,
    /// How often each kind of thing happened.
    pub(crate) reached: RefCell<BTreeMap<&'static str, u64>>,
    /// The work of the broker that lives.
    pub(crate) turns: RefCell<Turns>,
    /// What somebody said who panicked.
    pub(crate) panic: RefCell<Option<Box<dyn Any + Send>>>,
    /// What the members of the consumer group know together.
    pub(crate) group: RefCell<Group>,
    /// The time that had passed when this life began, and when that was.
    time: Cell<(Duration, Option<Instant>)>,
    producers: Cell<u32>,
}

/// A topic, as its administrator knows it.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) partitions: u32,
    /// Whether it acknowledges before it syncs, or may have done so.
    pub(crate) is_cached: bool,
    pub(crate) state: State,
}

/// What is known of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its creation was not answered.
    Creating,
    /// It is there.
    There,
    /// Its deletion was not answered.
    Deleting,
    /// It is not there.
    Gone,
}

/// A producer that has lost its name.
pub(crate) struct Fenced {
    pub(crate) producer: u32,
    pub(crate) place: String,
    pub(crate) end: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            dice: Dice::new(seed),
            history: History::default(),
            clock: Arc::new(SimulatedClock::new()),
            disk: RefCell::new(Memory::new(seed)),
            topics: RefCell::default(),
            is_faulty: Cell::new(false),
            has_lost: Cell::new(false),
            stands_still: Cell::new(false),
            is_closing: Cell::new(false),
            fenced: RefCell::default(),
            holders: RefCell::default(),
            reached: RefCell::default(),
            turns: RefCell::default(),
            panic: RefCell::default(),
            group: RefCell::default(),
            time: Cell::default(),
            producers: Cell::new(0),
        })
    }

    /// A number for somebody who sends or reads.
    pub(crate) fn number(&self) -> u32 {
        self.producers.set(self.producers.get() + 1);
        self.producers.get()
    }

    /// The time that has passed in all lives of the broker: a machine that does not run takes none.
    pub(crate) fn time(&self) -> Duration {
        let (before, began) = self.time.get();
        before + began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Begins a life, or ends it: called where that life's clock goes.
    pub(crate) fn keep_time(&self, goes: bool) {
        self.time.set((self.time(), goes.then(Instant::now)));
    }

    /// Counts that something happened.
    pub(crate) fn reach(&self, what: &'static str) {
        *self.reached.borrow_mut().entry(what).or_default() += 1;
    }

    /// The partitions of topics that are there.
    pub(crate) fn places(&self) -> Vec<(String, u32)> {
        let topics = self.topics.borrow();
        let there = topics.iter().filter(|(_, topic)| topic.state == State::There);
        there.flat_map(|(name, it)| (0..it.partitions).map(|at| (name.clone(), at))).collect()
    }

    /// Whether what a topic acknowledges may be gone after a loss.
    pub(crate) fn is_cached(&self, topic: &str) -> bool {
        self.topics.borrow().get(topic).is_some_and(|topic| topic.is_cached)
    }

    /// Whether a topic is surely there.
    pub(crate) fn is_there(&self, topic: &str) -> bool {
        self.topics.borrow().get(topic).is_some_and(|topic| topic.state == State::There)
    }

    /// What was acknowledged and not synced may be gone from here on.
    pub(crate) fn lose(&self) {
        for (name, topic) in self.topics.borrow().iter().filter(|(_, topic)| topic.is_cached) {
            for partition in 0..topic.partitions {
                self.history.add(Event::Loss { place: format!("{name}/{partition}") });
            }
        }
    }

    /// The seed's choice of a moment.
    pub(crate) async fn moment(&self) {
        if self.dice.once_in(10) {
            tokio::time::sleep(std::time::Duration::from_millis(self.dice.below(5))).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}
