//! One partition's batches: those that wait, those that are sent, and where its sequence stands.
//!
//! Pure. Invariants: batches keep the order in which they were queued. Those that may have been
//! appended are *uncertain*: they stand before all others and keep their sequence until the broker
//! says that they are in the log. What surely was not appended uses no sequence up.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use taffrail_model::Sequence;

use super::ProduceError;
use crate::ServerError;
use crate::retry::{Backoff, Verdict, verdict};

/// A batch that was never sent.
#[derive(Debug)]
pub(super) struct Fresh<B> {
    pub(super) batch: B,
    /// Of its request.
    pub(super) bytes: u64,
    pub(super) records: u32,
    /// When it is given up.
    pub(super) deadline: Instant,
}

/// A batch that is not settled.
#[derive(Debug)]
pub(super) struct Pending<B> {
    fresh: Fresh<B>,
    /// Where it may have been appended; `None`: surely it was not.
    kept_sequence: Option<Sequence>,
    refusals: u32,
    last_refusal: Option<ServerError>,
}

/// A batch that is on its way, or was refused there.
#[derive(Debug)]
pub(super) struct Sent<B> {
    number: u64,
    sequence: Sequence,
    pending: Pending<B>,
    /// When an answer is overdue.
    answer_by: Instant,
}

/// What holds for all lanes of a producer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) delivery_timeout: Duration,
    pub(super) backoff: Backoff,
    /// Whether what may have been appended can be sent again.
    pub(super) is_idempotent: bool,
}

/// A partition's batches.
#[derive(Debug)]
pub(super) struct Lane<B> {
    queue: VecDeque<Pending<B>>,
    sent: VecDeque<Sent<B>>,
    /// Given back while halted, by number: they go to the queue's front.
    returned: BTreeMap<u64, Sent<B>>,
    /// Whether a refusal or an unknown result came and not everything sent behind it has been
    /// answered.
    is_halted: bool,
    /// The lowest number that was refused while halted: all behind it is refused as well.
    refused_from: Option<u64>,
    /// Number of the last request that was refused for its own sake.
    refused_number: u64,
    /// What the next request says it resumes after; 0: nothing.
    resumes_after: u64,
    /// Of the next batch that is sent for the first time.
    next_sequence: Sequence,
    /// Behind the last batch that was appended or may have been.
    appended_end: Sequence,
    /// What the broker said, if it does not know what was sent to it before.
    loss: Option<ServerError>,
    wait_until: Option<Instant>,
    /// Whether it stands in the line of those that may have something to send.
    pub(super) is_ready: bool,
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
            next_sequence: Sequence::ZERO,
            appended_end: Sequence::ZERO,
            loss: None,
            wait_until: None,
            is_ready: false,
        }
    }
}

impl<B> From<Fresh<B>> for Pending<B> {
    fn from(fresh: Fresh<B>) -> Self {
        Self { fresh, kept_sequence: None, refusals: 0, last_refusal: None }
    }
}

impl<B> Pending<B> {
    fn is_uncertain(&self) -> bool {
        self.kept_sequence.is_some()
    }

    /// The batch and why it is given up: for `reason`, unless it may have been appended.
    pub(super) fn give_up(self, reason: ProduceError) -> (B, ProduceError) {
        let failure = match self.kept_sequence {
            Some(_) => ProduceError::ResultUnknown { cause: reason.to_string() },
            None => reason,
        };
        (self.fresh.batch, failure)
    }

    /// The same because its time is over; `cause` is said if it was never refused.
    pub(super) fn expire(mut self, timeout: Duration, cause: &str) -> (B, ProduceError) {
        let refusal = self.last_refusal.take();
        let cause = refusal.map_or(cause.to_owned(), |refusal| refusal.to_string());
        self.give_up(ProduceError::TimedOut { timeout, cause })
    }
}

impl<B> Sent<B> {
    pub(super) fn bytes(&self) -> u64 {
        self.pending.fresh.bytes
    }

    pub(super) fn into_batch(self) -> B {
        self.pending.fresh.batch
    }

    fn sequence_end(&self) -> Sequence {
        self.sequence.advance(self.pending.fresh.records)
    }
}

impl<B: Clone> Lane<B> {
    pub(super) fn push(&mut self, fresh: Fresh<B>) {
        self.queue.push_back(fresh.into());
    }

