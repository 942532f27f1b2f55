//! Who gets which record next: in memory, without I/O, told what time it is.
//!
//! It knows every record that is *open*, not settled, of what was looked through so far, and what those
//! hold that can be handed out. Workers with credit get some in turn, the oldest first, once the lease is
//! stored. Where records wait for others of their key, only the first open one of a key can be handed out, and
//! none before the keys of all open ones are known.
//!
//! Times are by the monotonic clock: after a start each lease has its full time again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::command::{Lease, Leased, SettleRefusal, Settled, Settlement, Verdict};
use super::describe::Crowd;
use super::event::Span;
use super::policy::{Order, Policy};
use super::record::QueueRecord;
use super::state::{Queue, Status, Window};

/// Records of one lease, and their bytes but for the last one, at the most: they go into one message.
const LEASE_RECORDS_MAX: usize = 64;
const LEASE_BYTES_MAX: usize = 1 << 20;
/// Bytes that a worker may leave unread until it gets no more.
const UNREAD_BYTES_MAX: u64 = 2 << 20;
/// Records that are read ahead of those who ask for them, in each partition.
const AHEAD_RECORDS: usize = 512;
/// Bytes of them.
const AHEAD_BYTES: usize = 1 << 20;

/// A worker, by number.
pub(super) type WorkerId = u64;

/// Who gets which record next.
#[derive(Debug)]
pub(super) struct Dispatch {
    policy: Policy,
    lanes: BTreeMap<u32, Lane>,
    workers: BTreeMap<WorkerId, Worker>,
    /// The worker and the partition whose turn it was last.
    last_worker: WorkerId,
    last_lane: u32,
    /// Partitions that are left alone for now.
    paused: BTreeSet<u32>,
    /// When leases and delays end.
    due: BTreeSet<(Instant, u32, u64)>,
}

/// Somebody who works on records.
#[derive(Clone, Copy, Debug, Default)]
struct Worker {
    /// What it may still be sent.
    credit_records: u64,
    credit_bytes: u64,
    /// What it was given and has not taken off its stream.
    unread_bytes: u64,
}

/// The open records of a partition.
#[derive(Debug)]
struct Lane {
    /// The end of what was looked through.
    end: u64,
    open: BTreeMap<u64, Open>,
    /// Those that can be handed out.
    free: BTreeSet<u64>,
    /// Those of which it is not known what they hold, and must be.
    unread: BTreeSet<u64>,
    /// Those whose keys are not known yet, where that matters.
    keyless: BTreeSet<u64>,
    /// Where they wait for one another: the open ones of each key.
    keys: HashMap<Bytes, BTreeSet<u64>>,
    /// Offsets that hold no record, of which the state does not know yet.
    missing: Vec<Span>,
    /// Bytes of the free ones.
    free_bytes: usize,
    /// Whether somebody may work on a record behind one of its key that is open: one that was parked, or
    /// there before records waited for one another.
    is_mixed: bool,
}

/// A record that is not settled.
#[derive(Debug)]
struct Open {
    phase: Phase,
    /// Where records wait for one another.
    key: Option<Bytes>,
    record: Option<Arc<QueueRecord>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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

/// Records that a worker is to get once they are leased.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) worker: WorkerId,
    pub(super) lease: Lease,
    records: Vec<Arc<QueueRecord>>,
}

/// A record for a worker.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) partition: u32,
    pub(super) lease: u64,
    pub(super) attempt: u32,
    pub(super) until: Instant,
    pub(super) record: Arc<QueueRecord>,
}

/// What is to be read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) partition: u32,
    pub(super) from: u64,
    /// Whether it is what was looked through before.
    pub(super) is_again: bool,
}

impl Dispatch {
    /// What a queue's state says, when nobody works yet.
    pub(super) fn new(queue: &Queue, now: Instant, wall_ms: i64) -> Self {
        let policy = queue.policy().clone();
        let mut dispatch = Self {
            lanes: BTreeMap::new(),
            workers: BTreeMap::new(),
            last_worker: 0,
            last_lane: 0,
            paused: BTreeSet::new(),
            due: BTreeSet::new(),
            policy,
        };
        for (partition, window) in queue.partitions() {
            dispatch.add_lane(*partition, window, now, wall_ms);
        }
        dispatch
    }

