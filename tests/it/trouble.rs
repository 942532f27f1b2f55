//! What a broker answers that cannot: it has no room for more, its files are gone, it is going away.

use taffrail_proto::v1;
use tonic::Code;

use crate::broker::Broker;
use crate::commands::taffrail;
use crate::door::{
    Door, batch, check_error, check_status, fetch_request, produce_batch, settings_of, soon,
};
use crate::http::metric;

async fn create(door: &Door, name: &str, partitions: u32) -> Result<(), tonic::Status> {
    let (name, settings) = (name.to_owned(), settings_of(&[]));
    let request = v1::CreateTopicRequest { name, partitions, settings };
    soon(door.admin.clone().create_topic(request)).await.map(drop)
}

#[tokio::test]
async fn a_broker_takes_so_many_partitions_over_all_topics() {
    let broker = Broker::with(&["max_partitions=5"]);
    let door = Door::open(&broker).await;
    door.create("a", 3).await;
    let metadata = &[("found", "3"), ("max", "5")];
    let refused = create(&door, "b", 3).await;
    check_status(refused, Code::ResourceExhausted, "LIMIT_REACHED", metadata, "max_partitions");
    let more = v1::AddPartitionsRequest { name: "a".to_owned(), partitions: 6 };
    let refused = soon(door.admin.clone().add_partitions(more)).await;
    check_status(refused, Code::ResourceExhausted, "LIMIT_REACHED", metadata, "delete some");
    create(&door, "b", 2).await.expect("there is room for it");
    door.delete("a").await.expect("it is deleted");
    create(&door, "c", 3).await.expect("there is room again");
}

#[tokio::test]
async fn a_disk_that_refuses_a_topic_leaves_nothing_of_it() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let (logs, away) = (broker.home.data().join("logs"), broker.home.path().join("away"));
    std::fs::rename(&logs, &away).expect("it is there");
    let refused = create(&door, "t", 2).await;
    check_status(refused, Code::Internal, "STORAGE_ERROR", &[("topic", "t")], "cannot create");
    std::fs::rename(&away, &logs).expect("the place is free");
    create(&door, "t", 2).await.expect("the name is free");
    assert_eq!(door.append("t", &["a"]).await, 0);
}

#[tokio::test]
async fn records_of_a_partition_whose_files_are_gone_are_lost_and_the_others_serve() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let topic = door.create("t", 2).await;
    for partition in 0..2 {
        door.produce(produce_batch("t", partition, batch(&["a", "b"]))).await;
    }
    let folder = broker.partition_folder(&topic.id, 1);
    let home = broker.stop().await;
    std::fs::rename(&folder, home.path().join("away")).expect("it is there");

    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    let result = soon(async {
        loop {
            let result = door.fetch("t", 1, 0).await;
            if result.error.as_ref().is_none_or(|error| error.reason != "PARTITION_RECOVERING") {
                return result;
            }
        }
    });
    let lost = [("topic", "t"), ("partition", "1"), ("from", "0"), ("to", "2")];
    check_error(result.await.error.as_ref(), "DATA_LOSS", &lost, "missing");
    let (reason, metadata) = ("PARTITION_OFFLINE", &[("cause", "*")]);
    let behind = door.fetch("t", 1, 2).await;
    check_error(behind.error.as_ref(), reason, metadata, "missing");
    let refused = door.produce(produce_batch("t", 1, batch(&["b"]))).await;
    check_error(refused.error.as_ref(), reason, metadata, "missing");
    let partition = &door.describe("t").await.partitions[1];
    assert_eq!(partition.status(), v1::PartitionStatus::Offline);
    assert_eq!(partition.damaged, [v1::OffsetRange { from: 0, to: 2 }]);
    let damaged = "taffrail_log_damaged_offsets{topic=\"t\",partition=\"1\"}";
    assert_eq!(metric(&broker, damaged).await, 2);
    assert_eq!(door.produce(produce_batch("t", 0, batch(&["b"]))).await.base_offset(), 2);
    assert!(!folder.exists(), "it was not made anew");
}

#[tokio::test]
async fn a_partition_whose_files_are_back_is_opened_without_a_restart() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let topic = door.create("t", 1).await;
    door.produce(produce_batch("t", 0, batch(&["a", "b"]))).await;
    let folder = broker.partition_folder(&topic.id, 0);
    let home = broker.stop().await;
    let away = home.path().join("away");
    std::fs::rename(&folder, &away).expect("it is there");
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    soon(async { while door.status("t", 0).await == v1::PartitionStatus::Recovering {} }).await;

    let command = ["topic", "reopen", "t", "--partition", "0"];
    taffrail(&broker, &command).check(1, &["t/0 is not online"]);
    std::fs::rename(&away, &folder).expect("the place is free");
    assert_eq!(door.status("t", 0).await, v1::PartitionStatus::Offline);
    assert!(taffrail(&broker, &command).success().contains("t/0 is online"));
    assert_eq!(door.values("t").await, ["a", "b"]);
    assert_eq!(door.produce(produce_batch("t", 0, batch(&["c"]))).await.base_offset(), 2);
    // Once more is nothing.
    let partition = &door.describe("t").await.partitions[0];
    assert_eq!(door.reopen("t", 0).await.expect("it is there"), *partition);
    let missing = [("topic", "t"), ("partition", "1"), ("partitions", "1")];
    for (topic, partition, code, reason, metadata) in [
        ("u", 0, Code::NotFound, "UNKNOWN_TOPIC", &[("topic", "u")][..]),
        ("t", 1, Code::NotFound, "UNKNOWN_PARTITION", &missing),
        ("__catalog", 0, Code::PermissionDenied, "INTERNAL_TOPIC", &[("topic", "__catalog")]),
    ] {
        check_status(door.reopen(topic, partition).await, code, reason, metadata, topic);
    }
}

#[tokio::test]
async fn a_topic_whose_batches_fit_into_no_request_any_more_is_named_at_the_start() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("wide", 1, &[("max.batch.bytes", "8MiB")]).await;
    door.create("narrow", 1).await;
    let home = broker.stop().await;
    let mut broker = home.start(&["max_request_bytes=4MiB"]);
    let said = broker.program.kill();
    assert!(said.contains("wide") && said.contains("max_request_bytes"), "{said}");
    assert!(!said.contains("narrow"), "{said}");
}

#[tokio::test]
async fn who_waits_for_records_hears_that_the_broker_stops() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let request = v1::FetchRequest { max_wait_ms: 60_000, ..fetch_request("t", 0, 0) };
    let own = door.clone();
    let waiting = tokio::spawn(async move { own.fetch_all(request).await.remove(0) });
    // Requests on one connection are taken in order.
    tokio::task::yield_now().await;
    door.describe("t").await;
    broker.stop().await;
    let result = soon(waiting).await.expect("no panic");
    check_error(result.error.as_ref(), "STOPPING", &[], "connect again");
}
