//! The broker's own logs are built anew: the catalog, and who producers are.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use taffrail_client::{Offset, PartitionIndex, TopicName};
use taffrail_proto::v1;

use super::{Given, RECORDS, flip};
use crate::door::{Door, batch, produce_batch, settings_of, soon};
use crate::program::run;

/// The catalog as `topic list` and `describe` show it.
async fn settings(door: &Door) -> BTreeMap<String, String> {
    let topic = door.describe("t").await.topic.expect("a topic");
    topic
        .settings
        .into_iter()
        .filter(|setting| !setting.is_default)
        .map(|setting| (setting.name, setting.value))
        .collect()
}

#[tokio::test]
async fn a_lost_catalog_is_built_anew_from_the_logs() {
    let given = Given::new().await;
    std::fs::rename(given.internal(0), given.home.path().join("away")).expect("it is there");
    let said = given.home.try_start("127.0.0.1:0", &[]).err().expect("it does not start");
    assert!(said.contains("catalog") && said.contains("taffrail repair"), "{said}");
    given.repair(&["--remove", &format!("{}-0", given.topic)]).check(1, &["--rebuild-catalog"]);
    given.check_advice("--rebuild-catalog");
    let done = given.repair(&["--rebuild-catalog"]).success();
    for words in ["topic t", "2 partitions", "default settings", "taffrail topic alter"] {
        assert!(done.contains(words), "{done:?} does not say {words:?}");
    }
    given.check_content();
    given.check_served(&[], RECORDS).await;
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    assert_eq!(settings(&door).await, BTreeMap::new());
    door.create("u", 1).await;
    broker.stop().await;
    given.repair(&["--rebuild-catalog"]).check(1, &["is sound"]);
}

#[tokio::test]
async fn of_a_damaged_catalog_what_stands_before_the_damage_is_kept() {
    let given = Given::new().await;
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    door.create("later", 3).await;
    door.create("gone", 1).await;
    door.delete("gone").await.expect("it is deleted");
    door.create_with("after", 1, &[("durability", "page_cache")]).await;
    broker.stop().await;
    // The second event: a topic was created of which only the files know now.
    damage_batch(&given.internal(0), |headers| &headers[2]);
    given.check_advice("--rebuild-catalog");
    let done = given.repair(&["--rebuild-catalog", "--output", "json"]).json();
    let topics = &done["actions"][0]["topics"];
    let known = |topic: &Value| {
        let field = |name: &str| topic[name].clone();
        (field("name"), field("partitions"), field("has_settings"))
    };
    let topics: Vec<_> = topics.as_array().expect("a list").iter().map(known).collect();
    // What was said behind the damage may rest on what is lost, and is not believed.
    let expected = [
        (json!("after"), json!(1), json!(false)),
        (json!("later"), json!(3), json!(false)),
        (json!("t"), json!(2), json!(true)),
    ];
    assert_eq!(topics, expected);
    given.check_content();
    given.check_served(&[], RECORDS).await;
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    let expected = settings_of(&[("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")]);
    assert_eq!(settings(&door).await, expected);
}

/// Deletes the topic and makes one of the same name, and some others; then the files of the earlier one
/// are back, as if their deletion had not begun. Returns the later one's id.
async fn make_again(given: &Given, others: &[&str]) -> String {
    let away = given.home.path().join("away");
    let copied = std::process::Command::new("cp").arg("-r").args([&given.log(0), &away]).status();
    assert!(copied.expect("a shell").success());
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    door.delete("t").await.expect("it is deleted");
    let later = door.create("t", 1).await.id;
    for name in others {
        door.create(name, 1).await;
    }
    broker.stop().await;
    if given.log(0).exists() {
        std::fs::remove_dir_all(given.log(0)).expect("nobody else deletes now");
    }
    std::fs::rename(away, given.log(0)).expect("the place is free");
    later
}

/// Damages one of the batches in a log's first segment, behind the segment's own header.
fn damage_batch(log: &Path, pick: impl FnOnce(&[Value]) -> &Value) {
    let segment = log.join("00000000000000000000.log");
    let name = segment.to_str().expect("text");
    let headers = run(&["inspect", name, "--headers", "--output", "json"]).json_lines();
    flip(&segment, pick(&headers)["position"].as_u64().expect("one") + 95);
}

