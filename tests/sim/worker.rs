//! Workers of a queue: they take records, settle them in every way or not at all, crash and come back. No
//! record is two workers' at a time, none comes again that is done, no lease counts that is over; in the
//! end each record is acknowledged, or in the dead-letter topic, once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use taffrail_broker::{
    Broker, CreateQueue, FetchPartition, FetchRequest, Fetched, Message, Position, QueueCommand,
    QueueDelivery, QueueError, QueueEvent, QueueOrder, QueuePolicy, QueueRefusal, QueueRetention,
    Settle, SettleRefusal, Verdict,
};
use taffrail_model::batch::{Batches, Compressions};
use taffrail_model::{Offset, PartitionIndex};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::history::record_of;
use crate::refusals::{check_fetch, check_produce};
use crate::world::{State, World};

const LEASE: Duration = Duration::from_millis(300);
const ATTEMPTS_MAX: u32 = 3;
const DEAD_PARTITIONS: u32 = 2;

/// What the clock of the broker may be behind whoever is told how long a lease is.
const SLACK: Duration = Duration::from_millis(20);

/// A record, by partition and offset.
type Spot = (u32, u64);

/// What is known of the queue that there is.
#[derive(Default)]
pub(crate) struct Ledger {
    queue: Option<Queue>,
    is_being_made: bool,
    records: BTreeMap<Spot, Seen>,
}

/// A queue.
#[derive(Clone)]
struct Queue {
    name: String,
    topic: String,
    dead: String,
    has_order: bool,
}

/// What is known of a record that somebody got.
struct Seen {
    key: Option<Bytes>,
    attempt: u32,
    /// The last lease of it that anybody got, and until when it lasts at the least.
    ack_id: Bytes,
    until: Duration,
    /// Somebody has said of this lease what may end it, whether or not that counted.
    is_said: bool,
    /// Somebody has said that it is done, or to be tried no more.
    may_be_done: bool,
    /// That was answered.
    is_done: bool,
    /// Somebody has said that it was not tried.
    may_be_released: bool,
}

/// Who works, between and during the broker's lives.
#[derive(Default)]
pub(crate) struct Worker {
    /// The queue that it works on, and records that it has of it.
    queue: String,
    held: Vec<(Spot, Bytes)>,
}

/// What somebody said of a lease, and when.
struct Said {
    spot: Spot,
    verdict: Verdict,
    at: Duration,
    /// Until when the lease lasts at the least.
    until: Duration,
    /// Whether somebody else had got the record already.
    is_late: bool,
}

impl Seen {
    fn is_held(&self, world: &World) -> bool {
        !self.is_said && world.time() + SLACK < self.until
    }
}

impl Ledger {
    /// Whoever was making a queue when the broker ended does so no more.
    pub(crate) fn begin_life(&mut self) {
        self.is_being_made = false;
    }

    /// Somebody gets a record.
    fn take(&mut self, world: &World, delivery: &QueueDelivery) -> Spot {
        let QueueDelivery { partition, record, attempt, lease, ack_id } = delivery;
        let spot = (partition.get(), record.offset.get());
        let value = record.value.clone().unwrap_or_default();
        assert!(record_of(&value).is_some(), "{spot:?} holds what nobody sent");
        assert!((1..=ATTEMPTS_MAX).contains(attempt), "{spot:?} is tried for the {attempt}th time");
        let before = self.records.get(&spot);
        if let Some(before) = before {
            assert!(!before.is_done, "{spot:?} is done, and comes again");
            assert!(!before.is_held(world), "{spot:?} is somebody's, and comes again");
            let is_next =
                before.attempt < *attempt || before.may_be_released && before.attempt == *attempt;
            assert!(is_next, "{spot:?}: attempt {attempt} behind {}", before.attempt);
            world.reach("records that came again");
        }
        let ordered = self.queue.as_ref().filter(|queue| queue.has_order);
        if let Some(queue) = ordered
            && let Some(key) = &record.key
        {
            // Of what was deleted nobody knows the key any more.
            let deleted = world.may_be_deleted(&(queue.topic.clone(), spot.0));
            let same = self.records.range((spot.0, deleted)..=(spot.0, u64::MAX));
            let mut same = same.filter(|(at, seen)| **at != spot && seen.key.as_ref() == Some(key));
            let held = same.find(|(_, seen)| seen.is_held(world));
            assert!(held.is_none(), "{spot:?} comes beside {:?}", held.map(|(at, _)| at));
        }
        let seen = Seen {
            key: record.key.clone(),
            attempt: *attempt,
            ack_id: ack_id.clone(),
            until: world.time() + *lease,
            is_said: false,
            may_be_done: before.is_some_and(|before| before.may_be_done),
            is_done: false,
            may_be_released: false,
        };
        self.records.insert(spot, seen);
        spot
    }