    /// Bytes of the request that may be sent now; one that was never sent only if `takes_new`.
    pub(super) fn sendable_bytes(&self, now: Instant, takes_new: bool) -> Option<u64> {
        let may_send = !self.is_halted && self.wait_until.is_none_or(|until| until <= now);
        let first = self.queue.front().filter(|_| may_send)?;
        (takes_new || first.is_uncertain()).then_some(first.fresh.bytes)
    }

    /// Moves the first queued batch to those sent. Returns it, its sequence, and what it resumes
    /// after.
    pub(super) fn send(&mut self, number: u64, answer_by: Instant) -> Option<(B, Sequence, u64)> {
        let pending = self.queue.pop_front()?;
        let batch = pending.fresh.batch.clone();
        let sequence = pending.kept_sequence.unwrap_or(self.next_sequence);
        let sent = Sent { number, sequence, pending, answer_by };
        if !sent.pending.is_uncertain() {
            self.next_sequence = sent.sequence_end();
        }
        self.sent.push_back(sent);
        self.wait_until = None;
        Some((batch, sequence, std::mem::take(&mut self.resumes_after)))
    }

    /// Takes out a request that was answered.
    pub(super) fn take_sent(&mut self, number: u64) -> Option<Sent<B>> {
        let place = self.sent.iter().position(|sent| sent.number == number)?;
        self.sent.remove(place)
    }

    /// Takes the word that a batch is in the log.
    pub(super) fn appended(&mut self, sent: Sent<B>) -> B {
        self.keep_sequence(&sent);
        sent.into_batch()
    }

    /// Takes a refusal. Returns the batch and why it is given up, unless it is sent again.
    pub(super) fn refused(
        &mut self,
        mut sent: Sent<B>,
        error: ServerError,
        now: Instant,
        rules: Rules,
    ) -> Option<(B, ProduceError)> {
        let verdict = verdict(&error.reason);
        self.note_refusal(sent.number, &error, verdict);
        let was_halted = std::mem::replace(&mut self.is_halted, true);
        match verdict {
            Verdict::Unknown if rules.is_idempotent => self.make_uncertain(&mut sent),
            Verdict::Unknown => {
                let failure = ProduceError::ResultUnknown { cause: error.message };
                return Some((sent.into_batch(), failure));
            }
            Verdict::Follows if was_halted => {
                self.returned.insert(sent.number, sent);
                return None;
            }
            Verdict::Renew if rules.is_idempotent => self.loss = Some(error.clone()),
            Verdict::Follows | Verdict::Retry => {}
            Verdict::Renew | Verdict::Fenced | Verdict::Final => {
                return Some(sent.pending.give_up(ProduceError::Refused(error)));
            }
        }
        let pending = &mut sent.pending;
        pending.refusals += 1;
        let until = now + rules.backoff.after(&error, pending.refusals);
        pending.last_refusal = Some(error);
        if pending.fresh.deadline <= now {
            return Some(sent.pending.expire(rules.delivery_timeout, ""));
        }
        self.wait_until = self.wait_until.max(Some(until));
        self.returned.insert(sent.number, sent);
        None
    }

    /// Remembers what the broker refuses from here on, and what to resume after.
    fn note_refusal(&mut self, number: u64, error: &ServerError, verdict: Verdict) {
        let follows = verdict == Verdict::Follows;
        let is_known = self.is_halted || (follows && self.refused_number != 0);
        // The broker's own word for it counts: an unknown result need not be a refusal to it.
        match error.refused().filter(|_| follows) {
            Some(stated) => self.refused_number = stated,
            None if is_known => {}
            None => self.refused_number = number,
        }
        if verdict != Verdict::Unknown {
            self.refused_from = Some(self.refused_from.map_or(number, |from| from.min(number)));
        }
    }

    /// Something that nobody waits for was refused: later requests resume after it.
    pub(super) fn refused_unasked(&mut self, number: u64) {
        self.resumes_after = number;
    }

