//! Which groups there are, who is in them, who owns what, and how far each has come: pure.
//!
//! A group has a *target*: who is to have which partition. It changes when members come and go or
//! partitions do, and with each change an epoch of the group begins. Who *owns* a partition follows it:
//! one that nobody owns becomes its target's at once; one that another owns only when that one has
//! released it, or is no member any more. So there are never two owners, and nobody stops who keeps
//! what it has.
//!
//! An owner is one since an epoch. What a member says of a partition counts if it owns it, and knows of
//! an epoch as late as that: whoever had it before, or had it, lost it and got it again, says nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use taffrail_model::Timestamp;

use super::assign::{Assignor, Owners, Wishes};
use super::event::{Commit, Event, EventKind, Move, Profile, Slot};
use crate::coordinator::{Decision, StateMachine};

/// All groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    groups: BTreeMap<String, Group>,
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
}

/// Who reads a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) member: String,
    /// The epoch in which it got it.
    pub(crate) since: u32,
}

/// How far a group has come in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offset: u64,
    pub(crate) metadata: String,
    pub(crate) at_ms: i64,
}

/// What can be asked of a group.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) group: String,
    pub(crate) kind: CommandKind,
    /// The partitions that each set of topics means at the moment.
    pub(crate) topics: Catalogue,
}

/// The partitions that topics and patterns mean.
pub(crate) type Catalogue = BTreeMap<String, BTreeSet<Slot>>;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) enum CommandKind {
    /// Somebody wants to be a member, or to read other topics, or goes on for another process.
    Join { member: String, profile: Profile },
    /// Somebody goes, or was silent for too long.
    Leave { member: String },
    /// A member has stopped reading all but these.
    Keep { member: String, slots: BTreeSet<Slot> },
    /// Topics have come, grown or gone.
    Look,
    /// How far a member has come; or, without one, a group that nobody is in.
    Commit { by: Option<(String, u32)>, offsets: Vec<Commit> },
    /// What was committed for these counts no more.
    Forget { slots: Vec<Slot> },
    /// The end of the group.
    Delete,
}

/// Why it is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GroupError {
    #[error("there is no group {0:?}")]
    UnknownGroup(String),
    #[error(
        "{member:?} is no member of group {group:?}: its session ended, or another process goes on \
         as its instance; join anew"
    )]
    UnknownMember { group: String, member: String },
    #[error(
        "member {member:?} of group {group:?} does not own {slot:?}, or not since epoch {epoch}: it \
         reads what is another's now; look at what it is assigned"
    )]
    StaleMember { group: String, member: String, slot: Slot, epoch: u32 },
    #[error("group {group:?} has {members} members: stop them first, or say --force")]
    HasMembers { group: String, members: usize },
}

impl Groups {
    pub(crate) fn get(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Group)> {
        self.groups.iter()
    }
}

impl Group {
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
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

    /// What a member may read now: what it owns and is to keep.
    pub(crate) fn assigned(&self, member: &str) -> BTreeSet<Slot> {
        let owned = self.owners.iter().filter(|(_, owner)| owner.member == member);
        let kept = owned.filter(|(slot, _)| self.target.get(slot).is_some_and(|it| it == member));
        kept.map(|(slot, _)| *slot).collect()
    }

    /// The events that bring the target up to date, once these have happened.
    fn retarget(&self, name: &str, mut events: Vec<Event>, topics: &Catalogue) -> Vec<Event> {
        let mut next = self.clone();
        events.iter().for_each(|event| next.apply(&event.kind));
        let wanted: BTreeMap<_, BTreeSet<Slot>> = next
            .members
            .iter()
            .map(|(member, profile)| {
                let slots = profile.topics.iter().filter_map(|topic| topics.get(topic));
                (member.as_str(), slots.flatten().copied().collect())
            })
            .collect();
        let wishes: Wishes<'_> = wanted.iter().map(|(member, slots)| (*member, slots)).collect();
        let target = next.assignor.assign(&wishes, &next.target);
        let all: BTreeSet<_> = target.keys().chain(next.target.keys()).collect();
        let moved = all.into_iter().filter(|slot| target.get(slot) != next.target.get(slot));
        let moves: Vec<_> =
            moved.map(|slot| Move { slot: *slot, to: target.get(slot).cloned() }).collect();
        if !moves.is_empty() {
            let kind = EventKind::Targeted { epoch: next.epoch + 1, moves };
            events.push(Event { group: name.to_owned(), kind });
        }
        events
    }

    fn check_commit(
        &self,
        name: &str,
        by: Option<&(String, u32)>,
        offsets: &[Commit],
    ) -> Result<(), GroupError> {
        let Some((member, epoch)) = by else {
            let (group, members) = (name.to_owned(), self.members.len());
            return if members == 0 {
                Ok(())
            } else {
                Err(GroupError::HasMembers { group, members })
            };
        };
        if !self.members.contains_key(member) {
            let (group, member) = (name.to_owned(), member.clone());
            return Err(GroupError::UnknownMember { group, member });
        }
        let is_owned = |commit: &&Commit| {
            let owner = self.owners.get(&commit.slot);
            owner.is_some_and(|owner| owner.member == *member && owner.since <= *epoch)
        };
        match offsets.iter().find(|commit| !is_owned(commit)) {
            None => Ok(()),
            Some(Commit { slot, .. }) => Err(GroupError::StaleMember {
                group: name.to_owned(),
                member: member.clone(),
                slot: *slot,
                epoch: *epoch,
            }),
        }
    }