    /// Somebody says something of a lease.
    fn say(&mut self, world: &World, spot: Spot, ack_id: &Bytes, verdict: Verdict) -> Option<Said> {
        let seen = self.records.get_mut(&spot)?;
        let is_late = seen.ack_id != *ack_id;
        if !is_late {
            seen.is_said |= !matches!(verdict, Verdict::Extend { .. });
            seen.may_be_released |= verdict == Verdict::Release;
        }
        seen.may_be_done |= matches!(verdict, Verdict::Acknowledge | Verdict::Reject { .. });
        Some(Said { spot, verdict, at: world.time(), until: seen.until, is_late })
    }

    /// It is answered.
    fn note(
        &mut self,
        world: &World,
        ack_id: &Bytes,
        said: &Said,
        result: Result<(), SettleRefusal>,
    ) {
        let spot = said.spot;
        let Some(seen) = self.records.get_mut(&spot) else { return };
        let is_latest = seen.ack_id == *ack_id;
        match result {
            Ok(()) => {
                assert!(!said.is_late, "{spot:?}: a lease counts that is over: {:?}", said.verdict);
                world.reach("settled records");
                match &said.verdict {
                    Verdict::Acknowledge | Verdict::Reject { .. } => {
                        assert!(is_latest, "{spot:?}: done, and another's meanwhile");
                        seen.is_done = true;
                    }
                    Verdict::Retry { .. } if is_latest && seen.attempt == ATTEMPTS_MAX => {
                        seen.is_done = true;
                    }
                    Verdict::Extend { .. } if is_latest => {
                        seen.until = seen.until.max(said.at + LEASE);
                    }
                    Verdict::Retry { .. } | Verdict::Release | Verdict::Extend { .. } => {}
                }
            }
            Err(SettleRefusal::LeaseExpired) => {
                let is_over = said.is_late || said.until <= world.time() + SLACK;
                assert!(is_over, "{spot:?}: the lease has not ended");
                world.reach("late settlements refused");
            }
            Err(SettleRefusal::AlreadySettled) => {}
            Err(SettleRefusal::Unknown) => panic!("{spot:?}: nobody knows the lease"),
        }
    }
}

