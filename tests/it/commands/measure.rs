//! `bench` and `completions`: that they do what they say, not how fast.

use serde_json::json;

use super::taffrail;
use crate::broker::Broker;
use crate::program::run;

#[test]
fn a_bench_measures_as_many_records_as_it_is_told_and_cleans_up() {
    let broker = Broker::new();
    for workload in ["produce", "consume"] {
        let arguments = ["bench", workload, "--records", "2000", "--output", "json"];
        let report = taffrail(&broker, &arguments).json();
        assert_eq!((&report["workload"], &report["records"]), (&json!(workload), &json!(2000)));
        assert_eq!((&report["bytes"], &report["failed_records"]), (&json!(2_048_000), &json!(0)));
        for name in ["seconds", "records_per_second", "bytes_per_second"] {
            assert!(report[name].as_f64() > Some(0.0), "{name} in {report}");
        }
        let latencies = ["p50", "p99", "p999", "max"].map(|name| &report["latency_us"][name]);
        let are_numbers = latencies.iter().all(|latency| latency.as_u64() > Some(0));
        assert_eq!(are_numbers, workload == "produce", "{report}");
    }
    let topics = taffrail(&broker, &["topic", "list", "--output", "json"]).json();
    assert_eq!(topics, json!([]));
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).success();
        let words = ["taffrail", "produce", "add-partitions", "timestamp-field"];
        assert!(words.iter().all(|word| script.contains(word)), "{shell}: {script}");
    }
}
