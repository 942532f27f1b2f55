//! What a member holds, what of it is done, and when it is given on: pure.
//!
//! Invariants: what is handed out is held, and the session lasts; a partition is given on only when what
//! the application has of it is done, and committed where that is automatic; nothing is committed that
//! the application has not finished, unless it wants each record at most once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use taffrail_model::Offset;
use taffrail_proto::v1;

use super::{Commit, GroupEvent, TopicPartition};
use crate::ServerError;

/// What a member holds.
#[derive(Debug)]
pub(super) struct Core {
    member: String,
    mode: Commit,
    /// The last epoch that was heard of.
    epoch: u32,
    session_ends: Option<Instant>,
    /// What the broker said last.
    assigned: BTreeMap<TopicPartition, (String, u32)>,
    /// Whether something is to be this member's that others have still.
    is_awaiting: bool,
    parts: BTreeMap<TopicPartition, Part>,
    next_number: u64,
    /// What the application works at.
    in_hand: Option<(TopicPartition, u64, Offset)>,
    /// What it did not finish, and is to come again.
    unfinished: Option<TopicPartition>,
    notices: VecDeque<GroupEvent>,
    /// Commits that were refused, and always will be.
    failures: VecDeque<(TopicPartition, ServerError)>,
    /// How often something that was done could not be committed any more.
    lost_due: usize,
    /// Whether what the application works at is another's by now.
    has_lost_in_hand: bool,
    /// Revoked partitions that the application was just told of.
    told: Vec<TopicPartition>,
    refusal: Option<ServerError>,
}

/// A partition that is held.
#[derive(Debug)]
struct Part {
    topic_id: String,
    epoch: u32,
    /// This process's number for the assignment.
    number: u64,
    /// The offset behind what was handed out last.
    delivered: Option<Offset>,
    /// The first offset that is not done, if anything is.
    done: Option<Offset>,
    committed: Option<Offset>,
    /// Whether it goes to another member.
    is_leaving: bool,
    /// Whether the application has had its chance to commit what it has of it.
    is_let_go: bool,
}

/// An assignment to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) place: TopicPartition,
    pub(super) number: u64,
    pub(super) epoch: u32,
}

impl Core {
    pub(super) fn new(member: String, mode: Commit) -> Self {
        Self {
            member,
            mode,
            epoch: 0,
            session_ends: None,
            assigned: BTreeMap::new(),
            is_awaiting: false,
            parts: BTreeMap::new(),
            next_number: 1,
            in_hand: None,
            unfinished: None,
            failures: VecDeque::new(),
            lost_due: 0,
            has_lost_in_hand: false,
            notices: VecDeque::new(),
            told: Vec::new(),
            refusal: None,
        }
    }

