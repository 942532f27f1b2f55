//! The state machine of queues against a list of records, by chance and by tables.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use taffrail_model::Timestamp;

use super::command::{
    Command, CommandKind, Lease, Leased, QueueRefusal, Reply, SettleRefusal, Settled, Settlement,
    Verdict,
};
use super::event::{Delay, Span, Start, Topic};
use super::policy::Policy;
use super::state::{Queue, Registry};
use super::window::Status;
use crate::coordinator::StateMachine;

const QUEUE: &str = "orders-worker";
const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const START: u64 = 10;
const ATTEMPTS_MAX: u32 = 3;

/// A queue over one partition, and what a plain list says of it.
struct Bench {
    registry: Registry,
    /// From `START` on.
    records: Vec<Record>,
    /// What leases there were: of which offset.
    leases: Vec<(u64, u64)>,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Ready(u32),
    Leased(u32, u64),
    Delayed(u32, Delay),
    Done,
    Parked(u32),
}

impl Bench {
    fn new() -> Self {
        let mut bench =
            Self { registry: Registry::default(), records: Vec::new(), leases: Vec::new() };
        let topic = Topic { name: "orders".into(), id: "1".into() };
        let policy = Policy { attempts_max: ATTEMPTS_MAX, ..Policy::default() };
        let starts = vec![Start { partition: 0, offset: START }];
        bench.submit(CommandKind::Create { topic, policy, starts }).expect("it is new");
        bench
    }

    fn submit(&mut self, kind: CommandKind) -> Result<Reply, QueueRefusal> {
        let (reply, events) =
            self.registry.decide(Command { queue: QUEUE.into(), number: None, kind }, NOW)?;
        for event in &events {
            // What is persisted is what is applied.
            let text = serde_json::to_string(event).expect("it can be written");
            let read = serde_json::from_str(&text).expect("it can be read");
            assert_eq!(*event, read);
            self.registry.apply(&read);
        }
        Ok(reply)
    }

    fn queue(&self) -> &Queue {
        self.registry.get(QUEUE).expect("it was created")
    }

    /// Leases records, of which those that are new come behind all that were seen.
    fn lease(&mut self, offsets: Vec<u64>, missing: Vec<u64>, end: u64) -> Leased {
        let missing = Span::gather(missing);
        let lease = Lease { partition: 0, end, missing, offsets };
        let leased = self.submit(CommandKind::Lease(lease)).expect("there is a queue").leased;
        self.leases.extend(leased.records.iter().map(|(offset, _)| (leased.lease, *offset)));
        leased
    }

    fn settle(
        &mut self,
        offset: u64,
        lease: u64,
        verdict: Verdict,
    ) -> Result<Settled, SettleRefusal> {
        let settlement = Settlement { partition: 0, offset, lease, verdict };
        let reply = self.submit(CommandKind::Settle(vec![settlement])).expect("there is a queue");
        reply.settled[0]
    }

    fn record(&mut self, offset: u64) -> Option<&mut Record> {
        self.records.get_mut(offset.checked_sub(START)? as usize)
    }