    fn add_lane(&mut self, partition: u32, window: &Window, now: Instant, wall_ms: i64) {
        let mut lane = Lane::new(window.runs().end());
        for (range, status) in window.runs().iter() {
            for offset in range {
                let phase = match *status {
                    Status::Settled => continue,
                    Status::Ready { .. } => Phase::Ready,
                    Status::Leased { lease, .. } => {
                        Phase::Leased { lease, until: now + self.policy.lease }
                    }
                    Status::Delayed { until_ms, .. } => {
                        let rest_ms = u64::try_from(until_ms.saturating_sub(wall_ms)).unwrap_or(0);
                        Phase::Delayed { until: now + Duration::from_millis(rest_ms) }
                    }
                };
                if let Phase::Leased { until, .. } | Phase::Delayed { until } = phase {
                    self.due.insert((until, partition, offset));
                }
                lane.insert(offset, phase, self.policy.order);
            }
        }
        self.lanes.insert(partition, lane);
    }

    /// The topic has another partition.
    pub(super) fn grow(&mut self, partition: u32) {
        self.lanes.entry(partition).or_insert_with(|| Lane::new(0));
    }

    // ------------------------------------------------------------------------------- workers

    pub(super) fn join(&mut self, worker: WorkerId) {
        self.workers.insert(worker, Worker::default());
    }