    /// The stream broke. Returns the batches that may have been appended and cannot be sent again.
    pub(super) fn broken(&mut self, rules: Rules) -> Vec<B> {
        let mut unknown = Vec::new();
        for mut sent in std::mem::take(&mut self.sent) {
            // Sent behind a refused request: surely refused too, whether we heard it or not.
            let is_refused = self.refused_from.is_some_and(|refused| refused < sent.number);
            if !is_refused && !rules.is_idempotent {
                unknown.push(sent.into_batch());
                continue;
            }
            if !is_refused {
                self.make_uncertain(&mut sent);
            }
            self.is_halted = true;
            self.returned.insert(sent.number, sent);
        }
        unknown
    }

    /// Forgets the requests of a stream that broke, once what was sent on it is queued again.
    pub(super) fn forget_stream(&mut self) {
        self.resumes_after = 0;
        self.refused_number = 0;
    }

    /// Whether it was halted and can go on.
    pub(super) fn can_resume(&self) -> bool {
        self.is_halted && self.sent.is_empty()
    }

    /// Queues again, in order, what was given back. Returns when the lane may send, if it must
    /// wait.
    pub(super) fn resume(&mut self) -> Option<Instant> {
        let mut is_uncertain = false;
        for (_, mut sent) in std::mem::take(&mut self.returned).into_iter().rev() {
            // The broker appends in order: what stands before one that may be in the log may be
            // there too, whatever was said of it.
            if is_uncertain {
                self.make_uncertain(&mut sent);
            }
            is_uncertain |= sent.pending.is_uncertain();
            self.queue.push_front(sent.pending);
        }
        self.next_sequence = self.appended_end;
        self.resumes_after = self.refused_number;
        (self.is_halted, self.refused_from) = (false, None);
        self.wait_until
    }

    /// Takes out the uncertain batches if the broker does not know what was sent to it before.
    pub(super) fn take_lost(&mut self) -> Vec<(B, ProduceError)> {
        let Some(loss) = self.loss.take() else { return Vec::new() };
        let cause = format!("the partition does not know what this producer sent before: {loss}");
        let mut lost = Vec::new();
        while let Some(pending) = self.take_first_if(Pending::is_uncertain) {
            let failure = ProduceError::ResultUnknown { cause: cause.clone() };
            lost.push((pending.fresh.batch, failure));
        }
        lost
    }

    /// Takes out the first queued batch if its time is over.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Pending<B>> {
        self.take_first_if(|first| first.fresh.deadline <= now)
    }

    /// Takes out the first queued batch.
    pub(super) fn take_queued(&mut self) -> Option<Pending<B>> {
        self.queue.pop_front()
    }

    /// Whether the answer to some request is overdue.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.sent.front().is_some_and(|sent| sent.answer_by <= now)
    }

    /// Whether no batch may have been appended that is not settled.
    pub(super) fn is_certain(&self) -> bool {
        self.sent.is_empty() && !self.queue.front().is_some_and(Pending::is_uncertain)
    }

    /// Begins at sequence 0 again.
    pub(super) fn renumber(&mut self) {
        assert!(self.is_certain(), "a new identity while something is sent under the old one");
        (self.next_sequence, self.appended_end) = (Sequence::ZERO, Sequence::ZERO);
    }

    /// Whether nothing is queued or sent.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.sent.is_empty() && self.returned.is_empty()
    }

    /// Whether something is queued that need not wait for answers.
    pub(super) fn has_work(&self) -> bool {
        !self.is_halted && !self.queue.is_empty()
    }

    /// Number of batches that wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// All batches.
    pub(super) fn batches(&self) -> impl Iterator<Item = &B> {
        let on_their_way = self.sent.iter().chain(self.returned.values());
        let pending = on_their_way.map(|sent| &sent.pending).chain(&self.queue);
        pending.map(|pending| &pending.fresh.batch)
    }

    fn take_first_if(&mut self, decide: impl Fn(&Pending<B>) -> bool) -> Option<Pending<B>> {
        if self.queue.front().is_some_and(decide) { self.queue.pop_front() } else { None }
    }

    fn make_uncertain(&mut self, sent: &mut Sent<B>) {
        sent.pending.kept_sequence = Some(sent.sequence);
        self.keep_sequence(sent);
    }

    /// Leaves the batch its sequence: those that were never appended come behind it.
    fn keep_sequence(&mut self, sent: &Sent<B>) {
        let end = sent.sequence_end();
        if self.appended_end.is_before(end) {
            self.appended_end = end;
        }
    }
}
