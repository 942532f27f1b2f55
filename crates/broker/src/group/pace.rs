//! How fast groups are, and whether they get on: in memory, from what is seen at each commit.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::Slot;
use crate::pace::{Pace, PaceRates};

/// How all groups get on, in each partition.
#[derive(Debug, Default)]
pub(super) struct Paces {
    paces: Mutex<HashMap<Arc<str>, HashMap<Slot, Pace>>>,
}

impl Paces {
    /// Takes note of a commit.
    pub(super) fn note(&self, group: &str, slot: Slot, committed: u64, end: u64) {
        let mut paces = self.paces();
        if !paces.contains_key(group) {
            paces.insert(group.into(), HashMap::new());
        }
        if let Some(slots) = paces.get_mut(group) {
            slots.entry(slot).or_default().note(committed, end);
        }
    }

    /// How fast a group is, now that it stands there.
    pub(super) fn rates(&self, group: &str, slot: Slot, committed: u64, end: u64) -> PaceRates {
        let paces = self.paces();
        let pace = paces.get(group).and_then(|slots| slots.get(&slot));
        pace.map_or_else(PaceRates::default, |pace| pace.rates(committed, end))
    }

    /// Forgets all groups but these.
    pub(super) fn keep(&self, groups: &BTreeSet<String>) {
        self.paces().retain(|group, _| groups.contains(&**group));
    }

    /// Forgets a group.
    pub(super) fn remove(&self, group: &str) {
        self.paces().remove(group);
    }

    fn paces(&self) -> MutexGuard<'_, HashMap<Arc<str>, HashMap<Slot, Pace>>> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
