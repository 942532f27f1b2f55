//! Who is to have which partition: pure.
//!
//! *Uniform, sticky*: every member has as many as any other that wants the same, or one more, and
//! whoever has a partition keeps it as long as that is so. *Range*: neighbours stay together, each
//! member a run of each topic's partitions, in the order of the members' names, so that partitions of
//! one number in several topics have one owner.
//!
//! Most members of a group want the same, so wishes are kept once for all who share them: what an
//! assignment costs grows with partitions and members, not with both at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use taffrail_model::TopicId;

use super::event::Slot;

/// How partitions are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignor {
    /// Everybody has as many as others that want the same, or one more; nothing moves that need not.
    #[default]
    UniformSticky,
    /// Each member has a run of each topic's partitions.
    Range,
}

/// The partitions that each member wants.
#[derive(Debug, Default)]
pub(crate) struct Wishes<'a> {
    /// What somebody wants, each set once.
    sets: Vec<BTreeSet<Slot>>,
    /// Which of them each member wants.
    members: BTreeMap<&'a str, usize>,
}

/// Who has a partition, or is to have it.
pub(crate) type Owners = BTreeMap<Slot, String>;

impl Assignor {
    /// Who is to have what; `now` is who was to have it before.
    pub(crate) fn assign(self, wishes: &Wishes<'_>, now: &Owners) -> Owners {
        match self {
            Self::UniformSticky => Shares::new(wishes).assign(now),
            Self::Range => range(wishes),
        }
    }
}

impl<'a> Wishes<'a> {
    /// Notes what several members want.
    pub(crate) fn add(
        &mut self,
        members: impl IntoIterator<Item = &'a str>,
        wanted: BTreeSet<Slot>,
    ) {
        let set = self.sets.len();
        self.sets.push(wanted);
        self.members.extend(members.into_iter().map(|member| (member, set)));
    }

    fn wanted_by(&self, member: &str) -> Option<&BTreeSet<Slot>> {
        self.members.get(member).and_then(|set| self.sets.get(*set))
    }
}

/// What everybody gets, while it is being shared out evenly.
struct Shares<'a> {
    wishes: &'a Wishes<'a>,
    held: BTreeMap<&'a str, BTreeSet<Slot>>,
    /// Of those who want each set: how many partitions each has, and who.
    ranks: Vec<BTreeSet<(usize, &'a str)>>,
}

impl<'a> Shares<'a> {
    fn new(wishes: &'a Wishes<'a>) -> Self {
        let mut ranks = vec![BTreeSet::new(); wishes.sets.len()];
        for (member, set) in &wishes.members {
            ranks[*set].insert((0, *member));
        }
        let held = wishes.members.keys().map(|member| (*member, BTreeSet::new())).collect();
        Self { wishes, held, ranks }
    }

    fn assign(mut self, now: &Owners) -> Owners {
        let mut free: BTreeSet<Slot> = self.wishes.sets.iter().flatten().copied().collect();
        // Whoever wants what it has keeps it, for now.
        for (slot, owner) in now {
            if self.wishes.wanted_by(owner).is_some_and(|slots| slots.contains(slot))
                && let Some((member, _)) = self.wishes.members.get_key_value(owner.as_str())
            {
                free.remove(slot);
                self.give(*slot, member);
            }
        }
        // What is free goes to whoever has least of those who want it.
        for slot in free {
            let wanting = self.ranks.iter().zip(&self.wishes.sets);
            let wanting = wanting.filter(|(_, wanted)| wanted.contains(&slot));
            let least = wanting.filter_map(|(ranks, _)| ranks.first()).min().copied();
            if let Some((_, member)) = least {
                self.give(slot, member);
            }
        }
        while let Some((slot, rich, poor)) = self.uneven() {
            self.take(slot, rich);
            self.give(slot, poor);
        }
        let held = self.held.into_iter();
        held.flat_map(|(member, slots)| slots.into_iter().map(|it| (it, member.to_owned())))
            .collect()
    }

    /// A partition that the first one has, who has more than the second one by two or more, and that
    /// the second one wants.
    fn uneven(&self) -> Option<(Slot, &'a str, &'a str)> {
        // If it is nothing for the poorest of those who want the same, it is not for the others either.
        let poorest = self.ranks.iter().zip(&self.wishes.sets);
        let poorest = poorest.filter_map(|(ranks, wanted)| Some((ranks.first()?, wanted)));
        for ((few, poor), wanted) in poorest {
            for ranks in &self.ranks {
                let richer = ranks.iter().rev().take_while(|(many, _)| few + 1 < *many);
                for (_, rich) in richer {
                    let slot = self.held[rich].iter().rev().find(|slot| wanted.contains(slot));
                    if let Some(slot) = slot {
                        return Some((*slot, rich, poor));
                    }
                }
            }
        }
        None
    }

    fn give(&mut self, slot: Slot, member: &'a str) {
        self.change(member, |slots| slots.insert(slot));
    }

    fn take(&mut self, slot: Slot, member: &'a str) {
        self.change(member, |slots| slots.remove(&slot));
    }

    fn change(&mut self, member: &'a str, change: impl FnOnce(&mut BTreeSet<Slot>) -> bool) {
        let ranks = &mut self.ranks[self.wishes.members[member]];
        let slots = self.held.get_mut(member).expect("everybody who wants something is there");
        ranks.remove(&(slots.len(), member));
        let has_changed = change(slots);
        assert!(has_changed, "a partition is given and taken once");
        ranks.insert((slots.len(), member));
    }
}

fn range(wishes: &Wishes<'_>) -> Owners {
    let mut topics: BTreeMap<TopicId, BTreeSet<Slot>> = BTreeMap::new();
    for slot in wishes.sets.iter().flatten() {
        topics.entry(slot.0.split().0).or_default().insert(*slot);
    }
    let mut owners = Owners::new();
    for slots in topics.into_values() {
        let Some(first) = slots.first() else { continue };
        // Whoever wants a topic wants all of its partitions.
        let wants = |set: &usize| wishes.sets[*set].contains(first);
        let wanting = wishes.members.iter().filter(|(_, set)| wants(set));
        let wanting: Vec<_> = wanting.map(|(member, _)| *member).collect();
        let count = slots.len();
        for (at, slot) in slots.into_iter().enumerate() {
            if let Some(member) = wanting.get(at * wanting.len() / count) {
                owners.insert(slot, (*member).to_owned());
            }
        }
    }
    owners
}
