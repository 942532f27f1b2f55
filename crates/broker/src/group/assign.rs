//! Who is to have which partition: pure.
//!
//! *Uniform, sticky*: every member has as many as any other that wants the same, or one more, and
//! whoever has a partition keeps it as long as that is so. *Range*: neighbours stay together, each
//! member a run of each topic's partitions, in the order of the members' names, so that partitions of
//! one number in several topics have one owner.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use taffrail_model::TopicId;

use super::event::Slot;

/// How partitions are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Assignor {
    #[default]
    UniformSticky,
    Range,
}

/// The partitions that each member wants.
pub(crate) type Wishes<'a> = BTreeMap<&'a str, &'a BTreeSet<Slot>>;

/// Who has a partition, or is to have it.
pub(crate) type Owners = BTreeMap<Slot, String>;

impl Assignor {
    /// Who is to have what; `now` is who was to have it before.
    pub(crate) fn assign(self, wishes: &Wishes<'_>, now: &Owners) -> Owners {
        match self {
            Self::UniformSticky => uniform_sticky(wishes, now),
            Self::Range => range(wishes),
        }
    }
}

fn uniform_sticky(wishes: &Wishes<'_>, now: &Owners) -> Owners {
    let mut held: BTreeMap<&str, BTreeSet<Slot>> =
        wishes.keys().map(|member| (*member, BTreeSet::new())).collect();
    let mut free = BTreeSet::new();
    for slot in wishes.values().flat_map(|slots| slots.iter()) {
        free.insert(*slot);
    }
    // Whoever wants what it has keeps it, for now.
    for (slot, owner) in now {
        if wishes.get(owner.as_str()).is_some_and(|slots| slots.contains(slot))
            && let Some(slots) = held.get_mut(owner.as_str())
        {
            slots.insert(*slot);
            free.remove(slot);
        }
    }
    // What is free goes to whoever has least of those who want it.
    for slot in free {
        let wanting = wishes.iter().filter(|(_, slots)| slots.contains(&slot));
        let least = wanting.map(|(member, _)| *member).min_by_key(|it| (held[it].len(), *it));
        if let Some(slots) = least.and_then(|member| held.get_mut(member)) {
            slots.insert(slot);
        }
    }
    balance(wishes, &mut held);
    let owners = held.into_iter();
    owners.flat_map(|(member, slots)| slots.into_iter().map(|it| (it, member.to_owned()))).collect()
}

/// Moves partitions from who has more to who has less, as long as there is a pair that differs by two.
fn balance(wishes: &Wishes<'_>, held: &mut BTreeMap<&str, BTreeSet<Slot>>) {
    let mut by_count: BTreeSet<(usize, &str)> =
        held.iter().map(|(member, slots)| (slots.len(), *member)).collect();
    'moves: loop {
        let poorest: Vec<_> = by_count.iter().copied().collect();
        for (few, poor) in poorest {
            let richer = by_count.iter().rev().copied().take_while(|(many, _)| few + 1 < *many);
            for (many, rich) in richer {
                let wanted = held[rich].iter().rev().find(|slot| wishes[poor].contains(slot));
                let Some(slot) = wanted.copied() else { continue };
                held.get_mut(rich).expect("a member").remove(&slot);
                held.get_mut(poor).expect("a member").insert(slot);
                by_count.remove(&(many, rich));
                by_count.remove(&(few, poor));
                by_count.insert((many - 1, rich));
                by_count.insert((few + 1, poor));
                continue 'moves;
            }
        }
        return;
    }
}

fn range(wishes: &Wishes<'_>) -> Owners {
    let mut topics: BTreeMap<TopicId, BTreeSet<Slot>> = BTreeMap::new();
    for slot in wishes.values().flat_map(|slots| slots.iter()) {
        topics.entry(slot.0.split().0).or_default().insert(*slot);
    }
    let mut owners = Owners::new();
    for slots in topics.into_values() {
        let first = slots.first().copied();
        let wanting: Vec<_> = wishes
            .iter()
            .filter(|(_, wanted)| first.is_some_and(|first| wanted.contains(&first)))
            .map(|(member, _)| *member)
            .collect();
        let count = slots.len();
        for (at, slot) in slots.into_iter().enumerate() {
            if let Some(member) = wanting.get(at * wanting.len() / count) {
                owners.insert(slot, (*member).to_owned());
            }
        }
    }
    owners
}
