//! Killed while topics are created, deleted and given partitions: each is there with all it was
//! promised, or gone with all of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use taffrail_client::{CallError, Client, PartitionIndex, Record};
use taffrail_proto::v1;
use tokio::time::sleep;

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::readback::wait_until_online;
use crate::rounds;

/// Topics by name; what was asked and not answered is both.
#[derive(Default)]
pub(crate) struct Expected {
    topics: BTreeMap<String, Known>,
    /// Ids of topics that are gone.
    gone: BTreeSet<String>,
}

/// What may be of a topic: numbers of partitions, 0 if it is not there.
#[derive(Clone, Debug, Default)]
struct Known {
    partitions: Vec<u32>,
    id: Option<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_topics_change_each_is_whole_or_gone() {
    let mut dice = Dice::new("topics");
    let home = Home::new().await;
    let mut expected = Expected::default();
    for round in 1..=rounds(10, 150) {
        let broker = home.start().await;
        check(&home, &broker, &mut expected).await;
        let deadline = sleep(dice.millis(50, 500));
        let changing = expected.change(&broker, &mut dice);
        tokio::select! {
            () = deadline => {}
            never = changing => match never {},
        }
        println!("kill {round}, {} topics", expected.topics.len());
        broker.kill().await;
    }
    let broker = home.start().await;
    check(&home, &broker, &mut expected).await;
    assert!(!expected.gone.is_empty(), "no topic was ever deleted");
    assert!(broker.stop().await.success(), "a clean stop");
}

impl Expected {
    /// From here on a topic may have any of these numbers of partitions.
    pub(crate) fn expect(&mut self, name: &str, partitions: &[u32]) {
        self.topics.entry(name.to_owned()).or_insert_with(Known::gone).partitions =
            partitions.to_vec();
    }

    /// A topic is there.
    pub(crate) fn note(&mut self, topic: &v1::Topic) {
        self.topics.insert(topic.name.clone(), Known::there(topic));
    }

    /// A topic is gone.
    pub(crate) fn note_deleted(&mut self, name: &str) {
        let known = self.topics.insert(name.to_owned(), Known::gone());
        self.gone.extend(known.and_then(|known| known.id));
    }

    /// A topic that is there.
    pub(crate) fn any(&self) -> Option<String> {
        let mut there = self.topics.iter().filter(|(_, known)| known.id.is_some());
        there.next().map(|(name, _)| name.clone())
    }

    /// Changes topics, one after another, until it is dropped.
    async fn change(&mut self, broker: &Broker, dice: &mut Dice) -> std::convert::Infallible {
        let admin = Client::connect(&broker.url()).expect("a valid address").admin();
        loop {
            let name = format!("topic-{}", dice.below(12));
            let known = self.topics.entry(name.clone()).or_insert_with(Known::gone);
            let &[partitions] = &known.partitions[..] else {
                // It was asked for and not answered: the broker is gone.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            // The outcome is open from here until the answer, also if this is dropped.
            match (partitions, dice.below(2)) {
                (0, _) => {
                    let wanted = 1 + dice.below(3) as u32;
                    known.partitions = vec![0, wanted];
                    let made = admin.create_topic(&name, wanted, BTreeMap::new()).await;
                    if let Some(topic) = answer(made) {
                        *known = Known::there(&topic);
                    }
                }
                (_, 0) if partitions < 6 => {
                    let wanted = partitions + 1 + dice.below(2) as u32;
                    known.partitions = vec![partitions, wanted];
                    if let Some(topic) = answer(admin.add_partitions(&name, wanted).await) {
                        *known = Known::there(&topic);
                    }
                }
                _ => {
                    known.partitions = vec![partitions, 0];
                    if answer(admin.delete_topic(&name).await).is_some() {
                        self.gone.extend(known.id.take());
                        *known = Known::gone();
                    }
                }
            }
        }
    }
}

impl Known {
    fn gone() -> Self {
        Self { partitions: vec![0], id: None }
    }

    fn there(topic: &v1::Topic) -> Self {
        Self { partitions: vec![topic.partitions], id: Some(topic.id.clone()) }
    }
}

/// What the broker says, if it could still say it. A refusal would be wrong.
pub(crate) fn answer<T>(answer: Result<T, CallError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(CallError::Unreachable { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// The broker has what was promised, and from here on that is certain.
pub(crate) async fn check(home: &Home, broker: &Broker, expected: &mut Expected) {
    let client = Client::connect(&broker.url()).expect("a valid address");
    let listed = client.admin().list_topics(false).await.expect("topics are listed");
    let mut there: BTreeMap<_, _> = listed.into_iter().map(|it| (it.name.clone(), it)).collect();
    for (name, known) in &mut expected.topics {
        let topic = there.remove(name);
        let found = topic.as_ref().map_or(0, |topic| topic.partitions);
        assert!(known.partitions.contains(&found), "{name}: {found} of {known:?}");
        match topic {
            Some(topic) => *known = Known::there(&topic),
            None => {
                expected.gone.extend(known.id.take());
                *known = Known::gone();
            }
        }
    }
    assert!(there.is_empty(), "nobody asked for {there:?}");
    check_files(home, expected);
    for (name, known) in expected.topics.iter().filter(|(_, known)| known.id.is_some()) {
        take_records(&client, broker, name, known.partitions[0]).await;
    }
}

/// No files of what is gone, all files of what is there.
fn check_files(home: &Home, expected: &Expected) {
    let logs = home.data.join("logs");
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&logs).expect("the logs are there").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let names = names();
    for name in &names {
        assert!(!name.ends_with(".deleted"), "{name} was left behind");
        let id = name.split('-').next().unwrap_or_default();
        assert!(!expected.gone.contains(id), "{name} is of a topic that was deleted");
    }
    for (topic, known) in &expected.topics {
        let Some(id) = &known.id else { continue };
        for partition in 0..known.partitions[0] {
            let wanted = format!("{id}-{partition}");
            assert!(names.contains(&wanted), "{topic}: {wanted} is not in {names:?}");
        }
    }
}

async fn take_records(client: &Client, broker: &Broker, topic: &str, partitions: u32) {
    wait_until_online(broker, topic).await;
    let producer = client.producer(topic).build().await.expect("a producer");
    assert_eq!(producer.partitions(), partitions, "{topic}");
    for partition in 0..partitions {
        let record = Record::value(b"here").partition(PartitionIndex::new(partition));
        let delivery = producer.send(record).await.expect("the record is taken");
        delivery.await.unwrap_or_else(|error| panic!("{topic}/{partition}: {error}"));
    }
}
