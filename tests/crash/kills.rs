//! SIGKILL again and again under load, on one directory, and nobody helps.

use std::collections::BTreeMap;

use taffrail_client::{Acks, Client, Position};
use tokio::time::sleep;

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::history::Event;
use crate::load::{Load, Sender};
use crate::readback::{conclude, wait_until_online};
use crate::rounds;

pub(crate) const TOPICS: [(&str, u32); 2] = [("synced", 3), ("cached", 2)];

/// The producers that wait for no answers.
pub(crate) const UNASKED: [u32; 2] = [3, 13];

/// Makes the topics, with segments so small that rolls happen all the time.
pub(crate) async fn create_topics(broker: &Broker) {
    let admin = Client::connect(&broker.url()).expect("a valid address").admin();
    for (topic, partitions) in TOPICS {
        let durability = if topic == "cached" { "page_cache" } else { "fsync" };
        let settings =
            [("durability", durability), ("segment.bytes", "131072"), ("max.batch.bytes", "65536")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = BTreeMap::from(settings);
        admin.create_topic(topic, partitions, settings).await.expect("the topic is created");
    }
}

/// Producers and consumers of both topics.
pub(crate) fn start_load(home: &Home, dice: &mut Dice) -> Load {
    let load = Load::new(home.proxy.url());
    for (producer, acks) in [Acks::Committed, Acks::Committed, Acks::None].into_iter().enumerate() {
        for (at, (topic, partitions)) in TOPICS.into_iter().enumerate() {
            let producer = (1 + 10 * at + producer) as u32;
            load.produce(sender(producer, topic, partitions, dice.fork()), acks);
        }
    }
    for (at, (topic, partitions)) in TOPICS.into_iter().enumerate() {
        load.produce_stream(sender(100 + at as u32, topic, partitions, dice.fork()));
    }
    load.follow(1, &["synced", "cached"]);
    load
}

/// Producers that wait for acknowledgement send again what was not answered, as often as it takes: they
/// hear of each record that it is there.
fn check_all_delivered(load: &Load) {
    let waits = |producer: u32| matches!(producer, 1 | 2 | 11 | 12);
    let missing = load.history.events().into_iter().filter(|event| {
        let (Event::Unknown { record } | Event::Fail { record }) = event else { return false };
        waits(record.producer)
    });
    let missing: Vec<_> = missing.take(10).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn sender(producer: u32, topic: &str, partitions: u32, dice: Dice) -> Sender {
    Sender { producer, topic: topic.to_owned(), partitions, dice, sequence: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_nothing_acknowledged_is_lost() {
    let mut dice = Dice::new("kills");
    let home = Home::new().await;
    let mut broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    for round in 1..=rounds(14, 200) {
        let (topic, _) = TOPICS[dice.below(2) as usize];
        let position = Position::Last(dice.below(100));
        load.follow_from(10 + round as u32, topic, position);
        sleep(dice.millis(100, 900)).await;
        load.history.note(format!("kill {round}"));
        broker.kill().await;
        broker = home.start().await;
        load.history.note(format!("start {round}"));
    }
    for (topic, _) in TOPICS {
        wait_until_online(&broker, topic).await;
    }
    sleep(dice.millis(300, 600)).await;
    load.stop().await;
    let acknowledged = load.history.acknowledged();
    println!("{acknowledged} records acknowledged");
    assert!(acknowledged > 1000, "the load was too small to say anything: {acknowledged}");
    check_all_delivered(&load);
    conclude(&home, &broker, &TOPICS, &load.history).await;
    assert!(broker.stop().await.success(), "a clean stop");
    let broker = home.start().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
    assert!(!home.said_all().contains("panicked"), "the broker panicked");
}
