//! Tables: what is pushed and answered, and what is sent and settled then.

use super::*;

pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_millis(100) };

/// A pipeline and a clock that only the test moves.
pub(super) struct Bench {
    pub(super) pipeline: Pipeline<&'static str>,
    pub(super) now: Instant,
}

impl Bench {
    fn new(lanes: usize, requests_max: u32) -> Self {
        Self::of(None, lanes, requests_max)
    }

    pub(super) fn of(identity: Option<Identity>, lanes: usize, requests_max: u32) -> Self {
        let mut pipeline = Pipeline::new(lanes, TIMEOUT, BACKOFF, identity);
        pipeline.opened(1 << 20, requests_max);
        Self { pipeline, now: Instant::now() }
    }

    /// A lane of which three requests are on their way.
    fn with_three_sent() -> Self {
        let mut bench = Self::new(1, 10);
        bench.push(0, &["a", "b", "c"]);
        bench.expect_sent(&[(1, "a", 0), (2, "b", 0), (3, "c", 0)]);
        bench
    }

    /// Pushes batches of as many records as their names have letters.
    pub(super) fn push(&mut self, lane: usize, batches: &[&'static str]) {
        for batch in batches {
            let records = batch.len() as u32;
            let deadline = self.now + TIMEOUT;
            self.pipeline.push(lane, Fresh { batch, bytes: 10, records, deadline });
        }
    }

    /// Sends what can be sent: number, batch, what it resumes after.
    #[track_caller]
    fn expect_sent(&mut self, expected: &[(u64, &str, u64)]) {
        let sent: Vec<_> = std::iter::from_fn(|| self.pipeline.next(self.now))
            .map(|out| (out.number, out.batch, out.resumes_after))
            .collect();
        assert_eq!(sent, expected);
    }

    pub(super) fn placed(&mut self, number: u64) -> Option<&'static str> {
        self.pipeline.answered(number, Ok(None), self.now);
        let settled = self.pipeline.next_settled()?;
        assert_eq!(settled.outcome, Ok(None));
        Some(settled.batch)
    }

    pub(super) fn refuse(&mut self, number: u64, reason: &str) -> Option<Settled<&'static str>> {
        self.pipeline.answered(number, Err(error(reason)), self.now);
        self.pipeline.next_settled()
    }

    /// Breaks the stream. Returns the batches whose outcome is unknown.
    pub(super) fn broken(&mut self) -> Vec<&'static str> {
        self.pipeline.broken("the stream broke");
        let unknown = self.settled();
        assert!(unknown.iter().all(is_unknown), "{unknown:?}");
        unknown.into_iter().map(|settled| settled.batch).collect()
    }

    pub(super) fn settled(&mut self) -> Vec<Settled<&'static str>> {
        std::iter::from_fn(|| self.pipeline.next_settled()).collect()
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.pipeline.wake(self.now);
    }
}

pub(super) fn is_unknown(settled: &Settled<&'static str>) -> bool {
    matches!(settled.outcome, Err(ProduceError::ResultUnknown { .. }))
}

pub(super) fn error(reason: &str) -> ServerError {
    ServerError {
        reason: reason.to_owned(),
        message: "no".to_owned(),
        metadata: std::collections::BTreeMap::new(),
        retry_after: None,
    }
}

#[test]
fn batches_go_out_in_order_within_the_limits_and_lanes_take_turns() {
    let mut bench = Bench::new(2, 3);
    bench.push(0, &["a", "b", "c"]);
    bench.push(1, &["x"]);
    bench.expect_sent(&[(1, "a", 0), (2, "x", 0), (3, "b", 0)]);
    assert_eq!(bench.placed(2), Some("x"));
    bench.expect_sent(&[(4, "c", 0)]);
    assert_eq!([1, 3, 4].map(|number| bench.placed(number)), [Some("a"), Some("b"), Some("c")]);
    assert_eq!(bench.pipeline.unsettled(), 0);
    assert!(bench.pipeline.is_idle(0) && bench.pipeline.is_idle(1));
}

#[test]
fn a_refusal_that_passes_is_sent_again_before_what_followed_it() {
    let mut bench = Bench::new(2, 10);
    bench.push(0, &["a", "b", "c"]);
    bench.expect_sent(&[(1, "a", 0), (2, "b", 0), (3, "c", 0)]);
    assert_eq!(bench.placed(1), Some("a"));
    assert_eq!(bench.refuse(2, "OVERLOADED"), None);
    bench.push(0, &["d"]);
    bench.push(1, &["x"]);
    bench.expect_sent(&[(4, "x", 0)]);
    assert_eq!(bench.refuse(3, "PRECEDING_FAILED"), None);
    bench.expect_sent(&[]);
    assert!(bench.pipeline.next_wake().is_some(), "the lane waits");
    bench.pass(100);
    bench.expect_sent(&[(5, "b", 2), (6, "c", 0), (7, "d", 0)]);
    assert_eq!(bench.pipeline.unsettled(), 4);
}

