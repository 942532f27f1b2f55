//! Decides which batch is sent next, and what an answer means for the batches behind it.
//!
//! Pure: takes batches, answers and times; returns what to send and what became of batches. `B`
//! stands for a batch, a lane for a partition.
//! Invariant: within a lane, batches are appended in the order in which they were pushed; one that
//! was refused for good is left out. What may have been appended is sent again only by an idempotent
//! producer, and as it was: under the same sequence.
//!
//! A refusal halts its lane until everything sent behind the refused request has been answered,
//! because the broker refuses all of it. Then the refused batches go to the front of the queue, in
//! order, and the first request that is sent says that it resumes after the refused one.
//!
//! Where the fate of a batch will never be known (its time is over, or the broker forgot the
//! producer), its sequence may be a gap. Then the producer needs a new identity. Until it has one,
//! only what may have been appended is sent, so that as little as possible stays unknown; all else
//! follows under the new identity.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use taffrail_model::{Offset, ProducerStamp};

use super::ProduceError;
use super::identity::{Identity, Standing};
use super::in_flight::InFlight;
use super::lane::{Fresh, Lane, Rules};
use crate::retry::{Backoff, Verdict, is_final_for_call, verdict};
use crate::{CallError, ServerError};

/// A request to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing<B> {
    /// Its number on the stream.
    pub(super) number: u64,
    /// The lane it belongs to.
    pub(super) lane: usize,
    /// The refused request after which order goes on; 0: none.
    pub(super) resumes_after: u64,
    /// Who sends it, and which of theirs it is, if they are idempotent.
    pub(super) stamp: Option<ProducerStamp>,
    /// The batch.
    pub(super) batch: B,
}

/// A batch that is done with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled<B> {
    /// The batch.
    pub(super) batch: B,
    /// Its offset, where that is known, or why it was not appended, or may not have been.
    pub(super) outcome: Result<Option<Offset>, ProduceError>,
}

/// All lanes of a producer, and what is in flight on its stream.
#[derive(Debug)]
pub(super) struct Pipeline<B> {
    lanes: Vec<Lane<B>>,
    /// Lanes that may have something to send, each once.
    ready: VecDeque<usize>,
    /// Lanes that wait before they send again.
    pausing: Vec<(Instant, usize)>,
    in_flight: InFlight,
    rules: Rules,
    standing: Standing,
    unsettled: usize,
    /// What became of batches, until it is taken.
    settled: VecDeque<Settled<B>>,
}

impl<B: Clone> Pipeline<B> {
    /// Idempotent if there is an identity.
    pub(super) fn new(
        lanes: usize,
        delivery_timeout: Duration,
        backoff: Backoff,
        identity: Option<Identity>,
    ) -> Self {
        let standing = identity.map_or(Standing::Anonymous, Standing::Valid);
        Self {
            lanes: std::iter::repeat_with(Lane::default).take(lanes).collect(),
            ready: VecDeque::new(),
            pausing: Vec::new(),
            in_flight: InFlight::default(),
            rules: Rules { delivery_timeout, backoff, is_idempotent: standing.is_idempotent() },
            standing,
            unsettled: 0,
            settled: VecDeque::new(),
        }
    }

    /// Queues a batch.
    pub(super) fn push(&mut self, lane: usize, fresh: Fresh<B>) {
        self.lanes[lane].push(fresh);
        self.unsettled += 1;
        self.fail_if_fenced(lane);
        self.mark_ready(lane);
    }

    /// A stream was opened with these limits: what is queued can go.
    pub(super) fn opened(&mut self, bytes_max: u64, requests_max: u32) {
        self.in_flight.open(bytes_max, requests_max);
    }

