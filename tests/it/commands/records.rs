//! `produce` and `consume`: what goes in comes out, from every place and in every form.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    PRODUCE_QUAKES, QUAKES, broker_with, broker_with_quakes, create, number, records, sorted,
    taffrail, taffrail_fed,
};
use crate::broker::Broker;

/// 2018-02-05T00:00Z, in the middle of that week.
const MONDAY_MS: u64 = 1_517_788_800_000;

/// Whether a record is to be printed.
type Wanted<'a> = &'a dyn Fn(&Value) -> bool;

#[test]
fn a_file_comes_back_line_by_line_each_once() {
    let broker = broker_with("quakes", 4);
    let produced = taffrail(&broker, &[&PRODUCE_QUAKES[..], &["--output", "json"]].concat());
    produced.check(0, &["appended 1,707 records", "to quakes in", "records/s"]);
    let summary = produced.json();
    assert_eq!((&summary["topic"], &summary["records"]), (&json!("quakes"), &json!(1707)));
    assert!(summary["bytes"].as_u64() > Some(QUAKES.len() as u64), "{summary}");
    assert!(summary["records_per_second"].as_f64() > Some(0.0), "{summary}");

    let consume = ["consume", "quakes", "--from", "earliest", "--no-follow"];
    let output = taffrail(&broker, &consume).success();
    let mut found: Vec<_> = output.lines().collect();
    let mut expected: Vec<_> = QUAKES.lines().collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(expected.len(), 1707);
    assert!(found == expected, "{} lines came back", found.len());
}

#[test]
fn fields_become_keys_and_timestamps() {
    let broker = broker_with_quakes();
    let records = records(&broker, "quakes");
    assert_eq!(records.len(), 1707);
    let mut next = [0; 4];
    for record in records {
        let quake: Value =
            serde_json::from_str(record["value"].as_str().expect("text")).expect("JSON");
        assert_eq!((&record["key"], &record["timestamp"]), (&quake["id"], &quake["time"]));
        assert_eq!((&record["topic"], &record["headers"]), (&json!("quakes"), &json!([])));
        let next = &mut next[number(&record, "partition") as usize];
        assert_eq!(number(&record, "offset"), *next, "offsets follow each other");
        *next += 1;
    }
    assert!(next.iter().all(|end| *end > 300), "keys are spread: {next:?}");
}

#[test]
fn a_time_brings_exactly_what_is_not_older() {
    let broker = broker_with_quakes();
    let arguments = ["consume", "quakes", "--from", "2018-02-05T00:00Z", "--no-follow"];
    let arguments = [&arguments[..], &["--format", "json"]].concat();
    let found = taffrail(&broker, &arguments).json_lines();
    // The file is sorted by time, so each partition is.
    let quakes = QUAKES.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let expected = quakes.filter(|quake| MONDAY_MS <= number(quake, "time"));
    let expected: BTreeSet<_> = expected.map(|quake| quake["id"].to_string()).collect();
    let keys: BTreeSet<_> = found.iter().map(|record| record["key"].to_string()).collect();
    assert!((1..1707).contains(&expected.len()), "the time is within the week");
    assert_eq!((found.len(), keys), (expected.len(), expected));
}

