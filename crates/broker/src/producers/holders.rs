//! Who has which name now, as every batch looks it up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use taffrail_model::ProducerId;

use crate::produce::Fence;

/// Who has which name, and the fences before those who have one.
#[derive(Debug, Default)]
pub(super) struct Holders {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_name: HashMap<String, ProducerId>,
    fences: HashMap<ProducerId, Fence>,
}

impl Holders {
    /// Takes note of who has a name, unless somebody has taken it since. Whoever had it is fenced on
    /// return.
    pub(super) fn note(&self, name: &str, id: ProducerId) {
        let mut state = self.state();
        let former = state.by_name.get(name).copied();
        if former.is_some_and(|former| id <= former) {
            return;
        }
        state.by_name.insert(name.to_owned(), id);
        state.fences.insert(id, Fence::default());
        if let Some(fence) = former.and_then(|former| state.fences.remove(&former)) {
            fence.close();
        }
    }

    /// The fence before a producer that has a name.
    pub(super) fn fence(&self, id: ProducerId) -> Option<Fence> {
        self.state().fences.get(&id).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
