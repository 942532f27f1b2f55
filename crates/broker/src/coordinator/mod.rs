//! Runs a state machine whose state is itself a log.
//!
//! Decides and applies in memory at once, in order, and appends the events in that order; a reply is
//! held back until its events are durable. So commands pipeline, one sync covers many, and nobody
//! decides on stale state. Each append names the offset that it expects, so nothing that was decided
//! on a failed event can land behind it. When an append fails, memory is dropped and rebuilt from
//! the committed part of the log.
//!
//! Now and then the whole state is appended as a snapshot; a start goes on from the last one.

mod journal;

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use taffrail_log::NewBatch;
use taffrail_model::{Offset, Timestamp};
use tokio::sync::{Mutex, mpsc};

use crate::clock::Stopwatch;
use crate::partition::{AppendRequest, Order, Partition, PartitionStatus};
use crate::produce::{Lane, Outcome, ProduceError, Reply};

pub(crate) use journal::{JournalError, RecordError, apply_batch, encode_snapshot};

/// Events after which a snapshot is appended.
const SNAPSHOT_EVENTS: u64 = 1_000;

/// Decides what happens. Pure: no I/O, no clock.
pub(crate) trait StateMachine:
    Clone + Debug + Default + Serialize + DeserializeOwned + Send + 'static
{
    /// What can be asked for.
    type Command: Send;
    /// What is answered.
    type Reply: Send;
    /// Why it can be refused.
    type Refusal: Send;
    /// The facts that are persisted.
    type Event: Serialize + DeserializeOwned + Send;

    /// Decides on a command; changes nothing.
    fn decide(&self, command: Self::Command, now: Timestamp) -> Decision<Self>;

    /// Takes note of a fact.
    fn apply(&mut self, event: &Self::Event);
}

/// What a state machine decides: a reply and the facts that make it true, or a refusal.
pub(crate) type Decision<S> = Result<
    (<S as StateMachine>::Reply, Vec<<S as StateMachine>::Event>),
    <S as StateMachine>::Refusal,
>;

/// Why a command has no reply.
#[derive(Debug)]
pub(crate) enum CommandError<R> {
    /// The state machine refused.
    Refused(R),
    /// Its events could not be stored.
    Storage(ProduceError),
    /// The state cannot be rebuilt from its log.
    Journal(JournalError),
}

/// A state machine, and the partition that holds its events.
#[derive(Debug)]
pub(crate) struct Coordinator<S> {
    partition: Arc<Partition>,
    state: Mutex<Option<Live<S>>>,
}

/// The state in memory, ahead of its log by what is on its way.
#[derive(Debug)]
struct Live<S> {
    machine: S,
    /// The offset of the next event.
    next: Offset,
    events_since_snapshot: u64,
    /// The order of this state's appends; a rebuilt state has another one.
    lane: Arc<Lane>,
}

impl<S: StateMachine> Coordinator<S> {
    /// Rebuilds the state from its log.
    pub(crate) async fn start(partition: Arc<Partition>) -> Result<(Self, S), JournalError> {
        let live = Live::<S>::rebuild(&partition).await?;
        let machine = live.machine.clone();
        Ok((Self { partition, state: Mutex::new(Some(live)) }, machine))
    }

    /// Whether anything can be decided. Where a sync has failed, what was written last may be there at
    /// the next start although nobody was told so: until then nothing may be done that rests on its
    /// not being there.
    pub(crate) fn check(&self) -> Result<(), ProduceError> {
        match self.partition.status() {
            PartitionStatus::ReadOnly { cause } => {
                Err(ProduceError::ReadOnly { cause: format!("{cause}; restart the broker") })
            }
            PartitionStatus::Online
            | PartitionStatus::Recovering
            | PartitionStatus::Offline { .. } => Ok(()),
        }
    }

    /// The state with everything that was decided so far, some of which may not be durable yet.
    pub(crate) async fn state(&self) -> Result<S, JournalError> {
        let mut state = self.state.lock().await;
        let live = match state.take() {
            Some(live) => live,
            None => Live::rebuild(&self.partition).await?,
        };
        let machine = live.machine.clone();
        *state = Some(live);
        Ok(machine)
    }

    /// Decides on a command and returns the reply, and what `look` saw of the state then, once all that
    /// the decision rests on is durable.
    pub(crate) async fn submit<T>(
        &self,
        command: S::Command,
        now: Timestamp,
        look: impl FnOnce(&S) -> T,
    ) -> Result<(S::Reply, T), CommandError<S::Refusal>> {
        self.check().map_err(CommandError::Storage)?;
        let (reply, seen, lane, mut stored) = {
            let mut state = self.state.lock().await;
            let mut live = match state.take() {
                Some(live) => live,
                None => Live::rebuild(&self.partition).await.map_err(CommandError::Journal)?,
            };
            let decided = live.machine.decide(command, now).map_err(CommandError::Refused);
            let submitted = decided.map(|(reply, events)| {
                let stored = live.store(&self.partition, &events);
                (reply, look(&live.machine), Arc::clone(&live.lane), stored)
            });
            *state = Some(live);
            submitted?
        };
        let result = match stored.recv().await {
            Some(outcome) => outcome.result,
            None => Err(ProduceError::ResultUnknown { cause: "the broker is stopping".into() }),
        };
        if let Err(error) = result {
            let mut state = self.state.lock().await;
            // Whoever comes first drops what rests on the failed event.
            if state.as_ref().is_some_and(|live| Arc::ptr_eq(&live.lane, &lane)) {
                *state = None;
            }
            return Err(CommandError::Storage(error));
        }
        Ok((reply, seen))
    }
}

impl<S: StateMachine> Live<S> {
    async fn rebuild(partition: &Arc<Partition>) -> Result<Self, JournalError> {
        let (machine, next, events_since_snapshot) = journal::replay(partition).await?;
        Ok(Self { machine, next, events_since_snapshot, lane: Arc::default() })
    }

    /// Applies events and puts them into the partition's queue; the answer comes when they are
    /// durable. No events at all are stored as a batch that changes nothing, so that a reply
    /// waits for what it saw.
    fn store(
        &mut self,
        partition: &Arc<Partition>,
        events: &[S::Event],
    ) -> mpsc::UnboundedReceiver<Outcome> {
        for event in events {
            self.machine.apply(event);
        }
        let stored = self.append(partition, journal::encode_events(events));
        self.events_since_snapshot += events.len() as u64;
        if self.events_since_snapshot >= SNAPSHOT_EVENTS {
            let snapshot = journal::encode_snapshot(&self.machine);
            drop(self.append(partition, snapshot));
            self.events_since_snapshot = 0;
        }
        stored
    }

    fn append(
        &mut self,
        partition: &Arc<Partition>,
        batch: NewBatch,
    ) -> mpsc::UnboundedReceiver<Outcome> {
        let (sender, stored) = mpsc::unbounded_channel();
        let expected = Some(self.next);
        self.next = self.next.advance(u64::from(batch.record_count));
        let order =
            Order { lane: Arc::clone(&self.lane), number: self.next.get(), resumes_after: 0 };
        partition.submit(AppendRequest {
            batch: Ok(batch),
            expected,
            fence: None,
            order,
            reply: Reply::new(sender),
            charge: None,
            arrived: Stopwatch::start(),
        });
        stored
    }
}
