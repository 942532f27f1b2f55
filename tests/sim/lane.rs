//! What one producer has sent to one partition and not been told of.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::history::RecordId;

/// A batch on its way.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) records: Vec<RecordId>,
    pub(crate) payload: Bytes,
    pub(crate) sequence: u32,
    /// The number of the request that carries it, if one does.
    pub(crate) number: Option<u64>,
}

/// What one producer has sent to one partition and not been told of, in order.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) pending: VecDeque<Batch>,
    pub(crate) next_sequence: u32,
    /// Where the last batch that was acknowledged ends.
    pub(crate) known_end: Option<u64>,
    /// The refused request, once there is one: nothing is sent before all is answered.
    refused: Option<u64>,
    resumes_after: u64,
}

impl Lane {
    /// A stream begins: nothing is on its way any more.
    pub(crate) fn begin_stream(&mut self) {
        self.pending.iter_mut().for_each(|batch| batch.number = None);
        (self.refused, self.resumes_after) = (None, 0);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.iter().filter(|batch| batch.number.is_some()).count()
    }

    /// Whether the next batch may be sent.
    pub(crate) fn may_send(&self) -> bool {
        self.refused.is_none()
    }

    /// The next batch that waits, now on its way as request `number`; and what it resumes after.
    pub(crate) fn send(&mut self, number: u64) -> Option<(Batch, u64)> {
        let batch = self.pending.iter_mut().find(|batch| batch.number.is_none())?;
        batch.number = Some(number);
        Some((batch.clone(), std::mem::take(&mut self.resumes_after)))
    }

    /// Takes the batch out that a request carried.
    pub(crate) fn settle(&mut self, number: u64) -> Option<Batch> {
        let at = self.pending.iter().position(|batch| batch.number == Some(number))?;
        let batch = self.pending.remove(at);
        self.go_on();
        batch
    }

    /// A request was refused, or its fate is unknown: its batch waits to be sent again.
    pub(crate) fn again(&mut self, number: u64) {
        if let Some(batch) = self.pending.iter_mut().find(|batch| batch.number == Some(number)) {
            batch.number = None;
        }
        self.go_on();
    }

    /// Halts until all is answered, then goes on behind the refused request.
    pub(crate) fn halt(&mut self, refused: u64) {
        self.refused = Some(self.refused.map_or(refused, |before| before.min(refused)));
    }

    fn go_on(&mut self) {
        if self.in_flight() == 0
            && let Some(refused) = self.refused.take()
        {
            self.resumes_after = refused;
        }
    }
}