    fn apply(&mut self, kind: &EventKind) {
        match kind.clone() {
            EventKind::MemberJoined { member, profile }
            | EventKind::MemberChanged { member, profile } => {
                self.members.insert(member, profile);
            }
            EventKind::MemberReplaced { member, by, profile } => {
                self.members.remove(&member);
                self.members.insert(by.clone(), profile);
                // Whatever the former process says of them is of an epoch before.
                self.epoch += 1;
                let since = self.epoch;
                for owner in self.owners.values_mut().filter(|owner| owner.member == member) {
                    *owner = Owner { member: by.clone(), since };
                }
                self.target
                    .values_mut()
                    .filter(|it| **it == member)
                    .for_each(|it| it.clone_from(&by));
            }
            EventKind::MemberLeft { member } => {
                self.members.remove(&member);
                self.owners.retain(|_, owner| owner.member != member);
                self.target.retain(|_, it| *it != member);
            }
            EventKind::Targeted { epoch, moves } => {
                self.epoch = epoch;
                for Move { slot, to } in moves {
                    match to {
                        Some(member) => drop(self.target.insert(slot, member)),
                        None => drop(self.target.remove(&slot)),
                    }
                }
            }
            EventKind::Released { member, slots } => {
                let released =
                    |slot: &Slot, owner: &Owner| owner.member == member && slots.contains(slot);
                self.owners.retain(|slot, owner| !released(slot, owner));
            }
            EventKind::Committed { offsets, at_ms } => {
                for Commit { slot, offset, metadata } in offsets {
                    self.committed.insert(slot, Committed { offset, metadata, at_ms });
                }
            }
            EventKind::Forgotten { slots } => {
                slots.iter().for_each(|slot| drop(self.committed.remove(slot)));
            }
            EventKind::Deleted => {}
        }
        self.give();
    }

    /// What nobody owns is given to whoever is to have it.
    fn give(&mut self) {
        let since = self.epoch;
        for (slot, member) in &self.target {
            let owner = || Owner { member: member.clone(), since };
            self.owners.entry(*slot).or_insert_with(owner);
        }
    }
}

impl StateMachine for Groups {
    type Command = Command;
    type Reply = ();
    type Refusal = GroupError;
    type Event = Event;

    fn decide(&self, command: Command, now: Timestamp) -> Decision<Self> {
        let Command { group: name, kind, topics } = command;
        let empty = Group::default();
        let known = self.groups.get(&name);
        let group = known.unwrap_or(&empty);
        let event = |kind| Event { group: name.clone(), kind };
        let unknown_group = || GroupError::UnknownGroup(name.clone());
        let unknown_member = |member: &String| GroupError::UnknownMember {
            group: name.clone(),
            member: member.clone(),
        };
        let events = match kind {
            CommandKind::Join { member, profile } => {
                let former = group.members.iter().find(|(id, it)| {
                    !profile.instance.is_empty()
                        && it.instance == profile.instance
                        && **id != member
                });
                let joined = match (former, group.members.get(&member)) {
                    (Some((former, _)), _) => {
                        let (member, by) = (former.clone(), member);
                        vec![event(EventKind::MemberReplaced { member, by, profile })]
                    }
                    (None, Some(before)) if *before == profile => Vec::new(),
                    (None, Some(_)) => vec![event(EventKind::MemberChanged { member, profile })],
                    (None, None) => vec![event(EventKind::MemberJoined { member, profile })],
                };
                group.retarget(&name, joined, &topics)
            }
            CommandKind::Leave { member } => {
                if !group.members.contains_key(&member) {
                    return Err(unknown_member(&member));
                }
                group.retarget(&name, vec![event(EventKind::MemberLeft { member })], &topics)
            }
            CommandKind::Keep { member, slots } => {
                if !group.members.contains_key(&member) {
                    return Err(unknown_member(&member));
                }
                let owned = group.owners.iter().filter(|(_, owner)| owner.member == member);
                // What it is to keep it may not have heard of yet.
                let released: Vec<_> = owned
                    .map(|(slot, _)| *slot)
                    .filter(|slot| !slots.contains(slot) && group.target.get(slot) != Some(&member))
                    .collect();
                let is_some = !released.is_empty();
                let released = EventKind::Released { member, slots: released };
                is_some.then(|| event(released)).into_iter().collect()
            }
            CommandKind::Look => group.retarget(&name, Vec::new(), &topics),
            CommandKind::Commit { by, offsets } => {
                group.check_commit(&name, by.as_ref(), &offsets)?;
                vec![event(EventKind::Committed { offsets, at_ms: now.as_millis() })]
            }
            CommandKind::Forget { slots } => {
                known.ok_or_else(unknown_group)?;
                vec![event(EventKind::Forgotten { slots })]
            }
            CommandKind::Delete => {
                let members = known.ok_or_else(unknown_group)?.members.len();
                if members > 0 {
                    return Err(GroupError::HasMembers { group: name, members });
                }
                vec![event(EventKind::Deleted)]
            }
        };
        Ok(((), events))
    }

    fn apply(&mut self, event: &Event) {
        if event.kind == EventKind::Deleted {
            self.groups.remove(&event.group);
            return;
        }
        self.groups.entry(event.group.clone()).or_default().apply(&event.kind);
    }
}
