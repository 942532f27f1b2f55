//! Copies of parked records in a dead-letter topic, each made once: pure.
//!
//! What a batch of copies will be is stored before it is appended: its records, its producer, its sequence.
//! The log that it goes to takes a batch of a producer once. So whoever finds a batch under way, after
//! whatever happened, appends it again, and stores that it is there: only then is it parked no more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use taffrail_model::Sequence;

use super::event::{CopiesId, EventKind, Places, Span, Topic};
use super::state::Queue;

/// Who appends copies, as the logs know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copier {
    /// Where the copies go.
    topic: Topic,
    producer: u64,
    /// What the next batch begins with, in each partition of the dead-letter topic.
    sequences: BTreeMap<u32, u32>,
    /// In each partition of a topic one at the most; perhaps of another producer, or topic, than now.
    pub(super) under_way: Vec<Copies>,
}

/// A batch of copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copies {
    pub(super) id: CopiesId,
    pub(super) topic: Topic,
    /// Where the dead-letter partition ended before.
    pub(super) from: u64,
    pub(super) places: Vec<Places>,
}

/// A batch of copies that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct WantedCopies {
    /// The partition of the dead-letter topic.
    pub(crate) partition: u32,
    /// Where that ends, or further in front.
    pub(crate) from: u64,
    /// Parked records.
    pub(crate) places: Vec<(u32, u64)>,
}

/// What has become of a batch of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyEnd {
    /// It is there.
    Copied,
    /// It is not, and will not be.
    NotCopied,
}

impl Copier {
    fn places(&self) -> impl Iterator<Item = (u32, u64)> {
        let places = self.under_way.iter().flat_map(|copies| &copies.places);
        places.flat_map(Places::all)
    }
}

impl Queue {
    /// Whether there is anything to copy.
    pub(super) fn has_dead_letters(&self) -> bool {
        let is_under_way = self.copier.as_ref().is_some_and(|it| !it.under_way.is_empty());
        is_under_way || self.policy().dead_letters.is_some() && self.parked() > 0
    }

    /// Which records are being copied.
    pub(super) fn being_copied(&self) -> BTreeSet<(u32, u64)> {
        self.copier.iter().flat_map(Copier::places).collect()
    }

    /// Batches to be appended: to partitions where none is under way, of records that are in none.
    pub(super) fn copy(
        &self,
        topic: &Topic,
        producer: u64,
        wanted: Vec<WantedCopies>,
    ) -> Vec<EventKind> {
        // Another one, or none, is said to be the right one since.
        if self.policy().dead_letters.as_ref() != Some(&topic.name) {
            return Vec::new();
        }
        let copier = self.copier.as_ref();
        let is_busy = |partition: u32| {
            let mut under_way = copier.into_iter().flat_map(|copier| &copier.under_way);
            under_way.any(|it| it.topic.id == topic.id && it.id.partition == partition)
        };
        let former = copier.filter(|it| it.producer == producer && it.topic.id == topic.id);
        let mut taken = self.being_copied();
        let mut batch = |WantedCopies { partition, from, places }| {
            let free = places.into_iter().filter(|it| self.is_parked(*it) && taken.insert(*it));
            let places = Places::gather(free);
            let sequence = former.and_then(|it| it.sequences.get(&partition).copied());
            let id = CopiesId { producer, partition, sequence: sequence.unwrap_or(0) };
            let is_possible = !places.is_empty() && !is_busy(partition);
            is_possible.then(|| EventKind::Copying { id, topic: topic.clone(), from, places })
        };
        wanted.into_iter().filter_map(&mut batch).collect()
    }

    /// What has become of batches that are under way.
    pub(super) fn end_copies(&self, ends: &[(CopiesId, CopyEnd)]) -> Vec<EventKind> {
        let is_under_way = |id: &CopiesId| {
            self.copier
                .as_ref()
                .is_some_and(|copier| copier.under_way.iter().any(|it| it.id == *id))
        };
        let ended = ends.iter().filter(|(id, _)| is_under_way(id));
        let ended = ended.map(|(id, end)| match end {
            CopyEnd::Copied => EventKind::Copied { id: *id },
            CopyEnd::NotCopied => EventKind::NotCopied { id: *id },
        });
        ended.collect()
    }

    /// A batch is under way.
    pub(super) fn begin_copies(&mut self, copies: Copies) {
        let CopiesId { producer, partition, sequence } = copies.id;
        let new = || Copier {
            topic: copies.topic.clone(),
            producer,
            sequences: BTreeMap::new(),
            under_way: Vec::new(),
        };
        let copier = self.copier.get_or_insert_with(new);
        if copier.producer != producer || copier.topic.id != copies.topic.id {
            let under_way = std::mem::take(&mut copier.under_way);
            *copier = Copier { under_way, ..new() };
        }
        let count: u64 = copies.places.iter().map(Places::count).sum();
        let next = Sequence::new(sequence).advance(count as u32);
        copier.sequences.insert(partition, next.get());
        copier.under_way.push(copies);
    }

    /// The batch is there: its records are parked no more.
    pub(super) fn note_copied(&mut self, id: CopiesId) {
        let copied = self.take_copies(id);
        for Places { partition, spans } in copied.into_iter().flat_map(|it| it.places) {
            self.forget_parked(partition, &spans);
        }
    }

    /// The batch is not there. Nobody appends as its producer any more: what it was to have is not had by
    /// others.
    pub(super) fn note_not_copied(&mut self, id: CopiesId) {
        self.take_copies(id);
    }

    fn take_copies(&mut self, id: CopiesId) -> Option<Copies> {
        let under_way = &mut self.copier.as_mut()?.under_way;
        let at = under_way.iter().position(|copies| copies.id == id)?;
        Some(under_way.remove(at))
    }
}

impl Places {
    /// Places, gathered.
    fn gather(places: impl IntoIterator<Item = (u32, u64)>) -> Vec<Self> {
        let mut by_partition: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for (partition, offset) in places {
            by_partition.entry(partition).or_default().insert(offset);
        }
        let gathered = by_partition.into_iter();
        gathered.map(|(partition, it)| Self { partition, spans: Span::gather(it) }).collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, u64)> {
        let offsets = self.spans.iter().flat_map(|span| span.offsets());
        offsets.map(|offset| (self.partition, offset))
    }

    pub(super) fn count(&self) -> u64 {
        self.spans.iter().map(|span| span.1 - span.0).sum()
    }
}
