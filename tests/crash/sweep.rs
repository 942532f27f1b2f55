//! Killed at a certain one of each kind of system call, in each thing that a broker does to its
//! directory: setting it up, taking records and beginning segments, changing topics, stopping,
//! recovering. Deep: at every one.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use taffrail_client::Client;

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::history::{Event, History};
use crate::is_deep;
use crate::kills::{TOPICS, create_topics};
use crate::load::{Sender, append};
use crate::power::start_machine_anew;
use crate::readback::{conclude, wait_until_online};
use crate::strace::{Strace, strace_works};
use crate::topics::{Expected, answer, check};

/// What changes files, and what makes that durable; with `?` where a machine may not have the call.
const CALLS: [&str; 8] = [
    "write,pwrite64,?pwritev",
    "fdatasync",
    "fsync",
    "?rename,?renameat,?renameat2",
    "?unlink,?unlinkat,?rmdir",
    "ftruncate",
    "?mkdir,?mkdirat",
    "openat",
];
/// Runs with the same calls, until one is killed: the number may lie behind the end of the run.
const TRIES: u32 = 3;
/// Numbers of a call, at the most.
const NUMBERS_MAX: u64 = 400;
/// Runs on one directory.
const RUNS: u32 = 20;
/// Bytes of a record: a segment of these topics takes 16.
const RECORD_BYTES: usize = 8000;
/// Whatever goes on for so long has come to its end.
const SETTLED: Duration = Duration::from_millis(200);

/// Lets `run` be killed at calls of each kind: it is given the calls and the number of the one that is
/// the last of its thread, and says whether it came to that.
pub(crate) async fn sweep(
    test: &str,
    numbers: u64,
    mut run: impl AsyncFnMut(&str, u64, &mut Dice) -> bool,
) {
    if !strace_works(test) {
        return;
    }
    let mut dice = Dice::new(test);
    let (mut runs, mut kills) = (0, 0);
    for calls in CALLS {
        let mut bound = if is_deep() { NUMBERS_MAX } else { numbers };
        let mut tries = 0;
        let mut number = 0;
        loop {
            number = if is_deep() { number + 1 } else { 1 + dice.below(bound) };
            println!("killed at number {number} of {calls}");
            let is_killed = run(calls, number, &mut dice).await;
            (runs, kills, tries) = (runs + 1, kills + u32::from(is_killed), tries + 1);
            let goes_on = if is_deep() {
                is_killed && number < bound
            } else {
                bound = number - 1;
                !is_killed && 0 < bound && tries < TRIES
            };
            if !goes_on {
                break;
            }
        }
    }
    println!("{test}: {kills} kills in {runs} runs");
    assert!(3 <= kills, "hardly ever killed: {kills} in {runs} runs");
}

/// A directory with the topics of all tests, and what happened to it.
struct Given {
    home: Home,
    history: History,
    sender: Sender,
    runs: u32,
}

impl Given {
    async fn new() -> Self {
        let home = Home::new().await;
        let broker = home.start().await;
        create_topics(&broker).await;
        broker.kill().await;
        let sender = Sender::of("synced", 3);
        Self { home, history: History::default(), sender, runs: 0 }
    }

    /// This one, or another one where it has grown large.
    async fn next(self) -> Self {
        if self.runs < RUNS { Self { runs: self.runs + 1, ..self } } else { Self::new().await }
    }

    /// Appends records to a partition of each topic, one by one; less if nobody answers any more.
    async fn append(&mut self, broker: &Broker, records: usize) {
        for number in 0..records {
            let (topic, _) = TOPICS[number % TOPICS.len()];
            topic.clone_into(&mut self.sender.topic);
            let url = broker.url();
            let reason = append(&url, &mut self.sender, 0, RECORD_BYTES, &self.history).await;
            if reason.is_some_and(|reason| reason == "UNREACHABLE") {
                return;
            }
        }
    }

    /// Starts a broker that nobody kills, and judges what there is.
    async fn check(&mut self) {
        let broker = self.home.start().await;
        for (topic, _) in TOPICS {
            wait_until_online(&broker, topic).await;
        }
        self.append(&broker, 2).await;
        conclude(&self.home, &broker, &TOPICS, &self.history).await;
        broker.kill().await;
        assert!(!self.home.said_all().contains("panicked"), "the broker panicked");
    }
}

pub(crate) async fn attach(broker: &Broker, calls: &str, number: u64) -> Strace {
    Strace::attach(broker, calls, &format!("signal=SIGKILL:when={number}"), &[]).await
}

/// Whether it does not go on after all that was asked of it; it is gone in any case.
pub(crate) async fn was_killed(mut broker: Broker) -> bool {
    let was_killed = broker.ends_within(SETTLED).await;
    broker.end().await;
    was_killed
}

