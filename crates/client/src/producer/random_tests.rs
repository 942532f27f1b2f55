//! Random runs against a model of the broker: whatever breaks, what is said of each batch is true.

use std::collections::{HashMap, HashSet};

use super::model_broker::{Batch, Broker, Fault, Session};
use super::tests::TIMEOUT;
use super::*;

const RUNS: u64 = 4_000;
const STEPS: u32 = 250;

/// Refusals that pass, and others.
const PASSING: [&str; 4] = ["OVERLOADED", "PARTITION_RECOVERING", "STORAGE_FULL", "STOPPING"];
const HARSH: [&str; 4] =
    ["BATCH_TOO_LARGE", "PARTITION_READ_ONLY", "SEQUENCE_GAP", "UNKNOWN_PRODUCER_STATE"];

/// Without a wait, so that the same seed does the same.
const NO_BACKOFF: Backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO };

/// Numbers that follow from a seed (splitmix64), which is printed when a test fails that uses them.
struct Numbers {
    seed: u64,
    state: u64,
}

impl Numbers {
    fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn any_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len() as u64) as usize]
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.seed);
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Appended,
    Refused,
    Unknown,
}

/// A producer's pipeline, its broker, and what lies between them.
struct Run {
    numbers: Numbers,
    pipeline: Pipeline<Batch>,
    broker: Broker,
    now: Instant,
    /// Whether the last session is the pipeline's.
    is_connected: bool,
    requests_max: u32,
    /// Whether batches are so large that sequences come round after 32 of them.
    comes_round: bool,
    /// Whether nothing happens that can cost a record or its answer.
    is_gentle: bool,
    pushed: u32,
    /// By batch: its lane, and what became of it.
    lanes: HashMap<u32, usize>,
    fates: HashMap<u32, Fate>,
    renewals: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let lanes = 1 + numbers.below(3) as usize;
        let mut broker = Broker::new(lanes);
        let identity = broker.init_producer().expect("nobody has its name");
        Self {
            pipeline: Pipeline::new(lanes, TIMEOUT, NO_BACKOFF, Some(identity)),
            broker,
            now: Instant::now(),
            is_connected: false,
            requests_max: 1 + numbers.below(6) as u32,
            comes_round: numbers.once_in(4),
            is_gentle: numbers.once_in(2),
            pushed: 0,
            lanes: HashMap::new(),
            fates: HashMap::new(),
            renewals: 0,
            numbers,
        }
    }

    fn step(&mut self) {
        match self.numbers.below(100) {
            0..20 => self.push(),
            20..40 => self.send(),
            40..60 => {
                let fault = self.fault();
                self.process(fault);
            }
            60..80 => self.deliver(),
            80..88 => self.open(),
            88..90 => self.cut(),
            90..94 => self.renew(),
            94..96 => self.crash(),
            _ if self.is_gentle => self.pass(Duration::from_millis(1)),
            96 => {
                let wait = Duration::from_millis(self.numbers.below(4_000));
                self.pass(wait);
            }
            97 if self.numbers.once_in(4) => self.broker.forget(),
            98 if self.numbers.once_in(4) => self.broker.lose(),
            99 if self.numbers.once_in(40) => self.broker.is_taken = true,
            _ => {}
        }
        self.take_settled();
    }

    fn push(&mut self) {
        let lane = self.numbers.below(self.lanes_count()) as usize;
        let records = if self.comes_round { 1 << 27 } else { 1 + self.numbers.below(4) as u32 };
        let batch = Batch { number: self.pushed, records };
        self.lanes.insert(self.pushed, lane);
        self.pushed += 1;
        let deadline = self.now + TIMEOUT;
        self.pipeline.push(lane, Fresh { batch, bytes: 1, records, deadline });
    }

    fn lanes_count(&self) -> u64 {
        self.broker.partitions.len() as u64
    }

    fn send(&mut self) {
        if let Some(outgoing) = self.pipeline.next(self.now) {
            assert!(self.is_connected, "sent without a stream");
            let session = self.broker.sessions.last_mut().expect("there is a stream");
            session.requests.push_back(outgoing);
        }
    }

    fn fault(&mut self) -> Fault {
        match self.numbers.below(40) {
            0..4 => Fault::Refused(self.numbers.any_of(&PASSING)),
            4 => Fault::Unknown,
            _ if self.is_gentle => Fault::None,
            5 => Fault::UnknownAndLost,
            6 => Fault::Refused(self.numbers.any_of(&HARSH)),
            _ => Fault::None,
        }
    }

    /// Lets the broker take a request of some session, most often of the last one.
    fn process(&mut self, fault: Fault) {
        let Some(last) = self.broker.sessions.len().checked_sub(1) else { return };
        let is_old = last > 0 && self.numbers.once_in(4);
        let session = if is_old { self.numbers.below(last as u64) as usize } else { last };
        self.broker.process(session, fault);
    }

    /// Answers come in any order: the pipeline need not rely on one.
    fn deliver(&mut self) {
        let Some(session) = self.broker.sessions.last_mut().filter(|_| self.is_connected) else {
            return;
        };
        if session.answers.is_empty() {
            return;
        }
        let is_odd = self.numbers.once_in(8);
        let place = if is_odd { self.numbers.below(session.answers.len() as u64) } else { 0 };
        let (number, answer) = session.answers.remove(place as usize);
        self.pipeline.answered(number, answer, self.now);
    }

    fn open(&mut self) {
        if !self.is_connected {
            self.is_connected = true;
            self.broker.sessions.push(Session::default());
            self.pipeline.opened(1 << 20, self.requests_max);
        }
    }

    /// Breaks the stream. What was sent last may not have arrived; the rest may be appended yet.
    fn cut(&mut self) {
        if let Some(session) = self.broker.sessions.last_mut().filter(|_| self.is_connected) {
            let arrived = self.numbers.below(session.requests.len() as u64 + 1);
            // Nothing stays on its way until the sequences have come round.
            let arrived = if self.comes_round { 0 } else { arrived };
            session.requests.truncate(arrived as usize);
            self.is_connected = false;
            self.pipeline.broken("cut");
        }
    }

    fn crash(&mut self) {
        self.cut();
        self.broker.crash();
    }

    fn renew(&mut self) {
        if self.pipeline.to_renew().is_none() {
            return;
        }
        match self.broker.init_producer() {
            _ if self.numbers.once_in(3) => {
                let (server, cause) = (String::new(), "no answer".to_owned());
                self.pipeline.not_renewed(&CallError::Unreachable { server, cause });
            }
            Ok(identity) => {
                self.renewals += 1;
                self.pipeline.renewed(identity);
            }
            Err(refusal) => self.pipeline.not_renewed(&CallError::Refused(refusal)),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.pipeline.wake(self.now);
        self.pipeline.expire(self.now, "late");
        if self.pipeline.is_overdue(self.now) {
            self.cut();
        }
    }

    fn take_settled(&mut self) {
        while let Some(Settled { batch, outcome }) = self.pipeline.next_settled() {
            let fate = match outcome {
                Ok(_) => Fate::Appended,
                Err(ProduceError::ResultUnknown { .. }) => Fate::Unknown,
                Err(ProduceError::Refused(_) | ProduceError::TimedOut { .. }) => Fate::Refused,
                Err(error) => panic!("{error}"),
            };
            let before = self.fates.insert(batch.number, fate);
            assert_eq!(before, None, "{} was settled twice", batch.number);
        }
    }

    /// From here on nothing goes wrong. Everything is settled soon.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.pipeline.unsettled() == 0 {
                return;
            }
            self.open();
            self.send();
            self.process(Fault::None);
            self.deliver();
            self.renew();
            self.pass(Duration::from_millis(1));
            self.take_settled();
        }
        panic!("{} batches are not settled", self.pipeline.unsettled());
    }

    /// From here on the broker is away. Everything is settled when its time is over.
    fn settle_alone(&mut self) {
        self.cut();
        self.pass(TIMEOUT);
        self.take_settled();
        assert_eq!(self.pipeline.unsettled(), 0);
    }

    /// Checks what was said of each batch, when the broker has done all that it ever will.
    fn check(&mut self) {
        for session in 0..self.broker.sessions.len() {
            while !self.broker.sessions[session].requests.is_empty() {
                self.broker.process(session, Fault::None);
            }
        }
        assert_eq!(self.fates.len(), self.pushed as usize);
        let mut found = HashSet::new();
        for (lane, partition) in self.broker.partitions.iter().enumerate() {
            let log: Vec<u32> = partition.log.iter().map(|entry| entry.batch.number).collect();
            // One that was lost may come again over an old stream.
            let is_placed = |number: &&u32| {
                self.fates[*number] == Fate::Appended && !partition.lost.contains(*number)
            };
            assert!(log.iter().filter(is_placed).is_sorted(), "order: {log:?}");
            for number in log {
                assert_eq!(self.lanes[&number], lane);
                assert!(found.insert(number), "{number} is there twice");
            }
            found.extend(&partition.lost);
        }
        for (number, fate) in &self.fates {
            let is_true = match fate {
                Fate::Appended => found.contains(number),
                Fate::Refused => !found.contains(number),
                Fate::Unknown => true,
            };
            assert!(is_true, "{number} is {fate:?}");
        }
    }
}

#[test]
fn what_is_said_of_each_batch_is_true_whatever_breaks() {
    let mut seen: HashMap<Fate, usize> = HashMap::new();
    let (mut renewals, mut duplicates, mut fenced) = (0, 0, 0);
    for seed in 0..RUNS {
        let mut run = Run::new(seed);
        (0..STEPS).for_each(|_| run.step());
        if !run.is_gentle && run.numbers.once_in(4) {
            run.settle_alone();
        } else {
            run.settle();
        }
        run.check();
        if run.is_gentle {
            let all_appended = run.fates.values().all(|fate| *fate == Fate::Appended);
            assert!(all_appended, "nothing happened that costs a record: {:?}", run.fates);
        }
        run.fates.values().for_each(|fate| *seen.entry(*fate).or_default() += 1);
        renewals += run.renewals;
        duplicates += run.broker.duplicates;
        fenced += usize::from(run.pipeline.is_fenced());
    }
    // Otherwise it tests less than it should.
    let counts = [renewals, duplicates, fenced, seen[&Fate::Refused], seen[&Fate::Unknown]];
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}