    /// The next request to send, if one may be sent now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Outgoing<B>> {
        let takes_new = self.standing.takes_new();
        loop {
            let index = *self.ready.front()?;
            let lane = &mut self.lanes[index];
            let Some(bytes) = lane.sendable_bytes(now, takes_new) else {
                lane.is_ready = false;
                self.ready.pop_front();
                continue;
            };
            if !self.in_flight.has_room(bytes) {
                return None;
            }
            let number = self.in_flight.add(index, bytes);
            let answer_by = now + self.rules.delivery_timeout;
            let (batch, sequence, resumes_after) = lane.send(number, answer_by)?;
            let stamp = self.standing.stamp(sequence);
            // To the end of the line, so that lanes take turns.
            self.ready.rotate_left(1);
            return Some(Outgoing { number, lane: index, resumes_after, stamp, batch });
        }
    }

    /// Takes the answer to request `number`: its batch's offset, or why it was refused.
    pub(super) fn answered(
        &mut self,
        number: u64,
        answer: Result<Option<Offset>, ServerError>,
        now: Instant,
    ) {
        let Some(index) = self.in_flight.remove(number) else { return };
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Some(sent) = lane.take_sent(number) else { return };
        self.in_flight.release(sent.bytes());
        match answer {
            Ok(offset) => {
                let batch = lane.appended(sent);
                self.settle(batch, Ok(offset));
            }
            Err(error) => {
                self.note_standing(&error);
                let given_up = self.lanes[index].refused(sent, error, now, self.rules);
                self.settle_failed(given_up);
            }
        }
        self.go_on(index);
    }

    /// What became of a batch, in the order in which it was found out.
    pub(super) fn next_settled(&mut self) -> Option<Settled<B>> {
        self.settled.pop_front()
    }

    /// Takes the refusal of a request that nobody waits for: later ones resume after it, or after the
    /// one that it was refused for.
    pub(super) fn refused_unasked(&mut self, lane: usize, number: u64, error: &ServerError) {
        let resumes_after =
            if verdict(&error.reason) == Verdict::Follows { error.refused() } else { Some(number) };
        if let (Some(lane), Some(number)) = (self.lanes.get_mut(lane), resumes_after) {
            lane.refused_unasked(number);
        }
    }

    /// The stream broke because of `cause`. What was sent and not answered is queued again, or its
    /// outcome is unknown.
    pub(super) fn broken(&mut self, cause: &str) {
        self.in_flight.close();
        for index in 0..self.lanes.len() {
            for batch in self.lanes[index].broken(self.rules) {
                let failure = ProduceError::ResultUnknown { cause: cause.to_owned() };
                self.settle(batch, Err(failure));
            }
            self.go_on(index);
            self.lanes[index].forget_stream();
        }
    }

    /// Gives up what was not sent in time, or not again; `cause` is said of batches that were never
    /// refused.
    pub(super) fn expire(&mut self, now: Instant, cause: &str) {
        let timeout = self.rules.delivery_timeout;
        for index in 0..self.lanes.len() {
            while let Some(pending) = self.lanes[index].take_expired(now) {
                let cause = self.standing.obstacle().unwrap_or(cause);
                let given_up = pending.expire(timeout, cause);
                self.settle_failed([given_up]);
            }
        }
    }

    /// Gives up everything that is queued because of `refusal`.
    pub(super) fn fail_queued(&mut self, refusal: &ServerError) {
        for index in 0..self.lanes.len() {
            self.fail_lane(index, refusal);
        }
    }

    /// The identity to replace, once nothing depends on it any more.
    pub(super) fn to_renew(&self) -> Option<Identity> {
        let Standing::Spent { identity, .. } = &self.standing else { return None };
        self.lanes.iter().all(Lane::is_certain).then_some(*identity)
    }

    /// Takes a new identity in place of the spent one: what is queued can go.
    pub(super) fn renewed(&mut self, identity: Identity) {
        assert!(self.to_renew().is_some(), "a new identity that was not needed");
        self.standing = Standing::Valid(identity);
        for index in 0..self.lanes.len() {
            self.lanes[index].renumber();
            self.mark_ready(index);
        }
    }

    /// There is no new identity because of `error`. If asking again would not help, gives up
    /// everything that is queued.
    pub(super) fn not_renewed(&mut self, error: &CallError) {
        self.standing.hinder(error.to_string());
        let CallError::Refused(refusal) = error else { return };
        if verdict(&refusal.reason) == Verdict::Fenced {
            self.fence(refusal.clone());
        } else if is_final_for_call(refusal) {
            self.fail_queued(refusal);
        }
    }

    /// Whether another producer has taken the name.
    pub(super) fn is_fenced(&self) -> bool {
        matches!(self.standing, Standing::Fenced(_))
    }

    /// Whether a request stays unanswered for too long: the stream is not worth keeping.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.lanes.iter().any(|lane| lane.is_overdue(now))
    }

    /// Lets lanes go on whose wait is over.
    pub(super) fn wake(&mut self, now: Instant) {
        let over: Vec<usize> =
            self.pausing.extract_if(.., |(until, _)| *until <= now).map(|(_, lane)| lane).collect();
        for lane in over {
            self.mark_ready(lane);
        }
    }

    /// When [`Self::wake`] has something to do.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.pausing.iter().map(|(until, _)| *until).min()
    }

    /// Whether nothing of the lane is queued or sent.
    pub(super) fn is_idle(&self, lane: usize) -> bool {
        self.lanes[lane].is_idle()
    }

    /// Number of batches of the lane that wait to be sent.
    pub(super) fn queued(&self, lane: usize) -> usize {
        self.lanes[lane].queued()
    }

    /// Whether a small batch could be sent now.
    pub(super) fn has_room(&self) -> bool {
        self.standing.takes_new() && self.in_flight.has_room(0)
    }

    /// Number of batches that are not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// All batches that are not settled.
    pub(super) fn batches(&self) -> impl Iterator<Item = &B> {
        self.lanes.iter().flat_map(Lane::batches)
    }

    fn settle(&mut self, batch: B, outcome: Result<Option<Offset>, ProduceError>) {
        if matches!(outcome, Err(ProduceError::ResultUnknown { .. })) {
            self.standing.spend();
        }
        self.unsettled -= 1;
        self.settled.push_back(Settled { batch, outcome });
    }

    fn settle_failed(&mut self, given_up: impl IntoIterator<Item = (B, ProduceError)>) {
        for (batch, failure) in given_up {
            self.settle(batch, Err(failure));
        }
    }

    /// Takes note of what a refusal says of the producer itself.
    fn note_standing(&mut self, error: &ServerError) {
        match verdict(&error.reason) {
            Verdict::Renew => self.standing.spend(),
            Verdict::Fenced if self.rules.is_idempotent => self.fence(error.clone()),
            Verdict::Fenced
            | Verdict::Retry
            | Verdict::Follows
            | Verdict::Unknown
            | Verdict::Final => {}
        }
    }

    /// Another producer has taken the name: gives up everything but what may still be answered.
    fn fence(&mut self, error: ServerError) {
        self.fail_queued(&error);
        self.standing = Standing::Fenced(error);
    }

    fn fail_lane(&mut self, index: usize, refusal: &ServerError) {
        while let Some(pending) = self.lanes[index].take_queued() {
            let given_up = pending.give_up(ProduceError::Refused(refusal.clone()));
            self.settle_failed([given_up]);
        }
    }

    fn fail_if_fenced(&mut self, index: usize) {
        if let Standing::Fenced(error) = &self.standing {
            let error = error.clone();
            self.fail_lane(index, &error);
        }
    }

    fn go_on(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if lane.can_resume() {
            let wait_until = lane.resume();
            let lost = lane.take_lost();
            self.settle_failed(lost);
            self.fail_if_fenced(index);
            if let Some(until) = wait_until {
                self.pausing.push((until, index));
                return;
            }
        }
        self.mark_ready(index);
    }

    fn mark_ready(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.is_ready && lane.has_work() {
            lane.is_ready = true;
            self.ready.push_back(index);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "idempotence_tests.rs"]
mod idempotence_tests;

#[cfg(test)]
#[path = "model_broker.rs"]
mod model_broker;

#[cfg(test)]
#[path = "random_tests.rs"]
mod random_tests;
