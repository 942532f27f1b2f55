//! Eight workers of a queue that are killed, stopped and started at random under load, some of them by records
//! that kill whoever takes them, and a broker that is killed too: every record is done, or a dead letter,
//! once; those of a key begin in order, and none begins again before its delay is over.
//!
//! Workers are processes of the command line that run a script for each record, which does what the record
//! says. All scripts append to one file, a line when a record begins and one when it is done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use taffrail_client::proto::{CreateQueueRequest, QueueOrder, QueueSettings};
use taffrail_client::{Client, Position, Record, Until, Verdict};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::broker::{Broker, Home, binary};
use crate::dice::Dice;
use crate::rounds;
use crate::strace::strace_works;
use crate::sweep::{attach, was_killed};

const TOPIC: &str = "jobs";
const DEAD: &str = "dead";
const QUEUE: &str = "workers";
const PARTITIONS: u32 = 2;
const WORKERS: usize = 8;
const LEASE: Duration = Duration::from_secs(2);
const DELAY: Duration = Duration::from_millis(300);
/// More often than a record that does no harm is with a worker that ends.
const ATTEMPTS_MAX: u32 = 6;

/// Until everything is done that is there.
const PATIENCE: Duration = Duration::from_secs(90);

/// Does what a record says. What time it is, is read without another process.
const SCRIPT: &str = r#"
read -r what
read -r now rest < /proc/uptime
echo "begin $TAFFRAIL_PARTITION $TAFFRAIL_OFFSET $TAFFRAIL_ATTEMPT $now" >> "$DONE"
case $what in
    fails) [ "$TAFFRAIL_ATTEMPT" -gt 1 ] || exit 1 ;;
    poison) exit 1 ;;
    kills) kill -9 $PPID; exit 1 ;;
esac
echo "done $TAFFRAIL_PARTITION $TAFFRAIL_OFFSET $TAFFRAIL_ATTEMPT $now" >> "$DONE"
"#;

/// A record.
type Spot = (u32, u64);

/// A queue at work.
struct Work {
    home: Home,
    broker: Option<Broker>,
    client: Client,
    workers: Vec<Child>,
    started: u32,
}

/// What is in the topic.
#[derive(Debug, Default)]
struct Sent {
    keys: HashMap<Spot, u64>,
    hopeless: BTreeSet<Spot>,
}

impl Work {
    async fn start() -> Self {
        let home = Home::new().await;
        let broker = home.start().await;
        let client = Client::connect(&home.proxy.url()).expect("an address");
        for (topic, partitions) in [(TOPIC, PARTITIONS), (DEAD, 1)] {
            let created = client.admin().create_topic(topic, partitions, BTreeMap::new()).await;
            created.expect("the topic is created");
        }
        let settings = QueueSettings {
            lease_ms: Some(LEASE.as_millis() as u32),
            max_attempts: Some(ATTEMPTS_MAX),
            min_backoff_ms: Some(DELAY.as_millis() as u32),
            max_backoff_ms: Some(DELAY.as_millis() as u32),
            order: QueueOrder::PerKey.into(),
            dead_letter_topic: Some(DEAD.into()),
            ..QueueSettings::default()
        };
        let (queue, topic) = (QUEUE.to_owned(), TOPIC.to_owned());
        let request = CreateQueueRequest { queue, topic, settings: Some(settings), from: None };
        client.queues().create(request).await.expect("the queue is created");
        Self { home, broker: Some(broker), client, workers: Vec::new(), started: 0 }
    }

    fn done(&self) -> PathBuf {
        self.home.folder().join("done")
    }

