//! What is handed out, against a log and workers that do what they like, by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use taffrail_model::{Offset, Timestamp};
use tokio::time::Instant;

use super::super::command::{Command, CommandKind, LookedThrough, Settled, Settlement, Verdict};
use super::super::event::{Span, Start, Topic};
use super::super::policy::{Order, Policy, Retention};
use super::super::record::QueueRecord;
use super::super::state::Registry;
use super::super::window::Status;
use super::{Choice, Dispatch, Leased};
use crate::coordinator::StateMachine;

const QUEUE: &str = "q";
const WORKERS: u64 = 3;

/// A queue at work, without I/O and with a clock by hand.
struct Bench {
    registry: Registry,
    dispatch: Dispatch,
    now: Instant,
    wall: Timestamp,
    /// The keys of records; `None`: there is no record.
    log: Vec<Option<u8>>,
    order: Order,
    /// What workers have been given and not settled, by offset: the lease.
    hands: BTreeMap<u64, u64>,
    attempts: BTreeMap<u64, u32>,
    given_up: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    Grant {
        worker: u64,
        records: u64,
    },
    Leave {
        worker: u64,
    },
    Pump {
        lease_fails: bool,
    },
    Settle {
        place: prop::sample::Index,
        verdict: u8,
    },
    Pass {
        millis: u64,
        expiry_fails: bool,
    },
    /// Up to there, while leases are being stored: the queue is told before or after it knows of these.
    GiveUp {
        end: u64,
        is_told_late: bool,
    },
    Restart,
}

impl Bench {
    fn new(log: Vec<Option<u8>>, order: Order, now: Instant) -> Self {
        let policy = Policy {
            lease: Duration::from_secs(1),
            attempts_max: 1_000,
            backoff_min: Duration::from_millis(10),
            order,
            window: 12,
            dead_letters: Some("dead".into()),
            retention: Retention::Copy,
            ..Policy::default()
        };
        let mut registry = Registry::default();
        let topic = Topic { name: "t".into(), id: "1".into() };
        let starts = vec![Start { partition: 0, offset: 0 }];
        let create = CommandKind::Create { topic, policy, starts };
        let wall = Timestamp::from_millis(1_000_000);
        submit(&mut registry, create, wall);
        let dispatch = begin(&registry, now, wall);
        let (hands, attempts, given_up) = Default::default();
        let mut bench =
            Self { registry, dispatch, now, wall, log, order, hands, attempts, given_up };
        bench.join_all();
        bench
    }

