//! `bench` and `completions`: that they do what they say, not how fast.

use serde_json::{Value, json};

use super::taffrail;
use crate::broker::Broker;
use crate::program::run;

/// A figure of a report's only case.
fn figure<'a>(report: &'a Value, name: &str) -> &'a Value {
    &report["cases"][0]["figures"][name]
}

#[test]
fn a_bench_measures_as_many_records_as_it_is_told_and_cleans_up() {
    let broker = Broker::new();
    for workload in ["produce", "consume"] {
        let arguments = ["bench", workload, "--records", "2000", "--output", "json"];
        let report = taffrail(&broker, &arguments).json();
        assert_eq!(report["cases"].as_array().map(Vec::len), Some(1), "{report}");
        let case = &report["cases"][0];
        assert_eq!((&case["workload"], &case["case"]), (&json!(workload), &json!(workload)));
        assert_eq!(case["options"]["records"], json!(2000), "{report}");
        assert_eq!(figure(&report, "records")["runs"], json!([2000.0]), "{report}");
        let positive = [
            "seconds",
            "records_per_second",
            "bytes_per_second",
            "broker_cpu_per_million_s",
            "client_cpu_per_million_s",
            "broker_own_bytes",
            "broker_peak_bytes",
        ];
        for name in positive {
            assert!(figure(&report, name)["median"].as_f64() > Some(0.0), "{name} in {report}");
        }
        let latencies = ["p50", "p99", "p999", "max"].map(|name| format!("latency_{name}_us"));
        let is_there = |name: &String| figure(&report, name)["median"].as_f64() > Some(0.0);
        assert_eq!(latencies.iter().all(is_there), workload == "produce", "{report}");
    }
    let topics = taffrail(&broker, &["topic", "list", "--output", "json"]).json();
    assert_eq!(topics, json!([]));
}

#[test]
fn runs_are_counted_behind_those_that_warm_up_and_compared_with_earlier_ones() {
    let broker = Broker::new();
    let bench = ["bench", "produce", "--records", "500", "--in-flight", "8", "--producers", "3"];
    let runs = ["--runs", "3", "--warm-up", "1", "--consumers", "2", "--stalled", "1"];
    let arguments = [&bench[..], &runs].concat();
    let report = taffrail(&broker, &[&arguments[..], &["--output", "json"]].concat()).json();
    for name in ["records", "latency_p99_us", "end_to_end_p99_us", "records_per_sync"] {
        let series = figure(&report, name);
        assert_eq!(series["runs"].as_array().map(Vec::len), Some(3), "{name} in {report}");
        let [min, median, max] = ["min", "median", "max"].map(|it| series[it].as_f64());
        assert!(Some(0.0) < min && min <= median && median <= max, "{name} in {report}");
    }
    let place = tempfile::tempdir().expect("there is room");
    let file = place.path().join("before.json");
    std::fs::write(&file, report.to_string()).expect("it is written");
    let file = file.to_str().expect("a path that is text");
    let compared = taffrail(&broker, &[&bench[..], &["--compare", file]].concat()).success();
    let header = compared.lines().next().unwrap_or_default();
    assert!(header.contains("BEFORE") && header.contains("NOW / BEFORE"), "{compared}");
    let records = compared.lines().find(|line| line.contains(" records "));
    assert!(records.is_some_and(|line| line.trim_end().ends_with("1.00")), "{compared}");
    let topics = taffrail(&broker, &["topic", "list", "--output", "json"]).json();
    assert_eq!(topics, json!([]));
}

#[test]
fn standard_workloads_run_on_a_broker_of_their_own_that_goes_with_its_data() {
    let place = tempfile::tempdir().expect("there is room");
    let data = place.path().to_str().expect("a path that is text");
    let cases =
        ["w1-fsync-1k-lz4", "w3-16", "w5-cold", "w5-beside", "w6-stalled-5", "w7", "w9-parked"];
    let standard = ["bench", "standard", "--scale", "0.002", "--runs", "1", "--warm-up", "0"];
    let arguments = [&standard[..], &cases, &["--data", data, "--output", "json"]].concat();
    let report = run(&arguments).json();
    let told = report["cases"].as_array().expect("a list");
    let figures = [
        "stored_per_value_byte",
        "records_per_sync",
        "bytes_per_second",
        "p99_beside_per_alone",
        "end_to_end_p99_us",
        "killed_first_ack_s",
        "acks_per_second",
    ];
    assert_eq!(told.len(), cases.len(), "{report}");
    for (case, figure) in told.iter().zip(figures) {
        let value = case["figures"][figure]["median"].as_f64();
        assert!(value > Some(0.0), "{figure} in {case}");
    }
    let stored = told[0]["figures"]["stored_per_value_byte"]["median"].as_f64();
    assert!(stored < Some(0.8), "it compresses: {}", told[0]);
    let left: Vec<_> = std::fs::read_dir(place.path()).expect("a directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_bench_cannot_do_is_said_with_what_to_do_instead() {
    let broker = Broker::new();
    let place = tempfile::tempdir().expect("there is room");
    let garbage = place.path().join("garbage.json");
    std::fs::write(&garbage, "{}").expect("it is written");
    let garbage = garbage.to_str().expect("a path that is text");
    let wrong: [(&[&str], &[&str]); 6] = [
        (&["standard", "w77"], &["w77", "--list"]),
        (&["standard", "--scale", "2"], &["--scale", "up to 1"]),
        (&["standard", "w7"], &["w7", "--data"]),
        (&["consume", "--cold"], &["consume", "--data"]),
        (&["produce", "--compare", garbage], &["garbage.json", "--output json"]),
        (&["produce", "--compare", "nowhere"], &["nowhere", "--output json"]),
    ];
    for (arguments, words) in wrong {
        let refused = taffrail(&broker, &[&["bench"], arguments].concat());
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", refused.errors);
        let says = |word: &&str| refused.errors.contains(*word);
        assert!(words.iter().all(says), "{arguments:?}: {}", refused.errors);
    }
    let listed = run(&["bench", "standard", "--list"]).success();
    assert!(
        ["w1-", "w2-", "w3-", "w4-", "w5-", "w6-", "w7", "w8", "w9"]
            .iter()
            .all(|it| listed.contains(it))
    );
}

#[test]
fn a_bench_whose_records_are_refused_says_so_and_fails() {
    let broker = Broker::new();
    for mode in [&[][..], &["--in-flight", "2"], &["--rate", "1000"]] {
        let bench = ["bench", "produce", "--topic", "__catalog", "--records", "9"];
        let refused = taffrail(&broker, &[&bench[..], mode].concat());
        assert_eq!(refused.status.code(), Some(3), "{mode:?}: {}", refused.errors);
        assert!(refused.errors.contains("INTERNAL_TOPIC"), "{mode:?}: {}", refused.errors);
        let failed = refused.output.lines().find(|line| line.contains("failed records"));
        assert!(failed.is_some_and(|it| it.trim_end().ends_with('9')), "{}", refused.output);
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).success();
        let words = ["taffrail", "produce", "add-partitions", "timestamp-field"];
        assert!(words.iter().all(|word| script.contains(word)), "{shell}: {script}");
    }
}
