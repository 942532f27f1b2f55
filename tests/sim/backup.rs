//! Backs a broker up while it is used, and serves what was backed up as if the machine had lost its power
//! just then: all is there that was acknowledged before the backup began, and nothing that nobody sent.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use taffrail_broker::{BackupFailure, Broker, BrokerConfig, Crew, Machine, Turns};
use taffrail_log::vfs::Vfs as _;
use tokio::time::{sleep, timeout};

use crate::consumer::{Consumer, read_back};
use crate::history::checker::judge;
use crate::history::{Event, History};
use crate::life::spawn;
use crate::member::{self, Commits};
use crate::run::{of_places, write_down};
use crate::world::World;

const PLACE: &str = "/backup";
/// Where the one before stands while the next one takes its place.
const BEFORE: &str = "/backup.before";

/// How long it may take to read a backup, by a clock that goes on only when nobody has anything to do.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a backup must hold.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    /// How many events there were when it began.
    events: usize,
    /// What was committed.
    commits: Commits,
    /// Partitions that were there then, and never acknowledged what was not synced.
    places: Vec<(String, u32)>,
}

/// Makes a backup, or fails to; what is in its place then is looked at in any case.
pub(crate) async fn back_up(world: &Rc<World>, broker: &Arc<Broker>) {
    let (events, mut places) = (world.history.events().len(), world.places());
    let commits = member::commits(world);
    world.history.note("a backup begins");
    match broker.backup(PLACE.into(), Arc::default()).await {
        Ok(summary) => {
            assert!(world.is_faulty.get() || summary.skipped.is_empty(), "{summary:?}");
            assert!(world.is_faulty.get() || summary.report.damaged == 0, "{summary:?}");
            places.retain(|(topic, index)| !summary.skipped.contains(&format!("{topic}/{index}")));
            world.backup.replace(Some(Backup { events, commits, places }));
            world.reach("backups");
        }
        Err(BackupFailure::Recovering { .. } | BackupFailure::Stopping) => {}
        Err(BackupFailure::Backup(error)) => {
            assert!(world.is_faulty.get(), "{error}");
            world.reach("backups that failed");
        }
    }
    // One that failed leaves the one before it as it was.
    let backup = world.backup.borrow().clone();
    if let Some(backup) = backup {
        look(world, backup).await;
    }
}

/// Serves a backup, and judges what is in it.
async fn look(world: &Rc<World>, backup: Backup) {
    let disk = world.disk.borrow().copy().crash(world.dice.next());
    let is_there = |place: &&str| disk.list(Path::new(place)).is_ok();
    let place = [PLACE, BEFORE].into_iter().find(is_there).expect("one of them is there");
    let turns = Turns::default();
    let working = spawn(world, work(turns.clone()));
    let machine = Machine {
        vfs: Arc::new(disk),
        clock: Arc::clone(&world.clock) as Arc<_>,
        crew: Crew::Turns(turns.clone()),
    };
    let config = BrokerConfig { spare_bytes: 0, ..BrokerConfig::default() };
    let start = Broker::start(machine, Path::new(place), false, config);
    let started = timeout(PATIENCE, start).await.expect("a broker starts or says why not");
    let restored = started.expect("a backup is a data directory");
    let is_sure = |place: &(String, u32)| world.is_there(&place.0) && !world.is_cached(&place.0);
    let places: Vec<_> = backup.places.into_iter().filter(is_sure).collect();
    let read = History::default();
    for place in &places {
        let consumer = Consumer::of_backup(read.clone());
        let end = timeout(PATIENCE, read_back(world, &restored, place, &consumer));
        let end = end.await.expect("everything can be read");
        member::check_backup(world, &restored, place, end, &backup.commits).await;
    }
    working.abort();
    turns.forget();
    // Whoever deleted a topic meanwhile has deleted its records.
    let is_judged = |name: &str| {
        places.iter().any(|(topic, index)| {
            world.is_there(topic) && name.strip_prefix(topic) == Some(&format!("/{index}"))
        })
    };
    // What came later may be in it or not.
    let events = world.history.events().into_iter().enumerate();
    let known = events.filter(|(at, event)| *at < backup.events || is_of_all_time(event));
    let events = known.map(|(_, event)| event).chain(read.events());
    let events = of_places(events, is_judged);
    let violations = judge(&events);
    if !violations.is_empty() {
        let path = write_down(&format!("{}-backup", world.seed), &events);
        panic!("the backup breaks rules: {violations:#?} in {}", path.display());
    }
    world.reach("backups read");
}

/// Whether something that happened after a backup counts for it too.
fn is_of_all_time(event: &Event) -> bool {
    matches!(event, Event::Invoke { .. } | Event::Fail { .. } | Event::Deletable { .. })
}

/// Does all the work there is, in any order.
async fn work(turns: Turns) {
    loop {
        if !turns.take(|_| 0) {
            tokio::select! {
                biased;
                () = turns.more() => {}
                () = sleep(Duration::from_millis(100)) => turns.do_chores(),
            }
        }
        tokio::task::yield_now().await;
    }
}