    fn join_all(&mut self) {
        (0..WORKERS).for_each(|worker| self.dispatch.join(worker));
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Grant { worker, records } => self.dispatch.grant(worker, records, u64::MAX),
            Step::Leave { worker } => {
                self.dispatch.leave(worker);
                self.dispatch.join(worker);
            }
            Step::Pump { lease_fails } => self.pump(lease_fails),
            Step::Settle { place, verdict } => {
                let hands: Vec<_> = self.hands.iter().map(|(at, lease)| (*at, *lease)).collect();
                if !hands.is_empty() {
                    let (offset, lease) = hands[place.index(hands.len())];
                    self.settle(offset, lease, verdict);
                }
            }
            Step::Pass { millis, expiry_fails } => self.pass(millis, expiry_fails),
            Step::GiveUp { end, is_told_late } => self.give_up(end, is_told_late),
            Step::Restart => {
                self.dispatch = begin(&self.registry, self.now, self.wall);
                self.join_all();
            }
        }
    }

    /// Reads and hands out all that can be.
    fn pump(&mut self, lease_fails: bool) {
        for _ in 0..100 {
            let end = self.log.len() as u64;
            let wanted = self.dispatch.wanted(|_| end);
            for wanted in &wanted {
                let span = Span(wanted.from, end.min(wanted.from + 4));
                let records = span.offsets().filter_map(|offset| self.record(offset)).collect();
                self.dispatch.read(0, span, records);
            }
            let choices = self.dispatch.choose();
            if wanted.is_empty() && choices.is_empty() {
                return;
            }
            if lease_fails {
                return choices.into_iter().for_each(|choice| self.dispatch.not_leased(choice));
            }
            for choice in choices {
                self.lease(choice);
            }
        }
        panic!("it does not come to rest");
    }

    /// Gives up what nobody has.
    fn give_up(&mut self, end: u64, is_told_late: bool) {
        let end = end.min(self.log.len() as u64);
        let choices = self.dispatch.choose();
        let runs = self.registry.get(QUEUE).expect("it is there").partitions()[&0].runs();
        let (offsets, missing): (Vec<u64>, Vec<u64>) =
            (runs.end()..end).partition(|offset| self.log[*offset as usize].is_some());
        let missing = Span::gather(missing);
        let looked = LookedThrough { partition: 0, start: 0, end, missing, offsets };
        let kind = CommandKind::GiveUp { looked, reason: "it is old" };
        let spans = submit(&mut self.registry, kind, self.wall).spans;
        self.given_up.extend(spans.iter().flat_map(|span| span.offsets()));
        if !is_told_late {
            self.dispatch.given_up(0, end, &spans);
        }
        for choice in choices {
            self.lease(choice);
        }
        if is_told_late {
            self.dispatch.given_up(0, end, &spans);
        }
    }

    fn record(&self, offset: u64) -> Option<QueueRecord> {
        let key = self.log[offset as usize]?;
        Some(QueueRecord {
            offset: Offset::new(offset),
            timestamp: self.wall,
            key: (key > 0).then(|| vec![key].into()),
            value: None,
            headers: Vec::new(),
        })
    }

    fn lease(&mut self, choice: Choice) {
        let bytes: u64 = 128 * choice.lease.offsets.len() as u64 * 2;
        let worker = choice.worker;
        let kind = CommandKind::Lease(choice.lease.clone());
        let leased = submit(&mut self.registry, kind, self.wall).leased;
        let (deliveries, released) = self.dispatch.leased(choice, &leased, self.now);
        for delivery in deliveries {
            let offset = delivery.record.offset.get();
            self.check_key(offset);
            self.hands.insert(offset, delivery.lease);
            self.attempts.insert(offset, delivery.attempt);
        }
        self.dispatch.taken(worker, bytes);
        self.store(released);
    }

    /// Whether no record of the same key before it is open.
    fn check_key(&self, offset: u64) {
        let key = self.log[offset as usize];
        if self.order == Order::None || key == Some(0) {
            return;
        }
        let runs = self.registry.get(QUEUE).expect("it is there").partitions()[&0].runs();
        for before in runs.start()..offset {
            let is_open = !matches!(runs.get(before), Some(Status::Settled) | None);
            assert!(!is_open || self.log[before as usize] != key, "{offset} before {before}");
        }
    }

    fn settle(&mut self, offset: u64, lease: u64, verdict: u8) {
        let verdict = match verdict {
            0 => Verdict::Retry { delay: Some(Duration::from_millis(300)) },
            1 => Verdict::Release,
            2 => return,
            _ => Verdict::Acknowledge,
        };
        self.hands.remove(&offset);
        self.store(vec![Settlement { partition: 0, offset, lease, verdict }]);
    }

    fn store(&mut self, settlements: Vec<Settlement>) {
        if settlements.is_empty() {
            return;
        }
        let kind = CommandKind::Settle(settlements.clone());
        let results = submit(&mut self.registry, kind, self.wall).settled;
        for (settlement, result) in settlements.iter().zip(results) {
            self.dispatch.settled(settlement, result, self.now);
        }
    }

    fn pass(&mut self, millis: u64, expiry_fails: bool) {
        let time = Duration::from_millis(millis);
        self.now += time;
        self.wall = self.wall.plus(time);
        let expired = self.dispatch.expire(self.now);
        if expiry_fails {
            self.dispatch.not_expired(&expired, self.now + time);
        } else {
            self.store(expired);
        }
    }

    /// Works in earnest until all is settled.
    fn finish(mut self) {
        for _ in 0..200 {
            (0..WORKERS).for_each(|worker| self.dispatch.grant(worker, 1_000, u64::MAX));
            self.pump(false);
            for (offset, lease) in std::mem::take(&mut self.hands) {
                self.settle(offset, lease, 9);
            }
            self.pass(1_100, false);
            let runs = self.registry.get(QUEUE).expect("it is there").partitions()[&0].runs();
            let last = self.log.iter().rposition(Option::is_some).map_or(0, |last| last as u64 + 1);
            if last <= runs.start() {
                let there = self.log.iter().enumerate().filter(|(_, key)| key.is_some());
                let there: BTreeSet<_> = there.map(|(offset, _)| offset as u64).collect();
                let tried = self.attempts.keys().copied().collect::<BTreeSet<_>>();
                assert_eq!(&tried | &self.given_up, there);
                return;
            }
        }
        panic!("records are stuck: {:?} of {:?}", self.registry, self.dispatch);
    }
}

fn begin(registry: &Registry, now: Instant, wall: Timestamp) -> Dispatch {
    Dispatch::new(registry.get(QUEUE).expect("it is there"), now, now, wall.as_millis())
}