#[test]
fn places_partitions_and_counts_say_what_is_read() {
    let broker = broker_with_quakes();
    let all = records(&broker, "quakes");
    let partition = |record: &Value| number(record, "partition");
    let offset = |record: &Value| number(record, "offset");
    let end = |of: u64| all.iter().filter(|record| partition(record) == of).count() as u64;
    let is_new = |record: &Value| number(record, "timestamp") >= MONDAY_MS;
    let wants: [(&str, Wanted<'_>); 9] = [
        ("--partition 2 --offset 100 --count 5", &|record| {
            partition(record) == 2 && (100..105).contains(&offset(record))
        }),
        ("--from -10 --no-follow", &|record| offset(record) + 10 >= end(partition(record))),
        ("--from 2018-02-05T00:00Z --no-follow", &is_new),
        ("--to 2018-02-05", &|record| !is_new(record)),
        ("--from 300 --to 305", &|record| (300..305).contains(&offset(record))),
        ("--partition 0 --partition 3 --no-follow", &|record| [0, 3].contains(&partition(record))),
        ("--from latest --no-follow", &|_| false),
        ("--count 0", &|_| false),
        ("--no-follow --output json", &|_| true),
    ];
    for (flags, is_wanted) in wants {
        let flags: Vec<_> = flags.split(' ').collect();
        let arguments = [&["consume", "quakes", "--format", "json"], &flags[..]].concat();
        let found = sorted(taffrail(&broker, &arguments).json_lines());
        let expected: Vec<_> = all.iter().filter(|record| is_wanted(record)).cloned().collect();
        let found_count = found.len();
        assert!(found == expected, "{flags:?}: {found_count} of {} records", expected.len());
    }
}

#[test]
fn a_template_writes_records_as_it_says() {
    let broker = broker_with("t", 1);
    let line = r#"{"key":"k","value":"v","timestamp":1517788800123,"headers":[{"name":"a","value":"1"},{"name":"b","value":"2"}]}"#;
    taffrail_fed(&broker, &["produce", "t", "--format", "json"], line).success();
    let template = r"{{{topic}/{partition}@{offset}}}\t{timestamp}={timestamp_ms}\t{key}:{value} {headers}\n\n";
    let arguments = ["consume", "t", "--no-follow", "--format", template];
    let expected = "{t/0@0}\t2018-02-05T00:00:00.123Z=1517788800123\tk:v a=1,b=2\n\n";
    assert_eq!(taffrail(&broker, &arguments).success(), expected);
}

#[test]
fn a_topic_is_copied_by_a_pipe() {
    let broker = broker_with_quakes();
    let odd = b"\xff not UTF-8\n\n\\ \"quoted\"\t\xf0\x9f\x8c\x8a\n";
    let headers = ["--header", "wave=\u{1f30a}", "--header", "wave=", "--partition", "3"];
    taffrail_fed(&broker, &[&["produce", "quakes"], &headers[..]].concat(), odd).success();
    let nothing = r#"{"key":"k","value":null}"#;
    taffrail_fed(&broker, &["produce", "quakes", "--format", "json"], nothing).success();

    create(&broker, "copy", 4);
    let arguments = ["consume", "quakes", "--no-follow", "--format", "json"];
    let lines = taffrail(&broker, &arguments).success();
    taffrail_fed(&broker, &["produce", "copy", "--format", "json"], lines).success();
    let mut copy = records(&broker, "copy");
    for record in &mut copy {
        record["topic"] = json!("quakes");
    }
    let original = records(&broker, "quakes");
    assert_eq!(original.len(), 1711);
    assert!(copy == original, "{} records are in the copy", copy.len());
}

#[test]
fn input_is_taken_apart_as_flags_say() {
    let broker = Broker::new();
    let plain = |key: Value, value: &str| (key, json!(value), json!([]));
    let headers = json!([{ "name": "a", "value": "1=2" }, { "name": "b", "value": "" }]);
    let cases = [
        (
            "",
            &b"one\n\ntwo"[..],
            vec![plain(Value::Null, "one"), plain(Value::Null, ""), plain(Value::Null, "two")],
        ),
        (
            "--key-separator :",
            b"a:1\nb:2:3\n:\n",
            vec![plain(json!("a"), "1"), plain(json!("b"), "2:3"), plain(json!(""), "")],
        ),
        (
            "--format null-delimited",
            b"one\ntwo\0\0three",
            vec![
                plain(Value::Null, "one\ntwo"),
                plain(Value::Null, ""),
                plain(Value::Null, "three"),
            ],
        ),
        ("--header a=1=2 --header b=", b"one\n", vec![(Value::Null, json!("one"), headers)]),
        (
            "--key-field k",
            b"{\"k\":7,\"x\":{\"k\":8}}\n",
            vec![plain(json!("7"), r#"{"k":7,"x":{"k":8}}"#)],
        ),
        ("-", b"one\n", vec![plain(Value::Null, "one")]),
        ("", b"", vec![]),
    ];
    for (number, (flags, input, expected)) in cases.into_iter().enumerate() {
        let topic = format!("t{number}");
        create(&broker, &topic, 2);
        // Into one partition, so that the order is the input's.
        let flags = flags.split(' ').filter(|flag| !flag.is_empty());
        let arguments: Vec<_> =
            ["produce", &topic, "--partition", "1"].into_iter().chain(flags).collect();
        let ended = taffrail_fed(&broker, &arguments, input);
        ended.check(0, &[&format!("appended {} record", expected.len())]);
        assert_eq!(ended.output, "", "the summary is no result");
        let found = records(&broker, &topic);
        assert!(found.iter().all(|record| record["partition"] == 1), "{arguments:?}");
        let found = found
            .into_iter()
            .map(|it| (it["key"].clone(), it["value"].clone(), it["headers"].clone()));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{arguments:?}");
    }
}

#[test]
fn a_quiet_produce_says_nothing() {
    let broker = broker_with("t", 1);
    let ended = taffrail_fed(&broker, &["produce", "t", "-q"], "one\n");
    ended.check(0, &[]);
    assert_eq!((ended.output.as_str(), ended.errors.as_str()), ("", ""));
}

#[test]
fn what_comes_before_a_bad_line_is_appended_and_nothing_behind_it() {
    let broker = broker_with("t", 1);
    let file = broker.home.path().join("quakes.ndjson");
    let file_name = file.to_str().expect("text");
    let lines = "{\"id\":\"a\"}\n{\"id\":\"b\"}\nnonsense\n{\"id\":\"c\"}\n";
    std::fs::write(&file, lines).expect("room");
    let keyed = ["produce", "t", "--key-field", "id"];
    let place = format!("{file_name}:3: ");
    let ended = taffrail(&broker, &[&keyed[..], &[file_name]].concat());
    ended.check(1, &[&place, "not a JSON object", "2 records were appended to t"]);
    let ended = taffrail_fed(&broker, &keyed, "{\"id\":\"d\"}\n{}\n");
    ended.check(1, &["standard input:2: ", "no field \"id\"", "1 record was appended to t"]);
    let found = records(&broker, "t");
    let keys: Vec<_> = found.iter().map(|record| &record["key"]).collect();
    assert_eq!(keys, ["a", "b", "d"]);
}

#[test]
fn who_does_not_wait_still_hears_of_refusals_and_of_nothing_else() {
    let broker = broker_with("t", 1);
    let produce = ["produce", "t", "--format", "json", "--acks", "none"];
    let sent = taffrail_fed(&broker, &produce, "{\"value\":\"a\"}\n");
    sent.check(0, &["sent 1 record"]);
    assert!(!sent.errors.contains("WARN"), "{}", sent.errors);
    let late = "{\"value\":\"b\",\"timestamp\":\"2999-01-01T00:00Z\"}\n";
    let refused = taffrail_fed(&broker, &produce, late);
    refused.check(3, &["1 record was sent to t", "1 were refused", "TIMESTAMP_AHEAD"]);
    assert_eq!(records(&broker, "t").len(), 1);

    let bench = ["bench", "produce", "--topic", "__catalog", "--acks", "none", "--records", "9"];
    let refused = taffrail(&broker, &bench);
    refused.check(3, &["not all records were appended", "INTERNAL_TOPIC"]);
    assert!(refused.output.contains("refused batches"), "{}", refused.output);
}
