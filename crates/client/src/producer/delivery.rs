//! What becomes of a record, shared by all records of a batch.
//!
//! A delivery is a reference to its batch and an index: nothing is allocated per record.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use taffrail_model::{Offset, PartitionIndex};

use super::ProduceError;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its partition.
    pub partition: PartitionIndex,
    /// Its offset. Unknown without acknowledgement, and for a record that was sent again so late
    /// that the broker knew that it has it, but not where any more.
    pub offset: Option<Offset>,
}

/// A record on its way. Await it to learn where the record is; drop it to not care.
///
/// Completes when the batch is acknowledged, or with [`Acks::None`](super::Acks::None) when it is
/// handed to the connection.
#[derive(Debug)]
#[must_use = "await it to learn what became of the record"]
pub struct Delivery {
    batch: Arc<BatchOutcome>,
    index: u32,
    slot: Option<usize>,
}

impl Delivery {
    pub(super) fn new(batch: Arc<BatchOutcome>, index: u32) -> Self {
        Self { batch, index, slot: None }
    }

    /// What became of the record, if that is known already.
    pub fn outcome(&self) -> Option<Result<Placed, ProduceError>> {
        let outcome = self.batch.outcome.get()?;
        Some(outcome.clone().map(|placed| Placed {
            partition: placed.partition,
            offset: placed.offset.map(|base| base.advance(self.index.into())),
        }))
    }
}

impl Future for Delivery {
    type Output = Result<Placed, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.batch.outcome.get().is_none() {
            this.batch.register(&mut this.slot, context.waker());
        }
        this.outcome().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What became of a batch, and who waits to hear it.
#[derive(Debug, Default)]
pub(super) struct BatchOutcome {
    /// The place of the batch's first record.
    outcome: OnceLock<Result<Placed, ProduceError>>,
    waiting: Mutex<Vec<Waker>>,
}

impl BatchOutcome {
    /// Says what became of the batch and wakes who waits. Only the first word counts.
    pub(super) fn settle(&self, outcome: Result<Placed, ProduceError>) {
        if self.outcome.set(outcome).is_ok() {
            let waiting = std::mem::take(&mut *self.lock_waiting());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Remembers to wake `waker`, in the slot it had if it had one.
    ///
    /// The caller looks at the outcome afterwards: `settle` sets it before it takes the list.
    fn register(&self, slot: &mut Option<usize>, waker: &Waker) {
        let mut waiting = self.lock_waiting();
        match slot.and_then(|slot| waiting.get_mut(slot)) {
            Some(known) => known.clone_from(waker),
            None => {
                *slot = Some(waiting.len());
                waiting.push(waker.clone());
            }
        }
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_record_of_a_batch_learns_its_own_offset() {
        let batch = Arc::new(BatchOutcome::default());
        let early = Delivery::new(Arc::clone(&batch), 2);
        let waiting = tokio::spawn(early);
        tokio::task::yield_now().await;
        let partition = PartitionIndex::new(1);
        batch.settle(Ok(Placed { partition, offset: Some(Offset::new(40)) }));
        batch.settle(Err(ProduceError::Closed));
        let late = Delivery::new(batch, 0);
        let expected = |offset| Ok(Placed { partition, offset: Some(Offset::new(offset)) });
        assert_eq!(waiting.await.expect("no panic"), expected(42));
        assert_eq!(late.await, expected(40));
    }
}
