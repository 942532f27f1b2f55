//! Which groups there are, who is in them, who owns what, and how far each has come: pure.
//!
//! A group has a *target*: who is to have which partition. It changes when members come and go or
//! partitions do, and with each change an epoch of the group begins. Who *owns* a partition follows it:
//! one that nobody owns becomes its target's at once; one that another owns only when that one has
//! released it, or is no member any more. So there are never two owners, and nobody stops who keeps
//! what it has.
//!
//! An owner is one since an epoch: that is the assignment's. What a member says of a partition counts
//! if it owns it in that very epoch: whoever had it before, or had it, lost it and got it again, says
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use taffrail_model::{Timestamp, limits};

use super::assign::{Assignor, Owners, Wishes};
use super::catalogue::Catalogue;
use super::command::{Change, Command, CommandKind, GroupRefusal, OwnCommit, Refused, Reply};
use super::event::{Commit, Event, EventKind, Move, Profile, Slot};
use crate::coordinator::{Decision, StateMachine};

/// Bytes that a committed offset takes besides its metadata, about.
const OFFSET_BYTES: usize = 64;

/// Epochs that are passed over where nobody knows which were given out.
const UNKNOWN_EPOCHS: u32 = 1 << 20;

/// All groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registry {
    groups: BTreeMap<String, Group>,
    /// What all that was committed takes.
    offsets_bytes: usize,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    epoch: u32,
    assignor: Assignor,
    members: BTreeMap<String, Profile>,
    target: Owners,
    owners: BTreeMap<Slot, Owner>,
    committed: BTreeMap<Slot, Committed>,
    /// When somebody left it or committed to it last.
    active_ms: i64,
}

/// Who reads a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) member: String,
    /// The epoch in which it got it.
    pub(crate) since: u32,
    /// The epoch in which it was to be its again, after it was to be another's.
    #[serde(default, skip_serializing_if = "is_never")]
    pub(crate) again: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_never(epoch: &u32) -> bool {
    *epoch == 0
}

/// How far a group has come in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offset: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) metadata: String,
    pub(crate) at_ms: i64,
}

/// What a member is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) epoch: u32,
    /// What it may read, and since which epoch: what it owns and is to keep.
    pub(crate) assigned: BTreeMap<Slot, u32>,
    /// What is to be its, and who owns it still.
    pub(crate) awaited: BTreeMap<Slot, String>,
}

impl Registry {
    pub(crate) fn get(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Group)> {
        self.groups.iter()
    }

    /// What is known once nobody knows any more who has done what since: where each group was, and
    /// nobody in it. No epoch that may have been given out comes again.
    pub(crate) fn restarted(mut self, now: Timestamp) -> Self {
        for group in self.groups.values_mut() {
            // Its members have not had the time to come back.
            group.active_ms = now.as_millis();
            group.epoch = group.epoch.saturating_add(UNKNOWN_EPOCHS);
            group.members.clear();
            group.target.clear();
            group.owners.clear();
        }
        self
    }

    pub(super) fn known(&self, name: &str) -> Result<&Group, GroupRefusal> {
        self.get(name).ok_or_else(|| GroupRefusal::UnknownGroup { group: name.to_owned() })
    }

    fn check_room(&self, name: &str, offsets: &[Commit]) -> Result<(), GroupRefusal> {
        let group = self.groups.get(name);
        if group.is_none() && self.groups.len() >= limits::GROUPS_MAX {
            return Err(GroupRefusal::Full { what: "groups", max: limits::GROUPS_MAX });
        }
        let more: usize = offsets.iter().map(|it| OFFSET_BYTES + it.metadata.len()).sum();
        let freed = |commit: &Commit| group.map_or(0, |group| group.offset_bytes(commit.slot));
        let freed: usize = offsets.iter().map(freed).sum();
        if self.offsets_bytes + more > limits::GROUP_OFFSETS_BYTES_MAX + freed {
            let max = limits::GROUP_OFFSETS_BYTES_MAX;
            return Err(GroupRefusal::Full { what: "bytes of committed offsets", max });
        }
        Ok(())
    }

