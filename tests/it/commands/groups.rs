//! `consume --group` and `group`: members as processes, and what people see and do from outside.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{broker_with, command, create, number, taffrail, taffrail_fed};
use crate::broker::{Broker, PATIENCE};
use crate::program::Program;

/// Starts a member of group `g`, which prints where each record is.
fn member(broker: &Broker, flags: &[&str]) -> Program {
    let arguments = ["consume", "t", "--group", "g", "--format", "{partition} {offset}\n"];
    Program::start(&mut command(broker, &[&arguments[..], flags].concat()))
}

/// What a member prints that ends by itself.
fn printed(broker: &Broker, flags: &[&str]) -> Vec<String> {
    let output = member(broker, flags).end().success();
    output.lines().map(str::to_owned).collect()
}

/// Appends so many records to a partition of `t`.
fn append(broker: &Broker, partition: u32, count: usize) {
    let partition = partition.to_string();
    let lines = "x\n".repeat(count);
    taffrail_fed(broker, &["produce", "t", "--partition", &partition], lines).success();
}

fn describe(broker: &Broker) -> Value {
    taffrail(broker, &["group", "describe", "g", "--output", "json"]).json()
}

/// What the group has committed of each partition.
fn committed(broker: &Broker) -> Vec<Option<u64>> {
    let described = describe(broker);
    let partitions = described["partitions"].as_array().expect("a list");
    partitions.iter().map(|it| it["committed"].as_u64()).collect()
}