    pub(super) fn grant(&mut self, worker: WorkerId, records: u64, bytes: u64) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.credit_records = worker.credit_records.saturating_add(records);
            worker.credit_bytes = worker.credit_bytes.saturating_add(bytes);
        }
    }

    /// It has taken so much off its stream.
    pub(super) fn taken(&mut self, worker: WorkerId, bytes: u64) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.unread_bytes = worker.unread_bytes.saturating_sub(bytes);
        }
    }

    pub(super) fn leave(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
    }

    /// Who is there, and whether there is something to hand out.
    pub(super) fn crowd(&self) -> Crowd {
        let with_credit = self.workers.values().filter(|worker| worker.credit_records > 0);
        Crowd {
            workers: self.workers.len() as u64,
            with_credit: with_credit.count() as u64,
            has_free: self.lanes.values().any(|lane| !lane.free().is_empty()),
        }
    }

    // ------------------------------------------------------------------------------- reading

    /// What should be read now, of partitions with an end of what may be read.
    pub(super) fn wanted(&self, ends: impl Fn(u32) -> u64) -> Vec<Wanted> {
        if self.workers.values().all(|worker| worker.credit_records == 0) {
            return Vec::new();
        }
        let wanted = self.lanes.iter().filter_map(|(partition, lane)| {
            let has_enough = lane.free.len() >= AHEAD_RECORDS || lane.free_bytes >= AHEAD_BYTES;
            let partition = *partition;
            if self.paused.contains(&partition) {
                return None;
            }
            if let Some(from) = lane.unread.first().copied()
                && (!has_enough || !lane.keyless.is_empty())
            {
                return Some(Wanted { partition, from, is_again: true });
            }
            let has_room = lane.open.len() < self.policy.window as usize;
            let from = lane.end;
            (!has_enough && has_room && from < ends(partition)).then_some(Wanted {
                partition,
                from,
                is_again: false,
            })
        });
        wanted.collect()
    }

    /// Leaves a partition alone.
    pub(super) fn pause(&mut self, partition: u32) {
        self.paused.insert(partition);
    }

    /// Goes on with it.
    pub(super) fn go_on(&mut self, partition: u32) {
        self.paused.remove(&partition);
    }

    /// What was read of a partition: all records from an offset up to another one.
    pub(super) fn read(&mut self, partition: u32, span: Span, records: Vec<QueueRecord>) {
        let (order, window) = (self.policy.order, self.policy.window as usize);
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        let mut next = span.0;
        for record in records {
            let offset = record.offset.get();
            lane.skip(Span(next, offset), order);
            if lane.end <= offset && window <= lane.open.len() {
                // No room for this and what follows now: it is read again.
                return;
            }
            next = offset + 1;
            lane.hold(record, order);
        }
        lane.skip(Span(next, span.1), order);
    }

    /// The end of each partition that all has been handed out of.
    pub(super) fn ends(&self) -> impl Iterator<Item = (u32, u64)> {
        self.lanes.iter().map(|(partition, lane)| (*partition, lane.end))
    }

    // --------------------------------------------------------------------------- handing out

    /// Records for workers with credit, each of whom is in turn.
    pub(super) fn choose(&mut self) -> Vec<Choice> {
        let mut choices = Vec::new();
        while let Some(worker) = self.next_worker() {
            let Some(partition) = self.next_lane() else { break };
            self.last_worker = worker;
            self.last_lane = partition;
            choices.extend(self.choose_for(worker, partition));
        }
        choices
    }

    /// The next worker with credit.
    fn next_worker(&self) -> Option<WorkerId> {
        let last = self.last_worker;
        let in_turn = self.workers.range(last + 1..).chain(self.workers.range(..=last));
        let mut willing = in_turn.filter(|(_, worker)| worker.takes_more());
        willing.next().map(|(worker, _)| *worker)
    }

    /// The next partition with something to hand out.
    fn next_lane(&self) -> Option<u32> {
        let last = self.last_lane;
        let in_turn = self.lanes.range(last + 1..).chain(self.lanes.range(..=last));
        let mut with_records = in_turn.filter(|(partition, lane)| {
            !lane.free().is_empty() && !self.paused.contains(partition)
        });
        with_records.next().map(|(partition, _)| *partition)
    }

    fn choose_for(&mut self, id: WorkerId, partition: u32) -> Option<Choice> {
        // So that many workers share what there is.
        let shares = self.workers.len().max(1);
        let worker = self.workers.get_mut(&id)?;
        let lane = self.lanes.get_mut(&partition)?;
        let share = lane.free.len().div_ceil(shares).min(LEASE_RECORDS_MAX);
        let mut lease = Lease { partition, ..Lease::default() };
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < share && bytes < LEASE_BYTES_MAX && worker.takes_more() {
            let Some(offset) = lane.free.pop_first() else { break };
            let Some(open) = lane.open.get_mut(&offset) else { continue };
            let Some(record) = open.record.take() else { continue };
            open.phase = Phase::Chosen;
            lane.free_bytes -= record.bytes();
            worker.credit_records -= 1;
            worker.credit_bytes = worker.credit_bytes.saturating_sub(record.bytes() as u64);
            worker.unread_bytes += record.bytes() as u64;
            bytes += record.bytes();
            lease.end = offset + 1;
            lease.offsets.push(offset);
            records.push(record);
        }
        let end = lease.end;
        lease.missing = lane.missing.extract_if(.., |span| span.1 <= end).collect();
        (!records.is_empty()).then_some(Choice { worker: id, lease, records })
    }

    /// A lease is stored: what the worker gets; and what is to be said if it is gone.
    pub(super) fn leased(
        &mut self,
        choice: Choice,
        leased: &Leased,
        now: Instant,
    ) -> (Vec<Delivery>, Vec<Settlement>) {
        let (partition, lease) = (choice.lease.partition, leased.lease);
        let until = now + self.policy.lease;
        let is_there = self.workers.contains_key(&choice.worker);
        let Some(lane) = self.lanes.get_mut(&partition) else { return Default::default() };
        let attempts: HashMap<u64, u32> = leased.records.iter().copied().collect();
        let held: HashMap<u64, u64> = leased.held.iter().copied().collect();
        let (mut deliveries, mut released) = (Vec::new(), Vec::new());
        let mut undelivered = 0;
        for record in choice.records {
            let offset = record.offset.get();
            let Some(attempt) = attempts.get(&offset).copied() else {
                undelivered += record.bytes() as u64;
                // What came of it was not known here: it could not be said whether it was stored.
                match (held.get(&offset), lane.open.get_mut(&offset)) {
                    (Some(lease), Some(open)) => {
                        open.phase = Phase::Leased { lease: *lease, until };
                        self.due.insert((until, partition, offset));
                    }
                    _ => lane.forget(offset, self.policy.order),
                }
                continue;
            };
            if let Some(open) = lane.open.get_mut(&offset) {
                open.phase = Phase::Leased { lease, until };
            }
            self.due.insert((until, partition, offset));
            if is_there {
                deliveries.push(Delivery { partition, lease, attempt, until, record });
            } else {
                released.push(Settlement { partition, offset, lease, verdict: Verdict::Release });
            }
        }
        self.taken(choice.worker, undelivered);
        (deliveries, released)
    }

    /// A lease could not be stored: the records are to be handed out, to somebody.
    pub(super) fn not_leased(&mut self, choice: Choice) {
        let order = self.policy.order;
        let bytes = choice.records.iter().map(|record| record.bytes() as u64).sum();
        self.give_back(choice.worker, choice.records.len() as u64, bytes);
        let Some(lane) = self.lanes.get_mut(&choice.lease.partition) else { return };
        lane.missing.extend(choice.lease.missing);
        for record in choice.records {
            let offset = record.offset.get();
            if let Some(open) = lane.open.get_mut(&offset) {
                open.phase = Phase::Ready;
                open.record = Some(record);
                lane.place(offset, order);
            }
        }
    }

    /// A worker may be sent again what it was not sent after all.
    fn give_back(&mut self, worker: WorkerId, records: u64, bytes: u64) {
        self.grant(worker, records, bytes);
        self.taken(worker, bytes);
    }

    // ------------------------------------------------------------------------------ settling

    /// What has become of a record that was leased.
    pub(super) fn settled(
        &mut self,
        settlement: &Settlement,
        result: Result<Settled, SettleRefusal>,
        now: Instant,
        wall_ms: i64,
    ) {
        let Settlement { partition, offset, lease, .. } = *settlement;
        let order = self.policy.order;
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        let Some(open) = lane.open.get_mut(&offset) else { return };
        match open.phase {
            Phase::Leased { lease: own, until } if own == lease => {
                self.due.remove(&(until, partition, offset));
            }
            Phase::Expiring { lease: own } if own == lease => {}
            // What somebody says of a lease before this one.
            Phase::Leased { .. }
            | Phase::Expiring { .. }
            | Phase::Ready
            | Phase::Chosen
            | Phase::Delayed { .. } => return,
        }
        match result {
            Ok(Settled::Done | Settled::Parked) | Err(SettleRefusal::AlreadySettled) => {
                lane.forget(offset, order);
            }
            Ok(Settled::Delayed { until_ms }) => {
                let rest_ms = u64::try_from(until_ms.saturating_sub(wall_ms)).unwrap_or(0);
                let until = now + Duration::from_millis(rest_ms);
                open.phase = Phase::Delayed { until };
                self.due.insert((until, partition, offset));
                lane.place_first(offset, order);
            }
            Ok(Settled::Ready) | Err(SettleRefusal::LeaseExpired | SettleRefusal::Unknown) => {
                open.phase = Phase::Ready;
                lane.place_first(offset, order);
            }
        }
    }

    /// Gives a lease more time from now on; `None` if it has ended.
    pub(super) fn extend(
        &mut self,
        partition: u32,
        offset: u64,
        own: u64,
        now: Instant,
        time: Option<Duration>,
    ) -> Option<Instant> {
        let time = self.policy.extension(time);
        let open = self.lanes.get_mut(&partition)?.open.get_mut(&offset)?;
        let Phase::Leased { lease, until } = open.phase else { return None };
        if lease != own || until <= now {
            return None;
        }
        self.due.remove(&(until, partition, offset));
        let until = now + time;
        open.phase = Phase::Leased { lease, until };
        self.due.insert((until, partition, offset));
        Some(until)
    }

    /// Leases that have ended, to be said; what was delayed until now can be handed out.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Settlement> {
        let order = self.policy.order;
        let mut expired = Vec::new();
        while let Some((until, partition, offset)) = self.due.first().copied()
            && until <= now
        {
            self.due.pop_first();
            let Some(lane) = self.lanes.get_mut(&partition) else { continue };
            let Some(open) = lane.open.get_mut(&offset) else { continue };
            match open.phase {
                Phase::Leased { lease, until: own } if own == until => {
                    open.phase = Phase::Expiring { lease };
                    expired.push(Settlement { partition, offset, lease, verdict: Verdict::Expire });
                }
                Phase::Delayed { until: own } if own == until => {
                    open.phase = Phase::Ready;
                    lane.place(offset, order);
                }
                // It was extended, or is in another phase.
                Phase::Leased { .. }
                | Phase::Delayed { .. }
                | Phase::Ready
                | Phase::Chosen
                | Phase::Expiring { .. } => {}
            }
        }
        expired
    }

    /// It could not be stored that leases have ended: they are looked at again then.
    pub(super) fn not_expired(&mut self, settlements: &[Settlement], again: Instant) {
        for Settlement { partition, offset, .. } in settlements {
            let lane = self.lanes.get_mut(partition);
            let Some(open) = lane.and_then(|lane| lane.open.get_mut(offset)) else { continue };
            if let Phase::Expiring { lease } = open.phase {
                open.phase = Phase::Leased { lease, until: again };
                self.due.insert((again, *partition, *offset));
            }
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(when, _, _)| *when)
    }

    /// Parked records are to be tried again.
    pub(super) fn redriven(&mut self, partition: u32, spans: &[Span]) {
        let order = self.policy.order;
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        lane.is_mixed = true;
        for offset in spans.iter().flat_map(|span| span.offsets()) {
            lane.insert(offset, Phase::Ready, order);
        }
    }

    /// It works differently from now on; leases and delays that run stay as they are.
    pub(super) fn alter(&mut self, policy: Policy) {
        self.policy = policy;
        let order = self.policy.order;
        for lane in self.lanes.values_mut() {
            let open = std::mem::take(&mut lane.open);
            let (end, missing) = (lane.end, std::mem::take(&mut lane.missing));
            *lane = Lane { missing, ..Lane::new(end) };
            for (offset, Open { phase, .. }) in open {
                lane.insert(offset, phase, order);
            }
        }
    }
}