fn submit(
    registry: &mut Registry,
    kind: CommandKind,
    now: Timestamp,
) -> super::super::command::Reply {
    let decided = registry.decide(Command { queue: QUEUE.into(), number: None, kind }, now);
    let (reply, events) = decided.expect("nothing is refused");
    for event in &events {
        registry.apply(event);
    }
    for result in &reply.settled {
        if let Ok(Settled::Parked) = result {
            panic!("there are attempts enough");
        }
    }
    reply
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..WORKERS, 0_u64..6).prop_map(|(worker, records)| Step::Grant { worker, records }),
        1 => (0..WORKERS).prop_map(|worker| Step::Leave { worker }),
        5 => prop::bool::weighted(0.1).prop_map(|lease_fails| Step::Pump { lease_fails }),
        8 => (any::<prop::sample::Index>(), 0_u8..8)
            .prop_map(|(place, verdict)| Step::Settle { place, verdict }),
        3 => (0_u64..700, prop::bool::weighted(0.1))
            .prop_map(|(millis, expiry_fails)| Step::Pass { millis, expiry_fails }),
        1 => (0_u64..40, any::<bool>())
            .prop_map(|(end, is_told_late)| Step::GiveUp { end, is_told_late }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn every_record_is_handed_out_and_settled_in_the_order_of_its_key(
        log in prop::collection::vec(prop::option::weighted(0.8, 0_u8..4), 1..40),
        is_per_key in any::<bool>(),
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let now = runtime.expect("a runtime").block_on(async { Instant::now() });
        let order = if is_per_key { Order::PerKey } else { Order::None };
        let mut bench = Bench::new(log, order, now);
        for step in steps {
            bench.take(step);
        }
        bench.finish();
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_keeps_its_credit_where_records_were_given_up_meanwhile() {
    let mut bench = Bench::new(vec![Some(0); 4], Order::None, Instant::now());
    bench.dispatch.grant(1, 4, u64::MAX);
    for wanted in bench.dispatch.wanted(|_| 4) {
        let records = (wanted.from..4).filter_map(|offset| bench.record(offset)).collect();
        bench.dispatch.read(0, Span(wanted.from, 4), records);
    }
    bench.give_up(3, true);
    assert_eq!(bench.given_up, BTreeSet::from([0, 1, 2]));
    bench.pump(false);
    assert_eq!(bench.hands.keys().copied().collect::<Vec<_>>(), [3]);
    bench.log.extend([Some(0); 9]);
    bench.pump(false);
    assert_eq!(bench.hands.len(), 4, "as many as it can take");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_tried_again_before_one_that_could_not_be_leased_comes_first() {
    let now = Instant::now();
    let mut bench = Bench::new(vec![Some(1); 2], Order::PerKey, now);
    let log = [0, 1].map(|offset| bench.record(offset).expect("it is there"));
    let dispatch = &mut bench.dispatch;
    let read = |dispatch: &mut Dispatch, end| {
        for wanted in dispatch.wanted(|_| 2) {
            let is_there = |it: &&QueueRecord| (wanted.from..end).contains(&it.offset.get());
            let records = log.iter().filter(is_there).cloned();
            dispatch.read(0, Span(wanted.from, end), records.collect());
        }
    };
    dispatch.join(1);
    dispatch.grant(1, 9, u64::MAX);
    read(dispatch, 2);
    let first = dispatch.choose().pop().expect("the first can be had");
    let leased = Leased { lease: 1, records: vec![(0, 1)], ..Leased::default() };
    dispatch.leased(first, &leased, now);
    let parked = Settlement { partition: 0, offset: 0, lease: 1, verdict: Verdict::Expire };
    dispatch.settled(&parked, Ok(Settled::Parked), now);
    read(dispatch, 2);
    let second = dispatch.choose().pop().expect("then the second");
    assert_eq!(second.lease.offsets, [1]);
    // While its lease is being stored, the first is to be tried again; then it cannot be stored.
    dispatch.redriven(0, &[Span(0, 1)]);
    read(dispatch, 1);
    dispatch.not_leased(second);
    read(dispatch, 1);
    let again = dispatch.choose().pop().expect("one of them can be had");
    assert_eq!(again.lease.offsets, [0]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_left_alone_once_however_often_that_is_wanted() {
    let mut dispatch = Bench::new(vec![None; 2], Order::None, Instant::now()).dispatch;
    assert!(dispatch.pause(0) && !dispatch.pause(0));
    dispatch.go_on(0);
    assert!(dispatch.pause(0));
}
