//! Which queues there are, and what has become of each record: pure.
//!
//! A queue looks through each partition from its start on. Between the first record that is not settled
//! and the end of what it has looked through, each offset is *ready*, *leased*, *delayed* or *settled*,
//! kept as runs: memory grows with how mixed these are, not with how many there are. What is parked is
//! settled for the window, and kept apart until it is redriven or discarded.
//!
//! A lease is a number that no other lease of the queue has had. Only who names the lease that a record
//! has now can settle it: whoever is late is refused, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use taffrail_model::{Timestamp, limits};

use super::command::{
    Command, CommandKind, Lease, Leased, LookedThrough, QueueRefusal, Reply, SettleRefusal,
    Settled, Settlement, Verdict,
};
use super::copies::{Copier, Copies};
use super::event::{Delay, Event, EventKind, Span, Start, Topic};
use super::policy::{Policy, Retention};
use super::window::{Parked, Status, Window};
use crate::coordinator::{Decision, StateMachine};

/// Numbers that are passed over where nobody knows which were given out.
const UNKNOWN_NUMBERS: u64 = 1 << 32;

/// All queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registry {
    queues: BTreeMap<String, Queue>,
    /// Queues that there ever were.
    numbers: u64,
    /// As of when it was a backup, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored_ms: Option<i64>,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Queue {
    /// No other queue has had it.
    number: u64,
    topic: Topic,
    policy: Policy,
    created_ms: i64,
    /// Leases that there ever were.
    leases: u64,
    partitions: BTreeMap<u32, Window>,
    /// Who copies what is parked to a dead-letter topic, once somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copier: Option<Copier>,
}

impl Registry {
    pub(crate) fn get(&self, name: &str) -> Option<&Queue> {
        self.queues.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Queue)> {
        self.queues.iter()
    }

    /// What is known once nobody knows any more what was leased since: no lease that may have been given
    /// out comes again.
    pub(crate) fn restarted(mut self) -> Self {
        self.restart();
        self
    }

    fn restart(&mut self) {
        self.numbers += UNKNOWN_NUMBERS;
        for queue in self.queues.values_mut() {
            queue.leases += UNKNOWN_NUMBERS;
        }
    }

    /// The first record that any queue on a topic needs, of each of so many partitions: of one that a queue
    /// does not know yet, all.
    pub(super) fn needed(&self, topic: &Topic, partitions: u32) -> Vec<u64> {
        let queues: Vec<_> = self.queues.values().filter(|it| it.topic.id == topic.id).collect();
        let needed =
            |queue: &&Queue, index| queue.partitions.get(&index).map_or(0, Window::needed_from);
        let needed = |index| queues.iter().map(|queue| needed(queue, index)).min();
        (0..partitions).map(|index| needed(index).unwrap_or(u64::MAX)).collect()
    }

    pub(super) fn known(&self, name: &str) -> Result<&Queue, QueueRefusal> {
        self.get(name).ok_or_else(|| QueueRefusal::UnknownQueue { queue: name.to_owned() })
    }

    fn create(
        &self,
        name: &str,
        topic: Topic,
        policy: Policy,
        starts: Vec<Start>,
        at_ms: i64,
    ) -> Result<EventKind, QueueRefusal> {
        if self.queues.contains_key(name) {
            return Err(QueueRefusal::Exists { queue: name.to_owned() });
        }
        if self.queues.len() >= limits::QUEUES_MAX {
            return Err(QueueRefusal::Full { max: limits::QUEUES_MAX });
        }
        Ok(EventKind::Created { number: self.numbers + 1, topic, policy, starts, at_ms })
    }
}

impl Queue {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// How many records are parked.
    pub(crate) fn parked(&self) -> usize {
        self.partitions.values().map(|window| window.parked.len()).sum()
    }

    pub(crate) fn partitions(&self) -> &BTreeMap<u32, Window> {
        &self.partitions
    }

    /// Whether so many are parked that no more can be tried.
    pub(super) fn is_full(&self) -> bool {
        self.policy.parked_max as usize <= self.parked()
    }

