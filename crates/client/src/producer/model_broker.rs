//! What a broker does with an idempotent producer's batches, in memory, and what can go wrong there.
//!
//! Each stream is a session of its own; what came over one that broke may still be appended later.

use std::collections::{HashMap, HashSet, VecDeque};

use taffrail_model::{Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence};

use super::Outgoing;
use crate::ServerError;
use crate::producer::Identity;

/// A batch of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) number: u32,
    pub(super) records: u32,
}

pub(super) type Answer = (u64, Result<Option<Offset>, ServerError>);

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    None,
    /// It is refused for this reason before anybody looks at it.
    Refused(&'static str),
    /// It is appended, which is not known.
    Unknown,
    /// It is not appended, which is not known.
    UnknownAndLost,
}

#[derive(Default)]
pub(super) struct Broker {
    pub(super) partitions: Vec<Partition>,
    /// The streams there ever were; requests of old ones may be left.
    pub(super) sessions: Vec<Session>,
    last_id: u64,
    /// Whether somebody has taken the producer's name.
    pub(super) is_taken: bool,
    pub(super) duplicates: usize,
}

#[derive(Default)]
pub(super) struct Session {
    pub(super) requests: VecDeque<Outgoing<Batch>>,
    pub(super) answers: Vec<Answer>,
    /// By partition: the request that was refused and not resumed after.
    refused: HashMap<usize, u64>,
}

#[derive(Default)]
pub(super) struct Partition {
    pub(super) log: Vec<Entry>,
    /// Where each producer's sequence goes on.
    producers: HashMap<ProducerId, Sequence>,
    /// The last producer that may have been forgotten.
    forgotten: u64,
    /// Batches that were acknowledged and lost, which was reported.
    pub(super) lost: HashSet<u32>,
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) batch: Batch,
    stamp: ProducerStamp,
    is_committed: bool,
}

impl Broker {
    pub(super) fn new(partitions: usize) -> Self {
        let partitions = std::iter::repeat_with(Partition::default).take(partitions).collect();
        Self { partitions, ..Self::default() }
    }

    pub(super) fn init_producer(&mut self) -> Result<Identity, ServerError> {
        if self.is_taken {
            return Err(error("PRODUCER_FENCED"));
        }
        self.last_id += 1;
        let id = ProducerId::new(self.last_id).expect("not 0");
        Ok(Identity { id, epoch: ProducerEpoch::ZERO })
    }

    /// Takes the next request of a session, if it has one.
    pub(super) fn process(&mut self, session: usize, fault: Fault) {
        let session = &mut self.sessions[session];
        let Some(request) = session.requests.pop_front() else { return };
        let Outgoing { number, lane, resumes_after, stamp, batch } = request;
        let stamp = stamp.expect("it is idempotent");
        if session.refused.get(&lane) == Some(&resumes_after) {
            session.refused.remove(&lane);
        }
        let partition = &mut self.partitions[lane];
        let appended = match fault {
            _ if session.refused.contains_key(&lane) => Err("PRECEDING_FAILED"),
            _ if self.is_taken => Err("PRODUCER_FENCED"),
            Fault::Refused(reason) => Err(reason),
            Fault::UnknownAndLost => {
                session.refused.entry(lane).or_insert(number);
                session.answers.push((number, Err(error("RESULT_UNKNOWN"))));
                return;
            }
            Fault::None | Fault::Unknown => partition.append(stamp, batch),
        };
        let answer = match (appended, fault) {
            (Ok(_), Fault::Unknown) => Err(error("RESULT_UNKNOWN")),
            (Ok(is_duplicate), _) => {
                self.duplicates += usize::from(is_duplicate);
                partition.commit(batch);
                Ok(None)
            }
            (Err(reason), _) => {
                let refused = *session.refused.entry(lane).or_insert(number);
                let mut refusal = error(reason);
                refusal.metadata.insert("refused".to_owned(), refused.to_string());
                Err(refusal)
            }
        };
        session.answers.push((number, answer));
    }

    /// Dies and comes back: streams are gone, and of what was not committed the last batches.
    pub(super) fn crash(&mut self) {
        self.sessions.iter_mut().for_each(|session| session.requests.clear());
        for partition in &mut self.partitions {
            while partition.log.pop_if(|last| !last.is_committed).is_some() {}
            partition.rebuild();
        }
    }

    /// Loses the last batch of every partition, although it was acknowledged.
    pub(super) fn lose(&mut self) {
        for partition in &mut self.partitions {
            let last = partition.log.pop();
            partition.lost.extend(last.map(|last| last.batch.number));
            partition.rebuild();
        }
    }

    /// Forgets all producers there are.
    pub(super) fn forget(&mut self) {
        for partition in &mut self.partitions {
            partition.producers.clear();
            partition.forgotten = self.last_id;
        }
    }
}

impl Partition {
    /// Says whether it was there already.
    fn append(&mut self, stamp: ProducerStamp, batch: Batch) -> Result<bool, &'static str> {
        let next = match self.producers.get(&stamp.id) {
            Some(next) => *next,
            None if stamp.sequence == Sequence::ZERO && stamp.id.get() > self.forgotten => {
                Sequence::ZERO
            }
            None => return Err("UNKNOWN_PRODUCER_STATE"),
        };
        if stamp.sequence.is_before(next) {
            let same = self.log.iter().rev().find(|entry| entry.stamp == stamp);
            assert_eq!(same.map(|entry| entry.batch), Some(batch), "another one at {stamp:?}");
            return Ok(true);
        }
        if stamp.sequence != next {
            return Err("SEQUENCE_GAP");
        }
        self.producers.insert(stamp.id, next.advance(batch.records));
        self.log.push(Entry { batch, stamp, is_committed: false });
        Ok(false)
    }

    /// What is acknowledged is committed, and all in front of it.
    fn commit(&mut self, batch: Batch) {
        let place = self.log.iter().position(|entry| entry.batch == batch).expect("it is there");
        self.log[..=place].iter_mut().for_each(|entry| entry.is_committed = true);
    }

    /// Finds producers in the log; one that was forgotten stays so.
    fn rebuild(&mut self) {
        self.producers.clear();
        for Entry { batch, stamp, .. } in &self.log {
            if stamp.id.get() > self.forgotten {
                self.producers.insert(stamp.id, stamp.sequence.advance(batch.records));
            }
        }
    }
}

pub(super) fn error(reason: &str) -> ServerError {
    super::tests::error(reason)
}
