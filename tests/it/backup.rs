//! A backup of a running broker, and what is restored from it.

use std::path::Path;

use taffrail_proto::v1;
use tonic::Code;

use crate::broker::{Broker, Home};
use crate::commands::taffrail;
use crate::door::{Door, batch, check_error, check_status, fetch_request, produce_batch, soon};
use crate::pipe::Pipe;
use crate::program::run;

fn restore(from: &Path, home: &Home) {
    let (from, to) = (from.display().to_string(), home.data().display().to_string());
    let said = run(&["restore", &from, &to]).success();
    assert!(said.contains("restored to"), "{said}");
}

async fn back_up(door: &Door, directory: &Path) -> Result<v1::BackupSummary, tonic::Status> {
    let request = v1::BackupRequest { directory: directory.display().to_string() };
    let mut answers = soon(door.admin.clone().backup(request)).await?.into_inner();
    let mut summary = None;
    while let Some(answer) = soon(answers.message()).await? {
        assert_eq!(summary, None, "nothing comes behind the summary");
        summary = answer.summary;
    }
    Ok(summary.expect("a summary"))
}

#[tokio::test]
async fn a_backup_holds_what_was_acknowledged_and_can_be_served() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("synced", 2, &[("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")])
        .await;
    door.create_with("cached", 1, &[("durability", "page_cache")]).await;
    let mut pipe = Pipe::open(&door).await;
    let filler = "x".repeat(3_000);
    for number in 1..=100 {
        let value = format!("{} {filler}", number - 1);
        pipe.send(number, produce_batch("synced", (number % 2) as u32, batch(&[&value])));
    }
    for _ in 1..=100 {
        assert_eq!(pipe.next().await.1.error, None);
    }
    door.append("cached", &["a", "b", "c"]).await;
    let read = ["consume", "synced", "--group", "g", "--count", "10", "-q"];
    taffrail(&broker, &read).success();
    let place = broker.home.path().join("backup");
    let summary = back_up(&door, &place).await.expect("there is room");
    assert!(summary.segments >= 8 && summary.logs == 7, "{summary:?}");
    assert_eq!((summary.damaged, &summary.skipped[..]), (0, &[][..]));
    // What comes later is not in it.
    assert_eq!(door.append("cached", &["later"]).await, 3);
    door.create("later", 1).await;

    let home = Home::new();
    restore(&place, &home);
    let restored = home.start(&[]);
    let there = Door::open(&restored).await;
    for topic in ["synced", "cached"] {
        there.online(topic).await;
    }
    for partition in 0..2 {
        let (before, after) =
            (door.fetch("synced", partition, 0).await, there.fetch("synced", partition, 0).await);
        assert_eq!(before.error, None);
        assert_eq!(before.data, after.data, "byte for byte");
    }
    assert_eq!(there.values("cached").await, ["a", "b", "c"]);
    let topics = there.admin.clone().list_topics(v1::ListTopicsRequest::default()).await;
    let names = topics.expect("it lists").into_inner().topics;
    assert!(names.iter().map(|topic| topic.name.as_str()).eq(["cached", "synced"]));
    // Whoever has read on is told why that is not there.
    let result = there.fetch_all(fetch_request("cached", 0, 4)).await.remove(0);
    let taken = summary.taken_ms.to_string();
    let metadata = [("offset", "4"), ("start", "0"), ("end", "3"), ("restored_ms", &taken)];
    check_error(result.error.as_ref(), "OFFSET_OUT_OF_RANGE", &metadata, "restored from a backup");
    let described = there.admin.clone().describe_broker(v1::DescribeBrokerRequest {}).await;
    assert_eq!(described.expect("it does").into_inner().restored_ms, summary.taken_ms);
    // What the group had committed is there, and no further than what it has read.
    let described = taffrail(&restored, &["group", "describe", "g", "--output", "json"]).json();
    let partitions = described["partitions"].as_array().expect("it says how far it is").clone();
    let committed: u64 = partitions.iter().filter_map(|it| it["committed"].as_u64()).sum();
    assert_eq!(committed, 10, "{described}");
    assert_eq!(there.append("cached", &["other"]).await, 3);
    let described = door.admin.clone().describe_broker(v1::DescribeBrokerRequest {}).await;
    assert_eq!(described.expect("it does").into_inner().restored_ms, 0);
}

#[tokio::test]
async fn the_next_backup_takes_the_place_of_the_one_before() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")]).await;
    let filler = "x".repeat(3_000);
    for _ in 0..60 {
        door.produce(produce_batch("t", 0, batch(&[&filler]))).await;
    }
    let place = broker.home.path().join("backup");
    std::fs::create_dir(&place).expect("the place is free");
    let first = back_up(&door, &place).await.expect("an empty directory will do");
    door.append("t", &["more"]).await;
    let second = back_up(&door, &place).await.expect("it is its own");
    assert!(second.verified_bytes < first.verified_bytes / 2, "{first:?}, {second:?}");
    let said = run(&["inspect", &place.display().to_string(), "--output", "json"]).json();
    assert_eq!(said["worst"], serde_json::Value::Null, "{said}");
    assert_eq!(said["directory"]["is_restored"], false);
    let names = std::fs::read_dir(broker.home.path()).expect("a folder").count();
    assert_eq!(names, 2, "nothing else is left");
    let home = Home::new();
    restore(&place, &home);
    let restored = home.start(&[]);
    let door = Door::open(&restored).await;
    assert_eq!(door.online("t").await.partitions[0].high_watermark, 61);
}

