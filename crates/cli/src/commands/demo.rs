//! `taffrail demo`: shows in half a minute that what was acknowledged is there.
//!
//! Starts a broker as a child, streams a week of real earthquakes through it, kills it with SIGKILL
//! in the middle, starts it again, replays, and counts.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use taffrail_client::{Client, Delivery, Position, ProduceError, Producer, Record, Until};

use tokio::signal::unix::{SignalKind, signal};

use crate::child::ChildBroker;
use crate::context::Context;
use crate::output::Output;

/// A week of earthquakes, one JSON object a line.
const EARTHQUAKES: &str = include_str!("../../../../docs/examples/earthquakes.ndjson");
const TOPIC: &str = "quakes";
const PARTITIONS: u32 = 4;

/// How many events are streamed a second; slow enough to watch.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Events a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
}

pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupted = listen(SignalKind::interrupt())?;
    let mut terminated = listen(SignalKind::terminate())?;
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let data = directory.path().join("data");
    // Dropped half-way, it ends its broker.
    tokio::select! {
        shown = show(arguments, context.output, &data) => shown,
        _ = interrupted.recv() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    }
}

async fn show(arguments: Arguments, output: Output, data: &Path) -> anyhow::Result<()> {
    let say = |text: &str| {
        if output.is_quiet { Ok(()) } else { writeln!(std::io::stdout(), "{text}") }
    };
    let events = events()?;
    let pause = Duration::from_micros(1_000_000 / arguments.rate);

    let broker = ChildBroker::start(data, "error")?;
    let client = Client::connect(broker.url())?;
    client.admin().create_topic(TOPIC, PARTITIONS, BTreeMap::new()).await?;
    say(&format!("started a broker on {} with data in {}", broker.url(), data.display()))?;

    let half = events.len() / 2;
    let mut sent = Sent::default();
    let producer = client.producer(TOPIC).delivery_timeout(Duration::from_secs(2)).build().await?;
    for event in &events[..half] {
        sent.push(event, &producer).await?;
        tokio::time::sleep(pause).await;
    }
    let process = broker.id();
    broker.kill()?;
    say(&format!("killed the broker (process {process}) with SIGKILL after {half} events"))?;
    drop(producer);
    let (acknowledged, unknown) = sent.settle().await;
    say(&format!(
        "  {} were acknowledged, of {} the fate is unknown",
        acknowledged.len(),
        unknown.len()
    ))?;

    let broker = ChildBroker::start(data, "error")?;
    let client = Client::connect(broker.url())?;
    let replayed = replay(&client).await?;
    for id in &acknowledged {
        let times = replayed.get(*id).copied().unwrap_or(0);
        ensure!(times == 1, "event {id} was acknowledged and is there {times} times");
    }
    say(&format!(
        "started it again: replayed {} events, every acknowledged one is there, once",
        replayed.len()
    ))?;

    let producer = client.producer(TOPIC).build().await?;
    let mut sent = Sent::default();
    let lost = |event: &&Event| unknown.contains(&event.id) && !replayed.contains_key(event.id);
    for event in events[..half].iter().filter(lost).chain(&events[half..]) {
        sent.push(event, &producer).await?;
    }
    producer.close().await?;
    let (_, unknown) = sent.settle().await;
    ensure!(unknown.is_empty(), "{} events were not acknowledged", unknown.len());
    let replayed = replay(&client).await?;
    let total: usize = replayed.values().sum();
    ensure!(
        replayed.len() == events.len() && total == events.len(),
        "{} events were sent, {total} are there, {} of them different",
        events.len(),
        replayed.len()
    );
    say(&format!("streamed the rest: all {total} events are there, each once; nothing was lost"))?;
    broker.kill()
}

/// One earthquake.
struct Event {
    id: &'static str,
    line: &'static str,
}

fn events() -> anyhow::Result<Vec<Event>> {
    let event = |line: &'static str| {
        let (_, rest) = line.split_once("\"id\":").context("an earthquake has an id")?;
        let id = rest.split('"').nth(1).context("its id is text")?;
        Ok(Event { id, line })
    };
    EARTHQUAKES.lines().map(event).collect()
}

/// What was sent and is not yet known to be there.
#[derive(Default)]
struct Sent {
    deliveries: Vec<(&'static str, Delivery)>,
}

impl Sent {
    async fn push(&mut self, event: &Event, producer: &Producer) -> Result<(), ProduceError> {
        let record = Record::value(event.line.as_bytes()).key(event.id.as_bytes());
        self.deliveries.push((event.id, producer.send(record).await?));
        Ok(())
    }

    /// What was acknowledged, and what was not.
    async fn settle(self) -> (Vec<&'static str>, Vec<&'static str>) {
        let (mut acknowledged, mut unknown) = (Vec::new(), Vec::new());
        for (id, delivery) in self.deliveries {
            match delivery.await {
                Ok(_) => acknowledged.push(id),
                Err(_) => unknown.push(id),
            }
        }
        (acknowledged, unknown)
    }
}

/// How often each event is in the topic, by id.
async fn replay(client: &Client) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    let consumer = client.consumer().topic(TOPIC).from(Position::Earliest);
    let mut consumer = consumer.until(Until::HighWatermark).build().await?;
    while let Some(batch) = consumer.next_batch().await {
        for record in batch?.records() {
            let key = record?.key.unwrap_or_default();
            *found.entry(String::from_utf8_lossy(key).into_owned()).or_insert(0) += 1;
        }
    }
    Ok(found)
}
