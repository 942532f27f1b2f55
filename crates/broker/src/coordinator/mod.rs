//! Runs a state machine whose state is itself a log.
//!
//! Decides and applies in memory at once, in order, and appends the events in that order; a reply is
//! held back until its events are durable. So commands pipeline, one sync covers many, and nobody
//! decides on stale state. Each append names the offset that it expects, so nothing that was decided
//! on a failed event can land behind it. When an append fails, memory is dropped and rebuilt from
//! the committed part of the log.
//!
//! Whenever the events since the last snapshot weigh more than it did, the whole state is appended as
//! a snapshot: so what snapshots cost grows in step with the events. It is a copy that is written while
//! the state goes on, so it stands among the events that follow it. A start goes on from the last one; what
//! lies before the one before it is deleted.

mod journal;
mod snapshot;

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

pub(crate) use journal::{JournalError, RecordError, Replay, encode_snapshot};
use journal::{Replayed, Weight};
use snapshot::Snapshot;

/// What a batch that changes nothing counts as, with what lies around it.
const NOTHING_BYTES: u64 = 128;

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
    type Event: Debug + Serialize + DeserializeOwned + Send;

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
    state: Arc<State<S>>,
}

/// What is known, unless that has to be read again.
type State<S> = Mutex<Option<Live<S>>>;

/// What has been appended, and tells when it is durable.
type Pending = mpsc::UnboundedReceiver<Outcome>;

/// The state in memory, ahead of its log by what is on its way.
#[derive(Debug)]
struct Live<S> {
    machine: S,
    /// The offset of what is appended next.
    next: Offset,
    /// Behind the last event.
    events_end: Offset,
    weight: Weight,
    /// Where the last snapshot begins.
    snapshot: Option<Offset>,
    /// Whether the next one is being written.
    is_being_written: bool,
    /// The order of this state's appends; a rebuilt state has another one.
    lane: Arc<Lane>,
}

impl<S: StateMachine> Coordinator<S> {
    /// Rebuilds the state from its log.
    pub(crate) async fn start(partition: Arc<Partition>) -> Result<(Self, S), JournalError> {
        let live = Live::<S>::rebuild(&partition).await?;
        let machine = live.machine.clone();
        Ok((Self { partition, state: Arc::new(Mutex::new(Some(live))) }, machine))
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
        let live = Live::of(&mut state, &self.partition).await?;
        Ok(live.machine.clone())
    }

    /// What `look` sees of the state, once all of that is durable.
    pub(crate) async fn look<T>(
        &self,
        look: impl FnOnce(&S) -> T,
    ) -> Result<T, CommandError<S::Refusal>> {
        let mut state = self.state.lock().await;
        let live = Live::of(&mut state, &self.partition).await.map_err(CommandError::Journal)?;
        let seen = look(&live.machine);
        let pending = live.pending(&self.partition);
        let lane = Arc::clone(&live.lane);
        drop(state);
        settled(&self.state, pending, &lane).await.map_err(CommandError::Storage)?;
        Ok(seen)
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
        let mut state = self.state.lock().await;
        let live = Live::of(&mut state, &self.partition).await.map_err(CommandError::Journal)?;
        let (reply, events) = live.machine.decide(command, now).map_err(CommandError::Refused)?;
        let pending = if events.is_empty() {
            live.pending(&self.partition)
        } else {
            Some(live.store(&self.partition, &events))
        };
        let (seen, lane) = (look(&live.machine), Arc::clone(&live.lane));
        let snapshot = live.begin_snapshot_if_due(&self.partition);
        drop(state);
        if let Some(snapshot) = snapshot {
            let (partition, state) = (Arc::clone(&self.partition), Arc::clone(&self.state));
            tokio::spawn(snapshot.write(partition, state));
        }
        settled(&self.state, pending, &lane).await.map_err(CommandError::Storage)?;
        Ok((reply, seen))
    }
}

/// Waits until what was appended, if anything was, is durable. If it is not, all that rests on it is dropped.
async fn settled<S: StateMachine>(
    state: &State<S>,
    pending: Option<Pending>,
    lane: &Arc<Lane>,
) -> Result<(), ProduceError> {
    let Some(mut pending) = pending else { return Ok(()) };
    let result = match pending.recv().await {
        Some(outcome) => outcome.result,
        None => Err(ProduceError::ResultUnknown { cause: "the broker is stopping".into() }),
    };
    let Err(error) = result else { return Ok(()) };
    let mut state = state.lock().await;
    // Whoever comes first drops what rests on the failed event.
    if Live::of_lane(&mut state, lane).is_some() {
        *state = None;
    }
    Err(error)
}

impl<S: StateMachine> Live<S> {
    /// The state in memory, rebuilt from its log if it was dropped.
    async fn of<'a>(
        state: &'a mut Option<Self>,
        partition: &Arc<Partition>,
    ) -> Result<&'a mut Self, JournalError> {
        let live = match state.take() {
            Some(live) => live,
            None => Self::rebuild(partition).await?,
        };
        Ok(state.insert(live))
    }

    /// The state in memory, if none of what has this order was dropped.
    fn of_lane<'a>(state: &'a mut Option<Self>, lane: &Arc<Lane>) -> Option<&'a mut Self> {
        state.as_mut().filter(|live| Arc::ptr_eq(&live.lane, lane))
    }

    async fn rebuild(partition: &Arc<Partition>) -> Result<Self, JournalError> {
        let Replayed { machine, next, weight, snapshot } = journal::replay(partition).await?;
        let (is_being_written, lane) = (false, Arc::default());
        Ok(Self { machine, next, events_end: next, weight, snapshot, is_being_written, lane })
    }

    /// Applies events and puts them into the partition's queue; the answer comes when they are durable.
    fn store(&mut self, partition: &Arc<Partition>, events: &[S::Event]) -> Pending {
        for event in events {
            self.machine.apply(event);
        }
        let batch = journal::encode_events(events);
        self.weight.events += batch.payload.len() as u64;
        let pending = self.append(partition, batch);
        self.events_end = self.next;
        pending
    }

    /// Begins a snapshot, if the events weigh enough.
    fn begin_snapshot_if_due(&mut self, partition: &Arc<Partition>) -> Option<Snapshot<S>> {
        let weight_min = self.weight.snapshot.max(partition.snapshot_bytes_min());
        let is_due = weight_min <= self.weight.events;
        if !is_due || self.is_being_written {
            return None;
        }
        self.is_being_written = true;
        self.weight.events = 0;
        let begin = self.next;
        drop(self.append(partition, journal::encode_begin()));
        Some(Snapshot { machine: self.machine.clone(), begin, lane: Arc::clone(&self.lane) })
    }

    /// A snapshot of so many bytes is durable; what lies before is not needed any more.
    fn end_snapshot(&mut self, begin: Offset, bytes: u64) -> Option<Offset> {
        self.is_being_written = false;
        self.weight.snapshot = bytes;
        self.snapshot.replace(begin)
    }

    /// What a reply has to wait for that rests on the state as it is. A batch that changes nothing tells
    /// when all before it is durable.
    fn pending(&mut self, partition: &Arc<Partition>) -> Option<Pending> {
        if self.events_end <= partition.high_watermark() {
            return None;
        }
        // It counts, so that the log is cut off behind a snapshot however often somebody looks.
        self.weight.events += NOTHING_BYTES;
        Some(self.append(partition, journal::encode_nothing()))
    }

    fn append(&mut self, partition: &Arc<Partition>, batch: NewBatch) -> Pending {
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