    /// Compares the queue with the list.
    fn check(&self) {
        let window = &self.queue().partitions()[&0];
        assert_eq!(window.runs().end(), START + self.records.len() as u64);
        let mut parked = BTreeMap::new();
        for (offset, record) in (START..).zip(&self.records) {
            let status = window.runs().get(offset).copied().unwrap_or(Status::Settled);
            let expected = match *record {
                Record::Ready(attempts) => Status::Ready { attempts },
                Record::Leased(attempts, lease) => Status::Leased { attempts, lease },
                Record::Delayed(attempts, delay) => Status::Delayed { attempts, delay },
                Record::Done => Status::Settled,
                Record::Parked(attempts) => {
                    parked.insert(offset, attempts);
                    Status::Settled
                }
            };
            assert_eq!(status, expected, "offset {offset}");
        }
        let found = window.parked().iter().map(|(offset, parked)| (offset, parked.attempts));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), parked);
        let is_open = |record: &Record| !matches!(record, Record::Done | Record::Parked(_));
        let settled = self.records.iter().take_while(|record| !is_open(record)).count();
        assert_eq!(window.runs().start(), START + settled as u64, "no more than is open");
        let needed = parked.keys().next().copied().unwrap_or(u64::MAX).min(window.runs().start());
        assert_eq!(window.needed_from(), needed);
        let json = serde_json::to_string(&self.registry).expect("it can be written");
        assert_eq!(serde_json::from_str::<Registry>(&json).expect("it can be read"), self.registry);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Of so many new records each third one that a mask names, and of old ones those it names.
    Lease {
        new: u64,
        mask: u64,
    },
    /// A lease that was given out, by its place; and what is said of it.
    Settle {
        place: prop::sample::Index,
        verdict: u8,
    },
    Redrive {
        from: u64,
        length: u64,
    },
    Discard {
        from: u64,
        length: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u64..12, any::<u64>()).prop_map(|(new, mask)| Step::Lease { new, mask }),
        8 => (any::<prop::sample::Index>(), 0_u8..6)
            .prop_map(|(place, verdict)| Step::Settle { place, verdict }),
        1 => (0_u64..60, 0_u64..20).prop_map(|(from, length)| Step::Redrive { from, length }),
        1 => (0_u64..60, 0_u64..20).prop_map(|(from, length)| Step::Discard { from, length }),
    ];
    prop::collection::vec(step, 1..120)
}

impl Bench {
    fn take(&mut self, step: Step) {
        match step {
            Step::Lease { new, mask } => self.take_lease(new, mask),
            Step::Settle { place, verdict } => {
                if !self.leases.is_empty() {
                    let (lease, offset) = self.leases[place.index(self.leases.len())];
                    self.take_settle(lease, offset, verdict);
                }
            }
            Step::Redrive { from, length } => {
                let spans = vec![Span(START + from, START + from + length)];
                self.submit(CommandKind::Redrive { partition: 0, spans }).expect("a queue");
                for offset in from..from + length {
                    if let Some(record @ Record::Parked(_)) = self.record(START + offset) {
                        *record = Record::Ready(0);
                    }
                }
            }
            Step::Discard { from, length } => {
                let spans = vec![Span(START + from, START + from + length)];
                self.submit(CommandKind::Discard { partition: 0, spans }).expect("a queue");
                for offset in from..from + length {
                    if let Some(record @ Record::Parked(_)) = self.record(START + offset) {
                        *record = Record::Done;
                    }
                }
            }
        }
    }

    fn take_lease(&mut self, new: u64, mask: u64) {
        let known = START + self.records.len() as u64;
        let end = known + new;
        let is_named = |offset: &u64| mask >> (offset % 64) & 1 == 1;
        let missing: Vec<_> = (known..end).filter(|offset| offset % 5 == 4).collect();
        let offsets: Vec<_> = (START..end).filter(is_named).collect();
        let offsets: Vec<_> = offsets.into_iter().filter(|it| !missing.contains(it)).collect();
        let leased = self.lease(offsets.clone(), missing.clone(), end);
        let fresh = (known..end)
            .map(|offset| if missing.contains(&offset) { Record::Done } else { Record::Ready(0) });
        self.records.extend(fresh);
        let mut expected = Vec::new();
        for offset in offsets {
            let record = self.record(offset).expect("it is known");
            if let Record::Ready(attempts) | Record::Delayed(attempts, _) = *record {
                *record = Record::Leased(attempts + 1, leased.lease);
                expected.push((offset, attempts + 1));
            }
        }
        assert_eq!(leased.records, expected);
    }

