//! The commands as a user runs them: the real binary against a real broker, judged by what it
//! prints, what it says, and how it ends.

mod demo;
mod exits;
mod groups;
mod inspect;
mod measure;
mod pipes;
mod queue;
mod records;
mod repair;
mod serve;
mod topics;

use std::io::{Cursor, Read};
use std::process::Command;

use serde_json::Value;

use crate::broker::Broker;
use crate::program::{Ended, Program, product};

/// A week of earthquakes, an object a line, sorted by time.
const QUAKES: &str = include_str!("../../../docs/examples/earthquakes.ndjson");

/// The file that holds them.
const QUAKES_FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/earthquakes.ndjson");

/// How the README appends them.
const PRODUCE_QUAKES: [&str; 7] =
    ["produce", "quakes", QUAKES_FILE, "--key-field", "id", "--timestamp-field", "time"];

/// A command that talks to this broker.
fn command(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = product();
    command.args(["--server", &broker.url]).args(arguments);
    command
}

/// Runs a command to its end.
pub(crate) fn taffrail(broker: &Broker, arguments: &[&str]) -> Ended {
    Program::start(&mut command(broker, arguments)).end()
}

/// Runs a command that reads `input` to its end.
pub(crate) fn taffrail_fed(broker: &Broker, arguments: &[&str], input: impl AsRef<[u8]>) -> Ended {
    let input = Cursor::new(input.as_ref().to_owned());
    start_fed(broker, arguments, input).end()
}

/// Starts a command that reads `input`.
fn start_fed(broker: &Broker, arguments: &[&str], input: impl Read + Send + 'static) -> Program {
    Program::start_fed(&mut command(broker, arguments), input)
}

/// A broker with a topic.
fn broker_with(topic: &str, partitions: u32) -> Broker {
    let broker = Broker::new();
    create(&broker, topic, partitions);
    broker
}

fn create(broker: &Broker, topic: &str, partitions: u32) {
    let partitions = partitions.to_string();
    taffrail(broker, &["topic", "create", topic, "--partitions", &partitions]).success();
}

/// A broker with the week of earthquakes in four partitions of `quakes`.
fn broker_with_quakes() -> Broker {
    let broker = broker_with("quakes", 4);
    taffrail(&broker, &PRODUCE_QUAKES).success();
    broker
}

/// Every record of a topic as `consume --format json` prints it, by partition and offset.
fn records(broker: &Broker, topic: &str) -> Vec<Value> {
    let arguments = ["consume", topic, "--no-follow", "--format", "json"];
    sorted(taffrail(broker, &arguments).json_lines())
}

/// Records by partition and offset.
fn sorted(mut records: Vec<Value>) -> Vec<Value> {
    records.sort_by_key(|record| (number(record, "partition"), number(record, "offset")));
    records
}

#[track_caller]
fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap_or_else(|| panic!("no number {field:?} in {record}"))
}
