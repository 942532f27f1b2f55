//! Decides which batch is sent next, and what an answer means for the batches behind it.
//!
//! Pure: takes batches, answers and times; returns what to send and what became of batches. `B`
//! stands for a batch, a lane for a partition.
//! Invariant: within a lane, batches are appended in the order in which they were pushed; one that
//! was refused for good is left out, and no batch is sent again that may have been appended.
//!
//! A refusal halts its lane until everything sent behind the refused request has been answered,
//! because the broker refuses all of it. Then the refused batches go to the front of the queue, in
//! order, and the first request that is sent says that it resumes after the refused one.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::ProduceError;
use super::in_flight::InFlight;
use crate::ServerError;
use crate::retry::{Backoff, Verdict, verdict};

/// A request to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing<B> {
    /// Its number on the stream.
    pub(super) number: u64,
    /// The lane it belongs to.
    pub(super) lane: usize,
    /// The refused request after which order goes on; 0: none.
    pub(super) resumes_after: u64,
    /// The batch.
    pub(super) batch: B,
}

/// A batch that is done with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled<B> {
    /// The batch.
    pub(super) batch: B,
    /// Why it was not appended, or may not have been; `None`: it was.
    pub(super) failure: Option<ProduceError>,
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
    delivery_timeout: Duration,
    backoff: Backoff,
    unsettled: usize,
}

#[derive(Debug)]
struct Lane<B> {
    queue: VecDeque<Pending<B>>,
    sent: VecDeque<Sent<B>>,
    /// Refused while halted, by number: they go back to the queue's front.
    returned: BTreeMap<u64, Pending<B>>,
    /// Whether a refusal or an unknown result came and not everything sent behind it has been
    /// answered.
    is_halted: bool,
    /// The lowest number that was refused while halted: all behind it is refused as well.
    refused_from: Option<u64>,
    /// Number of the last request that was refused for its own sake.
    refused_number: u64,
    /// What the next request says it resumes after; 0: nothing.
    resumes_after: u64,
    wait_until: Option<Instant>,
    is_ready: bool,
}

#[derive(Debug)]
struct Sent<B> {
    number: u64,
    pending: Pending<B>,
    /// When an answer is overdue.
    answer_by: Instant,
}

#[derive(Debug)]
struct Pending<B> {
    batch: B,
    bytes: u64,
    deadline: Instant,
    refusals: u32,
    last_refusal: Option<ServerError>,
}

impl<B: Clone> Pipeline<B> {
    pub(super) fn new(lanes: usize, delivery_timeout: Duration, backoff: Backoff) -> Self {
        Self {
            lanes: std::iter::repeat_with(Lane::default).take(lanes).collect(),
            ready: VecDeque::new(),
            pausing: Vec::new(),
            in_flight: InFlight::default(),
            delivery_timeout,
            backoff,
            unsettled: 0,
        }
    }

    /// Queues a batch of `bytes` that must be sent before `deadline`.
    pub(super) fn push(&mut self, lane: usize, batch: B, bytes: u64, deadline: Instant) {
        let pending = Pending { batch, bytes, deadline, refusals: 0, last_refusal: None };
        self.lanes[lane].queue.push_back(pending);
        self.unsettled += 1;
        self.mark_ready(lane);
    }

    /// A stream was opened with these limits: what is queued can go.
    pub(super) fn opened(&mut self, bytes_max: u64, requests_max: u32) {
        self.in_flight.open(bytes_max, requests_max);
    }