    /// The commands that only look at one group, or change who is in it.
    fn decide_on(
        &self,
        name: &str,
        kind: CommandKind,
        topics: &Catalogue,
        now: Timestamp,
    ) -> Decision<Self> {
        let empty = Group::default();
        let group = self.get(name).unwrap_or(&empty);
        let at_ms = now.as_millis();
        match kind {
            CommandKind::Join { member, profile, assignor, is_back } => {
                self.check_room(name, &[])?;
                let events = group.join(name, member, profile, assignor, is_back)?;
                Ok(group.changed(name, events, Some(topics)))
            }
            CommandKind::Leave { member } => {
                group.check_member(name, &member, "")?;
                let left = EventKind::MemberLeft { member, at_ms };
                Ok(group.changed(name, vec![left], Some(topics)))
            }
            CommandKind::Release { member, epoch, kept } => {
                group.check_member(name, &member, "")?;
                let slots = group.releasable(&member, epoch, &kept);
                let is_some = !slots.is_empty();
                let released = is_some.then_some(EventKind::Released { member, slots });
                Ok(group.changed(name, released.into_iter().collect(), None))
            }
            CommandKind::Commit { by, offsets } => {
                let (offsets, refused) = group.check_commit(name, by.as_deref(), offsets)?;
                self.check_room(name, &offsets)?;
                let is_some = !offsets.is_empty();
                let committed =
                    is_some.then(|| event(name, EventKind::Committed { offsets, at_ms }));
                Ok((Reply { refused, ..Reply::default() }, committed.into_iter().collect()))
            }
            CommandKind::Reset { offsets, is_forced } => {
                if !is_forced {
                    group.check_empty(name)?;
                }
                self.check_room(name, &offsets)?;
                let reset = EventKind::Reset { epoch: group.epoch + 1, offsets, at_ms };
                Ok(group.changed(name, vec![reset], None))
            }
            CommandKind::Delete => {
                self.known(name)?.check_empty(name)?;
                Ok((Reply::default(), vec![event(name, EventKind::Deleted)]))
            }
        }
    }

    /// Brings all groups up to date with the topics that there are.
    fn follow(&self, topics: &Catalogue) -> (Reply, Vec<Event>) {
        let (mut reply, mut events) = (Reply::default(), Vec::new());
        for (name, group) in &self.groups {
            let gone = group.committed.keys().filter(|slot| topics.name(**slot).is_none());
            let gone: Vec<_> = gone.copied().collect();
            let forgotten = (!gone.is_empty()).then_some(EventKind::Forgotten { slots: gone });
            if forgotten.is_none() && group.members.is_empty() {
                continue;
            }
            let (one, more) = group.changed(name, forgotten.into_iter().collect(), Some(topics));
            reply.changes.extend(one.changes);
            events.extend(more);
        }
        (reply, events)
    }
}

impl Group {
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(crate) fn assignor(&self) -> Assignor {
        self.assignor
    }

    pub(crate) fn members(&self) -> &BTreeMap<String, Profile> {
        &self.members
    }

    pub(crate) fn owners(&self) -> &BTreeMap<Slot, Owner> {
        &self.owners
    }

    pub(crate) fn target(&self) -> &Owners {
        &self.target
    }

    pub(crate) fn committed(&self) -> &BTreeMap<Slot, Committed> {
        &self.committed
    }

    /// The assignment of a partition: whose it is to read now, and since when.
    pub(crate) fn assignment(&self, slot: Slot) -> Option<&Owner> {
        let owner = self.owners.get(&slot)?;
        (self.target.get(&slot) == Some(&owner.member)).then_some(owner)
    }

    /// What a member is told.
    pub(crate) fn view(&self, member: &str) -> View {
        let mut view = View { epoch: self.epoch, ..View::default() };
        for (slot, _) in self.target.iter().filter(|(_, it)| *it == member) {
            match self.owners.get(slot) {
                Some(owner) if owner.member == member => {
                    view.assigned.insert(*slot, owner.since);
                }
                Some(other) => drop(view.awaited.insert(*slot, other.member.clone())),
                None => {}
            }
        }
        view
    }