    fn take_settle(&mut self, lease: u64, offset: u64, verdict: u8) {
        let verdict = match verdict {
            0 | 1 => Verdict::Acknowledge,
            2 => Verdict::Retry { delay: Some(Duration::from_millis(500)) },
            3 => Verdict::Release,
            4 => Verdict::Reject { reason: "no such order".into() },
            _ => Verdict::Expire,
        };
        let settled = self.settle(offset, lease, verdict.clone());
        let record = self.record(offset).expect("it was leased");
        let expected = match *record {
            Record::Leased(attempts, own) if own == lease => {
                let is_last = attempts == ATTEMPTS_MAX;
                let delay = Delay { until_ms: NOW.as_millis() + 500, ms: 500 };
                let (after, answer) = match verdict {
                    Verdict::Acknowledge => (Record::Done, Settled::Done),
                    Verdict::Release => (Record::Ready(attempts - 1), Settled::Ready),
                    Verdict::Retry { .. } if !is_last => (
                        Record::Delayed(attempts, delay),
                        Settled::Delayed(Duration::from_millis(500)),
                    ),
                    Verdict::Expire if !is_last => (Record::Ready(attempts), Settled::Ready),
                    Verdict::Retry { .. } | Verdict::Expire | Verdict::Reject { .. } => {
                        (Record::Parked(attempts), Settled::Parked)
                    }
                };
                *record = after;
                Ok(answer)
            }
            Record::Leased(..) | Record::Ready(_) | Record::Delayed(..) => {
                Err(SettleRefusal::LeaseExpired)
            }
            Record::Done | Record::Parked(_) => Err(SettleRefusal::AlreadySettled),
        };
        assert_eq!(settled, expected);
    }
}

proptest! {
    #[test]
    fn a_queue_is_what_a_list_of_its_records_would_be(steps in steps()) {
        let mut bench = Bench::new();
        for step in steps {
            bench.take(step);
            bench.check();
        }
    }
}

#[test]
fn forged_ids_settle_nothing() {
    let mut bench = Bench::new();
    let leased = bench.lease(vec![10, 11], Vec::new(), 12);
    assert_eq!(leased.records, [(10, 1), (11, 1)]);
    for (offset, lease) in [(10, 0), (10, 2), (12, 1), (9, 7), (u64::MAX, 1)] {
        let refused = bench.settle(offset, lease, Verdict::Acknowledge);
        assert_eq!(refused, Err(SettleRefusal::Unknown), "{offset} {lease}");
    }
    assert_eq!(bench.settle(9, 1, Verdict::Acknowledge), Err(SettleRefusal::AlreadySettled));
    assert_eq!(bench.settle(10, 1, Verdict::Acknowledge), Ok(Settled::Done));
}

#[test]
fn an_id_counts_once_however_often_one_request_has_it() {
    let mut bench = Bench::new();
    let lease = bench.lease(vec![10], Vec::new(), 11).lease;
    let settlement = Settlement { partition: 0, offset: 10, lease, verdict: Verdict::Acknowledge };
    let twice = vec![settlement.clone(), settlement];
    let reply = bench.submit(CommandKind::Settle(twice)).expect("there is a queue");
    assert_eq!(reply.settled, [Ok(Settled::Done), Err(SettleRefusal::AlreadySettled)]);
}

#[test]
fn a_million_records_in_order_take_one_run() {
    let mut bench = Bench::new();
    let end = START + 1_000_000;
    bench.lease(Vec::new(), Vec::new(), end);
    let runs = bench.queue().partitions()[&0].runs();
    assert_eq!((runs.len(), runs.start(), runs.end()), (1, START, end));
}

#[test]
fn a_queue_that_is_made_again_has_another_number_and_knows_no_former_lease() {
    let mut bench = Bench::new();
    let lease = bench.lease(vec![10], Vec::new(), 11).lease;
    let number = bench.queue().number();
    bench.submit(CommandKind::Delete).expect("it is there");
    let refused = bench.submit(CommandKind::Settle(Vec::new()));
    assert_eq!(refused, Err(QueueRefusal::UnknownQueue { queue: QUEUE.into() }));
    let topic = Topic { name: "orders".into(), id: "1".into() };
    let starts = vec![Start { partition: 0, offset: START }];
    let again = CommandKind::Create { topic, policy: Policy::default(), starts };
    bench.submit(again.clone()).expect("the name is free");
    assert_ne!(bench.queue().number(), number);
    assert_eq!(bench.settle(10, lease, Verdict::Acknowledge), Err(SettleRefusal::Unknown));
    assert_eq!(bench.submit(again), Err(QueueRefusal::Exists { queue: QUEUE.into() }));
}