/// Lives as long as the broker does.
pub(crate) async fn live(world: Rc<World>, broker: Arc<Broker>, worker: Rc<RefCell<Worker>>) {
    loop {
        world.moment().await;
        let queue = world.ledger.borrow().queue.clone();
        match queue {
            Some(queue) if world.is_there(&queue.topic) => {
                if let Err(error) = work(&world, &broker, &worker, &queue).await {
                    check(&world, &queue, &error);
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Some(queue) => remove(&world, &broker, &queue).await,
            None if !world.is_closing.get() => make(&world, &broker).await,
            None => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Makes a queue on a topic that is there, and the topic of its dead letters.
async fn make(world: &World, broker: &Arc<Broker>) {
    let topics: Vec<_> = world.places().into_iter().map(|(topic, _)| topic).collect();
    let topics: Vec<_> = topics.into_iter().filter(|topic| !world.is_cached(topic)).collect();
    let Some(topic) = world.dice.pick(&topics).cloned() else {
        return sleep(Duration::from_millis(20)).await;
    };
    if std::mem::replace(&mut world.ledger.borrow_mut().is_being_made, true) {
        return sleep(Duration::from_millis(20)).await;
    }
    let (name, dead) = (format!("queue{}", world.number()), format!("dead{}", world.number()));
    let has_order = world.dice.once_in(2);
    let policy = QueuePolicy {
        lease: LEASE,
        attempts_max: ATTEMPTS_MAX,
        backoff_min: Duration::from_millis(world.dice.below(50)),
        backoff_max: Duration::from_millis(100),
        order: if has_order { QueueOrder::PerKey } else { QueueOrder::None },
        window: 1 + world.dice.below(40) as u32,
        parked_max: 1 + world.dice.below(40) as u32,
        dead_letters: Some(dead.clone()),
        retention: if world.dice.once_in(2) { QueueRetention::Copy } else { QueueRetention::Hold },
    };
    let made = async {
        broker.create_topic(&dead, DEAD_PARTITIONS, BTreeMap::new()).await.ok()?;
        let from = Position::Earliest;
        let request = CreateQueue { name: name.clone(), topic: topic.clone(), policy, from };
        // One whose creation was not answered is nobody's business any more.
        broker.create_queue(request).await.ok()
    };
    let made = made.await;
    let mut ledger = world.ledger.borrow_mut();
    ledger.is_being_made = false;
    if made.is_some() {
        world.reach("queues");
        ledger.records.clear();
        ledger.queue = Some(Queue { name, topic, dead, has_order });
    }
}

/// The topic is gone, or may be: so is the queue.
async fn remove(world: &World, broker: &Arc<Broker>, queue: &Queue) {
    let state = world.topics.borrow().get(&queue.topic).map(|topic| topic.state);
    if state != Some(State::Gone) {
        return sleep(Duration::from_millis(20)).await;
    }
    match broker.delete_queue(&queue.name).await {
        Ok(()) | Err(QueueError::Refused(QueueRefusal::UnknownQueue { .. })) => {
            let mut ledger = world.ledger.borrow_mut();
            if ledger.queue.as_ref().is_some_and(|it| it.name == queue.name) {
                world.reach("deleted queues");
                ledger.queue = None;
            }
        }
        Err(error) => check(world, queue, &error),
    }
}

/// Works for a while.
async fn work(
    world: &World,
    broker: &Arc<Broker>,
    worker: &RefCell<Worker>,
    queue: &Queue,
) -> Result<(), QueueError> {
    if worker.borrow().queue != queue.name {
        *worker.borrow_mut() = Worker { queue: queue.name.clone(), held: Vec::new() };
    }
    let (events, mut received) = mpsc::channel(4);
    let (command, commands) = mpsc::channel(64);
    let session = tokio::spawn(broker.queue_session(events).run(commands));
    let open = QueueCommand::Open { queue: queue.name.clone() };
    let records = 1 + world.dice.below(8);
    let grant = |records| QueueCommand::Grant { records, bytes: 64 << 10 };
    for first in [open, grant(records)] {
        command.send(first).await.expect("the session runs");
    }
    let mut said: HashMap<Bytes, Said> = HashMap::new();
    let is_lazy = !world.is_closing.get() && world.dice.once_in(4);
    let mut failed = None;
    for _ in 0..5 + world.dice.below(40) {
        let wait = Duration::from_millis(1 + world.dice.below(40));
        match timeout(wait, received.recv()).await {
            Err(_) | Ok(Some(QueueEvent::Opened { .. })) => {}
            Ok(Some(QueueEvent::Deliveries(deliveries))) => {
                // Another queue may have taken its place.
                if !is_current(world, queue) {
                    break;
                }
                for delivery in deliveries {
                    let spot = world.ledger.borrow_mut().take(world, &delivery);
                    world.reach("deliveries");
                    worker.borrow_mut().held.push((spot, delivery.ack_id));
                }
            }
            Ok(Some(QueueEvent::Settled(results))) => {
                for (ack_id, result) in results {
                    let Some(said) = said.remove(&ack_id).filter(|_| is_current(world, queue))
                    else {
                        continue;
                    };
                    world.ledger.borrow_mut().note(world, &ack_id, &said, result);
                }
            }
            Ok(Some(QueueEvent::Failed(error))) => {
                failed = Some(error);
                break;
            }
            Ok(None) => break,
        }
        if is_lazy {
            continue;
        }
        let settles = settle_some(world, worker, &mut said);
        let ended = settles.iter().filter(|it| !matches!(it.verdict, Verdict::Extend { .. }));
        let records = ended.count() as u64;
        if !settles.is_empty() {
            let sent = command.send(QueueCommand::Settle(settles)).await;
            if sent.is_err() || command.send(grant(records)).await.is_err() {
                break;
            }
        }
    }
    if world.dice.once_in(2) {
        // Killed, or cut off: what it had, it may still settle elsewhere.
        drop((command, received));
        if world.dice.once_in(2) {
            worker.borrow_mut().held.clear();
            world.reach("workers that crashed");
        }
    } else {
        drop(command);
        while let Some(event) = received.recv().await {
            let QueueEvent::Settled(results) = event else { continue };
            for (ack_id, result) in results {
                if let Some(said) = said.remove(&ack_id).filter(|_| is_current(world, queue)) {
                    world.ledger.borrow_mut().note(world, &ack_id, &said, result);
                }
            }
        }
    }
    session.await.expect("a session does not panic");
    failed.map_or(Ok(()), Err)
}

fn is_current(world: &World, queue: &Queue) -> bool {
    world.ledger.borrow().queue.as_ref().is_some_and(|it| it.name == queue.name)
}

/// Says something of some of the records that a worker has.
fn settle_some(
    world: &World,
    worker: &RefCell<Worker>,
    said: &mut HashMap<Bytes, Said>,
) -> Vec<Settle> {
    let mut settles = Vec::new();
    let dice = &world.dice;
    let held = std::mem::take(&mut worker.borrow_mut().held);
    for (spot, ack_id) in held {
        let is_closing = world.is_closing.get();
        if said.contains_key(&ack_id) || !is_closing && dice.once_in(3) {
            worker.borrow_mut().held.push((spot, ack_id));
            continue;
        }
        let verdict = match dice.below(12) {
            _ if is_closing => Verdict::Acknowledge,
            0 => Verdict::Release,
            1..4 => {
                let delay = dice.once_in(2).then(|| Duration::from_millis(dice.below(60)));
                Verdict::Retry { delay }
            }
            4 => Verdict::Reject { reason: "it says nothing".to_owned() },
            5 => Verdict::Extend { time: None },
            _ => Verdict::Acknowledge,
        };
        let mut ledger = world.ledger.borrow_mut();
        let Some(entry) = ledger.say(world, spot, &ack_id, verdict.clone()) else { continue };
        if matches!(verdict, Verdict::Extend { .. }) {
            worker.borrow_mut().held.push((spot, ack_id.clone()));
        }
        said.insert(ack_id.clone(), entry);
        settles.push(Settle { ack_id, verdict });
    }
    settles
}

/// In the end all is settled, and each record is done, or a dead letter, once.
pub(crate) async fn settle(world: &World, broker: &Arc<Broker>) {
    let (queue, described) = loop {
        sleep(Duration::from_millis(50)).await;
        let Some(queue) = world.ledger.borrow().queue.clone() else { return };
        if !world.is_there(&queue.topic) {
            return;
        }
        let described = broker.describe_queue(&queue.name).await.expect("nothing fails");
        let open = |it: &taffrail_broker::QueuePartition| {
            it.fresh + it.ready + it.leased + it.delayed + it.parked
        };
        if described.partitions.iter().map(open).sum::<u64>() == 0 {
            break (queue, described);
        }
    };
    world.reach("queues that were done");
    if world.is_cached(&queue.topic) {
        // What was acknowledged may have gone, and other records may have come to its offsets.
        return;
    }
    let mut dead: BTreeMap<Spot, u32> = BTreeMap::new();
    for partition in 0..DEAD_PARTITIONS {
        for record in read(world, broker, &(queue.dead.clone(), partition)).await {
            let spot = record.origin.expect("only dead letters are there");
            *dead.entry(spot).or_default() += 1;
            world.reach("dead letters");
        }
    }
    let twice: Vec<_> = dead.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "copied more than once: {twice:?}");
    for partition in described.partitions.iter().map(|it| it.partition.get()) {
        for record in read(world, broker, &(queue.topic.clone(), partition)).await {
            let spot = (partition, record.offset);
            let ledger = world.ledger.borrow();
            let is_dead = dead.contains_key(&spot);
            let seen = ledger.records.get(&spot);
            assert!(is_dead || seen.is_some(), "{spot:?} never came");
            let may_be_done = seen.is_some_and(|seen| seen.may_be_done);
            assert!(is_dead || may_be_done, "{spot:?} is neither done nor dead");
        }
    }
}

/// A record that is there.
struct Found {
    offset: u64,
    /// Where it comes from, if it is a dead letter.
    origin: Option<Spot>,
}

/// All records of a place.
async fn read(world: &World, broker: &Broker, place: &(String, u32)) -> Vec<Found> {
    let (mut found, mut next) = (Vec::new(), 0);
    loop {
        let partition = FetchPartition {
            topic: place.0.clone(),
            partition: PartitionIndex::new(place.1),
            from: Offset::new(next),
        };
        let request = FetchRequest {
            partitions: vec![partition],
            bytes_max: 1 << 20,
            bytes_min: 1,
            wait_max: Duration::ZERO,
            message: Message {
                bytes_max: 4 << 20,
                envelope_bytes: 1 << 10,
                accepted: Compressions::ALL,
            },
            error_bytes: 1 << 10,
        };
        let result = broker.fetch(&request).await.into_iter().next().expect("a result");
        match result.fetched {
            Ok(Fetched::Batches(bytes)) => {
                for batch in Batches::received(bytes) {
                    let batch = batch.expect("whole batches").open().expect("a frame");
                    for record in batch.records() {
                        let record = record.expect("sound records");
                        let number = |name: &str| {
                            let name = format!("taffrail-dead-letter-{name}");
                            let mut headers = record.headers();
                            let header = headers.find(|header| header.name == name)?;
                            std::str::from_utf8(header.value).ok()?.parse::<u64>().ok()
                        };
                        let origin = number("partition").zip(number("offset"));
                        let origin = origin.map(|(partition, offset)| (partition as u32, offset));
                        let offset = record.offset.get();
                        if next <= offset {
                            found.push(Found { offset, origin });
                        }
                    }
                    next = next.max(batch.header.end_offset().get());
                }
            }
            Ok(Fetched::Gap(gap)) => next = gap.to.get(),
            Ok(Fetched::Nothing) => return found,
            Err(taffrail_broker::FetchError::OffsetOutOfRange { offset, start, .. })
                if offset < start =>
            {
                next = start.get();
            }
            Err(error) => {
                check_fetch(world, place, &error);
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Checks why somebody was refused.
fn check(world: &World, queue: &Queue, error: &QueueError) {
    let place = ("__queues".to_owned(), 0);
    match error {
        QueueError::Storage(error) => check_produce(world, &place, error),
        QueueError::Damaged { .. } => assert!(world.is_faulty.get(), "{error}"),
        QueueError::NoTopic { .. } => assert!(!world.is_there(&queue.topic), "{error}"),
        QueueError::Refused(QueueRefusal::UnknownQueue { .. }) => {
            assert!(!is_current(world, queue), "{error}");
        }
        QueueError::Stopping => {}
        error => panic!("{error}"),
    }
}
