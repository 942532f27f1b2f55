//! `inspect`: what lies on disk, and what is wrong with it.

use std::path::Path;

use serde_json::json;

use super::{broker_with_quakes, number, taffrail};
use crate::broker::Home;
use crate::program::run;

/// A data directory of a broker that has stopped, with the earthquakes in it, and the path of a
/// segment of theirs.
async fn stopped() -> (Home, String) {
    let broker = broker_with_quakes();
    let arguments = ["topic", "describe", "quakes", "--output", "json"];
    let described = taffrail(&broker, &arguments).json();
    let folder = broker.partition_folder(described["id"].as_str().expect("text"), 2);
    let home = broker.stop().await;
    (home, text(&folder.join("00000000000000000000.log")))
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_sound_directory_is_said_to_be_sound() {
    let broker = broker_with_quakes();
    let data = text(&broker.home.data());
    let said = run(&["inspect", &data]).success();
    for words in [&data, "quakes/3", "everything is sound", &format!("process {}", broker.id())] {
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
    let _home = broker.stop().await;
    let said = run(&["inspect", &data, "--segments"]).success();
    for words in ["not in use", "quakes/0", "everything is sound", "INDEX"] {
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
    let report = run(&["inspect", &data, "--output", "json"]).json();
    assert_eq!((&report["worst"], &report["findings"]), (&json!(null), &json!([])));
    let logs = report["logs"].as_array().expect("a list").iter();
    let quakes = logs.filter(|log| log["label"].as_str().expect("text").starts_with("quakes/"));
    let counts: Vec<_> = quakes.map(|log| number(log, "records")).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (4, 1707));
}

#[tokio::test]
async fn a_segment_file_can_be_read_alone() {
    let (_home, segment) = stopped().await;
    let mut headers = run(&["inspect", &segment, "--headers", "--output", "json"]).json_lines();
    let records = run(&["inspect", &segment, "--records", "--output", "json"]).json_lines();
    let header = headers.remove(0);
    assert_eq!((&header["kind"], &header["label"]), (&json!("segment"), &json!("quakes/2")));
    let batches = headers;
    assert!(batches.iter().all(|batch| batch["kind"] == "batch"));
    let count: u64 = batches.iter().map(|batch| number(batch, "records")).sum();
    assert!(300 < count, "{count} records");
    assert_eq!(records.len() as u64, count);
    for (offset, record) in records.iter().enumerate() {
        assert_eq!((&record["topic"], &record["partition"]), (&json!("quakes"), &json!(2)));
        assert_eq!(number(record, "offset"), offset as u64);
    }
}

#[tokio::test]
async fn one_byte_that_changed_is_found() {
    let (home, segment) = stopped().await;
    let data = text(&home.data());
    let arguments = ["inspect", &segment, "--headers", "--output", "json"];
    let batch = run(&arguments).json_lines().remove(1);
    let (position, bytes) = (number(&batch, "position"), number(&batch, "bytes"));
    let end = number(&batch, "base_offset") + number(&batch, "records");
    let mut file = std::fs::read(&segment).expect("a file");
    file[(position + bytes / 2) as usize] ^= 1;
    std::fs::write(&segment, file).expect("room");

    let ended = run(&["inspect", &data]);
    ended.check(1, &["error: there is damage in one place"]);
    let place = format!("damage: {segment}, byte {position}, offsets 0 to {end}");
    assert!(ended.output.contains(&place), "{}", ended.output);
    let command = format!("taffrail repair {data} --accept-loss quakes/2");
    assert!(ended.output.contains(&command), "{}", ended.output);

    let ended = run(&["inspect", &data, "--output", "json"]);
    ended.check(1, &["damage"]);
    let report: serde_json::Value = serde_json::from_str(&ended.output).expect("JSON");
    assert_eq!(report["worst"], "damage");
    let finding = &report["findings"][0];
    assert_eq!((&finding["path"], &finding["position"]), (&json!(segment), &json!(position)));

    let ended = run(&arguments);
    ended.check(1, &["damage"]);
    let first = ended.output.lines().nth(1).expect("a line");
    let first: serde_json::Value = serde_json::from_str(first).expect("JSON");
    assert!(first["damaged"].as_str().expect("a cause").contains("crc"), "{first}");
    assert_eq!((&first["from"], &first["to"]), (&json!(0), &json!(end)));
    run(&["inspect", &segment, "--records"]).check(1, &["damage"]);
}

#[tokio::test]
async fn what_a_file_holds_can_be_read_by_people_and_by_programs() {
    let (home, segment) = stopped().await;
    let data = home.data();
    let folder = Path::new(&segment).parent().expect("a folder");
    let beside = |name: &str| text(&folder.join(name));
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one"));
    let mut checkpoints = files.map(|entry| text(&entry.path()));
    let checkpoint = checkpoints.find(|path| path.contains("producers.")).expect("one");
    for (path, kind, list, says) in [
        (beside("00000000000000000000.index"), "index", "entries", "POSITION"),
        (checkpoint, "producers", "producers", "NEXT SEQUENCE"),
        (text(&data.join("recovery-points.a")), "recovery_points", "entries", "RECOVERY POINT"),
    ] {
        let said = run(&["inspect", &path]).success();
        assert!(said.contains(says), "{said}");
        let report = run(&["inspect", &path, "--output", "json"]).json();
        assert_eq!(report["kind"], kind);
        assert!(report[list].is_array(), "{report}");
        let mut bytes = std::fs::read(&path).expect("a file");
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).expect("room");
        run(&["inspect", &path]).check(1, &["damaged", "checksum"]);
    }
    let said = run(&["inspect", &segment, "--headers"]).success();
    assert!(said.starts_with("segment ") && said.contains("\nbatch "), "{said}");
    let said = run(&["inspect", &segment, "--records"]).success();
    assert!(said.starts_with("0 "), "{said}");
}

#[tokio::test]
async fn the_events_of_the_catalog_can_be_read_without_a_broker() {
    let (home, _) = stopped().await;
    let data = text(&home.data());
    let events = run(&["inspect", &data, "--catalog", "--output", "json"]).json_lines();
    let created = &events[0];
    assert_eq!((number(created, "offset"), &created["kind"]), (0, &json!("event")));
    let value = &created["value"];
    let expected = (&json!("topic_created"), &json!("quakes"), &json!(4));
    assert_eq!((&value["type"], &value["name"], &value["partitions"]), expected);
    let said = run(&["inspect", &data, "--catalog"]).success();
    assert!(said.contains("topic_created"), "{said}");
    let said = run(&["inspect", &data, "--producers"]).success();
    assert!(said.contains("numbers_reserved"), "{said}");
}