    /// What a member has stopped reading, of what it owned in an epoch that it knows of, and is to
    /// stop reading: what is assigned to it, it may not have begun to read.
    pub(crate) fn releasable(&self, member: &str, epoch: u32, kept: &BTreeSet<Slot>) -> Vec<Slot> {
        let owned = self.owners.iter();
        let owned = owned.filter(|(_, owner)| {
            // Whoever has not heard that it is its again speaks of before.
            owner.member == member && owner.since.max(owner.again) <= epoch
        });
        let is_over = |slot: &Slot| {
            !kept.contains(slot) && self.target.get(slot).is_none_or(|target| target != member)
        };
        owned.map(|(slot, _)| *slot).filter(is_over).collect()
    }

    /// Refuses whoever is no member: because another goes on as its instance, if that is so.
    pub(crate) fn check_member(
        &self,
        name: &str,
        member: &str,
        instance: &str,
    ) -> Result<(), GroupRefusal> {
        if self.members.contains_key(member) {
            return Ok(());
        }
        let (group, member) = (name.to_owned(), member.to_owned());
        if !instance.is_empty() && self.instance(instance).is_some() {
            return Err(GroupRefusal::FencedInstance { group, member, instance: instance.into() });
        }
        Err(GroupRefusal::UnknownMember { group, member })
    }

    fn check_empty(&self, name: &str) -> Result<(), GroupRefusal> {
        match self.members.len() {
            0 => Ok(()),
            members => Err(GroupRefusal::HasMembers { group: name.to_owned(), members }),
        }
    }

    /// The member that goes by an instance's name.
    fn instance(&self, instance: &str) -> Option<&String> {
        self.members.iter().find(|(_, it)| it.instance == instance).map(|(member, _)| member)
    }

    fn join(
        &self,
        name: &str,
        member: String,
        profile: Profile,
        assignor: Option<Assignor>,
        is_back: bool,
    ) -> Result<Vec<EventKind>, GroupRefusal> {
        if is_back {
            self.check_member(name, &member, &profile.instance)?;
        }
        let former =
            if profile.instance.is_empty() { None } else { self.instance(&profile.instance) };
        let is_new = !self.members.contains_key(&member);
        if is_new && former.is_none() && self.members.len() >= limits::GROUP_MEMBERS_MAX {
            return Err(GroupRefusal::Full { what: "members", max: limits::GROUP_MEMBERS_MAX });
        }
        let chosen = assignor.filter(|chosen| *chosen != self.assignor);
        let mut events: Vec<_> =
            chosen.map(|assignor| EventKind::AssignorChosen { assignor }).into_iter().collect();
        match former {
            Some(former) if *former != member => {
                let (member, by) = (former.clone(), member);
                events.push(EventKind::MemberReplaced { member, by, profile });
            }
            _ if self.members.get(&member) == Some(&profile) => {}
            _ => events.push(EventKind::MemberJoined { member, profile }),
        }
        Ok(events)
    }

    /// Which commits count: those of a group without members, or of what the member owns in the epoch
    /// that it names.
    fn check_commit(
        &self,
        name: &str,
        by: Option<&str>,
        offsets: Vec<OwnCommit>,
    ) -> Result<(Vec<Commit>, Refused), GroupRefusal> {
        let Some(member) = by else {
            self.check_empty(name)?;
            return Ok((offsets.into_iter().map(|own| own.commit).collect(), Vec::new()));
        };
        self.check_member(name, member, "")?;
        let (mut counting, mut refused) = (Vec::new(), Vec::new());
        for (index, OwnCommit { commit, epoch }) in offsets.into_iter().enumerate() {
            let owner = self.owners.get(&commit.slot);
            if owner.is_some_and(|owner| owner.member == member && owner.since == epoch) {
                counting.push(commit);
            } else {
                refused.push((
                    index,
                    GroupRefusal::StaleMember {
                        group: name.to_owned(),
                        member: member.to_owned(),
                        epoch,
                        owner: owner.map(|it| (it.member.clone(), it.since)),
                    },
                ));
            }
        }
        Ok((counting, refused))
    }