#[tokio::test]
async fn of_two_topics_of_one_name_the_later_one_is_kept() {
    let given = Given::new().await;
    let later = make_again(&given, &[]).await;
    damage_batch(&given.internal(0), |headers| &headers[2]);
    let done = given.repair(&["--rebuild-catalog", "--output", "json"]).json();
    let topics = done["actions"][0]["topics"].as_array().expect("a list");
    assert_eq!(topics.len(), 1, "{done}");
    assert_eq!((&topics[0]["id"], &topics[0]["partitions"]), (&json!(later), &json!(1)));
    assert!(done.to_string().contains("a later topic of this name"), "{done}");
    given.repair(&["--remove", &format!("{}-0", given.topic)]).success();
    given.check_content();
}

#[tokio::test]
async fn a_topic_whose_files_cannot_be_read_keeps_its_name_before_an_earlier_one() {
    let given = Given::new().await;
    let later = make_again(&given, &["last"]).await;
    let segment = given.home.data().join(format!("logs/{later}-0/00000000000000000000.log"));
    let file = std::fs::OpenOptions::new().write(true).open(segment).expect("it is there");
    file.set_len(0).expect("nothing is left of it");
    // The last event: what was said before counts.
    damage_batch(&given.internal(0), |headers| headers.last().expect("the one of the last topic"));
    let done = given.repair(&["--rebuild-catalog", "--output", "json"]).json();
    let topics = done["actions"][0]["topics"].as_array().expect("a list");
    let of_name = topics.iter().find(|topic| topic["name"] == "t").expect("it has the name");
    assert_eq!(of_name["id"], json!(later), "{done}");
}

async fn producer(door: &Door, name: &str) -> (u64, u32) {
    let request = v1::InitProducerRequest { name: name.to_owned(), ..Default::default() };
    let answer = soon(door.log.clone().init_producer(request)).await.expect("a producer");
    let answer = answer.into_inner();
    (answer.producer_id, answer.producer_epoch)
}

fn stamped((id, epoch): (u64, u32), sequence: u32) -> v1::ProduceBatch {
    let batch = v1::RecordBatch {
        producer_id: id,
        producer_epoch: epoch,
        base_sequence: sequence,
        ..batch(&["from a producer"])
    };
    produce_batch("t", 1, batch)
}

#[tokio::test]
async fn who_producers_are_is_built_anew_and_no_id_is_given_out_twice() {
    let given = Given::new().await;
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    let (plain, named) = (producer(&door, "").await, producer(&door, "billing").await);
    for producer in [plain, named] {
        assert_eq!(door.produce(stamped(producer, 0)).await.error, None);
    }
    broker.stop().await;
    std::fs::rename(given.internal(1), given.home.path().join("away")).expect("it is there");
    // One run without it: nobody knows then how many producers there were.
    given.home.start(&[]).stop().await;
    given.check_advice("--rebuild-producers");
    let done = given.repair(&["--rebuild-producers"]).success();
    assert!(done.contains("names are lost"), "{done}");
    given.check_content();

    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    // Who is known goes on, a duplicate is one still, and a name has to be taken anew.
    assert!(door.produce(stamped(plain, 0)).await.duplicate);
    assert_eq!(door.produce(stamped(plain, 1)).await.error, None);
    let refused = door.produce(stamped(named, 1)).await.error.expect("refused");
    assert_eq!(refused.reason, "PRODUCER_FENCED");
    for name in ["", "billing"] {
        let new = producer(&door, name).await;
        assert!(plain.0.max(named.0) < new.0, "{new:?} was given out before");
        assert_eq!(door.produce(stamped(new, 0)).await.error, None);
    }
}