impl Worker {
    const fn takes_more(&self) -> bool {
        self.credit_records > 0 && self.credit_bytes > 0 && self.unread_bytes < UNREAD_BYTES_MAX
    }
}

impl Lane {
    fn new(end: u64) -> Self {
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
    fn free(&self) -> &BTreeSet<u64> {
        static NONE: BTreeSet<u64> = BTreeSet::new();
        if self.keyless.is_empty() { &self.free } else { &NONE }
    }

    /// Takes note of an open record of which nothing is known.
    fn insert(&mut self, offset: u64, phase: Phase, order: Order) {
        self.open.insert(offset, Open { phase, key: None, record: None });
        if order == Order::PerKey {
            self.keyless.insert(offset);
        }
        self.place(offset, order);
    }

    /// These offsets hold no record: the state is told with the next lease.
    fn skip(&mut self, span: Span, order: Order) {
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
    fn hold(&mut self, record: QueueRecord, order: Order) {
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
    fn place(&mut self, offset: u64, order: Order) {
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
    fn place_first(&mut self, offset: u64, order: Order) {
        let key = self.open.get(&offset).and_then(|open| open.key.as_ref());
        let first = key.and_then(|key| self.keys.get(key)?.first().copied());
        self.place(offset, order);
        if let Some(first) = first {
            self.place(first, order);
        }
    }

    /// Whether a record waits for no other: none before it has its key, and nobody works on one that has.
    fn may_be_free(&self, offset: u64, key: Option<&Bytes>, order: Order) -> bool {
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
    fn evict_behind(&mut self, offset: u64, key: Option<&Bytes>) {
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
    fn forget(&mut self, offset: u64, order: Order) {
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
