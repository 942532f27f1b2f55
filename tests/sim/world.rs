//! What outlives a broker: the disk, the time, what the clients know, and what happened.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use taffrail_broker::{Clock as _, Turns};
use taffrail_log::vfs::Memory;
use taffrail_model::{ProducerEpoch, Timestamp};
use tokio::time::Instant;

use crate::backup::Backup;
use crate::clock::SimulatedClock;
use crate::dice::Dice;
use crate::history::{Event, History};
use crate::member::Group;
use crate::worker::Ledger;

/// What outlives a broker.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) dice: Dice,
    pub(crate) history: History,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) disk: RefCell<Memory>,
    pub(crate) topics: RefCell<BTreeMap<String, Topic>>,
    /// Whether something went wrong in this life of the broker, so that it may refuse.
    pub(crate) is_faulty: Cell<bool>,
    /// Whether something went wrong in any life.
    pub(crate) was_faulty: Cell<bool>,
    /// Whether something that was written before this life ended may never have been synced.
    pub(crate) has_lost: Cell<bool>,
    /// Whether the machine does nothing any more in this life.
    pub(crate) stands_still: Cell<bool>,
    /// Whether nothing new is to be begun.
    pub(crate) is_closing: Cell<bool>,
    /// Of the former holders of a name: behind which offset of a place nothing of theirs may be.
    pub(crate) fenced: RefCell<Vec<Fenced>>,
    /// When records were appended that anybody has read, in milliseconds, by their offset.
    pub(crate) appended: RefCell<BTreeMap<(String, u32), BTreeMap<u64, i64>>>,
    /// What the last backup must hold, if there is one.
    pub(crate) backup: RefCell<Option<Backup>>,
    /// Where partitions begin, and may begin.
    pub(crate) starts: RefCell<BTreeMap<(String, u32), Start>>,
    /// How many lives the broker has had.
    pub(crate) life: Cell<u32>,
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
    /// What the workers of the queue know together.
    pub(crate) ledger: RefCell<Ledger>,
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
    /// Whether it is compacted, or may have been.
    pub(crate) is_compacted: bool,
    /// Whether its retention goes by time, else by size.
    pub(crate) is_aged: bool,
    /// The least of each partition that retention was ever to keep, if it was: bytes, or milliseconds.
    pub(crate) least: Option<u64>,
    pub(crate) state: State,
}

/// Where a partition begins, and may begin.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// The highest one that anybody asked for.
    pub(crate) asked: u64,
    /// Somebody asked for all to be deleted, and was not answered.
    pub(crate) asked_for_all: bool,
    /// The highest one that was seen.
    seen: u64,
    /// In which life of the broker it was looked at.
    life: u32,
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
            seed,
            dice: Dice::new(seed),
            history: History::default(),
            clock: Arc::new(SimulatedClock::new(seed.is_multiple_of(2))),
            disk: RefCell::new(Memory::new(seed)),
            topics: RefCell::default(),
            is_faulty: Cell::new(false),
            was_faulty: Cell::new(false),
            has_lost: Cell::new(false),
            stands_still: Cell::new(false),
            is_closing: Cell::new(false),
            fenced: RefCell::default(),
            holders: RefCell::default(),
            appended: RefCell::default(),
            backup: RefCell::default(),
            starts: RefCell::default(),
            life: Cell::new(0),
            reached: RefCell::default(),
            turns: RefCell::default(),
            panic: RefCell::default(),
            group: RefCell::default(),
            ledger: RefCell::default(),
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

    /// Somebody has seen when a record was appended.
    pub(crate) fn note_append(&self, place: &(String, u32), offset: u64, at: Timestamp) {
        let mut appended = self.appended.borrow_mut();
        appended.entry(place.clone()).or_default().insert(offset, at.as_millis());
    }

    /// A partition may begin where it does.
    #[track_caller]
    pub(crate) fn check_start(&self, place: &(String, u32), start: u64) {
        let may_retain = self.least(&place.0).is_some();
        let known = self.starts.borrow().get(place).copied().unwrap_or_default();
        let may_begin = start <= known.asked || known.asked_for_all || may_retain;
        assert!(may_begin, "{place:?} begins at {start}, {known:?}");
    }

    /// Below which offset somebody wanted records of a partition to be deleted.
    pub(crate) fn may_be_deleted(&self, place: &(String, u32)) -> u64 {
        let known = self.starts.borrow().get(place).copied().unwrap_or_default();
        if known.asked_for_all { u64::MAX } else { known.asked }
    }

    /// Somebody has seen where a partition begins: it may.
    #[track_caller]
    pub(crate) fn note_start(&self, place: &(String, u32), start: u64) {
        self.check_start(place, start);
        let mut starts = self.starts.borrow_mut();
        let known = starts.entry(place.clone()).or_default();
        if known.seen < start {
            let is_asked = start <= known.asked || known.asked_for_all;
            if !is_asked {
                self.check_age(place, start);
            }
            known.seen = start;
            let place = format!("{}/{}", place.0, place.1);
            self.history.add(Event::Deletable { place, before: start });
        }
    }

    /// The broker says where a partition begins, and how much there is of it: it never begins further in
    /// front, and retention leaves as much as it must.
    pub(crate) fn look_at_start(&self, place: &(String, u32), start: u64, bytes: u64) {
        let known = self.starts.borrow().get(place).copied().unwrap_or_default();
        assert!(known.seen <= start, "{place:?} begins at {start} again, {known:?}");
        let is_asked = start <= known.asked || known.asked_for_all;
        let has_moved = known.seen < start && known.life == self.life.get();
        let is_aged = self.topics.borrow().get(&place.0).is_some_and(|topic| topic.is_aged);
        if let Some(least) = self.least(&place.0).filter(|_| has_moved && !is_asked && !is_aged) {
            self.reach("retention by size");
            // What compaction has removed since is not there either.
            let is_sure = !self.is_faulty.get() && !self.is_compacted(&place.0);
            assert!(!is_sure || least <= bytes, "{place:?}: {bytes} bytes left of {least}");
        }
        self.note_start(place, start);
        if let Some(known) = self.starts.borrow_mut().get_mut(place) {
            known.life = self.life.get();
        }
    }

    fn least(&self, topic: &str) -> Option<u64> {
        self.topics.borrow().get(topic).and_then(|topic| topic.least)
    }

    /// What retention has deleted below an offset was old enough, as far as anybody knows. What compaction
    /// has removed before went for another reason.
    fn check_age(&self, place: &(String, u32), start: u64) {
        let topics = self.topics.borrow();
        let topic = topics.get(&place.0).filter(|topic| topic.is_aged && !topic.is_compacted);
        let (Some(least), now) =
            (topic.and_then(|topic| topic.least), self.clock.now().as_millis())
        else {
            return;
        };
        let appended = self.appended.borrow();
        for (offset, at) in appended.get(place).into_iter().flat_map(|it| it.range(..start)) {
            let age = now - at;
            assert!(least as i64 <= age, "{place:?}: {offset} is deleted and {age} ms old");
            self.reach("records of retention by time");
        }
    }

    /// Whether of what a topic had of a key only the latest record may be left.
    pub(crate) fn is_compacted(&self, topic: &str) -> bool {
        self.topics.borrow().get(topic).is_some_and(|topic| topic.is_compacted)
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
                // It is not known which of them are there.
                self.appended.borrow_mut().remove(&(name.clone(), partition));
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
