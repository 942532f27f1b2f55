//! The open records of a partition: which can be handed out, which are to be read, which wait for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::event::Span;
use super::super::policy::Order;
use super::super::record::QueueRecord;

/// The open records of a partition.
#[derive(Debug)]
pub(super) struct Lane {
    /// The end of what was looked through.
    pub(super) end: u64,
    pub(super) open: BTreeMap<u64, Open>,
    /// Those that can be handed out.
    pub(super) free: BTreeSet<u64>,
    /// Those of which it is not known what they hold, and must be.
    pub(super) unread: BTreeSet<u64>,
    /// Those whose keys are not known yet, where that matters.
    pub(super) keyless: BTreeSet<u64>,
    /// Where they wait for one another: the open ones of each key.
    pub(super) keys: HashMap<Bytes, BTreeSet<u64>>,
    /// Offsets that hold no record, of which the state does not know yet.
    pub(super) missing: Vec<Span>,
    /// Bytes of the free ones.
    pub(super) free_bytes: usize,
    /// Whether somebody may work on a record behind one of its key that is open: one that was parked, or
    /// there before records waited for one another.
    pub(super) is_mixed: bool,
}

/// A record that is not settled.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) phase: Phase,
    /// Where records wait for one another.
    pub(super) key: Option<Bytes>,
    pub(super) record: Option<Arc<QueueRecord>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be handed out.
    Ready,
    /// Its lease is being stored.
    Chosen,
    /// Somebody has it.
    Leased { lease: u64, until: Instant },
    /// Its lease is over, which is being stored.
    Expiring { lease: u64 },
    /// To be handed out then.
    Delayed { until: Instant },
}

impl Lane {
    pub(super) fn new(end: u64) -> Self {
        Self {
            end,
            open: BTreeMap::new(),
            free: BTreeSet::new(),
            unread: BTreeSet::new(),
            keyless: BTreeSet::new(),
            keys: HashMap::new(),
            missing: Vec::new(),
            free_bytes: 0,
            is_mixed: true,
        }
    }

    /// What can be handed out now.
    pub(super) fn free(&self) -> &BTreeSet<u64> {
        static NONE: BTreeSet<u64> = BTreeSet::new();
        if self.keyless.is_empty() { &self.free } else { &NONE }
    }

    /// Takes note of an open record of which nothing is known.
    pub(super) fn insert(&mut self, offset: u64, phase: Phase, order: Order) {
        self.open.insert(offset, Open { phase, key: None, record: None });
        if order == Order::PerKey {
            self.keyless.insert(offset);
        }
        self.place(offset, order);
    }

    /// These offsets hold no record: the state is told with the next lease.
    pub(super) fn skip(&mut self, span: Span, order: Order) {
        if span.1 <= span.0 {
            return;
        }
        let gone: Vec<u64> = self.unread.range(span.offsets()).copied().collect();
        for offset in gone {
            if self.open.get(&offset).is_some_and(|open| open.phase == Phase::Ready) {
                self.forget(offset, order);
                self.missing.push(Span(offset, offset + 1));
            } else {
                // Whoever has it settles it; it waits for nobody.
                self.keyless.remove(&offset);
                self.unread.remove(&offset);
            }
        }
        let new = Span(span.0.max(self.end), span.1);
        if new.0 < new.1 {
            self.missing.push(new);
            self.end = new.1;
        }
    }

    /// Takes what was read of a record, if that is wanted.
    pub(super) fn hold(&mut self, record: QueueRecord, order: Order) {
        let offset = record.offset.get();
        if self.end <= offset {
            self.end = offset + 1;
            self.insert(offset, Phase::Ready, order);
        }
        let Some(open) = self.open.get_mut(&offset) else { return };
        if self.keyless.remove(&offset)
            && let Some(key) = &record.key
        {
            // A slice would hold all that was read at once.
            let key = Bytes::copy_from_slice(key);
            open.key = Some(key.clone());
            self.keys.entry(key).or_default().insert(offset);
        }
        let key = open.key.clone();
        self.evict_behind(offset, key.as_ref());
        if self.may_be_free(offset, key.as_ref(), order)
            && let Some(open) = self.open.get_mut(&offset)
            && open.phase == Phase::Ready
            && open.record.is_none()
        {
            open.record = Some(Arc::new(record));
        }
        self.place(offset, order);
    }

    /// Puts a record where it belongs: with those that can be handed out, or are to be read, or neither.
    pub(super) fn place(&mut self, offset: u64, order: Order) {
        let Some(open) = self.open.get(&offset) else { return };
        let may_be_free =
            open.phase == Phase::Ready && self.may_be_free(offset, open.key.as_ref(), order);
        let is_wanted = may_be_free && open.record.is_none() || self.keyless.contains(&offset);
        if is_wanted {
            self.unread.insert(offset);
        } else {
            self.unread.remove(&offset);
        }
        if let Some(record) = &open.record
            && may_be_free
            && self.free.insert(offset)
        {
            self.free_bytes += record.bytes();
        }
    }

    /// Nobody works on a record any more: it can be handed out, or another one of its key.
    pub(super) fn place_first(&mut self, offset: u64, order: Order) {
        let key = self.open.get(&offset).and_then(|open| open.key.as_ref());
        let first = key.and_then(|key| self.keys.get(key)?.first().copied());
        self.place(offset, order);
        if let Some(first) = first {
            self.place(first, order);
        }
    }

    /// Whether a record waits for no other: none before it has its key, and nobody works on one that has.
    pub(super) fn may_be_free(&self, offset: u64, key: Option<&Bytes>, order: Order) -> bool {
        let Some(same) = key.and_then(|key| self.keys.get(key)).filter(|_| order == Order::PerKey)
        else {
            return true;
        };
        let is_busy = |other: &u64| {
            let phase = self.open.get(other).map(|open| open.phase);
            matches!(phase, Some(Phase::Chosen | Phase::Leased { .. } | Phase::Expiring { .. }))
        };
        let is_first = same.first().is_none_or(|first| *first == offset);
        is_first && !(self.is_mixed && same.iter().any(is_busy))
    }

    /// One that could be handed out waits for a record that came before it.
    pub(super) fn evict_behind(&mut self, offset: u64, key: Option<&Bytes>) {
        let same = key.and_then(|key| self.keys.get(key));
        let next = same.and_then(|same| same.range(offset + 1..).next().copied());
        if let Some(next) = next
            && self.free.remove(&next)
            && let Some(record) = self.open.get_mut(&next).and_then(|open| open.record.take())
        {
            self.free_bytes -= record.bytes();
        }
    }

    /// A record is settled: another one of its key may be handed out.
    pub(super) fn forget(&mut self, offset: u64, order: Order) {
        let Some(open) = self.open.remove(&offset) else { return };
        self.is_mixed &= !self.open.is_empty();
        self.unread.remove(&offset);
        self.keyless.remove(&offset);
        if self.free.remove(&offset)
            && let Some(record) = &open.record
        {
            self.free_bytes -= record.bytes();
        }
        let Some(key) = open.key else { return };
        let Some(others) = self.keys.get_mut(&key) else { return };
        others.remove(&offset);
        match others.first().copied() {
            Some(next) => self.place(next, order),
            None => drop(self.keys.remove(&key)),
        }
    }
}
