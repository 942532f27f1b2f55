//! Exit codes, and that each failure names its cause: 2 for wrong arguments, 3 for a refusal, 4 for
//! a broker that cannot be reached, 1 for the rest.

use tokio::net::TcpSocket;

use super::{broker_with, records, taffrail_fed};
use crate::broker::{Broker, Home};
use crate::program::run;

/// Checks how commands end, and what they say. Each has a line to read.
fn check(broker: &Broker, code: i32, cases: &[(&[&str], &str)]) {
    for (arguments, says) in cases {
        let ended = taffrail_fed(broker, arguments, "{\"x\":1}\n");
        println!("{arguments:?}");
        ended.check(code, &["error: ", says]);
        assert_eq!(ended.output, "", "{arguments:?}");
    }
}

#[test]
fn wrong_arguments_are_named_and_nothing_is_done() {
    let broker = broker_with("t", 4);
    let home = Home::new();
    let data = home.data();
    let data = data.to_str().expect("text");
    check(
        &broker,
        2,
        &[
            (&["topic", "lst"], "'lst'"),
            (&["topic", "list", "--frob"], "'--frob'"),
            (&["topic", "list", "--server", "http://bad url"], "\"http://bad url\""),
            (&["topic", "create", "a/b"], "'/'"),
            (&["produce", "a/b"], "'/'"),
            (&["consume", "a/b"], "'/'"),
            (&["topic", "create", "u", "--set", "durability"], "K=V"),
            (&["topic", "create", "u", "--partitions", "0"], "--partitions"),
            (&["topic", "alter", "t"], "--set"),
            (&["produce", "t", "--format", "json", "--key-field", "x"], "--key-"),
            (&["produce", "t", "--key-separator", ":", "--key-field", "x"], "--key-"),
            (&["produce", "t", "--key-separator", ""], "--key-separator"),
            (&["produce", "t", "--header", "=x"], "K=V"),
            (&["produce", "t", "--partition", "9"], "no partition 9"),
            (&["consume", "t", "--partition", "9"], "no partition 9"),
            (&["consume", "t", "--from", "soon"], "\"soon\" is no place"),
            (&["consume", "t", "--from", "1", "--offset", "1"], "--offset"),
            (&["consume", "t", "--format", "{oops}"], "{oops}"),
            (&["consume", "t", "--format", "vaule"], "vaule"),
            (&["serve", "--data", data, "--set", "memori=1"], "did you mean \"memory\"?"),
            (&["serve", "--data", data, "--set", "memory"], "NAME=VALUE"),
            (&["serve", "--data", data, "--listen", "here"], "\"here\""),
            (&["demo", "--rate", "0"], "--rate"),
            (&["bench", "produce", "--topic", "a b"], "--topic"),
            (&["bench", "produce", "--duration", "7"], "30s"),
            (&["completions", "dos"], "'dos'"),
            (&["produce", "t", "--producer-name", "p", "--acks", "none"], "acks"),
            (&["produce", "t", "--producer-name", ""], "1 to 200"),
        ],
    );
    assert!(records(&broker, "t").is_empty());
    assert!(!home.data().exists(), "nothing was set up");
}

#[test]
fn a_refusal_of_the_broker_is_told_with_its_reason() {
    let broker = broker_with("t", 4);
    check(
        &broker,
        3,
        &[
            (&["topic", "create", "t"], "TOPIC_EXISTS"),
            (&["topic", "create", "u", "--set", "colour=red"], "UNKNOWN_SETTING"),
            (&["topic", "describe", "nope"], "UNKNOWN_TOPIC"),
            (&["topic", "alter", "t", "--set", "durability=maybe"], "INVALID_SETTING"),
            (&["topic", "add-partitions", "t", "--to", "4"], "INVALID_PARTITION_COUNT"),
            (&["topic", "delete", "nope"], "UNKNOWN_TOPIC"),
            (&["produce", "nope"], "UNKNOWN_TOPIC"),
            (&["produce", "__catalog"], "INTERNAL_TOPIC"),
            (&["consume", "nope"], "UNKNOWN_TOPIC"),
            (&["consume", "nope", "--to", "3"], "UNKNOWN_TOPIC"),
            (&["consume", "t", "--offset", "1"], "OFFSET_OUT_OF_RANGE"),
            (&["bench", "consume", "--topic", "nope"], "UNKNOWN_TOPIC"),
        ],
    );
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_is_named_with_what_to_do() {
    // A port that is taken, and where nobody listens.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let url = format!("http://{}", socket.local_addr().expect("bound"));
    let commands = [
        "topic list",
        "topic create t",
        "produce t",
        "consume t",
        "consume t --group g",
        "group list",
        "group describe g",
        "bench produce",
    ];
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        let ended = run(&[&["--server", &url], &words[..]].concat());
        ended.check(4, &["error: ", &url, "is the broker running?", "taffrail serve"]);
        assert_eq!(ended.output, "", "{command}");
    }
}

#[test]
fn what_fails_otherwise_is_told_with_its_place() {
    let broker = broker_with("t", 1);
    let missing = broker.home.path().join("missing");
    let missing = missing.to_str().expect("text");
    check(
        &broker,
        1,
        &[
            (&["produce", "t", missing], missing),
            (&["produce", "t", "--key-field", "y"], "standard input:1: no field \"y\""),
            (&["produce", "t", "--format", "json"], "standard input:1: unknown field `x`"),
            (&["produce", "t", "--key-separator", "|"], "standard input:1: no separator \"|\""),
            (&["inspect", missing], missing),
        ],
    );
    assert!(records(&broker, "t").is_empty());
}
