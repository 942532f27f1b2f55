//! How fast groups are, and whether they get on: in memory, from what is seen at each commit.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::event::Slot;
use crate::clock;

/// Time between two samples that are kept.
const SPACING: Duration = Duration::from_secs(5);

/// Samples that are kept: about a minute.
const SAMPLES_MAX: usize = 12;

/// Rates over less than this say nothing.
const SPAN_MIN: Duration = Duration::from_secs(1);

/// How all groups get on, in each partition.
#[derive(Debug, Default)]
pub(super) struct Paces {
    paces: Mutex<HashMap<Arc<str>, HashMap<Slot, Pace>>>,
}

/// How a group gets on in a partition.
#[derive(Debug, Default)]
struct Pace {
    samples: VecDeque<Sample>,
    moved: Option<Instant>,
}

/// Where a group and a partition stood.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    committed: u64,
    end: u64,
}

/// How fast a group is in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Records appended and committed per second, if that is known.
    pub(super) in_and_out: Option<(f64, f64)>,
    /// How long ago something was committed, if that was since the start.
    pub(super) since_moved: Option<Duration>,
}

impl Paces {
    /// Takes note of a commit.
    pub(super) fn note(&self, group: &str, slot: Slot, committed: u64, end: u64) {
        let mut paces = self.paces();
        if !paces.contains_key(group) {
            paces.insert(group.into(), HashMap::new());
        }
        let Some(pace) = paces.get_mut(group).map(|slots| slots.entry(slot).or_default()) else {
            return;
        };
        let sample = Sample { at: clock::instant(), committed, end };
        pace.moved = Some(sample.at);
        // Whoever goes back begins anew: there is no pace in that.
        if pace.samples.back().is_some_and(|last| committed < last.committed) {
            pace.samples.clear();
        }
        let is_due = pace.samples.back().is_none_or(|last| last.at + SPACING <= sample.at);
        if is_due {
            pace.samples.push_back(sample);
            if pace.samples.len() > SAMPLES_MAX {
                pace.samples.pop_front();
            }
        }
    }

    /// How fast a group is, now that it stands there.
    pub(super) fn rates(&self, group: &str, slot: Slot, committed: u64, end: u64) -> Rates {
        let paces = self.paces();
        let Some(pace) = paces.get(group).and_then(|slots| slots.get(&slot)) else {
            return Rates::default();
        };
        let now = clock::instant();
        let window = SPACING * (SAMPLES_MAX as u32 + 1);
        let first = pace.samples.iter().find(|sample| now - sample.at <= window);
        let rates = first.filter(|first| SPAN_MIN <= now - first.at).map(|first| {
            let seconds = (now - first.at).as_secs_f64();
            let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
            (rate(first.end, end), rate(first.committed, committed))
        });
        Rates { in_and_out: rates, since_moved: pace.moved.map(|moved| now - moved) }
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

#[cfg(test)]
mod tests {
    use taffrail_model::{PartitionIndex, TopicId};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rates_are_those_of_about_the_last_minute() {
        let slot = Slot(TopicId::new([1; 12]).log(PartitionIndex::new(0)));
        let paces = Paces::default();
        assert_eq!(paces.rates("g", slot, 0, 0), Rates::default());
        for second in 0..=200_u64 {
            // Nothing for long, then ten in and twenty out a second.
            let busy = second.saturating_sub(100);
            paces.note("g", slot, 20 * busy, 5_000 + 10 * busy);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let rates = paces.rates("g", slot, 20 * 101, 5_000 + 10 * 101);
        assert_eq!(rates.in_and_out, Some((10.0, 20.0)));
        assert_eq!(rates.since_moved, Some(Duration::from_secs(1)));
        paces.note("g", slot, 7, 6_010);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(paces.rates("g", slot, 9, 6_010).in_and_out, Some((0.0, 1.0)));
    }
}