    /// These events, and with `topics` those that bring the target up to date after them; and whom that
    /// concerns.
    fn changed(
        &self,
        name: &str,
        mut kinds: Vec<EventKind>,
        topics: Option<&Catalogue>,
    ) -> (Reply, Vec<Event>) {
        let mut next = self.clone();
        for kind in &kinds {
            next.apply(kind);
        }
        if let Some(targeted) = topics.and_then(|topics| next.retarget(topics)) {
            next.apply(&targeted);
            kinds.push(targeted);
        }
        let change = self.difference(name, &next);
        let changes = if change.is_empty() { Vec::new() } else { vec![change] };
        let events = kinds.into_iter().map(|kind| event(name, kind)).collect();
        (Reply { changes, ..Reply::default() }, events)
    }

    /// What brings the target up to date, if it is not.
    fn retarget(&self, topics: &Catalogue) -> Option<EventKind> {
        let mut alike: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
        for (member, profile) in &self.members {
            alike.entry(&profile.topics).or_default().push(member);
        }
        let mut wishes = Wishes::default();
        for (wanted, members) in alike {
            wishes.add(members, topics.slots(wanted));
        }
        let target = self.assignor.assign(&wishes, &self.target);
        let all: BTreeSet<_> = target.keys().chain(self.target.keys()).collect();
        let moved = all.into_iter().filter(|slot| target.get(slot) != self.target.get(slot));
        let moves: Vec<_> =
            moved.map(|slot| Move { slot: *slot, to: target.get(slot).cloned() }).collect();
        (!moves.is_empty()).then(|| EventKind::Targeted { epoch: self.epoch + 1, moves })
    }

    /// The partitions whose owner or target differs, and the members that this concerns.
    fn difference(&self, name: &str, next: &Self) -> Change {
        let mut change = Change { group: name.to_owned(), ..Change::default() };
        let all = [self, next].map(|it| it.owners.keys().chain(it.target.keys()));
        let all: BTreeSet<_> = all.into_iter().flatten().collect();
        for slot in all {
            let sides = [self, next].map(|it| (it.owners.get(slot), it.target.get(slot)));
            if sides[0] != sides[1] {
                change.slots.insert(*slot);
                for (owner, target) in sides {
                    change.members.extend(owner.map(|owner| owner.member.clone()));
                    change.members.extend(target.cloned());
                }
            }
        }
        let gone = self.members.keys().filter(|member| !next.members.contains_key(*member));
        change.members.extend(gone.cloned());
        change
    }

    fn apply(&mut self, kind: &EventKind) {
        match kind.clone() {
            EventKind::AssignorChosen { assignor } => self.assignor = assignor,
            EventKind::MemberJoined { member, profile } => {
                self.members.insert(member, profile);
            }
            EventKind::MemberReplaced { member, by, profile } => {
                self.members.remove(&member);
                self.members.insert(by.clone(), profile);
                self.epoch += 1;
                let since = self.epoch;
                for owner in self.owners.values_mut().filter(|owner| owner.member == member) {
                    *owner = Owner { member: by.clone(), since, again: 0 };
                }
                let theirs = self.target.values_mut().filter(|it| **it == member);
                theirs.for_each(|it| it.clone_from(&by));
            }
            EventKind::MemberLeft { member, at_ms } => {
                self.members.remove(&member);
                self.owners.retain(|_, owner| owner.member != member);
                self.target.retain(|_, it| *it != member);
                self.active_ms = at_ms;
                self.give_on();
            }
            EventKind::Targeted { epoch, moves } => {
                self.epoch = epoch;
                for Move { slot, to } in moves {
                    if let Some(owner) = self.owners.get_mut(&slot)
                        && to.as_ref() == Some(&owner.member)
                    {
                        owner.again = epoch;
                    }
                    match to {
                        Some(member) => drop(self.target.insert(slot, member)),
                        None => drop(self.target.remove(&slot)),
                    }
                }
                self.give();
            }
            EventKind::Released { member, slots } => {
                for slot in slots {
                    if self.owners.get(&slot).is_some_and(|owner| owner.member == member) {
                        self.owners.remove(&slot);
                    }
                }
                self.give_on();
            }
            EventKind::Committed { offsets, at_ms } => self.commit(offsets, at_ms),
            EventKind::Reset { epoch, offsets, at_ms } => {
                self.epoch = epoch;
                for Commit { slot, .. } in &offsets {
                    if let Some(owner) = self.owners.get_mut(slot) {
                        owner.since = epoch;
                    }
                }
                self.commit(offsets, at_ms);
            }
            EventKind::Forgotten { slots } => {
                self.committed.retain(|slot, _| !slots.contains(slot));
            }
            EventKind::Deleted => {}
        }
    }