    fn start_worker(&mut self) {
        self.started += 1;
        let said = self.home.folder().join("workers");
        let said = OpenOptions::new().create(true).append(true).open(said).expect("a file");
        let mut command = Command::new(binary());
        command.args(["--server", &self.home.proxy.url(), "queue", "receive", QUEUE]);
        command.args(["--exec", SCRIPT, "--concurrency", "4"]).env("DONE", self.done());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).kill_on_drop(true);
        self.workers.push(command.spawn().expect("the binary starts"));
    }

    /// Ends a worker at once, or in order.
    async fn end_worker(&mut self, index: usize, is_crash: bool) {
        let mut worker = self.workers.remove(index);
        if is_crash || worker.try_wait().expect("it can be asked").is_some() {
            // A record may have been faster.
            let _ = worker.kill().await;
            return;
        }
        let id = worker.id().expect("it runs").to_string();
        let status = Command::new("kill").args(["-s", "INT", &id]).status().await;
        assert!(status.expect("kill starts").success());
        worker.wait().await.expect("it ends");
    }

    /// Starts as many as have ended.
    fn keep_workers(&mut self) {
        self.workers.retain_mut(|worker| worker.try_wait().expect("it can be asked").is_none());
        while self.workers.len() < WORKERS {
            self.start_worker();
        }
    }

    async fn restart_broker(&mut self) {
        self.broker.take().expect("it runs").kill().await;
        self.broker = Some(self.home.start().await);
    }

    /// Waits until nothing is left to do.
    async fn finish(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.keep_workers();
            let described = self.client.queues().describe(QUEUE).await;
            let left = described.as_ref().map(|queue| {
                let left = queue.partitions.iter();
                left.map(|it| it.fresh + it.ready + it.leased + it.delayed + it.parked).sum()
            });
            if matches!(left, Ok(0_u64)) {
                break;
            }
            assert!(Instant::now() < deadline, "it is not worked off: {described:#?}");
            sleep(Duration::from_millis(100)).await;
        }
        while !self.workers.is_empty() {
            self.end_worker(0, false).await;
        }
    }

    /// Which records are in the dead-letter topic, and how often.
    async fn dead(&self) -> BTreeMap<Spot, u32> {
        let builder = self.client.consumer().topic(DEAD).from(Position::Earliest);
        let consumer = builder.until(Until::HighWatermark).build().await;
        let mut consumer = consumer.expect("it can be read");
        let mut dead = BTreeMap::new();
        while let Some(batch) = consumer.next_batch().await {
            for record in batch.expect("it can be read").records() {
                let record = record.expect("it is sound");
                let number = |name: &str| {
                    let name = format!("taffrail-dead-letter-{name}");
                    let header = record.headers().find(|header| header.name == name);
                    let text = std::str::from_utf8(header.expect("it is there").value);
                    text.expect("text").parse::<u64>().expect("a number")
                };
                let spot = (number("partition") as u32, number("offset"));
                *dead.entry(spot).or_default() += 1;
            }
        }
        dead
    }

    /// Judges what was done; returns how often records were begun again.
    async fn check(&self, sent: &Sent) -> usize {
        let text = std::fs::read_to_string(self.done()).expect("it can be read");
        let (mut begun, mut done) = (HashMap::<Spot, (u32, f64)>::new(), BTreeSet::new());
        let mut latest: HashMap<(u32, u64), u64> = HashMap::new();
        let mut again = 0;
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [what, partition, offset, attempt, now] = words[..] else { panic!("{line:?}") };
            let number = |text: &str| text.parse::<u64>().expect("a number");
            let spot = (number(partition) as u32, number(offset));
            let (attempt, now) = (number(attempt) as u32, now.parse::<f64>().expect("a time"));
            if what == "done" {
                done.insert(spot);
                continue;
            }
            if let Some((former, then)) = begun.insert(spot, (attempt, now)) {
                again += 1;
                assert!(former < attempt, "{spot:?}: attempt {attempt} behind {former}");
                let delay = DELAY.min(LEASE).as_secs_f64() - 0.02;
                assert!(then + delay <= now, "{spot:?} comes again after {:.2} s", now - then);
            }
            let latest = latest.entry((spot.0, sent.keys[&spot])).or_default();
            assert!(*latest <= spot.1, "{spot:?} of its key begins behind {latest}");
            *latest = spot.1;
        }
        let dead = self.dead().await;
        assert!(dead.values().all(|count| *count == 1), "copied more than once: {dead:?}");
        let dead: BTreeSet<_> = dead.into_keys().collect();
        assert_eq!(dead, sent.hopeless, "what is dead, and what is hopeless");
        let undone = sent.keys.keys().filter(|spot| !done.contains(spot) && !dead.contains(spot));
        assert_eq!(undone.collect::<Vec<_>>(), Vec::<&Spot>::new(), "neither done nor dead");
        again
    }
}

