//! `bench churn`: members of a group come and go under load, and for how long partitions stand still.
//!
//! Members are processes of this program that print the partition of each record: one is killed, two
//! are added, one leaves in order. A partition has moved if another member goes on with it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use taffrail_client::{Client, Record};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::figure::{Figure, Unit};
use super::super::harness::Harness;
use super::super::values::Values;
use super::load::Durability;
use super::pace::Pace;

/// The shortest session that members may have.
const SESSION_TIMEOUT_MIN: Duration = Duration::from_secs(2);

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of members in the beginning
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..))]
    members: u32,
    /// Number of partitions
    #[arg(long, value_name = "N", default_value_t = 16)]
    partitions: u32,
    /// Records a second
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    rate: u64,
    /// Bytes of a record's value
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    record_bytes: usize,
    /// How long a member may be silent
    #[arg(long, value_name = "D", default_value = "10s", value_parser = crate::duration::parse)]
    session_timeout: Duration,
    /// How long it takes in all: one member is killed at two fifths of it, two are added at three,
    /// one leaves at four
    #[arg(long, value_name = "D", default_value = "150s", value_parser = crate::duration::parse)]
    duration: Duration,
}

/// A member has a record of a partition.
#[derive(Clone, Copy, Debug)]
struct Seen {
    member: u32,
    partition: u32,
    at: Instant,
}

/// What happened between two changes.
#[derive(Clone, Copy, Debug)]
struct Change {
    name: &'static str,
    at: Instant,
}

/// The longest time for which some partitions stood still.
#[derive(Clone, Debug)]
struct Gaps {
    name: &'static str,
    moved: Vec<Duration>,
    others: Vec<Duration>,
}

/// A member that runs.
struct Member {
    child: Child,
}

pub(crate) async fn measure(options: &Options, harness: &Harness) -> anyhow::Result<Vec<Figure>> {
    let client = harness.connect()?;
    let name = harness.create_topic(options.partitions, Durability::Fsync).await?;
    let measured = run(options, &client, &name, harness).await?;
    harness.delete_topic(&name).await?;
    // Whoever was killed is a member until its session ends.
    if let Err(error) = client.groups().delete(&name).await {
        harness.output.note(format_args!("the group {name} is left over: {error}"));
    }
    Ok(measured)
}

async fn run(
    options: &Options,
    client: &Client,
    name: &str,
    harness: &Harness,
) -> anyhow::Result<Vec<Figure>> {
    let (seen, mut seeing) = unbounded_channel();
    let mut members: Vec<_> = (0..options.members)
        .map(|number| start(options, name, number, harness, seen.clone()))
        .collect::<anyhow::Result<_>>()?;
    let producing = tokio::spawn(produce(client.clone(), name.to_owned(), options.clone()));
    let begun = Instant::now();
    let mut all = Vec::new();
    let mut changes = Vec::new();
    let fifth = options.duration / 5;
    // What comes before is the start.
    collect(&mut seeing, &mut all, begun + fifth).await;
    changes.push(Change { name: "quiet", at: Instant::now() });
    collect(&mut seeing, &mut all, begun + 2 * fifth).await;
    changes.push(Change { name: "one_killed", at: Instant::now() });
    members.remove(0).child.kill().await?;
    collect(&mut seeing, &mut all, begun + 3 * fifth).await;
    changes.push(Change { name: "two_added", at: Instant::now() });
    for number in options.members..options.members + 2 {
        members.push(start(options, name, number, harness, seen.clone())?);
    }
    collect(&mut seeing, &mut all, begun + 4 * fifth).await;
    changes.push(Change { name: "one_left", at: Instant::now() });
    interrupt(&mut members.remove(0).child).await?;
    collect(&mut seeing, &mut all, begun + 5 * fifth).await;
    let records = producing.await??;
    changes.push(Change { name: "end", at: Instant::now() });
    for mut member in members {
        interrupt(&mut member.child).await?;
    }
    let gaps = changes.windows(2).flat_map(|pair| gaps(&all, pair[0], pair[1].at).figures());
    Ok([Figure::count("records", records)].into_iter().chain(gaps).collect())
}

