//! The produce stream: limits, order, refusals and what comes behind them.

use std::collections::BTreeMap;

use taffrail_proto::v1;

use crate::broker::Broker;
use crate::door::{Door, batch, check_error, produce_batch, soon, value};
use crate::pipe::Pipe;

const NONE: i32 = v1::Acks::None as i32;

fn to(partition: u32, value: &str) -> v1::ProduceBatch {
    produce_batch("t", partition, batch(&[value]))
}

/// A batch that is refused wherever it comes.
fn bad(partition: u32) -> v1::ProduceBatch {
    produce_batch("t", partition, v1::RecordBatch { kind: 1, ..batch(&["bad"]) })
}

async fn open(broker: &Broker, partitions: u32) -> (Door, Pipe) {
    let door = Door::open(broker).await;
    door.create("t", partitions).await;
    let pipe = Pipe::open(&door).await;
    (door, pipe)
}

#[tokio::test]
async fn the_first_answer_states_limits_and_the_others_come_in_order() {
    let broker = Broker::new();
    let (door, mut pipe) = open(&broker, 1).await;
    assert!(pipe.limits.max_in_flight_requests >= 64, "{:?}", pipe.limits);
    assert!(pipe.limits.max_in_flight_bytes >= 1 << 20, "{:?}", pipe.limits);
    let count = u64::from(pipe.limits.max_in_flight_requests);
    for number in 1..=count {
        pipe.send(number, to(0, &number.to_string()));
    }
    for number in 1..=count {
        let (answered, result) = pipe.next().await;
        let (offset, high_watermark) = (result.base_offset(), result.high_watermark);
        assert_eq!((answered, offset, result.error), (number, number - 1, None));
        assert!(high_watermark > offset, "committed when it is answered");
    }
    let expected: Vec<_> = (1..=count).map(|number| number.to_string()).collect();
    assert_eq!(door.values("t").await, expected);
}

#[tokio::test]
async fn behind_a_refusal_nothing_goes_on_until_the_producer_says_so() {
    let broker = Broker::new();
    let (door, mut pipe) = open(&broker, 2).await;
    pipe.send(1, to(0, "a"));
    pipe.send(2, bad(0));
    pipe.send(3, to(0, "b"));
    pipe.send(4, to(1, "other"));
    let stale = Some(to(0, "stale"));
    let resume = |number, batch, resumes_after| v1::ProduceStreamRequest {
        number,
        batch,
        resumes_after,
        ..Default::default()
    };
    pipe.send_with(resume(5, stale, 1));
    pipe.send_with(resume(6, Some(to(0, "c")), 2));
    pipe.send(7, to(0, "d"));

    let mut reasons = Vec::new();
    for _ in 0..7 {
        let (number, result) = pipe.next().await;
        let error = result.error.unwrap_or_default();
        if error.reason == "PRECEDING_FAILED" {
            check_error(Some(&error), "PRECEDING_FAILED", &[("refused", "2")], "resumes_after = 2");
        }
        reasons.push((result.partition, number, error.reason));
    }
    let of = |partition| {
        let found = reasons.iter().filter(move |(of, ..)| *of == Some(partition));
        found.map(|(_, number, reason)| (*number, reason.as_str())).collect::<Vec<_>>()
    };
    let behind = "PRECEDING_FAILED";
    assert_eq!(of(0), [(1, ""), (2, "CONTROL_BATCH"), (3, behind), (5, behind), (6, ""), (7, "")]);
    assert_eq!(of(1), [(4, "")]);
    assert_eq!(door.values("t").await, ["a", "c", "d"]);
}

#[tokio::test]
async fn a_refusal_on_one_stream_does_not_hold_another() {
    let broker = Broker::new();
    let (door, mut pipe) = open(&broker, 1).await;
    let mut other = Pipe::open(&door).await;
    pipe.send(1, bad(0));
    assert!(pipe.next().await.1.error.is_some());
    other.send(1, to(0, "x"));
    assert_eq!(other.next().await.1.error, None);
}

#[tokio::test]
async fn without_acks_only_refusals_are_answered_and_order_holds() {
    let broker = Broker::new();
    let (door, mut pipe) = open(&broker, 1).await;
    let quiet = |number, batch| v1::ProduceStreamRequest {
        number,
        batch: Some(batch),
        acks: NONE,
        ..Default::default()
    };
    for number in 1..=500 {
        pipe.send_with(quiet(number, to(0, &number.to_string())));
    }
    pipe.send_with(quiet(501, bad(0)));
    pipe.send_with(quiet(502, to(0, "behind")));
    let resumed = v1::ProduceStreamRequest { resumes_after: 501, ..quiet(503, to(0, "503")) };
    pipe.send_with(resumed);
    pipe.send(504, to(0, "504"));
    for (number, reason) in [(501, "CONTROL_BATCH"), (502, "PRECEDING_FAILED")] {
        let (answered, result) = pipe.next().await;
        assert_eq!((answered, result.error.expect("refused").reason.as_str()), (number, reason));
    }
    let (answered, result) = pipe.next().await;
    assert_eq!((answered, result.base_offset(), result.error), (504, 501, None));
    let expected: Vec<_> = (1..=500).chain(503..=504).map(|number| number.to_string()).collect();
    assert_eq!(door.values("t").await, expected);
}