    /// Leases of the wanted records those that can be.
    fn lease(&self, wanted: &Lease) -> (Reply, Option<EventKind>) {
        if self.is_full() && !wanted.offsets.is_empty() {
            let leased = Leased { is_full: true, ..Leased::default() };
            return (Reply { leased, ..Reply::default() }, None);
        }
        let Some(window) = self.partitions.get(&wanted.partition) else {
            return (Reply::default(), None);
        };
        let end = window.runs.end();
        let free = |offset: &u64| match window.runs.get(*offset) {
            Some(Status::Ready { attempts } | Status::Delayed { attempts, .. }) => Some(*attempts),
            Some(Status::Leased { .. } | Status::Settled) => None,
            None => (end <= *offset && *offset < wanted.end).then_some(0),
        };
        let offsets = wanted.offsets.iter().filter_map(|offset| Some((*offset, free(offset)?)));
        let records: Vec<_> = offsets.map(|(offset, tried)| (offset, tried + 1)).collect();
        let held = wanted.offsets.iter().filter_map(|offset| match window.runs.get(*offset)? {
            Status::Leased { lease, .. } => Some((*offset, *lease)),
            Status::Ready { .. } | Status::Delayed { .. } | Status::Settled => None,
        });
        let held: Vec<_> = held.collect();
        let missing = wanted.missing.iter().flat_map(|span| window.missing(*span, wanted.end));
        let missing: Vec<_> = missing.collect();
        if records.is_empty() && missing.is_empty() && wanted.end <= end {
            let leased = Leased { held, ..Leased::default() };
            return (Reply { leased, ..Reply::default() }, None);
        }
        let lease = self.leases + 1;
        let event = EventKind::Leased {
            partition: wanted.partition,
            lease,
            end: wanted.end,
            missing,
            spans: Span::gather(records.iter().map(|(offset, _)| *offset)),
        };
        let leased = Leased { lease, records, held, ..Leased::default() };
        (Reply { leased, ..Reply::default() }, Some(event))
    }

    /// What is given up of what was looked through: all that nobody has.
    fn give_up(
        &self,
        looked: &LookedThrough,
        reason: &str,
        at_ms: i64,
    ) -> (Reply, Option<EventKind>) {
        let LookedThrough { partition, start, end, missing, offsets } = looked;
        // It is to hold them since.
        let window = self.partitions.get(partition);
        let Some(window) = window.filter(|_| self.policy.retention == Retention::Copy) else {
            return (Reply::default(), None);
        };
        let known = window.runs.end();
        let (from, to) = (window.runs.start().max(*start), known.min(*end));
        let old = window.runs.within(from..to.max(from));
        let old = old.filter(|(_, it)| matches!(it, Status::Ready { .. } | Status::Delayed { .. }));
        let new =
            offsets.iter().copied().filter(|offset| known.max(*start) <= *offset && offset < end);
        let spans = Span::gather(old.flat_map(|(part, _)| part).chain(new));
        let gone = Span(window.runs.start(), *start);
        let missing = std::iter::once(&gone).chain(missing);
        let missing: Vec<_> = missing.flat_map(|span| window.missing(*span, *end)).collect();
        if spans.is_empty() && missing.is_empty() {
            return (Reply::default(), None);
        }
        let event = EventKind::GivenUp {
            partition: *partition,
            end: *end,
            missing,
            spans: spans.clone(),
            reason: reason.to_owned(),
            at_ms,
        };
        (Reply { spans, ..Reply::default() }, Some(event))
    }

    /// What becomes of each record that somebody settles.
    fn settle(&self, settlements: Vec<Settlement>, now: Timestamp) -> (Reply, Vec<EventKind>) {
        let mut sorted = Sorted::default();
        let mut settled = Vec::with_capacity(settlements.len());
        let mut done = BTreeSet::new();
        for Settlement { partition, offset, lease, verdict } in settlements {
            settled.push(self.leased_attempts(partition, offset, lease).and_then(|attempts| {
                if !done.insert((partition, offset)) {
                    return Err(SettleRefusal::AlreadySettled);
                }
                Ok(sorted.add(partition, offset, self.fate(verdict, offset, attempts, now)))
            }));
        }
        (Reply { settled, ..Reply::default() }, sorted.events(now.as_millis()))
    }

    /// The attempt that a lease is, if the record has this one.
    fn leased_attempts(&self, partition: u32, offset: u64, own: u64) -> Result<u32, SettleRefusal> {
        let window = self.partitions.get(&partition).ok_or(SettleRefusal::Unknown)?;
        if own == 0 || self.leases < own || window.runs.end() <= offset {
            return Err(SettleRefusal::Unknown);
        }
        match window.runs.get(offset) {
            Some(Status::Leased { attempts, lease }) if *lease == own => Ok(*attempts),
            Some(Status::Leased { .. } | Status::Ready { .. } | Status::Delayed { .. }) => {
                Err(SettleRefusal::LeaseExpired)
            }
            Some(Status::Settled) | None => Err(SettleRefusal::AlreadySettled),
        }
    }

