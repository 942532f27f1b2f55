//! Topics: what can be created, changed and deleted, and that all of it outlives the process.

use std::collections::BTreeMap;

use taffrail_proto::v1;

use crate::broker::Broker;
use crate::door::{Door, batch, check_error, produce_batch, soon};

async fn list(door: &Door, include_internal: bool) -> Vec<v1::Topic> {
    let request = v1::ListTopicsRequest { include_internal };
    soon(door.admin.clone().list_topics(request)).await.expect("it answers").into_inner().topics
}

async fn add_partitions(door: &Door, name: &str, partitions: u32) -> v1::Topic {
    let request = v1::AddPartitionsRequest { name: name.to_owned(), partitions };
    let answer = soon(door.admin.clone().add_partitions(request)).await;
    answer.expect("it can have more").into_inner().topic.expect("a topic")
}

fn setting<'a>(topic: &'a v1::Topic, name: &str) -> (&'a str, bool) {
    let found = topic.settings.iter().find(|setting| setting.name == name);
    found.map(|setting| (setting.value.as_str(), setting.is_default)).expect("every setting")
}

#[tokio::test]
async fn what_is_created_and_altered_is_there_after_a_restart() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let orders = door.create_with("orders", 3, &[("durability", "page_cache")]).await;
    assert_eq!((orders.partitions, orders.id.len()), (3, 24));
    assert_eq!(setting(&orders, "durability"), ("page_cache", false));
    assert_eq!(setting(&orders, "segment.bytes"), ("1GiB", true));
    // No number of partitions means one.
    assert_eq!(door.create("Audit.log-1", 0).await.partitions, 1);
    door.alter("orders", &[("segment.ms", "12h"), ("max.batch.bytes", "2MiB")])
        .await
        .expect("can be");
    let orders = door.alter("orders", &[("durability", "")]).await.expect("can be");
    assert_eq!(setting(&orders, "durability"), ("fsync", true));
    assert_eq!(setting(&orders, "segment.ms"), ("12h", false));
    add_partitions(&door, "orders", 5).await;
    door.create("gone", 1).await;
    door.delete("gone").await.expect("it was there");

    let before = (list(&door, false).await, list(&door, true).await);
    let names: Vec<_> = before.1.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(
        names,
        ["Audit.log-1", "__catalog", "__groups", "__producers", "__queues", "orders"]
    );
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    assert_eq!((list(&door, false).await, list(&door, true).await), before);
    assert_eq!(door.online("orders").await.partitions.len(), 5);
}

#[tokio::test]
async fn a_partition_that_is_added_takes_records_beside_those_there() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let topic = door.create("t", 1).await;
    door.append("t", &["a"]).await;
    let more = add_partitions(&door, "t", 3).await;
    assert_eq!((more.partitions, &more.id), (3, &topic.id));
    let result = door.produce(produce_batch("t", 2, batch(&["b"]))).await;
    assert_eq!((result.partition, result.base_offset(), result.error), (Some(2), 0, None));
    assert_eq!(door.values("t").await, ["a"]);
    assert_eq!(door.read("t", 2, 0).await.len(), 1);
}

#[tokio::test]
async fn a_deleted_topic_leaves_no_files_and_its_name_can_be_used_for_another() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let old = door.create("t", 2).await;
    door.append("t", &["old"]).await;
    let folders = [0, 1].map(|partition| broker.partition_folder(&old.id, partition));
    assert!(folders.iter().all(|folder| folder.is_dir()));
    door.delete("t").await.expect("it was there");
    assert!(folders.iter().all(|folder| !folder.exists()), "files are left");
    let logs = broker.home.data().join("logs");
    assert_eq!(
        std::fs::read_dir(logs).expect("a folder").count(),
        4,
        "only the broker's own are left"
    );
    let result = door.produce(produce_batch("t", 0, batch(&["x"]))).await;
    check_error(result.error.as_ref(), "UNKNOWN_TOPIC", &[("topic", "t")], "create it first");

    let new = door.create("t", 1).await;
    assert_ne!(new.id, old.id);
    assert_eq!(door.append("t", &["new"]).await, 0);
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("t").await;
    assert_eq!(door.values("t").await, ["new"]);
}

