//! A consumer group whose members are killed, stopped, paused and started at random under load, and
//! whose broker is killed too: every record is processed, in order, and again only where somebody
//! crashed who had not committed it.
//!
//! Members are processes of the command line. All append what they have done to one file, a line a
//! record: so it holds the order in which the group as a whole has worked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use taffrail_client::{Client, Record};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::broker::{Broker, Home, binary};
use crate::dice::Dice;
use crate::rounds;

const TOPIC: &str = "work";
const GROUP: &str = "workers";
const PARTITIONS: u32 = 8;
const MEMBERS: usize = 5;

/// Long enough for a busy machine, so that nobody loses its session who lives.
const SESSION: &str = "3s";

/// Longer than a session.
const PAUSE: Duration = Duration::from_secs(4);

/// Until everything is done that is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A group at work.
struct Work {
    home: Home,
    broker: Option<Broker>,
    client: Client,
    members: Vec<Member>,
    started: u32,
    /// Members that did not end in order, or that the broker has thought to be gone.
    crashed: BTreeSet<u32>,
    /// What was committed when the file had so many bytes.
    samples: Vec<(usize, BTreeMap<u32, u64>)>,
}

/// A member that runs.
struct Member {
    number: u32,
    child: Child,
}

/// A record that was done: by whom, its partition and offset, and where its line begins.
#[derive(Clone, Copy, Debug)]
struct Done {
    member: u32,
    partition: u32,
    offset: u64,
    position: usize,
}

impl Work {
    async fn start() -> Self {
        let home = Home::new().await;
        let broker = home.start().await;
        let client = Client::connect(&home.proxy.url()).expect("an address");
        let created = client.admin().create_topic(TOPIC, PARTITIONS, BTreeMap::new()).await;
        created.expect("the topic is created");
        let (members, samples) = (Vec::new(), Vec::new());
        let crashed = BTreeSet::new();
        Self { home, broker: Some(broker), client, members, started: 0, crashed, samples }
    }

    fn done(&self) -> PathBuf {
        self.home.folder().join("done")
    }

    fn said_by(&self, member: u32) -> PathBuf {
        self.home.folder().join(format!("member-{member}"))
    }

    fn start_member(&mut self) {
        self.started += 1;
        let number = self.started;
        let append = |path| OpenOptions::new().create(true).append(true).open(path);
        let mut command = Command::new(binary());
        command.args(["--server", &self.home.proxy.url(), "consume", TOPIC, "--group", GROUP]);
        command.args(["--session-timeout", SESSION]);
        command.args(["--format", &format!("{number} {{partition}} {{offset}}\\n")]);
        command
            .stdin(Stdio::null())
            .stdout(append(self.done()).expect("a file"))
            .kill_on_drop(true);
        command.stderr(append(self.said_by(number)).expect("a file"));
        let child = command.spawn().expect("the binary starts");
        self.members.push(Member { number, child });
    }

    /// Ends a member at once, or in order.
    async fn end_member(&mut self, index: usize, is_crash: bool) {
        let Member { number, mut child } = self.members.remove(index);
        if is_crash {
            self.crashed.insert(number);
            child.kill().await.expect("it can be killed");
        } else {
            signal(&child, "INT").await;
            let status = child.wait().await.expect("it ends");
            assert!(status.success(), "member {number} ended with {status}");
        }
    }

    /// Lets a member sleep longer than its session lasts.
    async fn pause_member(&mut self, index: usize) {
        let member = &self.members[index];
        self.crashed.insert(member.number);
        signal(&member.child, "STOP").await;
        sleep(PAUSE).await;
        signal(&member.child, "CONT").await;
    }

    async fn restart_broker(&mut self) {
        self.broker.take().expect("it runs").kill().await;
        self.broker = Some(self.home.start().await);
    }

    /// Notes what is committed: whatever is done from here on lies behind it.
    async fn sample(&mut self) {
        let Ok(offsets) = self.client.groups().offsets(GROUP).await else { return };
        let offsets = offsets.into_iter().map(|it| (it.partition, it.offset)).collect();
        let length = std::fs::metadata(self.done()).map_or(0, |file| file.len());
        self.samples.push((length as usize, offsets));
    }