/// Appends until told to stop: most records do no harm, some fail once, some always, and two kill workers.
async fn produce(client: Client, mut dice: Dice, stop: Arc<AtomicBool>) -> Sent {
    let producer = client.producer(TOPIC).linger(Duration::from_millis(2)).build().await;
    let producer = producer.expect("it starts");
    let (mut sent, mut killers) = (Sent::default(), 0);
    while !stop.load(Ordering::Acquire) {
        let key = dice.below(200);
        let what = match dice.below(100) {
            0 | 1 => "fails",
            2 => "poison",
            3 if killers < 2 => {
                killers += 1;
                "kills"
            }
            _ => "works",
        };
        let record = Record::value(what.as_bytes());
        let text = key.to_string();
        let sending = producer.send(record.key(text.as_bytes())).await.expect("it is taken");
        let placed = sending.await.expect("it is delivered");
        let spot = (placed.partition.get(), placed.offset.expect("it is known").get());
        sent.keys.insert(spot, key);
        if ["poison", "kills"].contains(&what) {
            sent.hopeless.insert(spot);
        }
        sleep(dice.millis(1, 12)).await;
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_a_broker_that_are_killed_do_every_record_or_give_it_up_once() {
    let mut dice = Dice::new("queues");
    let mut work = Work::start().await;
    let stop = Arc::<AtomicBool>::default();
    let producing = produce(work.client.clone(), dice.fork(), Arc::clone(&stop));
    let producing = tokio::spawn(producing);
    for _ in 0..rounds(8, 150) {
        work.keep_workers();
        sleep(dice.millis(200, 1_500)).await;
        let worker = dice.below(work.workers.len() as u64) as usize;
        match dice.below(6) {
            0..=2 => work.end_worker(worker, true).await,
            3 => work.end_worker(worker, false).await,
            _ => work.restart_broker().await,
        }
    }
    stop.store(true, Ordering::Release);
    let sent = producing.await.expect("the producer does not panic");
    work.finish().await;
    let again = work.check(&sent).await;
    let (all, dead) = (sent.keys.len(), sent.hopeless.len());
    println!("{all} records, {} workers, {dead} dead letters, {again} begun again", work.started);
    assert!(all > 100, "there was something to do");
}

/// Has so many more records parked in a queue, and no dead letters copied.
async fn park(client: &Client, records: u64) {
    let none = QueueSettings { dead_letter_topic: Some(String::new()), ..QueueSettings::default() };
    client.queues().alter(QUEUE, none).await.expect("it can be");
    let producer = client.producer(TOPIC).build().await.expect("it starts");
    for _ in 0..records {
        drop(producer.send(Record::value(b"hopeless")).await.expect("it is taken"));
    }
    producer.close().await.expect("all are delivered");
    let left = std::sync::atomic::AtomicU64::new(records);
    let (stop, mut stopping) = tokio::sync::watch::channel(false);
    let handle = |_| {
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            stop.send_replace(true);
        }
        std::future::ready(Verdict::Reject { reason: "hopeless".into() })
    };
    let stop = async move { drop(stopping.wait_for(|it| *it).await) };
    client.queue(QUEUE).run(handle, stop).await.expect("it works");
}

async fn parked(client: &Client) -> u64 {
    let described = client.queues().describe(QUEUE).await.expect("it is there");
    described.partitions.iter().map(|it| it.parked).sum()
}

/// Has a broker killed at a certain call of one of its threads while it copies dead letters; whether it was.
async fn copy_killed(work: &mut Work, calls: &str, number: u64) -> bool {
    let to_dead = || QueueSettings { dead_letter_topic: Some(DEAD.into()), ..Default::default() };
    let broker = work.broker.take().expect("it runs");
    let strace = attach(&broker, calls, number).await;
    let queues = work.client.queues();
    // It may be killed before it answers.
    let altering = tokio::spawn(async move { queues.alter(QUEUE, to_dead()).await });
    let is_killed = was_killed(broker).await;
    drop(strace);
    altering.abort();
    work.broker = Some(work.home.start().await);
    work.client.queues().alter(QUEUE, to_dead()).await.expect("it can be");
    let deadline = Instant::now() + PATIENCE;
    while parked(&work.client).await > 0 {
        assert!(Instant::now() < deadline, "they are not copied");
        sleep(Duration::from_millis(20)).await;
    }
    is_killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_while_it_copies_each_dead_letter_is_there_once() {
    const RECORDS: u64 = 200;
    if !strace_works("killed while dead letters are copied") {
        return;
    }
    let mut work = Work::start().await;
    let (mut all, mut kills) = (0, 0);
    for calls in ["write,pwrite64,?pwritev", "fdatasync"] {
        for number in 1..=rounds(4, 12) {
            park(&work.client, RECORDS).await;
            kills += u32::from(copy_killed(&mut work, calls, number).await);
            all += RECORDS;
            let letters = work.dead().await;
            assert_eq!(letters.len() as u64, all);
            assert!(
                letters.values().all(|count| *count == 1),
                "copied more than once: {letters:?}"
            );
        }
    }
    println!("{kills} kills while {all} dead letters were copied");
    assert!(3 <= kills, "hardly ever killed");
}