#[test]
fn a_final_refusal_fails_its_batch_alone_and_the_rest_goes_on_at_once() {
    let mut bench = Bench::new(1, 10);
    bench.push(0, &["a", "b"]);
    bench.expect_sent(&[(1, "a", 0), (2, "b", 0)]);
    let refused = ProduceError::Refused(error("BATCH_TOO_LARGE"));
    let settled = Settled { batch: "a", outcome: Err(refused) };
    assert_eq!(bench.refuse(1, "BATCH_TOO_LARGE"), Some(settled));
    assert_eq!(bench.refuse(2, "PRECEDING_FAILED"), None);
    bench.expect_sent(&[(3, "b", 1)]);
    assert_eq!(bench.placed(3), Some("b"));
}

#[test]
fn a_final_refusal_with_nothing_behind_it_is_resumed_after_later() {
    let mut bench = Bench::new(1, 10);
    bench.push(0, &["a"]);
    bench.expect_sent(&[(1, "a", 0)]);
    assert!(bench.refuse(1, "CORRUPT_BATCH").is_some());
    bench.push(0, &["b", "c"]);
    bench.expect_sent(&[(2, "b", 1), (3, "c", 0)]);
}

#[test]
fn a_refused_resumption_is_resumed_after_in_turn() {
    let mut bench = Bench::new(1, 10);
    bench.push(0, &["a", "b"]);
    bench.expect_sent(&[(1, "a", 0), (2, "b", 0)]);
    bench.refuse(1, "STORAGE_FULL");
    bench.refuse(2, "PRECEDING_FAILED");
    bench.pass(100);
    bench.expect_sent(&[(3, "a", 1), (4, "b", 0)]);
    bench.refuse(3, "STORAGE_FULL");
    bench.refuse(4, "PRECEDING_FAILED");
    bench.pass(100);
    bench.expect_sent(&[(5, "a", 3), (6, "b", 0)]);
}

#[test]
fn a_second_refusal_while_halted_keeps_the_order_and_the_first_number() {
    let mut bench = Bench::with_three_sent();
    bench.refuse(1, "OVERLOADED");
    bench.refuse(2, "OVERLOADED");
    bench.refuse(3, "PRECEDING_FAILED");
    bench.pass(100);
    bench.expect_sent(&[(4, "a", 1), (5, "b", 0), (6, "c", 0)]);
}

#[test]
fn an_unknown_result_is_never_sent_again() {
    let mut bench = Bench::new(1, 10);
    bench.push(0, &["a", "b"]);
    bench.expect_sent(&[(1, "a", 0), (2, "b", 0)]);
    let settled = bench.refuse(1, "RESULT_UNKNOWN").expect("settled");
    assert!(matches!(settled.outcome, Err(ProduceError::ResultUnknown { .. })));
    bench.refuse(2, "PRECEDING_FAILED");
    bench.expect_sent(&[(3, "b", 1)]);
}

#[test]
fn order_resumes_after_the_number_that_the_broker_states() {
    let mut bench = Bench::with_three_sent();
    // To the broker only the second one was refused.
    bench.refuse(1, "RESULT_UNKNOWN").expect("settled");
    bench.refuse(2, "PARTITION_READ_ONLY").expect("settled");
    let mut follows = error("PRECEDING_FAILED");
    follows.metadata.insert("refused".to_owned(), "2".to_owned());
    bench.pipeline.answered(3, Err(follows), bench.now);
    assert_eq!(bench.settled(), []);
    bench.expect_sent(&[(4, "c", 2)]);
}

#[test]
fn a_refusal_after_the_deadline_fails_with_its_cause() {
    let mut bench = Bench::new(1, 10);
    bench.push(0, &["a"]);
    bench.expect_sent(&[(1, "a", 0)]);
    bench.pass(10_000);
    let settled = bench.refuse(1, "OVERLOADED").expect("settled");
    let cause = "no (OVERLOADED)".to_owned();
    assert_eq!(settled.outcome, Err(ProduceError::TimedOut { timeout: TIMEOUT, cause }));
}