/// Starts a broker that is killed at a certain call; whether it was.
async fn start_killed(home: &Home, calls: &str, number: u64) -> bool {
    let mut broker = home.spawn_killed(calls, number);
    let is_ready = broker.serve(home).await;
    was_killed(broker).await || !is_ready
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_of_a_set_up_it_starts_the_next_time() {
    sweep("sweep of set-ups", 40, async |calls, number, _| {
        let home = Home::new().await;
        let is_killed = start_killed(&home, calls, number).await;
        let broker = home.start().await;
        create_topics(&broker).await;
        let history = History::default();
        let mut sender = Sender::of("synced", 3);
        let url = broker.url();
        assert_eq!(append(&url, &mut sender, 0, RECORD_BYTES, &history).await, None);
        conclude(&home, &broker, &TOPICS, &history).await;
        assert!(broker.stop().await.success(), "a clean stop");
        is_killed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_while_it_takes_records_none_is_lost() {
    let mut given = Some(Given::new().await);
    sweep("sweep of appends", 12, async |calls, number, _| {
        let mut now = given.take().expect("it is put back").next().await;
        let broker = now.home.start().await;
        for (topic, _) in TOPICS {
            wait_until_online(&broker, topic).await;
        }
        let strace = attach(&broker, calls, number).await;
        now.append(&broker, 36).await;
        let is_killed = was_killed(broker).await;
        drop(strace);
        now.check().await;
        given = Some(now);
        is_killed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_of_a_stop_nothing_is_lost() {
    let mut given = Some(Given::new().await);
    sweep("sweep of stops", 12, async |calls, number, _| {
        let mut now = given.take().expect("it is put back").next().await;
        let broker = now.home.start().await;
        now.append(&broker, 4).await;
        let strace = attach(&broker, calls, number).await;
        let is_killed = !broker.stop().await.success();
        drop(strace);
        now.check().await;
        given = Some(now);
        is_killed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_of_a_recovery_it_recovers_the_next_time() {
    let mut given = Some(Given::new().await);
    sweep("sweep of recoveries", 40, async |calls, number, dice| {
        let mut now = given.take().expect("it is put back").next().await;
        let broker = now.home.start().await;
        for (topic, _) in TOPICS {
            wait_until_online(&broker, topic).await;
        }
        now.append(&broker, 6).await;
        broker.kill().await;
        if dice.below(2) == 0 {
            start_machine_anew(&now.home);
            now.history.add(Event::Loss { place: "cached/0".into() });
            now.history.add(Event::Loss { place: "cached/1".into() });
        }
        tear_ends(&now.home);
        let is_killed = start_killed(&now.home, calls, number).await;
        now.check().await;
        given = Some(now);
        is_killed
    })
    .await;
}

/// Leaves something torn behind each log's last segment.
fn tear_ends(home: &Home) {
    let list = |path| std::fs::read_dir(path).expect("the directory is there").flatten();
    for log in list(home.data.join("logs")) {
        let paths = list(log.path()).map(|entry| entry.path());
        let last = paths.filter(|path| path.extension().is_some_and(|it| it == "log")).max();
        let path = last.expect("a log has a segment");
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(&[7; 300])).expect("it is torn");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_while_topics_change_each_is_whole_or_gone() {
    let (home, mut expected) = (Home::new().await, Expected::default());
    let (mut runs, shared) = (0, &home);
    sweep("sweep of topics", 8, async |calls, number, _| {
        let broker = shared.start().await;
        let strace = attach(&broker, calls, number).await;
        runs += 1;
        change(&broker, &mut expected, &format!("topic-{runs}")).await;
        let is_killed = was_killed(broker).await;
        drop(strace);
        let broker = shared.start().await;
        check(shared, &broker, &mut expected).await;
        if let Some(name) = expected.any() {
            let client = Client::connect(&broker.url()).expect("a valid address");
            client.admin().delete_topic(&name).await.expect("it can be deleted");
            expected.note_deleted(&name);
            check(shared, &broker, &mut expected).await;
        }
        broker.kill().await;
        is_killed
    })
    .await;
    assert!(!home.said_all().contains("panicked"), "the broker panicked");
}

/// Creates a topic, gives it a partition, and deletes it, as far as the broker lives.
async fn change(broker: &Broker, expected: &mut Expected, name: &str) {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    expected.expect(name, &[0, 2]);
    let made = admin.create_topic(name, 2, BTreeMap::new()).await;
    let Some(topic) = answer(made) else { return };
    expected.note(&topic);
    expected.expect(name, &[2, 3]);
    let Some(topic) = answer(admin.add_partitions(name, 3).await) else { return };
    expected.note(&topic);
    expected.expect(name, &[3, 0]);
    if answer(admin.delete_topic(name).await).is_some() {
        expected.note_deleted(name);
    }
}