#[tokio::test]
async fn a_place_that_is_not_free_is_named_and_left_as_it_is() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let refuse = async |place: &Path, code, reason, says| {
        let shown = place.display().to_string();
        let refused = back_up(&door, place).await.map(tonic::Response::new);
        check_status(refused, code, reason, &[("directory", shown.as_str())], says);
    };
    let free = "DIRECTORY_NOT_FREE";
    let other = broker.home.path().join("other");
    std::fs::create_dir(&other).expect("the place is free");
    std::fs::write(other.join("file"), "mine").expect("there is room");
    refuse(&other, Code::FailedPrecondition, free, "no backup").await;
    assert_eq!(std::fs::read_to_string(other.join("file")).expect("it is there"), "mine");
    for within in [broker.home.data().join("backup"), broker.home.path().to_owned()] {
        refuse(&within, Code::InvalidArgument, "INVALID_DIRECTORY", "beside it").await;
    }
    refuse(Path::new("backup"), Code::InvalidArgument, "INVALID_DIRECTORY", "from /").await;
    // A live directory of another broker, and its backup.
    let second = Broker::new();
    refuse(&second.home.data(), Code::FailedPrecondition, free, "no backup").await;
    let theirs = second.home.path().join("backup");
    back_up(&Door::open(&second).await, &theirs).await.expect("there is room");
    refuse(&theirs, Code::FailedPrecondition, free, "not of this one").await;
    // What was served since may hold what is nowhere else.
    let home = Home::new();
    back_up(&door, &home.data()).await.expect("there is room");
    let served = home.start(&[]);
    refuse(&home.data(), Code::FailedPrecondition, free, "served it since").await;
    drop(served);
    let missing = broker.home.path().join("missing/backup");
    let refused = back_up(&door, &missing).await.map(tonic::Response::new);
    let path = format!("{}.making", missing.display());
    let metadata = [("path", path.as_str())];
    check_status(refused, Code::Internal, "STORAGE_ERROR", &metadata, "No such file");
}

#[tokio::test]
async fn the_command_line_names_places_as_its_user_does() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a"]).await;
    let place = broker.home.path().join("backup").display().to_string();
    let said = taffrail(&broker, &["backup", &place, "--output", "json"]).json();
    assert_eq!((&said["logs"], &said["damaged"]), (&5.into(), &0.into()), "{said}");
    let said = taffrail(&broker, &["backup", &place]).success();
    assert!(said.contains("backed up to") && said.contains("5 logs"), "{said}");
    let data = broker.home.data().display().to_string();
    taffrail(&broker, &["backup", &data]).check(3, &["INVALID_DIRECTORY"]);
}

#[tokio::test]
async fn a_backup_is_restored_where_nothing_is_and_nowhere_else() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a"]).await;
    let backup = broker.home.path().join("backup").display().to_string();
    taffrail(&broker, &["backup", &backup]).success();
    let live = broker.home.data().display().to_string();
    run(&["restore", &backup, &live]).check(2, &["is in use", "place that is free"]);
    assert_eq!(door.append("t", &["b"]).await, 1, "it is as it was");
    let home = Home::new();
    let to = home.data().display().to_string();
    run(&["restore", &live, &to]).check(2, &["is no backup", "taffrail backup"]);
    let link = broker.home.path().join("link");
    std::os::unix::fs::symlink(&backup, &link).expect("the place is free");
    let around = format!("{backup}/../backup/within");
    let linked = link.join("within").display().to_string();
    for within in [format!("{backup}/within"), around, linked] {
        run(&["restore", &backup, &within]).check(2, &["within the backup"]);
    }
    let said = run(&["restore", &backup, &to, "--output", "json"]).json();
    assert_eq!((&said["damaged"], &said["directory"]), (&0.into(), &to.as_str().into()), "{said}");
    run(&["restore", &backup, &to]).check(2, &["is no empty directory"]);
    let restored = home.start(&[]);
    let there = Door::open(&restored).await;
    there.online("t").await;
    assert_eq!(there.values("t").await, ["a"]);
    run(&["restore", &to, &format!("{to}.again")]).check(2, &["a broker has served it"]);
}

#[tokio::test]
async fn partitions_that_cannot_be_opened_are_named_and_all_else_is_backed_up() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let topic = door.create("t", 2).await;
    for partition in 0..2 {
        door.produce(produce_batch("t", partition, batch(&["a"]))).await;
    }
    let folder = broker.partition_folder(&topic.id, 1);
    drop(door);
    let home = broker.stop().await;
    std::fs::remove_dir_all(folder).expect("it is there");
    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    soon(async { while door.status("t", 1).await == v1::PartitionStatus::Recovering {} }).await;
    let backup = home.path().join("backup").display().to_string();
    let ended = taffrail(&broker, &["backup", &backup, "--output", "json"]);
    ended.check(1, &["t/1 cannot be opened"]);
    let said: serde_json::Value = serde_json::from_str(&ended.output).expect("json");
    assert_eq!(said["skipped"], serde_json::json!(["t/1"]), "{said}");
    let restored = Home::new();
    restore(Path::new(&backup), &restored);
    let restored = restored.start(&[]);
    let there = Door::open(&restored).await;
    for partition in 0..2 {
        let recovering = v1::PartitionStatus::Recovering;
        soon(async { while there.status("t", partition).await == recovering {} }).await;
    }
    assert_eq!(there.fetch("t", 0, 0).await.error, None);
    assert_eq!(there.status("t", 1).await, v1::PartitionStatus::Offline);
}