    /// The next request to send, if one may be sent now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Outgoing<B>> {
        loop {
            let index = *self.ready.front()?;
            let lane = &mut self.lanes[index];
            let Some(bytes) = lane.sendable_bytes(now) else {
                lane.is_ready = false;
                self.ready.pop_front();
                continue;
            };
            if !self.in_flight.has_room(bytes) {
                return None;
            }
            let number = self.in_flight.add(index, bytes);
            let (resumes_after, batch) = lane.send(number, now + self.delivery_timeout)?;
            // To the end of the line, so that lanes take turns.
            self.ready.rotate_left(1);
            return Some(Outgoing { number, lane: index, resumes_after, batch });
        }
    }

    /// Takes the answer to request `number`: `None`, or why it was refused.
    ///
    /// Returns the batch if that settles it; one that will be sent again is kept.
    pub(super) fn answered(
        &mut self,
        number: u64,
        refusal: Option<ServerError>,
        now: Instant,
    ) -> Option<Settled<B>> {
        let index = self.in_flight.remove(number)?;
        let lane = self.lanes.get_mut(index)?;
        let place = lane.sent.iter().position(|sent| sent.number == number)?;
        let Sent { pending, .. } = lane.sent.remove(place)?;
        self.in_flight.release(pending.bytes);
        let settled = match refusal {
            None => Some(Settled { batch: pending.batch, failure: None }),
            Some(error) => lane.refused(
                Refusal { number, error, now, timeout: self.delivery_timeout },
                pending,
                self.backoff,
            ),
        };
        self.unsettled -= usize::from(settled.is_some());
        self.go_on(index);
        settled
    }

    /// Takes the refusal of a request that nobody waits for: later ones resume after it.
    pub(super) fn refused_unasked(&mut self, lane: usize, number: u64, reason: &str) {
        if verdict(reason) != Verdict::Follows
            && let Some(lane) = self.lanes.get_mut(lane)
        {
            lane.resumes_after = number;
        }
    }

    /// The stream broke. Returns the batches whose outcome is unknown; all others are queued again.
    pub(super) fn broken(&mut self) -> Vec<B> {
        self.in_flight.close();
        let mut unknown = Vec::new();
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            for Sent { number, pending, .. } in std::mem::take(&mut lane.sent) {
                // Sent behind a refused request: surely refused too, whether we heard it or not.
                if lane.refused_from.is_some_and(|refused| refused < number) {
                    lane.returned.insert(number, pending);
                } else {
                    unknown.push(pending.batch);
                }
            }
            self.go_on(index);
            let lane = &mut self.lanes[index];
            lane.resumes_after = 0;
            lane.refused_number = 0;
        }
        self.unsettled -= unknown.len();
        unknown
    }

    /// Takes out what was not sent in time; `cause` is said of batches that were never refused.
    pub(super) fn expire(&mut self, now: Instant, cause: &str) -> Vec<Settled<B>> {
        let timeout = self.delivery_timeout;
        let mut expired = Vec::new();
        for lane in &mut self.lanes {
            while lane.queue.front().is_some_and(|pending| pending.deadline <= now) {
                let Some(pending) = lane.queue.pop_front() else { break };
                let cause = pending.last_refusal.map_or(cause.to_owned(), |e| e.to_string());
                let failure = Some(ProduceError::TimedOut { timeout, cause });
                expired.push(Settled { batch: pending.batch, failure });
            }
        }
        self.unsettled -= expired.len();
        expired
    }

    /// Whether a request stays unanswered for too long: the stream is not worth keeping.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let late = |lane: &Lane<B>| lane.sent.front().is_some_and(|sent| sent.answer_by <= now);
        self.lanes.iter().any(late)
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
        let lane = &self.lanes[lane];
        lane.queue.is_empty() && lane.sent.is_empty() && lane.returned.is_empty()
    }

    /// Number of batches of the lane that wait to be sent.
    pub(super) fn queued(&self, lane: usize) -> usize {
        self.lanes[lane].queue.len()
    }

    /// Whether a small request could be sent now.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.has_room(0)
    }

    /// Number of batches that are not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// All batches that are not settled.
    pub(super) fn batches(&self) -> impl Iterator<Item = &B> {
        self.lanes.iter().flat_map(|lane| {
            let sent = lane.sent.iter().map(|sent| &sent.pending);
            sent.chain(lane.returned.values()).chain(&lane.queue).map(|pending| &pending.batch)
        })
    }

    fn go_on(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if lane.sent.is_empty() && lane.is_halted {
            lane.resume();
            if let Some(until) = lane.wait_until {
                self.pausing.push((until, index));
                return;
            }
        }
        self.mark_ready(index);
    }

    fn mark_ready(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.is_ready && !lane.is_halted && !lane.queue.is_empty() {
            lane.is_ready = true;
            self.ready.push_back(index);
        }
    }
}

impl<B> Default for Lane<B> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            returned: BTreeMap::new(),
            is_halted: false,
            refused_from: None,
            refused_number: 0,
            resumes_after: 0,
            wait_until: None,
            is_ready: false,
        }
    }
}

/// A request that was refused, and when.
struct Refusal {
    number: u64,
    error: ServerError,
    now: Instant,
    timeout: Duration,
}

impl<B: Clone> Lane<B> {
    /// Bytes of the batch that may be sent now.
    fn sendable_bytes(&self, now: Instant) -> Option<u64> {
        let may_send = !self.is_halted && self.wait_until.is_none_or(|until| until <= now);
        self.queue.front().filter(|_| may_send).map(|pending| pending.bytes)
    }

    /// Moves the first queued batch to those sent.
    fn send(&mut self, number: u64, answer_by: Instant) -> Option<(u64, B)> {
        let pending = self.queue.pop_front()?;
        let batch = pending.batch.clone();
        self.sent.push_back(Sent { number, pending, answer_by });
        self.wait_until = None;
        Some((std::mem::take(&mut self.resumes_after), batch))
    }

    fn refused(
        &mut self,
        refusal: Refusal,
        mut pending: Pending<B>,
        backoff: Backoff,
    ) -> Option<Settled<B>> {
        let Refusal { number, error, now, timeout } = refusal;
        let follows = verdict(&error.reason) == Verdict::Follows;
        let is_known = self.is_halted || (follows && self.refused_number != 0);
        // The broker's own word for it counts: an unknown result is no refusal to it.
        let stated = error.metadata.get("refused").and_then(|stated| stated.parse().ok());
        match stated.filter(|_| follows) {
            Some(stated) => self.refused_number = stated,
            None if is_known => {}
            None => self.refused_number = number,
        }
        let verdict = verdict(&error.reason);
        if verdict != Verdict::Unknown {
            self.refused_from = Some(self.refused_from.map_or(number, |from| from.min(number)));
        }
        let was_halted = std::mem::replace(&mut self.is_halted, true);
        let failure = match verdict {
            Verdict::Follows if was_halted => None,
            Verdict::Follows | Verdict::Retry if now < pending.deadline => {
                pending.refusals += 1;
                let until = now + backoff.after(&error, pending.refusals);
                self.wait_until = self.wait_until.max(Some(until));
                pending.last_refusal = Some(error);
                None
            }
            Verdict::Follows | Verdict::Retry => {
                Some(ProduceError::TimedOut { timeout, cause: error.to_string() })
            }
            Verdict::Unknown => Some(ProduceError::ResultUnknown { cause: error.message }),
            Verdict::Final => Some(ProduceError::Refused(error)),
        };
        if failure.is_some() {
            return Some(Settled { batch: pending.batch, failure });
        }
        self.returned.insert(number, pending);
        None
    }

    /// Queues again, in order, what was refused.
    fn resume(&mut self) {
        for (_, pending) in std::mem::take(&mut self.returned).into_iter().rev() {
            self.queue.push_front(pending);
        }
        self.resumes_after = self.refused_number;
        (self.is_halted, self.refused_from) = (false, None);
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