#[tokio::test]
async fn without_acks_a_unary_call_tells_refusals_too() {
    let broker = Broker::new();
    let (door, _) = open(&broker, 1).await;
    let request = v1::ProduceRequest { batches: vec![to(0, "a"), bad(0)], acks: NONE };
    let results = soon(door.log.clone().produce(request)).await.expect("it answers").into_inner();
    let refused: Vec<_> = results.results.iter().filter(|r| r.error.is_some()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(door.values("t").await, ["a"]);
}

#[tokio::test]
async fn what_exceeds_the_limits_is_answered_overloaded_and_may_be_sent_again() {
    const PARTITIONS: u32 = 256;
    // So many partitions and one sync at a time: it cannot keep up.
    let broker = Broker::with(&["committer_threads=1"]);
    let (door, mut pipe) = open(&broker, PARTITIONS).await;
    let count = u64::from(pipe.limits.max_in_flight_requests) * 20;
    let place = |number: u64| (number % u64::from(PARTITIONS)) as u32;
    for number in 1..=count {
        pipe.send(number, to(place(number), &number.to_string()));
    }
    let mut stored = vec![Vec::new(); PARTITIONS as usize];
    let mut refused = BTreeMap::new();
    for _ in 1..=count {
        let (number, result) = pipe.next().await;
        let partition = place(number);
        assert_eq!(result.partition, Some(partition));
        let Some(error) = result.error else {
            assert!(!refused.contains_key(&partition), "{number} is appended behind a refusal");
            stored[partition as usize].push(number.to_string());
            continue;
        };
        if let Some(first) = refused.get(&partition) {
            let first: &str = &format!("{first}");
            check_error(Some(&error), "PRECEDING_FAILED", &[("refused", first)], "");
        } else {
            check_error(Some(&error), "OVERLOADED", &[("limit", "1024")], "wait for answers");
            assert!(error.retry_after_ms.is_some(), "{error:?}");
            refused.insert(partition, number);
        }
    }
    let (&partition, &first) = refused.first_key_value().expect("some are too many");
    let (number, batch) = (count + 1, Some(to(partition, &first.to_string())));
    let again = v1::ProduceStreamRequest { number, batch, ..Default::default() };
    pipe.send_with(v1::ProduceStreamRequest { resumes_after: first, ..again });
    assert_eq!(pipe.next().await.1.error, None);
    stored[partition as usize].push(first.to_string());
    for (partition, stored) in (0..).zip(stored) {
        let found = door.read("t", partition, 0).await;
        assert!(found.iter().map(value).eq(stored), "partition {partition}");
    }
}

#[tokio::test]
async fn a_stream_whose_client_has_said_all_is_answered_to_the_end() {
    let broker = Broker::new();
    let (_, pipe) = open(&broker, 1).await;
    for number in 1..=200 {
        pipe.send(number, to(0, "x"));
    }
    let Pipe { requests, mut answers, .. } = pipe;
    drop(requests);
    let mut count = 0;
    while let Some(answer) = soon(answers.message()).await.expect("no error") {
        count += 1;
        assert_eq!(answer.number, count);
    }
    assert_eq!(count, 200);
}

#[tokio::test]
async fn an_expected_offset_lets_one_of_many_rivals_win() {
    let broker = Broker::new();
    let (door, _) = open(&broker, 1).await;
    let rivals = (0..16).map(|rival| {
        let door = door.clone();
        tokio::spawn(async move {
            let mut won = 0;
            for offset in 0..20 {
                let batch = v1::ProduceBatch {
                    expected_next_offset: Some(offset),
                    ..to(0, &format!("{rival}"))
                };
                let result = door.produce(batch).await;
                match &result.error {
                    None => {
                        assert_eq!(result.base_offset(), offset);
                        won += 1;
                    }
                    Some(error) => {
                        assert_eq!(error.reason, "OFFSET_MISMATCH");
                        assert_eq!(error.metadata["expected"], offset.to_string());
                        let actual: u64 = error.metadata["actual"].parse().expect("a number");
                        assert!(actual > offset, "an offset that was free was refused");
                    }
                }
            }
            won
        })
    });
    let mut won = 0;
    for rival in rivals.collect::<Vec<_>>() {
        won += soon(rival).await.expect("no panic");
    }
    assert_eq!((won, door.values("t").await.len()), (20, 20));
}

#[tokio::test]
async fn a_number_that_does_not_grow_is_refused_and_is_not_the_last_one() {
    let broker = Broker::new();
    let (door, mut pipe) = open(&broker, 1).await;
    for (number, is_taken) in [(5, true), (3, false), (4, false), (5, false), (6, true)] {
        pipe.send(number, to(0, &number.to_string()));
        let (answered, result) = pipe.next().await;
        let reason = result.error.map(|error| error.reason);
        let expected = (!is_taken).then(|| "INVALID_REQUEST".to_owned());
        assert_eq!((answered, reason), (number, expected));
    }
    assert_eq!(door.values("t").await, ["5", "6"]);
}
