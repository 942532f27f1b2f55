//! Who idempotent producers are: pure.
//!
//! Each producer has a number of its own, ascending and never used again. Whoever takes a name gets a
//! new number too, and the name's next epoch: so a partition that has forgotten somebody can tell by
//! the id alone who cannot have been there before.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use taffrail_model::{ProducerEpoch, ProducerId, Timestamp, limits};

use super::event::Event;
use super::{InitProducerError, ProducerIdentity};
use crate::coordinator::{Decision, StateMachine};

/// Numbers that are reserved at a time for producers without a name.
const RESERVED_NUMBERS: u64 = 1_000;

/// Numbers that are passed over where nobody knows which were given out: more than ever are.
const UNKNOWN_NUMBERS: u64 = 1 << 32;

/// What is known of all producers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registry {
    next: u64,
    names: BTreeMap<String, Holder>,
}

/// Who has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    number: u64,
    epoch: u32,
    attempt: u64,
}

/// What can be asked of it.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Numbers for producers without a name.
    Reserve,
    /// A name.
    Take(TakeName),
}

/// Takes a name from whoever has it.
#[derive(Clone, Debug)]
pub(crate) struct TakeName {
    pub(crate) name: String,
    /// Whoever asks has it, as far as they know.
    pub(crate) former: Option<ProducerId>,
    /// The same number: the same request.
    pub(crate) attempt: u64,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// These numbers.
    Reserved(Range<u64>),
    /// Who has the name now.
    Taken(ProducerIdentity),
}

impl Registry {
    /// Whoever was made is below this.
    pub(crate) fn ids_end(&self) -> ProducerId {
        unnamed(self.next)
    }

    /// Who there is once nobody knows any more who was made: no name, and numbers behind all that may
    /// have been given out. `last` is the latest producer that anything is known of.
    pub(crate) fn restarted(&self, last: Option<ProducerId>) -> Self {
        let seen = last.map_or(0, |last| last.get() / 2 + 1);
        let next = self.next.max(seen).saturating_add(UNKNOWN_NUMBERS);
        Self { next, names: BTreeMap::new() }
    }

    /// Every name, and who has it.
    pub(super) fn holders(&self) -> impl Iterator<Item = (&String, ProducerIdentity)> {
        self.names.iter().map(|(name, holder)| (name, holder.identity()))
    }

    fn take(&self, take: TakeName) -> Decision<Self> {
        let TakeName { name, former, attempt } = take;
        let holder = self.names.get(&name);
        if let Some(holder) = holder.filter(|holder| attempt != 0 && holder.attempt == attempt) {
            return Ok((Reply::Taken(holder.identity()), Vec::new()));
        }
        if let Some(former) = former
            && holder.is_none_or(|holder| holder.identity().id != former)
        {
            return Err(InitProducerError::Fenced { name, id: former });
        }
        if holder.is_none() && self.names.len() >= limits::PRODUCER_NAMES_MAX {
            return Err(InitProducerError::Full { max: limits::PRODUCER_NAMES_MAX });
        }
        let epoch = holder.map_or(0, |holder| holder.epoch.saturating_add(1));
        let taken = Holder { number: self.next, epoch, attempt };
        let event = Event::NameTaken { name, number: taken.number, epoch, attempt };
        Ok((Reply::Taken(taken.identity()), vec![event]))
    }
}

impl Holder {
    fn identity(&self) -> ProducerIdentity {
        ProducerIdentity { id: named(self.number), epoch: ProducerEpoch::new(self.epoch) }
    }
}

impl StateMachine for Registry {
    type Command = Command;
    type Reply = Reply;
    type Refusal = InitProducerError;
    type Event = Event;

    fn decide(&self, command: Command, _now: Timestamp) -> Decision<Self> {
        match command {
            Command::Reserve => {
                let numbers = self.next..self.next + RESERVED_NUMBERS;
                let event = Event::NumbersReserved { end: numbers.end };
                Ok((Reply::Reserved(numbers), vec![event]))
            }
            Command::Take(take) => self.take(take),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event.clone() {
            Event::NumbersReserved { end } => self.next = self.next.max(end),
            Event::NameTaken { name, number, epoch, attempt } => {
                self.next = self.next.max(number + 1);
                self.names.insert(name, Holder { number, epoch, attempt });
            }
        }
    }
}

/// The id of the producer with this number, which has no name.
pub(super) fn unnamed(number: u64) -> ProducerId {
    ProducerId::FIRST.advance(2 * number + 1)
}

/// The id of the producer with this number, which has a name.
pub(super) fn named(number: u64) -> ProducerId {
    unnamed(number).advance(1)
}

/// Whether the producer with this id has, or had, a name.
pub(super) fn is_named(id: ProducerId) -> bool {
    id.get() % 2 == 1
}
