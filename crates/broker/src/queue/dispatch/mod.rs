//! Who gets which record next: in memory, without I/O, told what time it is.
//!
//! It knows every record that is *open*, not settled, of what was looked through so far, and what those
//! hold that can be handed out. Workers with credit get some in turn, the oldest first, once the lease is
//! stored. Where records wait for others of their key, only the first open one of a key can be handed out, and
//! none before the keys of all open ones are known.
//!
//! Times are by the monotonic clock: after a start of the broker each lease has its full time again.

mod lane;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::command::{Lease, Leased, SettleRefusal, Settled, Settlement, Verdict};
use super::describe::Crowd;
use super::event::Span;
use super::policy::Policy;
use super::record::QueueRecord;
use super::state::Queue;
use super::window::{Status, Window};
use lane::{Lane, Open, Phase};

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

/// Records that a worker is to get once they are leased.
#[derive(Debug)]
pub(super) struct Choice {
    /// 0, where there are none.
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
    /// What a queue's state says, when nobody works yet. What is leased was before the broker began, and has
    /// its full time since then.
    pub(super) fn new(queue: &Queue, begun: Instant, now: Instant, wall_ms: i64) -> Self {
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
            dispatch.add_lane(*partition, window, begun, now, wall_ms);
        }
        dispatch
    }

    fn add_lane(
        &mut self,
        partition: u32,
        window: &Window,
        begun: Instant,
        now: Instant,
        wall_ms: i64,
    ) {
        let mut lane = Lane::new(window.runs().end());
        for (range, status) in window.runs().iter() {
            for offset in range {
                let phase = match *status {
                    Status::Settled => continue,
                    Status::Ready { .. } => Phase::Ready,
                    Status::Leased { lease, .. } => {
                        Phase::Leased { lease, until: begun + self.policy.lease }
                    }
                    Status::Delayed { delay, .. } => {
                        Phase::Delayed { until: now + delay.rest(wall_ms) }
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
            trouble: None,
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

    /// Leaves a partition alone; whether it was not.
    pub(super) fn pause(&mut self, partition: u32) -> bool {
        self.paused.insert(partition)
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
        choices.extend(self.choose_missing());
        choices
    }

    /// Where nothing else is to be said, that offsets hold no records: nobody would ever know.
    fn choose_missing(&mut self) -> Vec<Choice> {
        let paused = &self.paused;
        let lanes = self.lanes.iter_mut().filter(|(partition, lane)| {
            !lane.missing.is_empty() && lane.free.is_empty() && !paused.contains(partition)
        });
        let choice = |(partition, lane): (&u32, &mut Lane)| {
            let (partition, missing) = (*partition, std::mem::take(&mut lane.missing));
            let lease = Lease { partition, end: lane.end, missing, offsets: Vec::new() };
            Choice { worker: 0, lease, records: Vec::new() }
        };
        lanes.map(choice).collect()
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
        let (mut refused, mut refused_bytes) = (0, 0);
        for record in choice.records {
            let offset = record.offset.get();
            let Some(attempt) = attempts.get(&offset).copied() else {
                refused += 1;
                refused_bytes += record.bytes() as u64;
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
        self.give_back(choice.worker, refused, refused_bytes);
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
                // Whether it waits for others may not be known since; then it is read again.
                open.record = Some(record).filter(|_| !lane.keyless.contains(&offset));
                lane.place_first(offset, order);
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
            Ok(Settled::Delayed(delay)) => {
                let until = now + delay;
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

    /// What nobody had up to there is not tried any more.
    pub(super) fn given_up(&mut self, partition: u32, end: u64, spans: &[Span]) {
        let order = self.policy.order;
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        for offset in spans.iter().flat_map(|span| span.offsets()) {
            lane.forget(offset, order);
        }
        lane.end = lane.end.max(end);
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