#[tokio::test]
async fn topics_come_and_go_at_the_same_time() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let tasks = (0..12).map(|number| {
        let door = door.clone();
        tokio::spawn(async move {
            let (name, own) = (format!("t{}", number % 4), number.to_string());
            for _ in 0..3 {
                // One of the rivals gets the name; all of them may find it gone at any moment.
                let _ = door.try_create(&name, 1, &[]).await;
                let _ = door.produce(produce_batch(&name, 0, batch(&[&own]))).await;
                let _ = door.delete(&name).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        soon(task).await.expect("no panic");
    }
    let left = list(&door, false).await;
    let logs = std::fs::read_dir(broker.home.data().join("logs")).expect("a folder").count();
    assert_eq!(logs, left.len() + 4, "a folder for each topic and each of the broker's own");
}

#[tokio::test]
async fn the_catalogue_of_settings_is_what_topics_have() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let topic = door.create("t", 1).await;
    let request = v1::DescribeSettingsRequest {};
    let catalogue = soon(door.admin.clone().describe_settings(request)).await.expect("it answers");
    let catalogue = catalogue.into_inner().settings;
    let defaults: BTreeMap<_, _> = catalogue
        .iter()
        .map(|info| (info.name.as_str(), (info.default_value.as_str(), true)))
        .collect();
    let found: BTreeMap<_, _> = topic
        .settings
        .iter()
        .map(|s| (s.name.as_str(), (s.value.as_str(), s.is_default)))
        .collect();
    assert_eq!(found, defaults);
    assert!(catalogue.is_sorted_by_key(|info| info.name.clone()));
    assert!(catalogue.iter().all(|info| !info.r#type.is_empty() && !info.description.is_empty()));
    // What it calls a default can be set.
    let all: Vec<_> =
        catalogue.iter().map(|i| (i.name.as_str(), i.default_value.as_str())).collect();
    door.create_with("u", 1, &all).await;
}

#[tokio::test]
async fn the_largest_batch_is_a_setting_that_can_change_at_any_time() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("max.batch.bytes", "2KiB")]).await;
    // A value of 1,948 bytes with what is around it makes 2,048 exactly.
    let exact = "x".repeat(2_048 - 89 - 6);
    let larger = "x".repeat(exact.len() + 1);
    assert_eq!(door.append("t", &[&exact]).await, 0);
    let result = door.produce(produce_batch("t", 0, batch(&[&larger]))).await;
    let sizes = [("found", "2049"), ("max", "2048")];
    check_error(result.error.as_ref(), "BATCH_TOO_LARGE", &sizes, "max.batch.bytes");
    door.alter("t", &[("max.batch.bytes", "4KiB")]).await.expect("can be");
    assert_eq!(door.append("t", &[&larger]).await, 1);
    door.alter("t", &[("max.batch.bytes", "2KiB")]).await.expect("can be");
    let result = door.produce(produce_batch("t", 0, batch(&[&larger]))).await;
    check_error(result.error.as_ref(), "BATCH_TOO_LARGE", &sizes, "max.batch.bytes");
    assert_eq!(door.values("t").await, [exact, larger], "what is stored stays");
}

#[tokio::test]
async fn durability_can_change_while_records_come() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let own = door.clone();
    let producer = tokio::spawn(async move {
        for number in 0..300 {
            assert_eq!(own.append("t", &[&number.to_string()]).await, number);
        }
    });
    for durability in ["page_cache", "fsync"].repeat(5) {
        door.alter("t", &[("durability", durability)]).await.expect("can be");
    }
    soon(producer).await.expect("no panic");
    let expected: Vec<_> = (0..300).map(|number| number.to_string()).collect();
    assert_eq!(door.values("t").await, expected);
}

#[tokio::test]
async fn keys_go_where_kafka_s_default_partitioner_puts_them_and_others_are_spread() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 100).await;
    // Values of murmur2 that Kafka's own tests have.
    let known = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
    ];
    for (key, hash) in known {
        let key = v1::produce_batch::Placement::PartitionKey(Vec::from(key).into());
        let batch = produce_batch("t", 0, batch(&["x"]));
        let result = door.produce(v1::ProduceBatch { placement: Some(key), ..batch }).await;
        assert_eq!(result.partition, Some((hash & 0x7fff_ffff) as u32 % 100));
    }
    let spread = v1::ProduceBatch { placement: None, ..produce_batch("t", 0, batch(&["x"])) };
    let results = door.produce_all(vec![spread; 50]).await;
    let used: std::collections::BTreeSet<_> = results.iter().map(|r| r.partition).collect();
    assert!(used.len() > 10, "{used:?}");
}
