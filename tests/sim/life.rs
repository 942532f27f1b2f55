//! One life of a broker: from its start to its end, whichever that is.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use taffrail_broker::{Broker, BrokerConfig, Crew, Machine, StartError, Turns};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use crate::consumer::Consumer;
use crate::member::Member;
use crate::producer::Producer;
use crate::worker::Worker;
use crate::world::World;
use crate::{administrator, consumer, disk, member, producer, worker};

/// How long anything may take, by a clock that goes on only when nobody has anything to do.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a broker keeps back of its disk: little, since a disk in memory counts every sector.
const SPARE_BYTES: u64 = 4 << 10;

/// How often everything sealed is read again.
const SCRUB_INTERVAL: Duration = Duration::from_secs(1);

/// Who lives with the broker.
pub(crate) struct People {
    pub(crate) producers: Vec<Rc<RefCell<Producer>>>,
    pub(crate) consumers: Vec<Rc<RefCell<Consumer>>>,
    pub(crate) members: Vec<Rc<RefCell<Member>>>,
    pub(crate) workers: Vec<Rc<RefCell<Worker>>>,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The broker is told to stop.
    Stopped,
    /// The process is killed.
    Killed,
    /// The machine loses its power.
    PowerLost,
}

/// Lets a broker live among the people, on a disk that may fail, and ends it.
pub(crate) fn live(world: &Rc<World>, people: &People, end: End, may_fail: bool) {
    world.is_faulty.set(false);
    world.has_lost.set(false);
    world.stands_still.set(false);
    world.life.set(world.life.get() + 1);
    let has_ended_well = run(world, async {
        let Some(broker) = begin(world, may_fail).await else { return false };
        join(world, &broker, people);
        for _ in 0..world.dice.below(1_500) {
            world.moment().await;
        }
        if !people.members.is_empty() && world.dice.once_in(3) {
            // Long enough for sessions to end.
            sleep(Duration::from_millis(world.dice.below(1_500))).await;
        }
        if !world.stands_still.get() && world.dice.once_in(2) {
            world.disk.borrow().set_fault(None);
            // If something has failed already, nothing will from here on.
            let heals = world.is_faulty.get() && world.dice.once_in(2);
            let probed = async {
                if heals {
                    administrator::heal(world, &broker).await;
                }
                producer::probe(world, &broker, heals).await;
            };
            timeout(PATIENCE, probed).await.expect("whoever sends is answered");
        }
        check_scrub(world, &broker);
        if end == End::Stopped {
            broker.begin_stop();
            sleep(Duration::from_millis(1)).await;
            broker.close();
        }
        end == End::Stopped && !world.is_faulty.get()
    });
    die(world, end);
    if has_ended_well {
        world.reach("clean stops");
    }
}