#[test]
fn what_waits_too_long_expires_in_order() {
    let mut bench = Bench::new(1, 1);
    bench.push(0, &["a", "b"]);
    bench.pass(5_000);
    bench.push(0, &["c"]);
    bench.expect_sent(&[(1, "a", 0)]);
    assert!(!bench.pipeline.is_overdue(bench.now));
    bench.pass(5_000);
    bench.pipeline.expire(bench.now, "full");
    let cause = "full".to_owned();
    let outcome = Err(ProduceError::TimedOut { timeout: TIMEOUT, cause });
    assert_eq!(bench.settled(), [Settled { batch: "b", outcome }]);
    assert_eq!(bench.pipeline.unsettled(), 2);
}

#[test]
fn a_broken_stream_loses_only_what_was_sent_and_not_answered() {
    let mut bench = Bench::new(2, 3);
    bench.push(0, &["a", "b"]);
    bench.push(1, &["x", "y"]);
    bench.expect_sent(&[(1, "a", 0), (2, "x", 0), (3, "b", 0)]);
    bench.placed(1);
    assert_eq!(bench.broken(), ["b", "x"]);
    bench.expect_sent(&[]);
    bench.pipeline.opened(1 << 20, 3);
    bench.expect_sent(&[(1, "y", 0)]);
    assert_eq!(bench.placed(3), None, "an answer of the old stream");
    assert_eq!(bench.pipeline.unsettled(), 1);
}

#[test]
fn what_was_sent_behind_a_refusal_survives_a_broken_stream() {
    let mut bench = Bench::with_three_sent();
    bench.refuse(1, "OVERLOADED");
    assert!(bench.broken().is_empty());
    bench.pipeline.opened(1 << 20, 10);
    bench.pass(100);
    bench.expect_sent(&[(1, "a", 0), (2, "b", 0), (3, "c", 0)]);
}

#[test]
fn refusals_that_come_out_of_order_keep_the_order() {
    let mut bench = Bench::with_three_sent();
    for number in [2, 1, 3] {
        bench.refuse(number, "STOPPING");
    }
    bench.pass(1_000);
    bench.expect_sent(&[(4, "a", 2), (5, "b", 0), (6, "c", 0)]);
}

#[test]
fn what_was_sent_before_a_refusal_is_unknown_when_the_stream_breaks() {
    let mut bench = Bench::with_three_sent();
    bench.refuse(2, "OVERLOADED");
    assert_eq!(bench.broken(), ["a"], "it may have been appended");
    bench.pipeline.opened(1 << 20, 10);
    bench.pass(100);
    bench.expect_sent(&[(1, "b", 0), (2, "c", 0)]);
}

#[test]
fn what_was_sent_behind_an_unknown_result_is_not_sent_again() {
    let mut bench = Bench::with_three_sent();
    assert!(bench.refuse(1, "RESULT_UNKNOWN").is_some());
    assert_eq!(bench.broken(), ["b", "c"], "they may have been appended too");
    assert_eq!(bench.pipeline.unsettled(), 0);
}

#[test]
fn an_answer_is_overdue_so_long_after_its_request_was_sent() {
    let mut bench = Bench::new(1, 10);
    bench.push(0, &["a"]);
    bench.pass(9_000);
    bench.expect_sent(&[(1, "a", 0)]);
    bench.pass(9_000);
    assert!(!bench.pipeline.is_overdue(bench.now), "it was sent nine seconds ago");
    bench.pass(1_000);
    assert!(bench.pipeline.is_overdue(bench.now));
}

#[test]
fn refusals_that_nobody_waits_for_are_resumed_after() {
    let mut bench = Bench::new(1, 10);
    bench.push(0, &["a", "b"]);
    bench.expect_sent(&[(1, "a", 0), (2, "b", 0)]);
    assert_eq!((bench.placed(1), bench.placed(2)), (Some("a"), Some("b")));
    let mut follows = error("PRECEDING_FAILED");
    follows.metadata.insert("refused".to_owned(), "1".to_owned());
    bench.pipeline.refused_unasked(0, 1, &error("STORAGE_FULL"));
    bench.pipeline.refused_unasked(0, 2, &follows);
    bench.push(0, &["c", "d"]);
    bench.expect_sent(&[(3, "c", 1), (4, "d", 0)]);
    // One that was on its way: what it follows is known now, whether or not it was before.
    bench.pipeline.refused_unasked(0, 4, &follows);
    bench.push(0, &["e"]);
    bench.expect_sent(&[(5, "e", 1)]);
}