fn start(
    options: &Options,
    name: &str,
    number: u32,
    harness: &Harness,
    seen: UnboundedSender<Seen>,
) -> anyhow::Result<Member> {
    let mut command = Command::new(std::env::current_exe()?);
    let timeout = format!("{}ms", options.session_timeout.as_millis());
    command.args([
        "--server",
        harness.broker.server(),
        "--quiet",
        "consume",
        name,
        "--group",
        name,
    ]);
    command.args(["--session-timeout", &timeout, "--format", "{partition}\\n"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start a member")?;
    let output = child.stdout.take().context("a member's output is piped")?;
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(partition) = line.parse() {
                // Whoever has ended wants no more.
                let _ = seen.send(Seen { member: number, partition, at: Instant::now() });
            }
        }
    });
    Ok(Member { child })
}

/// Asks a member to end, and waits until it has.
async fn interrupt(child: &mut Child) -> anyhow::Result<()> {
    let id = child.id().context("a member has ended by itself")?;
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).context("a process has an id")?;
    kill_process(id, Signal::INT)?;
    child.wait().await?;
    Ok(())
}

/// Appends at the rate until the time is over; how many records.
async fn produce(client: Client, topic: String, options: Options) -> anyhow::Result<u64> {
    let producer = client.producer(&topic).build().await?;
    let mut pace = Pace::new(u64::MAX, Some(options.duration), Some(options.rate as f64));
    let values = Values::new(options.record_bytes);
    let mut records = 0;
    while let Some((number, _)) = pace.next(1).await {
        let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        drop(producer.send(Record::value(values.get(number)).key(&key)).await?);
        records = number + 1;
    }
    producer.close().await?;
    Ok(records)
}

async fn collect(seeing: &mut UnboundedReceiver<Seen>, all: &mut Vec<Seen>, until: Instant) {
    let end = tokio::time::sleep_until(until.into());
    tokio::pin!(end);
    loop {
        tokio::select! {
            seen = seeing.recv() => all.extend(seen),
            () = &mut end => return,
        }
    }
}

/// For how long each partition stood still from a change on.
fn gaps(all: &[Seen], change: Change, until: Instant) -> Gaps {
    let mut last: BTreeMap<u32, (u32, Instant)> = BTreeMap::new();
    let mut longest: BTreeMap<u32, (Duration, bool)> = BTreeMap::new();
    for Seen { member, partition, at } in all.iter().copied().filter(|seen| seen.at < until) {
        if let Some((former, before)) = last.insert(partition, (member, at))
            && change.at <= at
        {
            let (gap, has_moved) = longest.entry(partition).or_default();
            *gap = (*gap).max(at - before.max(change.at));
            *has_moved |= former != member;
        }
    }
    let of = |moved| longest.values().filter(move |(_, it)| *it == moved).map(|(gap, _)| *gap);
    Gaps { name: change.name, moved: of(true).collect(), others: of(false).collect() }
}

impl Gaps {
    fn figures(&self) -> Vec<Figure> {
        let name = self.name;
        let longest = |whose: &str, gaps: &[Duration]| {
            let micros = gaps.iter().max()?.as_micros() as f64;
            Some(Figure::new(format!("{name}_gap_of_{whose}_us"), Unit::Micros, micros))
        };
        let moved = Figure::count(&format!("{name}_moved"), self.moved.len() as u64);
        let gaps = [longest("moved", &self.moved), longest("others", &self.others)];
        [moved].into_iter().chain(gaps.into_iter().flatten()).collect()
    }
}

impl Options {
    /// The standard one, or one that takes a part of the time.
    pub(crate) fn standard(scale: f64) -> Self {
        Self {
            members: 4,
            partitions: 16,
            rate: 20_000,
            record_bytes: 1_024,
            session_timeout: Duration::from_secs_f64(10.0 * scale).max(SESSION_TIMEOUT_MIN),
            duration: Duration::from_secs_f64(150.0 * scale).max(5 * SESSION_TIMEOUT_MIN),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "members": self.members,
            "partitions": self.partitions,
            "rate": self.rate,
            "record_bytes": self.record_bytes,
            "session_timeout_ms": self.session_timeout.as_millis() as u64,
            "duration_seconds": self.duration.as_secs_f64(),
        })
    }
}