/// Lets a broker live until everything is settled and read back, on a disk that does not fail.
pub(crate) fn conclude(world: &Rc<World>, people: &People) {
    world.is_faulty.set(false);
    world.life.set(world.life.get() + 1);
    run(world, async {
        let broker = begin(world, false).await.expect("nothing fails");
        join(world, &broker, people);
        let settled = async {
            while !people.producers.iter().all(|producer| producer.borrow().is_settled()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, settled).await.expect("everything that was sent is answered");
        if !people.members.is_empty() {
            let settled = member::settle(world, &broker);
            timeout(PATIENCE, settled).await.expect("every partition gets an owner");
        }
        if !people.workers.is_empty() {
            let settled = worker::settle(world, &broker);
            timeout(PATIENCE, settled).await.expect("every record is settled");
        }
        for place in world.places() {
            let reader = Consumer::last(world);
            let read = consumer::read_back(world, &broker, &place, &reader);
            timeout(PATIENCE, read).await.expect("everything can be read");
        }
        for topic in broker.describe_all() {
            let segments = topic.partitions.iter().map(|partition| partition.segments);
            segments.filter(|segments| *segments > 1).for_each(|_| world.reach("rolls"));
        }
    });
}

/// Runs one life to its end; whatever still wants to go on is dropped.
fn run<T>(world: &World, life: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let local = LocalSet::new();
    let result = local.block_on(&runtime, async {
        world.keep_time(true);
        let result = life.await;
        world.keep_time(false);
        result
    });
    drop(local);
    drop(runtime);
    world.turns.take().forget();
    if let Some(panic) = world.panic.take() {
        resume_unwind(panic);
    }
    result
}

/// Starts a broker; `None` if the disk did not let it.
async fn begin(world: &Rc<World>, may_fail: bool) -> Option<Arc<Broker>> {
    let turns = world.turns.borrow().clone();
    spawn(world, take_turns(Rc::clone(world), turns.clone()));
    let disk = world.disk.borrow().clone();
    if may_fail {
        spawn(world, disk::fail(Rc::clone(world), disk.clone()));
        // It may fail at once, or only later.
        yield_now().await;
    }
    let machine = Machine {
        vfs: Arc::new(disk),
        clock: Arc::clone(&world.clock) as Arc<_>,
        crew: Crew::Turns(turns.clone()),
    };
    let (spare_bytes, scrub_interval) = (SPARE_BYTES, SCRUB_INTERVAL);
    let (sync_together_min, snapshot_bytes_min) = (2, 4 << 10);
    let config = BrokerConfig {
        spare_bytes,
        scrub_interval,
        sync_together_min,
        snapshot_bytes_min,
        ..BrokerConfig::default()
    };
    let start = Broker::start(machine, Path::new("/data"), true, config);
    match timeout(PATIENCE, start).await.expect("a broker starts or says why not") {
        Ok(broker) => {
            administrator::check(world, &broker);
            world.reach("starts");
            Some(broker)
        }
        Err(error) => {
            let is_misunderstood = matches!(error, StartError::Config(_));
            assert!(world.is_faulty.get() && !is_misunderstood, "it does not start: {error}");
            world.reach("starts that failed");
            None
        }
    }
}

/// Where nothing has ever gone wrong, nothing has rotted. What a pass has found it counts over all lives.
fn check_scrub(world: &World, broker: &Broker) {
    let metrics = broker.metrics();
    let damaged = metrics.scrub_damaged.load(Ordering::Relaxed);
    assert!(damaged == 0 || world.was_faulty.get(), "a scrub has found {damaged} damaged places");
    if metrics.scrub_ended_seconds.load(Ordering::Relaxed) > 0 {
        world.reach("scrubs");
    }
}

/// Lets somebody live. If they panic, so does whoever runs this life.
pub(crate) fn spawn(world: &Rc<World>, life: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    let world = Rc::clone(world);
    spawn_local(async move {
        if let Err(panic) = AssertUnwindSafe(life).catch_unwind().await {
            world.panic.replace(Some(panic));
        }
    })
}

fn join(world: &Rc<World>, broker: &Arc<Broker>, people: &People) {
    spawn(world, administrator::live(Rc::clone(world), Arc::clone(broker)));
    for producer in &people.producers {
        spawn(world, producer::live(Rc::clone(world), Arc::clone(broker), Rc::clone(producer)));
    }
    for member in &people.members {
        spawn(world, member::live(Rc::clone(world), Arc::clone(broker), Rc::clone(member)));
    }
    world.ledger.borrow_mut().begin_life();
    for worker in &people.workers {
        spawn(world, worker::live(Rc::clone(world), Arc::clone(broker), Rc::clone(worker)));
    }
    for consumer in &people.consumers {
        spawn(world, consumer::live(Rc::clone(world), Arc::clone(broker), Rc::clone(consumer)));
    }
}

/// Does the broker's work, in the order that the seed chooses.
async fn take_turns(world: Rc<World>, turns: Turns) {
    loop {
        for _ in 0..world.dice.below(3) {
            yield_now().await;
        }
        world.clock.tick(&world.dice);
        if world.dice.once_in(50) {
            turns.do_chores();
        }
        if !turns.take(|queues| world.dice.below(queues as u64) as usize) {
            tokio::select! {
                biased;
                () = turns.more() => {}
                () = sleep(Duration::from_millis(100)) => turns.do_chores(),
            }
        }
    }
}

/// What is left of the disk.
fn die(world: &World, end: End) {
    let disk = world.disk.borrow().clone();
    disk.set_fault(None);
    world.history.note(format!("{end:?}"));
    match end {
        End::PowerLost => {
            world.lose();
            world.disk.replace(disk.crash(world.dice.next()));
            world.reach("power losses");
        }
        End::Killed => world.reach("kills"),
        End::Stopped => {}
    }
    if world.has_lost.get() {
        world.lose();
    }
}