#[tokio::test]
async fn whoever_may_have_sent_what_is_lost_is_told_so() {
    let given = Given::new().await;
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    let (lost, other) = (producer(&door, "").await, producer(&door, "").await);
    for producer in [lost, other] {
        assert_eq!(door.produce(stamped(producer, 0)).await.error, None);
    }
    broker.stop().await;
    // Its only batch goes, and with it what was remembered.
    damage_batch(&given.log(1), |headers| {
        assert_eq!(headers[2]["producer_id"], json!(lost.0));
        &headers[2]
    });
    for copy in ["producers.a", "producers.b"] {
        let _ = std::fs::remove_file(given.log(1).join(copy));
    }
    given.repair(&["--accept-loss", "t/1"]).success();
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    let refused = door.produce(stamped(lost, 0)).await.error.expect("refused");
    assert_eq!(refused.reason, "UNKNOWN_PRODUCER_STATE");
    assert!(door.produce(stamped(other, 0)).await.duplicate);
    assert_eq!(door.produce(stamped(other, 1)).await.error, None);
    let new = producer(&door, "").await;
    assert_eq!(door.produce(stamped(new, 0)).await.error, None);
}

#[tokio::test]
async fn queues_go_on_where_they_are_known_to_have_been() {
    let given = Given::new().await;
    let broker = given.home.start(&[]);
    let queues = broker.client().queues();
    for queue in ["first", "second"] {
        let (queue, topic) = (queue.to_owned(), "t".to_owned());
        let request = v1::CreateQueueRequest { queue, topic, ..Default::default() };
        queues.create(request).await.expect("it can be made");
    }
    broker.stop().await;
    damage_batch(&given.internal(3), |headers| &headers[2]);
    let broker = given.home.start(&[]);
    let refused = broker.client().queues().list().await.expect_err("damaged");
    assert!(refused.to_string().contains("__queues"), "{refused}");
    let door = Door::open(&broker).await;
    door.online("t").await;
    broker.stop().await;
    let entries = run(&["inspect", given.home.data().to_str().expect("text"), "--queues"]);
    assert!(entries.output.contains("created"), "{}", entries.output);
    given.check_advice("--rebuild-queues");
    given.repair(&["--accept-loss", "__queues/0"]).check(1, &["--rebuild-queues"]);
    let done = given.repair(&["--rebuild-queues"]).success();
    assert!(done.contains("queue first: 0 parked"), "{done}");
    assert!(done.contains("handed out again"), "{done}");
    given.check_content();
    given.repair(&["--rebuild-queues"]).check(1, &["is sound"]);
    let broker = given.home.start(&[]);
    let listed = broker.client().queues().list().await.expect("it is there");
    assert_eq!(listed.iter().map(|it| it.queue.as_str()).collect::<Vec<_>>(), ["first"]);
}

#[tokio::test]
async fn groups_go_on_where_they_are_known_to_have_been() {
    let given = Given::new().await;
    let broker = given.home.start(&[]);
    let topic = TopicName::parse("t").expect("a name");
    let (place, groups) = (PartitionIndex::new(0), broker.client().groups());
    for done in 1..=3 {
        let committed = groups.commit("billing", &topic, place, Offset::new(done)).await;
        committed.expect("it can be committed");
    }
    broker.stop().await;
    damage_batch(&given.internal(2), |headers| &headers[2]);
    // Nothing is believed of what follows, and all but groups works.
    let broker = given.home.start(&[]);
    let refused = broker.client().groups().list().await.expect_err("damaged");
    assert!(refused.to_string().contains("taffrail repair"), "{refused}");
    let door = Door::open(&broker).await;
    door.online("t").await;
    broker.stop().await;
    let entries = run(&["inspect", given.home.data().to_str().expect("text"), "--groups"]);
    assert!(entries.output.contains("committed"), "{}", entries.output);
    given.check_advice("--rebuild-groups");
    given.repair(&["--accept-loss", "__groups/0"]).check(1, &["--rebuild-groups"]);
    let done = given.repair(&["--rebuild-groups"]).success();
    assert!(done.contains("group billing: 1 committed offsets"), "{done}");
    assert!(done.contains("is done again"), "{done}");
    given.check_content();
    given.repair(&["--rebuild-groups"]).check(1, &["is sound"]);
    let broker = given.home.start(&[]);
    let groups = broker.client().groups();
    let offsets = groups.offsets("billing").await.expect("it is there");
    assert_eq!(offsets.iter().map(|it| it.offset).collect::<Vec<_>>(), [1]);
    groups.commit("billing", &topic, place, Offset::new(2)).await.expect("it goes on");
}