    pub(super) fn member(&self) -> &str {
        &self.member
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn mode(&self) -> Commit {
        self.mode
    }

    pub(super) fn session_ends(&self) -> Option<Instant> {
        self.session_ends
    }

    /// A heartbeat that was sent then was answered.
    pub(super) fn extend(&mut self, sent: Instant, timeout: Duration) {
        self.session_ends = self.session_ends.max(Some(sent + timeout));
    }

    /// Takes note of what the broker says that this member may read.
    pub(super) fn assign(&mut self, answer: &v1::HeartbeatResponse) {
        self.epoch = answer.epoch;
        let assigned = answer.partitions.iter().filter_map(|it| {
            Some((TopicPartition::try_from(it).ok()?, (it.topic_id.clone(), it.epoch)))
        });
        self.assigned = assigned.collect();
        self.is_awaiting = !answer.awaited.is_empty();
        self.reconcile();
    }

    /// Whether all that is to be this member's is held.
    pub(super) fn has_all(&self) -> bool {
        !self.is_awaiting && self.session_ends.is_some()
    }

    /// Begins what is new, and begins to give on what is another's.
    fn reconcile(&mut self) {
        if self.session_ends.is_none() {
            // Until a heartbeat is answered, nobody knows whether there is a session.
            return;
        }
        let (mut lost, mut revoked, mut begun) = (Vec::new(), Vec::new(), Vec::new());
        for (place, part) in &mut self.parts {
            match self.assigned.get(place) {
                Some((_, epoch)) if *epoch == part.epoch => {}
                // Somebody has moved it: what was read of it does not count any more.
                Some(_) => lost.push(place.clone()),
                None if part.is_leaving => {}
                None => {
                    part.is_leaving = true;
                    revoked.push(place.clone());
                }
            }
        }
        for place in &lost {
            self.forget(place);
        }
        for (place, (topic_id, epoch)) in &self.assigned {
            if self.parts.contains_key(place) {
                continue;
            }
            let number = self.next_number;
            self.next_number += 1;
            let part = Part {
                topic_id: topic_id.clone(),
                epoch: *epoch,
                number,
                delivered: None,
                done: None,
                committed: None,
                is_leaving: false,
                is_let_go: false,
            };
            self.parts.insert(place.clone(), part);
            begun.push(place.clone());
        }
        let notices = [
            (lost, GroupEvent::Lost as fn(_) -> _),
            (revoked, GroupEvent::Revoked as fn(_) -> _),
            (begun, GroupEvent::Assigned as fn(_) -> _),
        ];
        for (places, notice) in notices {
            if !places.is_empty() {
                self.notices.push_back(notice(places));
            }
        }
    }

    fn forget(&mut self, place: &TopicPartition) {
        if let Some(part) = self.parts.remove(place) {
            self.lost_due += usize::from(self.is_auto() && part.is_due());
        }
        self.told.retain(|told| told != place);
        if self.unfinished.as_ref() == Some(place) {
            self.unfinished = None;
        }
        if self.in_hand.as_ref().is_some_and(|(in_hand, ..)| in_hand == place) {
            self.in_hand = None;
            self.has_lost_in_hand = true;
        }
    }

    /// All may be another's by now.
    pub(super) fn lose_all(&mut self) {
        self.session_ends = None;
        self.assigned.clear();
        self.has_lost_in_hand |= self.in_hand.take().is_some();
        self.unfinished = None;
        self.told.clear();
        self.lost_due += self.unsaid();
        let lost: Vec<_> = std::mem::take(&mut self.parts).into_keys().collect();
        if !lost.is_empty() {
            self.notices.push_back(GroupEvent::Lost(lost));
        }
    }

    /// Begins anew as another member.
    pub(super) fn rename(&mut self, member: String) {
        self.lose_all();
        self.member = member;
        self.epoch = 0;
    }

    /// The membership has ended for good.
    pub(super) fn refuse(&mut self, refusal: ServerError) {
        self.lose_all();
        self.refusal = Some(refusal);
    }

    pub(super) fn refusal(&self) -> Option<ServerError> {
        self.refusal.clone()
    }

    /// What is to be read.
    pub(super) fn held(&self) -> Vec<Held> {
        let held = self.parts.iter().filter(|(_, part)| !part.is_leaving);
        held.map(|(place, part)| {
            let (number, epoch) = (part.number, part.epoch);
            Held { place: place.clone(), number, epoch }
        })
        .collect()
    }

    /// Whether an assignment is held that was begun under this number, on its way to another or not.
    pub(super) fn has(&self, place: &TopicPartition, number: Option<u64>) -> bool {
        self.parts.get(place).is_some_and(|part| Some(part.number) == number)
    }

    /// What the broker is told that this member reads.
    pub(super) fn owned(&self) -> v1::Owned {
        let partitions = self.parts.keys().map(|place| v1::TopicPartition {
            topic: place.topic.to_string(),
            partition: place.partition.get(),
        });
        v1::Owned { partitions: partitions.collect() }
    }

    /// What the application is to be told.
    pub(super) fn next_notice(&mut self) -> Option<GroupEvent> {
        let notice = self.notices.pop_front()?;
        if let GroupEvent::Revoked(places) = &notice {
            self.told.clone_from(places);
        }
        Some(notice)
    }

    /// The application has a batch that ends there; false if it may not have it.
    pub(super) fn hand_out(
        &mut self,
        place: &TopicPartition,
        number: u64,
        end: Offset,
        now: Instant,
    ) -> bool {
        if self.session_ends.is_none_or(|ends| ends <= now) {
            // What comes now would be missing if the session went on after all: all begins anew.
            self.lose_all();
        }
        match self.parts.get_mut(place) {
            Some(part) if !part.is_leaving && part.number == number => {
                part.delivered = Some(end);
                self.in_hand = Some((place.clone(), number, end));
                true
            }
            Some(_) | None => false,
        }
    }

    /// The application has finished what it had, and knows what it was told.
    pub(super) fn finish_in_hand(&mut self) {
        self.has_lost_in_hand = false;
        for place in std::mem::take(&mut self.told) {
            if let Some(part) = self.parts.get_mut(&place) {
                part.is_let_go = true;
            }
        }
        let Some((place, number, end)) = self.in_hand.take() else { return };
        if let Some(part) = self.parts.get_mut(&place).filter(|part| part.number == number) {
            part.done = Some(end);
        }
    }

    /// The application does not finish what it had: it is to come again.
    pub(super) fn drop_in_hand(&mut self) {
        if let Some((place, ..)) = self.in_hand.take() {
            self.unfinished = Some(place);
        }
    }

    /// What is to come again.
    pub(super) fn take_unfinished(&mut self) -> Option<TopicPartition> {
        self.unfinished.take()
    }

    /// The application goes on elsewhere in a partition: what it had of that is not done, and does not
    /// come again by itself.
    pub(super) fn leave_place(&mut self, place: &TopicPartition) {
        if self.unfinished.as_ref() == Some(place) {
            self.unfinished = None;
        }
        if self.in_hand.as_ref().is_some_and(|(in_hand, ..)| in_hand == place) {
            self.in_hand = None;
        }
    }

    /// Whether what the application has in hand, and was to be committed of itself, is another's by now.
    pub(super) fn has_lost_in_hand(&self) -> bool {
        self.is_auto() && self.has_lost_in_hand
    }

    fn is_auto(&self) -> bool {
        matches!(self.mode, Commit::Auto(_))
    }

    /// Whether something is to come again.
    pub(super) fn has_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// What can be committed of itself.
    pub(super) fn due(&self) -> Vec<v1::OffsetCommit> {
        if !self.is_auto() {
            return Vec::new();
        }
        let due = self.parts.iter().filter(|(_, part)| part.is_due());
        due.filter_map(|(place, part)| Some(part.commit(place, part.done?, ""))).collect()
    }

    /// How many partitions have something done that was not committed of itself.
    pub(super) fn unsaid(&self) -> usize {
        self.due().len()
    }

    /// A commit of an assignment that is held, up to where the application says that it is done.
    pub(super) fn commit_of(
        &self,
        place: &TopicPartition,
        number: u64,
        offset: Offset,
        metadata: &str,
    ) -> Option<v1::OffsetCommit> {
        let part = self.parts.get(place).filter(|part| part.number == number)?;
        Some(part.commit(place, offset, metadata))
    }

    /// The number of an assignment that is on its way to another member.
    pub(super) fn leaving(&self, place: &TopicPartition) -> Option<u64> {
        self.parts.get(place).filter(|part| part.is_leaving).map(|part| part.number)
    }

    /// This was committed: of itself, or because the application said so.
    pub(super) fn committed(&mut self, commit: &v1::OffsetCommit, is_said: bool) {
        if let Some(part) = self.part_of(commit) {
            let offset = Offset::new(commit.offset);
            part.committed = Some(offset);
            if is_said {
                part.done = Some(offset);
            }
        }
    }

    /// This was refused, and always will be: it is not tried again.
    pub(super) fn cannot_commit(&mut self, commit: &v1::OffsetCommit, error: ServerError) {
        if let Some(part) = self.part_of(commit) {
            // More may be done by now, which was not refused.
            if part.done == Some(Offset::new(commit.offset)) {
                part.done = part.committed;
            }
            // What is gone with its topic was not lost, and the membership tells of it.
            if error.reason != "UNKNOWN_TOPIC" {
                self.lost_due += 1;
                self.failures.extend(place_of(commit).map(|place| (place, error)));
            }
        }
    }

    /// A refused commit that the application is to be told of.
    pub(super) fn next_failure(&mut self) -> Option<(TopicPartition, ServerError)> {
        self.failures.pop_front()
    }

    /// How often something that was done could not be committed any more.
    pub(super) fn lost_due(&self) -> usize {
        self.lost_due
    }

    /// This was refused, because the partition is another's by now.
    pub(super) fn stale(&mut self, commit: &v1::OffsetCommit) {
        let Some(place) = place_of(commit) else { return };
        if self.part_of(commit).is_some() {
            self.forget(&place);
            self.assigned.remove(&place);
            self.notices.push_back(GroupEvent::Lost(vec![place]));
        }
    }

    fn part_of(&mut self, commit: &v1::OffsetCommit) -> Option<&mut Part> {
        let part = self.parts.get_mut(&place_of(commit)?)?;
        (part.epoch == commit.epoch).then_some(part)
    }

    /// Lets go of what is another's and done with; whether there was something.
    pub(super) fn release(&mut self) -> bool {
        let in_hand = self.in_hand.as_ref().map(|(place, ..)| place.clone());
        let mode = self.mode;
        let over = self.parts.iter().filter(|(place, part)| {
            let is_idle = in_hand.as_ref() != Some(*place);
            let is_done = match mode {
                Commit::Auto(_) => !part.is_due(),
                Commit::Manual => part.delivered == part.committed || part.is_let_go,
                Commit::BeforeDelivery => true,
            };
            part.is_leaving && is_idle && is_done
        });
        let over: Vec<_> = over.map(|(place, _)| place.clone()).collect();
        for place in &over {
            self.forget(place);
        }
        if !over.is_empty() {
            // It may be this one's again by now.
            self.reconcile();
        }
        !over.is_empty()
    }

    /// Whether something is on its way to another member.
    pub(super) fn is_leaving(&self) -> bool {
        self.parts.values().any(|part| part.is_leaving)
    }
}

impl Part {
    fn is_due(&self) -> bool {
        self.done.is_some() && self.done != self.committed
    }

    fn commit(&self, place: &TopicPartition, offset: Offset, metadata: &str) -> v1::OffsetCommit {
        v1::OffsetCommit {
            topic: place.topic.to_string(),
            partition: place.partition.get(),
            offset: offset.get(),
            epoch: self.epoch,
            metadata: metadata.to_owned(),
            topic_id: self.topic_id.clone(),
        }
    }
}

fn place_of(commit: &v1::OffsetCommit) -> Option<TopicPartition> {
    let topic = taffrail_model::TopicName::parse(&commit.topic).ok()?;
    Some(TopicPartition::new(topic, taffrail_model::PartitionIndex::new(commit.partition)))
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