    fn commit(&mut self, offsets: Vec<Commit>, at_ms: i64) {
        for Commit { slot, offset, metadata } in offsets {
            self.committed.insert(slot, Committed { offset, metadata, at_ms });
        }
        self.active_ms = at_ms;
    }

    /// What nobody owns any more is given to whoever waited for it, in an epoch of its own: what they
    /// said before, they said without it.
    fn give_on(&mut self) {
        if self.target.keys().any(|slot| !self.owners.contains_key(slot)) {
            self.epoch += 1;
            self.give();
        }
    }

    /// What nobody owns is given to whoever is to have it.
    fn give(&mut self) {
        let since = self.epoch;
        for (slot, member) in &self.target {
            let owner = || Owner { member: member.clone(), since, again: 0 };
            self.owners.entry(*slot).or_insert_with(owner);
        }
    }

    /// What a partition's committed offset takes.
    fn offset_bytes(&self, slot: Slot) -> usize {
        self.committed.get(&slot).map_or(0, |it| OFFSET_BYTES + it.metadata.len())
    }
}

impl StateMachine for Registry {
    type Command = Command;
    type Reply = Reply;
    type Refusal = GroupRefusal;
    type Event = Event;

    fn decide(&self, command: Command, now: Timestamp) -> Decision<Self> {
        match command {
            Command::Of { group, kind, topics } => {
                self.decide_on(&group, kind, &topics.load(), now)
            }
            Command::Follow { topics } => Ok(self.follow(&topics.load())),
            Command::Expire { before } => {
                let is_over = |group: &Group| {
                    group.members.is_empty() && group.active_ms < before.as_millis()
                };
                let over = self.groups.iter().filter(|(_, group)| is_over(group));
                let events = over.map(|(name, _)| event(name, EventKind::Deleted)).collect();
                Ok((Reply::default(), events))
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        let group = self.groups.entry(event.group.clone()).or_default();
        let touched: BTreeSet<Slot> = match &event.kind {
            EventKind::Committed { offsets, .. } | EventKind::Reset { offsets, .. } => {
                offsets.iter().map(|commit| commit.slot).collect()
            }
            EventKind::Forgotten { slots } => slots.iter().copied().collect(),
            EventKind::Deleted => group.committed.keys().copied().collect(),
            EventKind::AssignorChosen { .. }
            | EventKind::MemberJoined { .. }
            | EventKind::MemberReplaced { .. }
            | EventKind::MemberLeft { .. }
            | EventKind::Targeted { .. }
            | EventKind::Released { .. } => BTreeSet::new(),
        };
        let bytes = |group: &Group| touched.iter().map(|slot| group.offset_bytes(*slot)).sum();
        let before: usize = bytes(group);
        group.apply(&event.kind);
        let after: usize = if event.kind == EventKind::Deleted { 0 } else { bytes(group) };
        self.offsets_bytes = self.offsets_bytes + after - before;
        if event.kind == EventKind::Deleted {
            self.groups.remove(&event.group);
        }
    }
}

fn event(group: &str, kind: EventKind) -> Event {
    Event { group: group.to_owned(), kind }
}