    /// Waits until all that there is was done and committed.
    async fn finish(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let described = self.client.groups().describe(GROUP).await;
            let lag =
                described.as_ref().map(|group| group.partitions.iter().map(|it| it.lag).sum());
            if matches!(lag, Ok(0_u64)) {
                break;
            }
            assert!(Instant::now() < deadline, "it is not worked off: {described:#?}");
            sleep(Duration::from_millis(100)).await;
        }
        while !self.members.is_empty() {
            self.end_member(0, false).await;
        }
        for number in 1..=self.started {
            let said = std::fs::read_to_string(self.said_by(number)).unwrap_or_default();
            if said.contains("lost ") {
                println!("member {number} has lost its session");
                self.crashed.insert(number);
            }
        }
    }

    /// What the group has done, in order.
    fn read_done(&self) -> Vec<Done> {
        let text = std::fs::read_to_string(self.done()).expect("it can be read");
        let mut position = 0;
        let lines = text.split_inclusive('\n').map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [member, partition, offset] = words[..] else { panic!("{line:?} at {position}") };
            let done = Done {
                member: member.parse().expect("a number"),
                partition: partition.parse().expect("a number"),
                offset: offset.parse().expect("a number"),
                position,
            };
            position += line.len();
            done
        });
        lines.collect()
    }

    /// Judges what was done; returns how many records were done more than once.
    fn check(&self, ends: &BTreeMap<u32, u64>, has_broker_crashed: bool) -> usize {
        let mut by: BTreeMap<(u32, u64), u32> = BTreeMap::new();
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        let mut again = 0;
        let mut samples = self.samples.iter().peekable();
        let mut committed: BTreeMap<u32, u64> = BTreeMap::new();
        for done in self.read_done() {
            while let Some((_, offsets)) = samples.next_if(|(length, _)| *length <= done.position) {
                committed.extend(offsets);
            }
            let Done { member, partition, offset, .. } = done;
            let next = next.entry(partition).or_default();
            assert!(offset <= *next, "{done:?}: {next} was passed over");
            let may_be_late = self.crashed.contains(&member);
            let floor = committed.get(&partition).copied().unwrap_or(0);
            assert!(may_be_late || floor <= offset, "{done:?}: {floor} was committed before");
            if let Some(former) = by.insert((partition, offset), member) {
                again += 1;
                let is_excused = [former, member].iter().any(|it| self.crashed.contains(it));
                assert!(
                    is_excused || has_broker_crashed,
                    "{done:?} was done by {former} too, and nobody has crashed"
                );
            }
            *next = (*next).max(offset + 1);
        }
        assert_eq!(next, *ends, "what was done, and what there is");
        again
    }
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it runs").to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status().await;
    assert!(status.expect("kill starts").success());
}

/// Appends to random partitions until told to stop; what each partition has in the end.
async fn produce(client: Client, mut dice: Dice, stop: Arc<AtomicBool>) -> BTreeMap<u32, u64> {
    let producer = client.producer(TOPIC).linger(Duration::from_millis(2)).build().await;
    let producer = producer.expect("it starts");
    let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
    while !stop.load(Ordering::Acquire) {
        let mut sent = Vec::new();
        for _ in 0..=dice.below(12) {
            let key = dice.below(1_000).to_string();
            let record = Record::value(b"to be done").key(key.as_bytes());
            sent.push(producer.send(record).await.expect("it is taken"));
        }
        for delivery in sent {
            let placed = delivery.await.expect("it is delivered");
            let end = ends.entry(placed.partition.get()).or_default();
            *end = (*end).max(placed.offset.expect("it is known").get() + 1);
        }
        sleep(dice.millis(1, 20)).await;
    }
    ends
}

async fn work(name: &str, kills_broker: bool, rounds: u64) {
    let mut dice = Dice::new(name);
    let mut work = Work::start().await;
    let stop = Arc::<AtomicBool>::default();
    let producing = produce(work.client.clone(), dice.fork(), Arc::clone(&stop));
    let producing = tokio::spawn(producing);
    (0..MEMBERS).for_each(|_| work.start_member());
    for _ in 0..rounds {
        sleep(dice.millis(100, 1_500)).await;
        work.sample().await;
        let member = dice.below(work.members.len() as u64) as usize;
        match dice.below(if kills_broker { 8 } else { 6 }) {
            0..=2 => work.end_member(member, true).await,
            3 | 4 => work.end_member(member, false).await,
            5 => work.pause_member(member).await,
            _ => work.restart_broker().await,
        }
        work.sample().await;
        while work.members.len() < MEMBERS && dice.below(4) > 0 {
            work.start_member();
        }
        if work.members.is_empty() {
            work.start_member();
        }
    }
    stop.store(true, Ordering::Release);
    let ends = producing.await.expect("the producer does not panic");
    work.finish().await;
    let again = work.check(&ends, kills_broker);
    let (all, crashed) = (ends.values().sum::<u64>(), work.crashed.len());
    println!("{all} records, {} members, {crashed} crashes, {again} done again", work.started);
    assert!(all > 100, "there was something to do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_do_every_record_in_order_and_again_only_after_a_crash() {
    work("groups", false, rounds(9, 120)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_whose_broker_is_killed_do_every_record_in_order() {
    work("groups and broker", true, rounds(9, 120)).await;
}
