//! `topic`: create, list, describe, alter, add partitions, delete.

use serde_json::json;

use super::{create, records, taffrail, taffrail_fed};
use crate::broker::Broker;

/// Checks that a command prints these words.
#[track_caller]
fn check(broker: &Broker, arguments: &[&str], prints: &[&str]) {
    let arguments = [&["topic"], arguments].concat();
    let output = taffrail(broker, &arguments).success();
    for words in prints {
        assert!(output.contains(words), "{arguments:?}: {output:?} does not say {words:?}");
    }
}

/// What a command prints as JSON.
#[track_caller]
fn json_of(broker: &Broker, arguments: &[&str]) -> serde_json::Value {
    taffrail(broker, &[&["topic"], arguments, &["--output", "json"]].concat()).json()
}

#[test]
fn topics_are_made_shown_changed_and_deleted_in_words() {
    let broker = Broker::new();
    let settings = ["--set", "durability=page_cache", "--set", "segment.ms=1h"];
    let create = [&["create", "quakes", "--partitions", "4"], &settings[..]].concat();
    check(&broker, &create, &["created quakes with 4 partitions"]);
    check(&broker, &["create", "one"], &["created one with 1 partition\n"]);
    let columns = ["TOPIC", "PARTITIONS", "CREATED", "SETTINGS"];
    check(&broker, &["list"], &columns);
    check(&broker, &["list"], &["one", "quakes", "durability=page_cache segment.ms=1h"]);
    check(&broker, &["list", "--internal"], &["__catalog"]);
    let described = ["quakes  id ", "page_cache", "1MiB", "default", "online", "SEGMENTS"];
    check(&broker, &["describe", "quakes"], &described);
    check(&broker, &["alter", "quakes", "--set", "durability="], &["altered quakes", "fsync"]);
    let grow = ["add-partitions", "quakes", "--to", "6"];
    check(&broker, &grow, &["quakes has 6 partitions"]);
    check(&broker, &["delete", "quakes"], &["deleted quakes"]);
    let listed = taffrail(&broker, &["topic", "list"]).success();
    assert!(listed.contains("one") && !listed.contains("quakes"), "{listed}");
}

#[test]
fn topics_are_made_shown_changed_and_deleted_in_json() {
    let broker = Broker::new();
    assert_eq!(json_of(&broker, &["list"]), json!([]));
    let create = ["create", "quakes", "--partitions", "4", "--set", "segment.ms=1h"];
    let created = json_of(&broker, &create);
    assert_eq!((&created["name"], &created["partitions"]), (&json!("quakes"), &json!(4)));
    let settings = &created["settings"];
    assert_eq!(settings["segment.ms"], json!({ "value": "1h", "is_default": false }));
    assert_eq!(settings["durability"], json!({ "value": "fsync", "is_default": true }));
    assert_eq!(json_of(&broker, &["list"]), json!([created]));

    let described = json_of(&broker, &["describe", "quakes"]);
    assert_eq!(described["id"], created["id"]);
    let partitions = described["partition_list"].as_array().expect("a list");
    assert_eq!(partitions.len(), 4);
    for (index, partition) in partitions.iter().enumerate() {
        assert_eq!(partition["partition"], json!(index));
        assert_eq!((&partition["status"], &partition["log_end"]), (&json!("online"), &json!(0)));
    }

    let altered = json_of(&broker, &["alter", "quakes", "--set", "segment.ms="]);
    assert_eq!(altered["settings"]["segment.ms"], json!({ "value": "none", "is_default": true }));
    let grown = json_of(&broker, &["add-partitions", "quakes", "--to", "6"]);
    assert_eq!((&grown["id"], &grown["partitions"]), (&created["id"], &json!(6)));
    assert_eq!(json_of(&broker, &["delete", "quakes"]), json!({ "deleted": "quakes" }));
    assert_eq!(json_of(&broker, &["list"]), json!([]));
}

#[test]
fn the_oldest_records_of_a_partition_are_deleted_by_offset_or_all_of_them() {
    let broker = Broker::new();
    create(&broker, "t", 2);
    taffrail_fed(&broker, &["produce", "t", "--partition", "1"], "a\nb\nc\nd\n").success();
    let delete = ["delete-records", "t", "--partition", "1", "--before"];
    check(&broker, &[&delete[..], &["3"]].concat(), &["t/1 has offsets 3 to 4 now"]);
    let left: Vec<_> = records(&broker, "t").iter().map(|it| it["offset"].clone()).collect();
    assert_eq!(left, [json!(3)]);
    let deleted = json_of(&broker, &[&delete[..], &["latest"]].concat());
    let stands = (&deleted["partition"], &deleted["log_start"], &deleted["high_watermark"]);
    assert_eq!(stands, (&json!(1), &json!(4), &json!(4)));
    assert!(records(&broker, "t").is_empty());
    for (before, code, says) in [
        ("5", 3, "OFFSET_OUT_OF_RANGE"),
        ("some", 2, "\"some\" is neither an offset nor `latest`"),
        ("-1", 2, "--before"),
    ] {
        let arguments = [&["topic"], &delete[..], &[before]].concat();
        taffrail(&broker, &arguments).check(code, &[says]);
    }
    let without = taffrail(&broker, &["topic", "delete-records", "t", "--partition", "1"]);
    without.check(2, &["--before"]);
}

#[test]
fn describe_shows_how_segments_are_sized_by_what_is_kept() {
    let broker = Broker::new();
    let kept = ["--set", "retention.bytes=800MiB", "--set", "retention.ms=8d"];
    taffrail(&broker, &[&["topic", "create", "t"], &kept[..]].concat()).success();
    let described = taffrail(&broker, &["topic", "describe", "t"]).success();
    let row = |name: &str| {
        let row = described.lines().find(|line| line.trim_start().starts_with(name));
        row.expect("a row").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("segment.bytes"), "segment.bytes 100MiB default");
    assert_eq!(row("segment.ms"), "segment.ms 1d default");
    assert_eq!(row("retention.ms"), "retention.ms 8d");
    let settings = json_of(&broker, &["describe", "t"])["settings"].clone();
    assert_eq!(settings["segment.bytes"], json!({ "value": "100MiB", "is_default": true }));
    assert_eq!(settings["retention.bytes"], json!({ "value": "800MiB", "is_default": false }));
}