    fn fate(&self, verdict: Verdict, offset: u64, attempts: u32, now: Timestamp) -> Fate {
        let is_last = self.policy.attempts_max <= attempts;
        match verdict {
            Verdict::Acknowledge => Fate::Acknowledged,
            Verdict::Release => Fate::Released,
            Verdict::Reject { reason } => Fate::Parked { reason },
            Verdict::Retry { .. } | Verdict::Expire if is_last => {
                let how = if verdict == Verdict::Expire { "lease ended" } else { "failed" };
                Fate::Parked { reason: format!("{how} at attempt {attempts}").into() }
            }
            Verdict::Expire => Fate::Retried { delay: None },
            Verdict::Retry { delay } => {
                let delay = delay
                    .unwrap_or_else(|| self.policy.backoff(attempts, chance(offset, attempts)));
                let ms = delay.as_millis() as u64;
                let until_ms = now.plus(delay).as_millis();
                Fate::Retried { delay: (ms > 0).then_some(Delay { until_ms, ms }) }
            }
        }
    }

    fn grow(&mut self, starts: &[Start]) {
        for Start { partition, offset } in starts {
            self.partitions.insert(*partition, Window::new(*offset));
        }
    }

    /// Those of the offsets that are parked, and are not being copied.
    fn parked_of(&self, partition: u32, spans: &[Span]) -> Vec<Span> {
        let Some(window) = self.partitions.get(&partition) else { return Vec::new() };
        let being_copied = self.being_copied();
        let parked = |span: &Span| {
            let Span(from, to) = *span;
            window.parked.from(from).map(|(offset, _)| offset).take_while(move |it| *it < to)
        };
        let offsets = spans.iter().flat_map(parked);
        Span::gather(offsets.filter(|offset| !being_copied.contains(&(partition, *offset))))
    }

    /// What is parked behind a place, ascending by partition and offset.
    pub(super) fn parked_behind(
        &self,
        behind: Option<(u32, u64)>,
    ) -> impl Iterator<Item = (u32, u64, &Parked)> {
        let first = behind.map_or(0, |(partition, _)| partition);
        self.partitions.range(first..).flat_map(move |(partition, window)| {
            let from = match behind {
                Some((same, offset)) if same == *partition => offset.saturating_add(1),
                _ => 0,
            };
            window.parked.from(from).map(|(offset, parked)| (*partition, offset, parked))
        })
    }

    pub(super) fn is_parked(&self, (partition, offset): (u32, u64)) -> bool {
        self.partitions.get(&partition).is_some_and(|it| it.parked.get(offset).is_some())
    }

    pub(super) fn forget_parked(&mut self, partition: u32, spans: &[Span]) {
        if let Some(window) = self.partitions.get_mut(&partition) {
            window.forget_parked(spans);
        }
    }
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Acknowledged,
    Released,
    Retried { delay: Option<Delay> },
    Parked { reason: Box<str> },
}

/// Records by what becomes of them.
#[derive(Debug, Default)]
struct Sorted(BTreeMap<(u32, Fate), BTreeSet<u64>>);

impl Sorted {
    fn add(&mut self, partition: u32, offset: u64, fate: Fate) -> Settled {
        let settled = match &fate {
            Fate::Acknowledged => Settled::Done,
            Fate::Released | Fate::Retried { delay: None } => Settled::Ready,
            Fate::Retried { delay: Some(delay) } => {
                Settled::Delayed(Duration::from_millis(delay.ms))
            }
            Fate::Parked { .. } => Settled::Parked,
        };
        self.0.entry((partition, fate)).or_default().insert(offset);
        settled
    }

    fn events(self, at_ms: i64) -> Vec<EventKind> {
        let event = |((partition, fate), offsets): ((u32, Fate), BTreeSet<u64>)| {
            let spans = Span::gather(offsets);
            match fate {
                Fate::Acknowledged => EventKind::Acknowledged { partition, spans },
                Fate::Released => EventKind::Released { partition, spans },
                Fate::Retried { delay } => EventKind::Retried { partition, spans, delay },
                Fate::Parked { reason } => {
                    EventKind::Parked { partition, spans, reason: reason.into(), at_ms }
                }
            }
        };
        self.0.into_iter().map(event).collect()
    }
}

