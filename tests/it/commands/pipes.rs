//! Commands that go on until somebody ends them: by a signal, or by going away.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::{broker_with, broker_with_quakes, command, start_fed, taffrail, taffrail_fed};
use crate::broker::{Broker, PATIENCE};
use crate::program::Program;

/// Lines without an end.
struct Endless;

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        into.fill(b'x');
        into.iter_mut().step_by(100).for_each(|byte| *byte = b'\n');
        Ok(into.len())
    }
}

#[test]
fn consume_follows_the_tail_until_it_is_interrupted() {
    let broker = broker_with("t", 2);
    taffrail_fed(&broker, &["produce", "t"], "before\n").success();
    let consume = Program::start(&mut command(&broker, &["consume", "t"]));
    let mut expected = vec!["before".to_owned()];
    assert_eq!(consume.lines(1), expected);
    for word in ["soon", "later", "last"] {
        taffrail_fed(&broker, &["produce", "t"], word).success();
        expected.push(word.to_owned());
        assert_eq!(consume.lines(expected.len()), expected);
    }
    consume.signal("INT");
    let ended = consume.end();
    ended.check(0, &[]);
    assert_eq!((ended.output.lines().count(), ended.errors.as_str()), (4, ""));
}

#[test]
fn consume_ends_quietly_when_its_reader_goes_away() {
    let broker = broker_with_quakes();
    // More than a pipe holds, so that it must notice.
    for flags in [&["--no-follow"][..], &[], &["--format", "json"]] {
        let mut consume = command(&broker, &[&["consume", "quakes"], flags].concat());
        let ended = Program::start_heard(&mut consume, 1).end();
        ended.check(0, &[]);
        assert_eq!(ended.errors, "", "{flags:?}");
    }
}

#[test]
fn an_interrupted_produce_ends_although_the_broker_is_gone() {
    // Of one that is dead it may know at once that all is lost; one that hangs says nothing.
    for (signal, says) in [("KILL", "error: "), ("STOP", "error: interrupted: ")] {
        let broker = broker_with("t", 1);
        let mut produce = start_fed(&broker, &["produce", "t"], Endless);
        await_records(&broker);
        broker.program.signal(signal);
        let began = Instant::now();
        produce.signal("INT");
        // The first may be enough. Sent with it, the second could be the same.
        if !produce.ends_within(Duration::from_secs(1)) {
            produce.signal("INT");
        }
        let ended = produce.end();
        ended.check(1, &[says]);
        assert!(began.elapsed() < Duration::from_secs(10), "{signal}: {:?}", began.elapsed());
    }
}

#[test]
fn an_interrupted_produce_delivers_what_it_has_taken() {
    let broker = broker_with("t", 1);
    let produce = start_fed(&broker, &["produce", "t"], Endless);
    await_records(&broker);
    produce.signal("INT");
    let ended = produce.end();
    ended.check(1, &["interrupted", "records were appended to t"]);
    let said = ended.errors.split(' ').next().expect("a number").replace(',', "");
    assert_eq!(said.parse().ok(), Some(log_end(&broker)), "{}", ended.errors);
}

/// Waits until something is in partition 0 of `t`.
fn await_records(broker: &Broker) {
    let deadline = Instant::now() + PATIENCE;
    while log_end(broker) == 0 {
        assert!(Instant::now() < deadline, "nothing is appended");
    }
}

fn log_end(broker: &Broker) -> u64 {
    let described = taffrail(broker, &["topic", "describe", "t", "--output", "json"]).json();
    super::number(&described["partition_list"][0], "high_watermark")
}