/// Looks at the group until it is so.
#[track_caller]
fn until(broker: &Broker, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let described = describe(broker);
        if is_so(&described) {
            return described;
        }
        assert!(Instant::now() < deadline, "it stays {described}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether so many members have an even share each, and all of it.
fn is_shared(described: &Value, members: usize) -> bool {
    let members_list = described["members"].as_array().expect("a list");
    let partitions = described["partitions"].as_array().expect("a list");
    let share = (partitions.len() / members.max(1)) as u64;
    members_list.len() == members
        && members_list.iter().all(|it| number(it, "partitions") == share)
        && partitions.iter().all(|it| !it["owner"].is_null() && it["next_owner"].is_null())
}

#[test]
fn processes_share_and_whoever_is_interrupted_commits_and_leaves() {
    let broker = broker_with("t", 4);
    (0..4).for_each(|partition| append(&broker, partition, 2));
    let a = member(&broker, &[]);
    let mut by_a: BTreeSet<String> = a.lines(8).into_iter().collect();
    assert_eq!(by_a.len(), 8);
    let b = member(&broker, &[]);
    let described = until(&broker, |described| is_shared(described, 2));
    (0..4).for_each(|partition| append(&broker, partition, 1));
    by_a.extend(a.lines(10));
    let by_b = b.lines(2);
    let live: BTreeSet<_> = by_a.iter().chain(&by_b).cloned().collect();
    assert_eq!((by_a.len(), live.len()), (10, 12), "each record once: {by_a:?} {by_b:?}");

    // Long before a session could end.
    let began = Instant::now();
    a.signal("INT");
    let ended = a.end();
    ended.check(0, &["now reading t/0, t/1, t/2, t/3", "giving on t/"]);
    assert_eq!(ended.output.lines().count(), 10);
    until(&broker, |described| is_shared(described, 1));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let owners = described["partitions"].as_array().expect("a list");
    assert_eq!(owners.iter().map(|it| &it["owner"]).collect::<Vec<_>>().len(), 4);
    (0..4).for_each(|partition| append(&broker, partition, 1));
    let by_b = b.lines(6);
    assert!(by_b[2..].iter().all(|line| line.ends_with(" 3")), "taken over anew: {by_b:?}");
    b.signal("INT");
    b.end().success();
    assert_eq!(committed(&broker), [Some(4); 4]);
    let described = describe(&broker);
    assert_eq!((&described["lag"], &described["members"]), (&json!(0), &json!([])));
}

#[test]
fn what_a_process_had_that_is_killed_goes_to_another_once_its_session_has_ended() {
    let broker = broker_with("t", 2);
    (0..2).for_each(|partition| append(&broker, partition, 1));
    let session = ["--session-timeout", "1s"];
    let mut a = member(&broker, &session);
    a.lines(2);
    let b = member(&broker, &session);
    until(&broker, |described| is_shared(described, 2));
    a.kill();
    until(&broker, |described| is_shared(described, 1));
    (0..2).for_each(|partition| append(&broker, partition, 1));
    // What the first one had not committed comes again, and nothing is passed over.
    let last: BTreeSet<_> = ["0 1", "1 1"].into_iter().map(str::to_owned).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut lines = 2;
    while !last.is_subset(&b.lines(lines).into_iter().collect()) {
        assert!(Instant::now() < deadline, "{:?}", b.lines(lines));
        lines += 1;
    }
    b.signal("INT");
    b.end().success();
    assert_eq!(committed(&broker), [Some(2); 2]);
}

#[test]
fn a_count_commits_exactly_what_was_printed() {
    let broker = broker_with("t", 1);
    append(&broker, 0, 10);
    assert_eq!(printed(&broker, &["--count", "3"]), ["0 0", "0 1", "0 2"]);
    assert_eq!(committed(&broker), [Some(3)]);
    assert_eq!(printed(&broker, &["--count", "4"]), ["0 3", "0 4", "0 5", "0 6"]);
    assert_eq!(committed(&broker), [Some(7)]);
    // Up to the very end of a batch.
    assert_eq!(printed(&broker, &["--count", "3"]), ["0 7", "0 8", "0 9"]);
    assert_eq!(committed(&broker), [Some(10)]);
    assert_eq!(describe(&broker)["members"], json!([]), "it has left");
    // Over several partitions.
    create(&broker, "u", 3);
    for partition in ["0", "1", "2"] {
        let produce = ["produce", "u", "--partition", partition];
        taffrail_fed(&broker, &produce, "x\n".repeat(5)).success();
    }
    let consume = ["consume", "u", "--group", "h", "--count", "8", "--format", "{partition}\n"];
    let output = taffrail(&broker, &consume).success();
    let arguments = ["group", "describe", "h", "--output", "json"];
    let described = taffrail(&broker, &arguments).json();
    for partition in described["partitions"].as_array().expect("a list") {
        let name = number(partition, "partition").to_string();
        let count = output.lines().filter(|line| *line == name).count() as u64;
        assert_eq!(partition["committed"].as_u64().unwrap_or(0), count, "{described}");
    }
}

#[test]
fn without_following_it_ends_at_the_end_and_the_next_one_has_nothing_to_do() {
    let broker = broker_with("t", 3);
    append(&broker, 0, 3);
    append(&broker, 2, 2);
    let mut found = printed(&broker, &["--no-follow"]);
    found.sort_unstable();
    assert_eq!(found, ["0 0", "0 1", "0 2", "2 0", "2 1"]);
    assert_eq!(committed(&broker), [Some(3), None, Some(2)]);
    assert_eq!(printed(&broker, &["--no-follow"]), [""; 0]);
    append(&broker, 1, 1);
    assert_eq!(printed(&broker, &["--no-follow"]), ["1 0"]);
    assert_eq!(committed(&broker), [Some(3), Some(1), Some(2)]);
    assert_eq!(describe(&broker)["members"], json!([]));
}

#[test]
fn a_group_begins_where_it_is_told_and_goes_on_where_it_was() {
    let broker = broker_with("t", 1);
    append(&broker, 0, 5);
    assert_eq!(printed(&broker, &["--count", "2", "--from", "-2"]), ["0 3", "0 4"]);
    append(&broker, 0, 1);
    assert_eq!(printed(&broker, &["--count", "1", "--from", "earliest"]), ["0 5"]);
    assert_eq!(committed(&broker), [Some(6)]);
}

#[test]
fn a_pattern_takes_topics_that_come_later() {
    let broker = broker_with("orders.de", 1);
    let consume = ["consume", "orders.*", "--group", "g", "--format", "{topic} {value}\n"];
    let program = Program::start(&mut command(&broker, &consume));
    taffrail_fed(&broker, &["produce", "orders.de"], "a\n").success();
    assert_eq!(program.lines(1), ["orders.de a"]);
    create(&broker, "orders.fr", 1);
    taffrail_fed(&broker, &["produce", "orders.fr"], "b\n").success();
    assert_eq!(program.lines(2), ["orders.de a", "orders.fr b"]);
    program.signal("INT");
    program.end().check(0, &["now reading orders.fr/0"]);
}

#[test]
fn an_instance_stays_a_member_until_it_comes_back() {
    let broker = broker_with("t", 2);
    append(&broker, 0, 2);
    let flags = ["--instance", "i", "--count", "1"];
    assert_eq!(printed(&broker, &flags), ["0 0"]);
    let members = describe(&broker)["members"].clone();
    assert_eq!((&members[0]["instance_id"], &members[0]["partitions"]), (&json!("i"), &json!(2)));
    assert_eq!(members.as_array().map(Vec::len), Some(1));
    assert_eq!(printed(&broker, &flags), ["0 1"]);
    // Two at a time: the first one is told.
    let first = member(&broker, &["--instance", "i"]);
    until(&broker, |described| {
        described["members"][0]["member_id"] != members[0]["member_id"]
            && described["partitions"][0]["state"] == "at_end"
    });
    let second = member(&broker, &["--instance", "i"]);
    let ended = first.end();
    ended.check(3, &["error: ", "FENCED_INSTANCE", "instance of its own"]);
    append(&broker, 0, 1);
    assert_eq!(second.lines(1), ["0 2"]);
}

#[test]
fn a_reader_that_goes_away_ends_a_member_quietly_and_it_leaves() {
    let broker = broker_with("t", 1);
    append(&broker, 0, 30_000);
    let arguments = ["consume", "t", "--group", "g", "--quiet", "--format", "{offset} {value}\n"];
    let ended = Program::start_heard(&mut command(&broker, &arguments), 1).end();
    ended.check(0, &[]);
    assert_eq!(ended.errors, "");
    assert_eq!(describe(&broker)["members"], json!([]));
    let done = committed(&broker).first().copied().flatten();
    assert!(done.unwrap_or(0) < 30_000, "not all can have been printed: {done:?}");
}

#[test]
fn groups_are_listed_and_described_in_words() {
    let broker = broker_with("t", 2);
    let listed = taffrail(&broker, &["group", "list"]);
    listed.check(0, &["there are no groups", "taffrail consume"]);
    assert_eq!(listed.output, "");
    append(&broker, 0, 3);
    printed(&broker, &["--count", "1"]);
    let output = taffrail(&broker, &["group", "list"]).success();
    let rows: Vec<Vec<_>> = output.lines().map(|it| it.split_whitespace().collect()).collect();
    assert_eq!(rows, [["GROUP", "MEMBERS", "LAG", "TOPICS"], ["g", "0", "2", "t"]]);

    let described = taffrail(&broker, &["group", "describe", "g"]).success();
    let columns = ["PARTITION", "COMMITTED", "END", "LAG", "AGE", "OWNER", "STATE"];
    for words in ["lag 2 records", "uniform-sticky", "no members", "t/0", "t/1", "no member"] {
        assert!(described.contains(words), "{described} does not say {words:?}");
    }
    assert!(columns.iter().all(|column| described.contains(column)), "{described}");
    let program = member(&broker, &[]);
    program.lines(2);
    until(&broker, |described| described["partitions"][0]["state"] == "at_end");
    let described = taffrail(&broker, &["group", "describe", "g"]).success();
    for words in ["MEMBER", "SESSION", "taffrail-consume-", "10 s", "at end"] {
        assert!(described.contains(words), "{described} does not say {words:?}");
    }
}

#[test]
fn groups_are_listed_and_described_in_json() {
    let broker = broker_with("t", 2);
    assert_eq!(taffrail(&broker, &["group", "list", "--output", "json"]).json(), json!([]));
    append(&broker, 0, 3);
    printed(&broker, &["--count", "1"]);
    let listed = taffrail(&broker, &["group", "list", "--output", "json"]).json();
    let described = describe(&broker);
    let epoch = &described["epoch"];
    let group = json!({ "group": "g", "members": 0, "lag": 2, "topics": ["t"], "epoch": epoch });
    assert_eq!(listed, json!([group]));
    let first = &described["partitions"][0];
    let expected = json!({
        "topic": "t", "partition": 0, "committed": 1, "metadata": "", "log_start": 0, "end": 3,
        "lag": 2, "lag_bytes": first["lag_bytes"], "age_ms": first["age_ms"], "owner": null,
        "next_owner": null, "state": "no_member", "state_message": first["state_message"],
        "rate_in": first["rate_in"], "rate_out": first["rate_out"], "drain_ms": first["drain_ms"],
        "stalled_ms": first["stalled_ms"], "error": null,
    });
    assert_eq!(*first, expected);
    assert!(number(first, "lag_bytes") > 0 && first["age_ms"].is_u64(), "{first}");
    let second = &described["partitions"][1];
    assert_eq!((&second["committed"], &second["lag"]), (&json!(null), &json!(0)));
    assert_eq!((&described["group"], &described["lag"]), (&json!("g"), &json!(2)));
    assert_eq!(described["assignor"], "uniform-sticky");

    let program = member(&broker, &["--session-timeout", "20s"]);
    program.lines(2);
    let described = until(&broker, |it| it["partitions"][0]["state"] == "at_end");
    let member = &described["members"][0];
    let expected = json!({
        "member_id": member["member_id"], "client_id": "taffrail-consume", "instance_id": "",
        "partitions": 2, "silent_ms": member["silent_ms"], "session_timeout_ms": 20_000,
        "topics": ["t"], "idle_because": "",
    });
    assert_eq!(*member, expected);
    assert_eq!(described["partitions"][1]["owner"], member["member_id"]);
}

#[test]
fn a_reset_is_tried_first_and_then_done() {
    let broker = broker_with("t", 2);
    append(&broker, 0, 5);
    printed(&broker, &["--count", "4"]);
    let reset = |flags: &[&str]| taffrail(&broker, &[&["group", "reset", "g"], flags].concat());
    let dry = reset(&["--to", "earliest", "--dry-run"]);
    dry.check(0, &["nothing was changed", "--dry-run"]);
    let rows: Vec<Vec<_>> = dry.output.lines().map(|it| it.split_whitespace().collect()).collect();
    assert_eq!(rows, [["PARTITION", "BEFORE", "AFTER", "BY"], ["t/0", "4", "0", "-4"]]);
    assert_eq!(committed(&broker), [Some(4), None]);

    let done = reset(&["--shift", "-1", "--output", "json"]).json();
    assert_eq!(done, json!([{ "topic": "t", "partition": 0, "before": 4, "after": 3 }]));
    assert_eq!(committed(&broker), [Some(3), None]);
    let cases = [
        (&["--to", "latest"][..], Some(5)),
        (&["--to", "2"], Some(2)),
        (&["--to", "-1"], Some(4)),
        (&["--to", "1 hour ago"], Some(0)),
        (&["--to", "4", "--topic", "t", "--partition", "0"], Some(4)),
    ];
    for (flags, expected) in cases {
        reset(flags).success();
        assert_eq!(committed(&broker)[0], expected, "{flags:?}");
    }
    let other = ["group", "reset", "other", "--to", "1", "--topic", "t", "--partition", "0"];
    taffrail(&broker, &other).success();
    reset(&["--to", "group:other"]).success();
    assert_eq!(committed(&broker)[0], Some(1));

    let program = member(&broker, &[]);
    program.lines(4);
    let refused = reset(&["--to", "earliest"]);
    refused.check(3, &["error: cannot reset g", "GROUP_HAS_MEMBERS", "1 members", "force"]);
    reset(&["--to", "3", "--partition", "0", "--force"]).success();
    let lines = program.lines(6);
    assert_eq!(lines[4..], ["0 3", "0 4"], "it goes on at the new place");
}

#[test]
fn a_group_is_deleted_once_nobody_is_in_it() {
    let broker = broker_with("t", 1);
    append(&broker, 0, 1);
    let program = member(&broker, &[]);
    program.lines(1);
    let refused = taffrail(&broker, &["group", "delete", "g"]);
    refused.check(3, &["error: cannot delete g", "GROUP_HAS_MEMBERS", "stop them"]);
    program.signal("INT");
    program.end().success();
    let deleted = taffrail(&broker, &["group", "delete", "g"]).success();
    assert_eq!(deleted, "deleted g\n");
    let again = taffrail(&broker, &["group", "delete", "g"]);
    again.check(3, &["error: cannot delete g", "UNKNOWN_GROUP"]);
    assert_eq!(taffrail(&broker, &["group", "list", "--output", "json"]).json(), json!([]));
    // Whoever begins it anew begins at the start.
    assert_eq!(printed(&broker, &["--count", "1"]), ["0 0"]);
    let deleted = taffrail(&broker, &["group", "delete", "g", "--output", "json"]).json();
    assert_eq!(deleted, json!({ "deleted": "g" }));
}

#[test]
fn what_makes_no_sense_is_told_with_what_to_do() {
    let broker = broker_with("t", 1);
    let cases: [(i32, &[&str], &[&str]); 16] = [
        (3, &["group", "describe", "nope"], &["cannot describe nope", "UNKNOWN_GROUP", "joins it"]),
        (3, &["group", "delete", "nope"], &["cannot delete nope", "UNKNOWN_GROUP"]),
        (3, &["group", "reset", "nope", "--to", "latest"], &["UNKNOWN_GROUP"]),
        (3, &["group", "describe", "a b"], &["INVALID_GROUP_NAME", "letters"]),
        (
            3,
            &["group", "reset", "g", "--to", "9", "--topic", "t"],
            &["OFFSET_OUT_OF_RANGE", "0 to 0"],
        ),
        (3, &["group", "reset", "g", "--to", "1", "--topic", "tt"], &["UNKNOWN_TOPIC", "\"t\""]),
        (2, &["group", "reset", "g"], &["--to"]),
        (2, &["group", "reset", "g", "--to", "1", "--shift", "1"], &["--shift"]),
        (2, &["group", "frob"], &["'frob'"]),
        (3, &["consume", "tt", "--group", "g"], &["cannot read tt as group g", "UNKNOWN_TOPIC"]),
        (3, &["consume", "t", "--group", "a/b"], &["INVALID_GROUP_NAME"]),
        (3, &["consume", "t", "--group", "g", "--session-timeout", "10ms"], &["500 to 1800000"]),
        (2, &["consume", "t", "--group", "g", "--session-timeout", "soon"], &["500ms, 30s"]),
        (2, &["consume", "t", "--group", "g", "--to", "3"], &["--to"]),
        (2, &["consume", "t", "--group", "g", "--partition", "0"], &["--partition"]),
        (2, &["consume", "t", "--instance", "i"], &["--group"]),
    ];
    for (code, arguments, says) in cases {
        println!("{arguments:?}");
        let ended = taffrail(&broker, arguments);
        ended.check(code, &[&["error: "], says].concat());
        assert_eq!(ended.output, "", "{arguments:?}");
    }
    assert_eq!(taffrail(&broker, &["group", "list", "--output", "json"]).json(), json!([]));
}

#[test]
fn a_place_that_is_none_is_wrong_arguments() {
    let broker = broker_with("t", 1);
    let ended = taffrail(&broker, &["group", "reset", "g", "--to", "soon", "--topic", "t"]);
    ended.check(2, &["error: ", "\"soon\" is no place", "10m ago"]);
}
