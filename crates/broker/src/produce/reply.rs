//! How a producer's requests are answered, and counted while they are in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use taffrail_model::{PartitionIndex, limits};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use super::{Acks, ProduceError, Produced};

/// What became of one request of a stream.
#[derive(Debug)]
pub struct Outcome {
    /// The request's number.
    pub number: u64,
    /// The partition, if one was found.
    pub partition: Option<PartitionIndex>,
    /// Whether the producer waits for good news too.
    pub acks: Acks,
    /// Where the batch went, or why it went nowhere.
    pub result: Result<Produced, ProduceError>,
    /// Its place among what a stream has taken and not been told of: free when this is dropped.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Outcome {
    /// Of a request that nobody answered.
    pub(super) fn unknown(number: u64, acks: Acks) -> Self {
        let result = Err(ProduceError::ResultUnknown { cause: "the broker is stopping".into() });
        Self { number, partition: None, acks, result, _slot: None }
    }
}

/// The right to answer one request, once.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(super) number: u64,
    pub(super) partition: Option<PartitionIndex>,
    pub(super) acks: Acks,
    pub(super) to: mpsc::UnboundedSender<Outcome>,
    pub(super) in_flight: Option<InFlight>,
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// To somebody who asks for one thing only.
    pub(crate) fn new(to: mpsc::UnboundedSender<Outcome>) -> Self {
        Self { number: 0, partition: None, acks: Acks::Committed, to, in_flight: None, slot: None }
    }

    pub(crate) fn send(self, result: Result<Produced, ProduceError>) {
        let Self { number, partition, acks, to, in_flight, slot } = self;
        // First out of flight, then answered: who has the answer may send the next one.
        drop(in_flight);
        // Whoever asked may be gone.
        let _ = to.send(Outcome { number, partition, acks, result, _slot: slot });
    }
}

/// What a stream has in flight.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    bytes: AtomicU64,
    requests: AtomicU32,
    landed: Notify,
}

impl Flight {
    /// Waits until another request may be taken.
    pub(crate) async fn room(&self) {
        loop {
            let landed = self.landed.notified();
            let is_room = self.requests.load(Ordering::Acquire) < limits::IN_FLIGHT_REQUESTS_MAX
                && self.bytes.load(Ordering::Acquire) < limits::IN_FLIGHT_BYTES_MAX;
            if is_room {
                return;
            }
            landed.await;
        }
    }
}

/// One request in flight, until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    flight: Arc<Flight>,
    bytes: u64,
}

impl InFlight {
    /// Counts a request of so many bytes, or says what there is too much of. A single request may
    /// have any size.
    pub(crate) fn count(flight: &Arc<Flight>, bytes: u64) -> Result<Self, ProduceError> {
        let requests = flight.requests.fetch_add(1, Ordering::Relaxed);
        let before = flight.bytes.fetch_add(bytes, Ordering::Relaxed);
        let counted = Self { flight: Arc::clone(flight), bytes };
        if requests >= limits::IN_FLIGHT_REQUESTS_MAX {
            let limit = u64::from(limits::IN_FLIGHT_REQUESTS_MAX);
            return Err(ProduceError::Overloaded { what: "requests", limit });
        }
        if before > 0 && before + bytes > limits::IN_FLIGHT_BYTES_MAX {
            let limit = limits::IN_FLIGHT_BYTES_MAX;
            return Err(ProduceError::Overloaded { what: "bytes", limit });
        }
        Ok(counted)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.flight.requests.fetch_sub(1, Ordering::AcqRel);
        self.flight.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.flight.landed.notify_waiters();
    }
}