/// A number from 0 to 1 that looks like chance and is the same whenever it is asked for.
fn chance(offset: u64, attempts: u32) -> f64 {
    let mut mixed = offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(attempts);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^= mixed >> 32;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

impl StateMachine for Registry {
    type Command = Command;
    type Reply = Reply;
    type Refusal = QueueRefusal;
    type Event = Event;

    fn decide(&self, command: Command, now: Timestamp) -> Decision<Self> {
        let Command { queue: name, number, kind } = command;
        if let Some(number) = number
            && self.known(&name)?.number != number
        {
            return Err(QueueRefusal::UnknownQueue { queue: name });
        }
        let (reply, kinds) = match kind {
            CommandKind::Create { topic, policy, starts } => {
                let created = self.create(&name, topic, policy, starts, now.as_millis())?;
                (Reply::default(), vec![created])
            }
            CommandKind::Alter { policy } => {
                let is_new = self.known(&name)?.policy != policy;
                let altered = is_new.then_some(EventKind::Altered { policy });
                (Reply::default(), altered.into_iter().collect())
            }
            CommandKind::Grow { starts } => {
                let known = &self.known(&name)?.partitions;
                let new = starts.into_iter().filter(|it| !known.contains_key(&it.partition));
                let starts: Vec<_> = new.collect();
                let grown = (!starts.is_empty()).then_some(EventKind::Grown { starts });
                (Reply::default(), grown.into_iter().collect())
            }
            CommandKind::Delete => {
                self.known(&name)?;
                (Reply::default(), vec![EventKind::Deleted])
            }
            CommandKind::Lease(wanted) => {
                let (reply, leased) = self.known(&name)?.lease(&wanted);
                (reply, leased.into_iter().collect())
            }
            CommandKind::GiveUp { looked, reason } => {
                let queue = self.known(&name)?;
                let (reply, given_up) = queue.give_up(&looked, reason, now.as_millis());
                (reply, given_up.into_iter().collect())
            }
            CommandKind::Settle(settlements) => self.known(&name)?.settle(settlements, now),
            CommandKind::Redrive { partition, spans } => {
                let spans = self.known(&name)?.parked_of(partition, &spans);
                let redriven = EventKind::Redriven { partition, spans: spans.clone() };
                let events = if spans.is_empty() { Vec::new() } else { vec![redriven] };
                (Reply { spans, ..Reply::default() }, events)
            }
            CommandKind::Discard { partition, spans } => {
                let spans = self.known(&name)?.parked_of(partition, &spans);
                let discarded = EventKind::Discarded { partition, spans: spans.clone() };
                let events = if spans.is_empty() { Vec::new() } else { vec![discarded] };
                (Reply { spans, ..Reply::default() }, events)
            }
            CommandKind::Restore { at_ms } => {
                let is_new = self.restored_ms != Some(at_ms);
                let restored = is_new.then_some(EventKind::Restored { at_ms });
                (Reply::default(), restored.into_iter().collect())
            }
            CommandKind::Copy { topic, producer, wanted } => {
                (Reply::default(), self.known(&name)?.copy(&topic, producer, wanted))
            }
            CommandKind::EndCopies(ends) => {
                (Reply::default(), self.known(&name)?.end_copies(&ends))
            }
        };
        let event = |kind| Event { queue: name.clone(), kind };
        Ok((reply, kinds.into_iter().map(event).collect()))
    }

    fn apply(&mut self, event: &Event) {
        let Event { queue: name, kind } = event;
        if let EventKind::Created { number, topic, policy, starts, at_ms } = kind.clone() {
            self.numbers = number;
            let partitions = BTreeMap::new();
            let mut queue = Queue {
                number,
                topic,
                policy,
                created_ms: at_ms,
                leases: 0,
                partitions,
                copier: None,
            };
            queue.grow(&starts);
            self.queues.insert(name.clone(), queue);
            return;
        }
        if *kind == EventKind::Deleted {
            self.queues.remove(name);
            return;
        }
        if let EventKind::Restored { at_ms } = kind {
            self.restored_ms = Some(*at_ms);
            return self.restart();
        }
        let Some(queue) = self.queues.get_mut(name) else { return };
        let partition = match kind {
            EventKind::Created { .. } | EventKind::Deleted | EventKind::Restored { .. } => return,
            EventKind::Altered { policy } => {
                queue.policy = policy.clone();
                return;
            }
            EventKind::Grown { starts } => return queue.grow(starts),
            EventKind::Copying { id, topic, from, places } => {
                let (topic, places) = (topic.clone(), places.clone());
                return queue.begin_copies(Copies { id: *id, topic, from: *from, places });
            }
            EventKind::Copied { id } => return queue.note_copied(*id),
            EventKind::NotCopied { id } => return queue.note_not_copied(*id),
            EventKind::Leased { partition, lease, .. } => {
                queue.leases = *lease;
                partition
            }
            EventKind::Acknowledged { partition, .. }
            | EventKind::Released { partition, .. }
            | EventKind::Retried { partition, .. }
            | EventKind::Parked { partition, .. }
            | EventKind::GivenUp { partition, .. }
            | EventKind::Redriven { partition, .. }
            | EventKind::Discarded { partition, .. } => partition,
        };
        if let Some(window) = queue.partitions.get_mut(partition) {
            window.apply(kind.clone());
        }
    }
}
