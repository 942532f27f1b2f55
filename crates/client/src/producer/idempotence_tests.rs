//! Tables of what an idempotent producer sends: which sequences, under which identity.

use taffrail_model::{ProducerEpoch, ProducerId, Sequence};

use super::tests::{Bench, TIMEOUT, error, is_unknown};
use super::*;

/// A lane, a batch, and the producer and sequence it is sent under.
type Stamped = (usize, &'static str, u64, u32);

fn identity(id: u64) -> Identity {
    Identity { id: ProducerId::new(id).expect("not 0"), epoch: ProducerEpoch::ZERO }
}

/// A pipeline of producer 1.
fn bench(lanes: usize) -> Bench {
    Bench::of(Some(identity(1)), lanes, 10)
}

/// The same, with these batches sent in one lane.
#[track_caller]
fn bench_with_sent(batches: &[&'static str]) -> Bench {
    let mut bench = bench(1);
    bench.push(0, batches);
    assert_eq!(bench.stamped().len(), batches.len());
    bench
}

impl Bench {
    /// Sends what can be sent.
    fn stamped(&mut self) -> Vec<Stamped> {
        let sent = std::iter::from_fn(|| self.pipeline.next(self.now));
        sent.map(|out| {
            let stamp = out.stamp.expect("it is idempotent");
            (out.lane, out.batch, stamp.id.get(), stamp.sequence.get())
        })
        .collect()
    }

    #[track_caller]
    fn expect_stamped(&mut self, expected: &[Stamped]) {
        assert_eq!(self.stamped(), expected);
    }

    fn reopen(&mut self) {
        assert!(self.broken().is_empty(), "everything can be sent again");
        self.pipeline.opened(1 << 20, 10);
    }

    /// Takes a new identity, which must be due.
    #[track_caller]
    fn renew(&mut self, former: u64, new: u64) {
        assert_eq!(self.pipeline.to_renew(), Some(identity(former)));
        self.pipeline.renewed(identity(new));
        assert_eq!(self.pipeline.to_renew(), None);
    }

    #[track_caller]
    fn expect_unknown(&mut self, expected: &[&str]) {
        let settled = self.settled();
        assert!(settled.iter().all(is_unknown), "{settled:?}");
        assert!(settled.iter().map(|settled| settled.batch).eq(expected.iter().copied()));
    }
}

#[test]
fn every_lane_counts_the_records_it_sends() {
    let mut bench = bench(2);
    bench.push(0, &["aaa", "bb"]);
    bench.push(1, &["x", "yy"]);
    bench.expect_stamped(&[(0, "aaa", 1, 0), (1, "x", 1, 0), (0, "bb", 1, 3), (1, "yy", 1, 1)]);
}

#[test]
fn after_a_broken_stream_the_same_is_sent_under_the_same_sequences() {
    let mut bench = bench_with_sent(&["aaa", "bb", "c"]);
    assert_eq!(bench.placed(1), Some("aaa"));
    bench.push(0, &["dd"]);
    for _ in 0..3 {
        bench.reopen();
        bench.expect_stamped(&[(0, "bb", 1, 3), (0, "c", 1, 5), (0, "dd", 1, 6)]);
    }
    assert_eq!([1, 2, 3].map(|number| bench.placed(number)), [Some("bb"), Some("c"), Some("dd")]);
    assert_eq!((bench.pipeline.unsettled(), bench.pipeline.to_renew()), (0, None));
}

#[test]
fn an_unknown_result_is_sent_again_under_the_same_sequence() {
    let mut bench = bench_with_sent(&["aaa", "bb"]);
    assert_eq!(bench.refuse(1, "RESULT_UNKNOWN"), None);
    assert_eq!(bench.placed(2), Some("bb"));
    bench.push(0, &["c"]);
    bench.expect_stamped(&[]);
    bench.pass(100);
    bench.expect_stamped(&[(0, "aaa", 1, 0), (0, "c", 1, 5)]);
}

#[test]
fn what_surely_was_not_appended_leaves_no_gap() {
    let mut bench = bench_with_sent(&["aaa", "bb", "c"]);
    assert!(bench.refuse(1, "BATCH_TOO_LARGE").is_some());
    assert_eq!(bench.refuse(2, "PRECEDING_FAILED"), None);
    bench.reopen();
    bench.expect_stamped(&[(0, "bb", 1, 0), (0, "c", 1, 2)]);
    assert_eq!(bench.placed(1), Some("bb"));
    assert_eq!(bench.refuse(2, "OVERLOADED"), None);
    bench.pass(10_000);
    bench.pipeline.expire(bench.now, "");
    assert!(matches!(bench.settled()[..], [Settled { batch: "c", .. }]));
    bench.push(0, &["dddd"]);
    bench.expect_stamped(&[(0, "dddd", 1, 2)]);
    assert_eq!(bench.pipeline.to_renew(), None);
}

#[test]
fn what_may_have_been_appended_keeps_its_sequence_through_refusals() {
    let reasons = ["OVERLOADED", "PARTITION_RECOVERING", "STORAGE_FULL", "STOPPING"];
    for reason in reasons {
        let mut bench = bench_with_sent(&["aaa", "bb"]);
        bench.reopen();
        bench.push(0, &["c"]);
        bench.expect_stamped(&[(0, "aaa", 1, 0), (0, "bb", 1, 3), (0, "c", 1, 5)]);
        assert_eq!(bench.refuse(1, reason), None);
        assert_eq!(bench.refuse(2, "PRECEDING_FAILED"), None);
        assert_eq!(bench.refuse(3, "PRECEDING_FAILED"), None);
        bench.pass(100);
        bench.expect_stamped(&[(0, "aaa", 1, 0), (0, "bb", 1, 3), (0, "c", 1, 5)]);
        assert_eq!([4, 5].map(|number| bench.placed(number)), [Some("aaa"), Some("bb")]);
    }
}

#[test]
fn what_stands_before_a_batch_that_may_be_in_the_log_may_be_there_too() {
    let mut bench = bench_with_sent(&["aaa", "bb"]);
    bench.refuse(2, "RESULT_UNKNOWN");
    bench.refuse(1, "OVERLOADED");
    bench.pass(100);
    bench.expect_stamped(&[(0, "aaa", 1, 0), (0, "bb", 1, 3)]);
}

#[test]
fn what_may_have_been_appended_is_unknown_when_it_is_refused_for_good() {
    let mut bench = bench_with_sent(&["aaa", "bb"]);
    bench.reopen();
    bench.push(0, &["c"]);
    assert_eq!(bench.stamped().len(), 3);
    let settled = bench.refuse(1, "PARTITION_READ_ONLY").expect("given up");
    let cause = "no (PARTITION_READ_ONLY)".to_owned();
    assert_eq!(settled.outcome, Err(ProduceError::ResultUnknown { cause }));
    bench.refuse(2, "PRECEDING_FAILED");
    bench.refuse(3, "PRECEDING_FAILED");
    // It may be in the log, so the next one still can be.
    bench.expect_stamped(&[(0, "bb", 1, 3)]);
    assert_eq!(bench.pipeline.to_renew(), None);
    assert_eq!(bench.placed(4), Some("bb"));
    bench.expect_stamped(&[]);
    bench.renew(1, 2);
    bench.expect_stamped(&[(0, "c", 2, 0)]);
}

#[test]
fn a_forgotten_producer_sends_what_surely_is_not_in_the_log_under_a_new_identity() {
    for reason in ["SEQUENCE_GAP", "UNKNOWN_PRODUCER_STATE"] {
        let mut bench = bench_with_sent(&["aaa", "bb"]);
        assert_eq!(bench.refuse(1, reason), None);
        assert_eq!(bench.pipeline.to_renew(), None, "one is in flight");
        assert_eq!(bench.refuse(2, "PRECEDING_FAILED"), None);
        bench.pass(100);
        bench.expect_stamped(&[]);
        bench.renew(1, 2);
        bench.expect_stamped(&[(0, "aaa", 2, 0), (0, "bb", 2, 3)]);
        assert_eq!(bench.placed(3), Some("aaa"));
    }
}

#[test]
fn a_forgotten_producer_does_not_know_what_was_sent_and_not_answered() {
    for reason in ["SEQUENCE_GAP", "UNKNOWN_PRODUCER_STATE"] {
        let mut bench = bench_with_sent(&["aaa", "bb"]);
        bench.reopen();
        bench.push(0, &["c"]);
        assert_eq!(bench.stamped().len(), 3);
        assert_eq!(bench.refuse(1, reason), None, "what follows is not answered");
        assert_eq!(bench.refuse(2, "PRECEDING_FAILED"), None);
        bench.pipeline.answered(3, Err(error("PRECEDING_FAILED")), bench.now);
        bench.expect_unknown(&["aaa", "bb"]);
        bench.pass(100);
        bench.renew(1, 2);
        bench.expect_stamped(&[(0, "c", 2, 0)]);
    }
}

#[test]
fn a_broker_that_always_forgets_is_given_up_when_the_time_is_over() {
    let mut bench = bench_with_sent(&["a"]);
    for id in 1..=3 {
        assert_eq!(bench.refuse(id, "SEQUENCE_GAP"), None);
        bench.pass(100);
        bench.renew(id, id + 1);
        bench.expect_stamped(&[(0, "a", id + 1, 0)]);
    }
    bench.pass(10_000);
    let settled = bench.refuse(4, "SEQUENCE_GAP").expect("given up");
    assert!(matches!(settled.outcome, Err(ProduceError::TimedOut { .. })), "{settled:?}");
}

#[test]
fn a_new_identity_waits_for_what_other_lanes_sent_under_the_old_one() {
    let mut bench = bench(3);
    bench.push(1, &["x", "y"]);
    bench.expect_stamped(&[(1, "x", 1, 0), (1, "y", 1, 1)]);
    bench.reopen();
    bench.push(0, &["a"]);
    bench.push(2, &["r"]);
    bench.expect_stamped(&[(1, "x", 1, 0), (0, "a", 1, 0), (2, "r", 1, 0), (1, "y", 1, 1)]);
    assert_eq!(bench.refuse(2, "SEQUENCE_GAP"), None);
    assert_eq!(bench.refuse(1, "OVERLOADED"), None);
    assert_eq!(bench.refuse(4, "PRECEDING_FAILED"), None);
    bench.push(1, &["z"]);
    bench.push(2, &["s"]);
    bench.pass(100);
    bench.expect_stamped(&[(1, "x", 1, 0), (1, "y", 1, 1)]);
    assert_eq!([5, 6].map(|number| bench.placed(number)), [Some("x"), Some("y")]);
    assert_eq!(bench.pipeline.to_renew(), None, "one of the third lane is in flight");
    assert!(!bench.pipeline.has_room(), "nothing new is taken");
    assert_eq!(bench.placed(3), Some("r"));
    bench.expect_stamped(&[]);
    bench.renew(1, 2);
    assert!(bench.pipeline.has_room());
    let mut sent = bench.stamped();
    sent.sort_unstable();
    assert_eq!(sent, [(0, "a", 2, 0), (1, "z", 2, 0), (2, "s", 2, 0)]);
}

#[test]
fn what_may_have_been_appended_expires_as_unknown_and_costs_the_identity() {
    let mut bench = bench_with_sent(&["aaa"]);
    bench.pass(5_000);
    bench.push(0, &["bb", "c"]);
    bench.expect_stamped(&[(0, "bb", 1, 3), (0, "c", 1, 5)]);
    assert!(bench.broken().is_empty());
    bench.push(0, &["d"]);
    bench.pass(5_000);
    bench.pipeline.expire(bench.now, "nobody is there");
    let cause = "not delivered within 10 s: nobody is there".to_owned();
    let outcome = Err(ProduceError::ResultUnknown { cause });
    assert_eq!(bench.settled(), [Settled { batch: "aaa", outcome }]);
    assert_eq!(bench.pipeline.to_renew(), None);
    bench.pass(5_000);
    bench.pipeline.expire(bench.now, "nobody is there");
    let settled = bench.settled();
    assert!(settled[..2].iter().all(is_unknown), "{settled:?}");
    assert!(matches!(settled[2].outcome, Err(ProduceError::TimedOut { .. })), "{settled:?}");
    // The stream is not needed for it.
    bench.renew(1, 2);
}

#[test]
fn what_a_new_identity_stands_in_the_way_of_is_said_of_what_expires() {
    let mut bench = bench_with_sent(&["a"]);
    bench.push(0, &["b"]);
    bench.refuse(1, "SEQUENCE_GAP");
    bench.pipeline.not_renewed(&CallError::Refused(error("STORAGE_FULL")));
    bench.pass(10_000);
    bench.pipeline.expire(bench.now, "nobody is there");
    let timed_out =
        |cause: &str| Err(ProduceError::TimedOut { timeout: TIMEOUT, cause: cause.to_owned() });
    let settled = bench.settled();
    assert_eq!(settled[0].outcome, timed_out("no (SEQUENCE_GAP)"));
    assert_eq!(settled[1].outcome, timed_out("no (STORAGE_FULL)"));
}

#[test]
fn a_refusal_of_a_new_identity_that_stays_fails_what_is_queued() {
    let mut bench = bench_with_sent(&["a"]);
    bench.refuse(1, "SEQUENCE_GAP");
    bench.pipeline.not_renewed(&CallError::Refused(error("PERMISSION_DENIED")));
    let refused = Err(ProduceError::Refused(error("PERMISSION_DENIED")));
    assert_eq!(bench.settled(), [Settled { batch: "a", outcome: refused }]);
    bench.renew(1, 2);
}

/// Checks that all is over for a pipeline, and what became of its batches.
#[track_caller]
fn check_fenced(bench: &mut Bench, refused: &[&str], unknown: &[&str]) {
    assert!(bench.pipeline.is_fenced());
    let fenced = Err(ProduceError::Refused(error("PRODUCER_FENCED")));
    let settled = bench.settled();
    let (uncertain, certain): (Vec<_>, Vec<_>) = settled.into_iter().partition(is_unknown);
    assert!(certain.iter().all(|settled| settled.outcome == fenced), "{certain:?}");
    assert!(certain.iter().map(|settled| settled.batch).eq(refused.iter().copied()));
    assert!(uncertain.iter().map(|settled| settled.batch).eq(unknown.iter().copied()));
    assert_eq!((bench.stamped(), bench.pipeline.to_renew()), (Vec::new(), None));
}

#[test]
fn a_fenced_producer_fails_all_that_is_not_in_the_log() {
    let mut bench = bench(2);
    bench.push(1, &["x", "y"]);
    assert_eq!(bench.stamped().len(), 2);
    bench.reopen();
    bench.push(0, &["a", "b"]);
    assert_eq!(bench.stamped().len(), 4);
    bench.push(0, &["c"]);
    let (x, a, y, b) = (1, 2, 3, 4);
    bench.pipeline.answered(a, Err(error("PRODUCER_FENCED")), bench.now);
    check_fenced(&mut bench, &["c", "a"], &[]);
    assert_eq!(bench.placed(x), Some("x"), "it was appended before");
    bench.pipeline.answered(y, Err(error("PRODUCER_FENCED")), bench.now);
    bench.pipeline.answered(b, Err(error("PRECEDING_FAILED")), bench.now);
    check_fenced(&mut bench, &["b"], &["y"]);
    bench.push(0, &["d"]);
    check_fenced(&mut bench, &["d"], &[]);
    assert_eq!(bench.pipeline.unsettled(), 0);
}

#[test]
fn what_a_fenced_producer_sent_is_unknown_when_the_stream_breaks() {
    let mut bench = bench(2);
    bench.push(0, &["a"]);
    bench.push(1, &["x"]);
    assert_eq!(bench.stamped().len(), 2);
    bench.pipeline.answered(1, Err(error("PRODUCER_FENCED")), bench.now);
    check_fenced(&mut bench, &["a"], &[]);
    assert_eq!(bench.broken(), ["x"]);
    assert_eq!(bench.pipeline.unsettled(), 0);
}

#[test]
fn a_producer_can_be_fenced_when_it_asks_for_a_new_identity() {
    let mut bench = bench_with_sent(&["a"]);
    bench.refuse(1, "UNKNOWN_PRODUCER_STATE");
    bench.pipeline.not_renewed(&CallError::Refused(error("PRODUCER_FENCED")));
    check_fenced(&mut bench, &["a"], &[]);
}

#[test]
fn sequences_go_on_from_0_behind_the_last_one() {
    let mut bench = bench(1);
    let mut push = |batch, records| {
        let deadline = bench.now + TIMEOUT;
        bench.pipeline.push(0, Fresh { batch, bytes: 10, records, deadline });
    };
    push("a", (1 << 31) - 1);
    push("b", (1 << 31) - 1);
    push("c", 5);
    push("d", 1);
    let last = Sequence::ZERO.advance(u32::MAX - 1);
    bench.expect_stamped(&[
        (0, "a", 1, 0),
        (0, "b", 1, (1 << 31) - 1),
        (0, "c", 1, last.get()),
        (0, "d", 1, 3),
    ]);
    assert_eq!([1, 2].map(|number| bench.placed(number)), [Some("a"), Some("b")]);
    bench.reopen();
    bench.expect_stamped(&[(0, "c", 1, last.get()), (0, "d", 1, 3)]);
    assert_eq!(bench.placed(1), Some("c"));
    assert!(bench.refuse(2, "OVERLOADED").is_none());
    bench.pass(100);
    bench.push(0, &["e"]);
    bench.expect_stamped(&[(0, "d", 1, 3), (0, "e", 1, 4)]);
    assert_eq!([3, 4].map(|number| bench.placed(number)), [Some("d"), Some("e")]);
    bench.push(0, &["f"]);
    bench.expect_stamped(&[(0, "f", 1, 5)]);
    bench.refuse(5, "STORAGE_FULL");
    bench.pass(100);
    bench.expect_stamped(&[(0, "f", 1, 5)]);
}
