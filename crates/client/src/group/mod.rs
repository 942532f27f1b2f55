//! Reads partitions as a member of a consumer group: the members share them, and the group remembers
//! how far it has come.
//!
//! ```text
//! membership (a task): heartbeats, assignments, auto-commit, release  <->  core: what is held, what is
//! done  <->  GroupConsumer: subscribes what is held, hands out batches, takes note of what is done
//! ```
//!
//! Heartbeats come from a task of their own: a handler that takes long loses nothing, as long as it does
//! not block the runtime's only thread. Nothing is handed out once the session may have ended by this
//! process's own clock.

mod core;
mod event;
mod membership;
mod settings;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use taffrail_model::{Offset, PartitionIndex, TopicName};
use taffrail_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use event::{GroupEvent, TopicPartition};
pub use settings::{Assignor, Commit, GroupConsumerBuilder};

use self::core::Held;
use self::shared::Shared;
use crate::consumer::{Bounds, Consumer, Until, Wanted};
use crate::{CallError, ConsumeError, ConsumedBatch, Event, Position, ServerError};

/// Reads partitions as a member of a consumer group.
///
/// Made by [`Client::group`](crate::Client::group). Each batch counts as done when the next one is asked
/// for; what is done is committed in the background, before a partition is given on, and when the
/// consumer is closed. So each record is processed at least once; [`Commit`] says what else there is.
///
/// Dropped without [`Self::close`], it leaves the group as well as it can, and what was not committed
/// comes again.
pub struct GroupConsumer {
    consumer: Consumer,
    shared: Arc<Shared>,
    changes: watch::Receiver<()>,
    /// The assignments that are being read, by their number.
    reading: BTreeMap<TopicPartition, u64>,
    group: String,
    from: Position,
    /// What was read and is being committed before it is handed out.
    pending: Option<ConsumedBatch>,
    /// Where the batch begins that was handed out last.
    first_in_hand: Option<Offset>,
    /// Whether what is held has never been looked at, or is to be again.
    is_new: bool,
    membership: Option<JoinHandle<()>>,
    has_ended: bool,
}

impl GroupConsumer {
    fn start(
        shared: Arc<Shared>,
        membership: JoinHandle<()>,
        group: String,
        from: Position,
        bounds: Bounds,
    ) -> Self {
        let changes = shared.changes();
        let consumer = Consumer::of_nothing(shared.client.clone(), bounds);
        Self {
            consumer,
            shared,
            changes,
            reading: BTreeMap::new(),
            group,
            from,
            pending: None,
            first_in_hand: None,
            is_new: true,
            membership: Some(membership),
            has_ended: false,
        }
    }

    /// The next batch, of any partition that is assigned; the one before counts as done. `None` once an
    /// error has ended the membership.
    ///
    /// An error ends its partition only, but for [`ConsumeError::Refused`]. Gaps and assignments are
    /// passed over: use [`Self::next_event`] to see them. Cancelled, it has taken nothing.
    pub async fn next_batch(&mut self) -> Option<Result<ConsumedBatch, ConsumeError>> {
        loop {
            match self.next_event().await? {
                Ok(GroupEvent::Batch(batch)) => return Some(Ok(batch)),
                Ok(GroupEvent::Gap { place, from, to, reason }) => {
                    tracing::info!(%place, %from, %to, ?reason, "offsets are missing");
                }
                Ok(GroupEvent::Assigned(places)) => tracing::info!(?places, "assigned"),
                Ok(GroupEvent::Revoked(places)) => tracing::info!(?places, "given on"),
                Ok(GroupEvent::Lost(places)) => tracing::warn!(?places, "lost"),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next thing that happens; the batch before counts as done, and a revoked partition that was
    /// told of is given on. `None` once an error has ended the membership.
    ///
    /// Waits for ever while the broker cannot be reached. Cancelled, it has taken nothing.
    pub async fn next_event(&mut self) -> Option<Result<GroupEvent, ConsumeError>> {
        // What is being committed before it is handed out, the application has not had yet.
        if self.pending.is_none() {
            self.shared.finish_in_hand();
            self.rewind();
        }
        loop {
            // Without a change there is nothing to follow.
            if std::mem::take(&mut self.is_new) || self.changes.has_changed().unwrap_or(true) {
                self.changes.borrow_and_update();
                self.follow();
            }
            let failure = self.shared.core().next_failure();
            if let Some((TopicPartition { topic, partition }, error)) = failure {
                return Some(Err(ConsumeError::Partition { topic, partition, error }));
            }
            if let Some(notice) = self.shared.core().next_notice() {
                return Some(Ok(notice));
            }
            if self.has_ended {
                return None;
            }
            if let Some(refusal) = self.shared.core().refusal() {
                self.has_ended = true;
                return Some(Err(ConsumeError::Refused(refusal)));
            }
            if let Some(batch) = self.pending.clone() {
                let is_committed = self.commit_first(&batch).await;
                self.pending = None;
                if is_committed {
                    return Some(Ok(GroupEvent::Batch(batch)));
                }
                self.shared.core().leave_place(&TopicPartition::of(&batch));
                continue;
            }
            if self.reading.is_empty() {
                self.wait_for_change().await;
                continue;
            }
            let event = tokio::select! {
                biased;
                _ = self.changes.changed() => {
                    self.is_new = true;
                    continue;
                }
                event = self.consumer.next_event() => event,
            };
            if let Some(event) = self.take(event) {
                self.has_ended |= matches!(event, Err(ConsumeError::Refused(_)));
                return Some(event);
            }
            if self.pending.is_none() && self.consumer.has_ended() {
                // Every partition has ended, by errors that were told: what comes is another assignment.
                self.wait_for_change().await;
            }
        }
    }

    /// Hands every batch to `handler`, one after the other, until an error ends the membership.
    ///
    /// The handler is dropped, at its next `await`, if the partition is lost meanwhile: what it does
    /// after that another member does too. A batch whose handler fails is not done: the error is
    /// returned, and whoever asks for more gets the batch again.
    ///
    /// # Errors
    /// What the handler fails with, or what ended the membership.
    pub async fn run<E, F>(&mut self, mut handler: impl FnMut(ConsumedBatch) -> F) -> Result<(), E>
    where
        E: From<ConsumeError>,
        F: Future<Output = Result<(), E>>,
    {
        while let Some(batch) = self.next_batch().await {
            let batch = batch?;
            let lost = self.shared.lost(TopicPartition::of(&batch), Some(batch.assignment));
            // However this ends: only what the handler has finished is done.
            let unfinished = Unfinished { shared: &self.shared };
            tokio::select! {
                biased;
                () = lost => {}
                handled = handler(batch) => {
                    handled?;
                    std::mem::forget(unfinished);
                }
            }
        }
        Ok(())
    }

    /// Commits that a batch, and all before it in its partition, is done. Durable on return.
    ///
    /// # Errors
    /// If the partition is not this member's any more, or the broker cannot be reached or refuses.
    pub async fn commit(&mut self, batch: &ConsumedBatch) -> Result<(), CallError> {
        let (place, end) = (TopicPartition::of(batch), batch.batch.header.end_offset());
        self.commit_under(&place, Some(batch.assignment), end, "").await
    }

    /// Commits that all before `offset` is done, with anything that goes with it: at most 1,024 bytes.
    /// Durable on return.
    ///
    /// # Errors
    /// If the partition is not this member's any more, there is no such offset, or the broker cannot be
    /// reached or refuses.
    pub async fn commit_offset(
        &mut self,
        place: &TopicPartition,
        offset: Offset,
        metadata: &str,
    ) -> Result<(), CallError> {
        // What is on its way to another is not read any more, and is this one's until it is let go of.
        let leaving = self.shared.core().leaving(place);
        let number = self.reading.get(place).copied().or(leaving);
        self.commit_under(place, number, offset, metadata).await
    }

    /// Commits what was read under an assignment.
    async fn commit_under(
        &self,
        place: &TopicPartition,
        number: Option<u64>,
        offset: Offset,
        metadata: &str,
    ) -> Result<(), CallError> {
        let commit = number
            .and_then(|number| self.shared.core().commit_of(place, number, offset, metadata))
            .ok_or_else(|| CallError::Refused(not_ours(place)))?;
        self.shared.commit(vec![commit], true).await
    }

    /// Says that the batch that was handed out last is not done: it comes again, here or elsewhere, but
    /// for what of it was committed with [`Self::commit_offset`] if it goes elsewhere.
    pub fn abandon_batch(&mut self) {
        self.shared.core().drop_in_hand();
        self.rewind();
    }

    /// Lets come again what the application did not finish.
    fn rewind(&mut self) {
        let place = self.shared.core().take_unfinished();
        if let Some((place, from)) = place.zip(self.first_in_hand) {
            self.seek(&place, Position::Offset(from));
        }
    }

    /// Goes on elsewhere in a partition; what came of it and was not taken is dropped, and a batch of it
    /// that was handed out last is not done by that. What is committed stays as it is until something
    /// behind the new place is done. False if the partition is not assigned.
    pub fn seek(&mut self, place: &TopicPartition, to: Position) -> bool {
        if self.pending.as_ref().is_some_and(|it| TopicPartition::of(it) == *place) {
            self.pending = None;
        }
        self.shared.core().leave_place(place);
        self.reading.contains_key(place) && self.consumer.seek(&place.topic, place.partition, to)
    }

    /// Holds a partition back, as long as it is assigned. False if it is not.
    pub fn pause(&mut self, place: &TopicPartition) -> bool {
        self.reading.contains_key(place) && self.consumer.pause(&place.topic, place.partition)
    }

    /// Lets a paused partition go on. False if it is not assigned.
    pub fn resume(&mut self, place: &TopicPartition) -> bool {
        self.reading.contains_key(place) && self.consumer.resume(&place.topic, place.partition)
    }

    /// The partitions that are assigned, ascending.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.shared.core().held().into_iter().map(|held| held.place).collect()
    }

    /// This member's id; another one after a session that has ended.
    pub fn member_id(&self) -> String {
        self.shared.core().member().to_owned()
    }

    /// Until when nobody else can have what is assigned; `None` if that is over.
    pub fn session_ends(&self) -> Option<Instant> {
        self.shared.core().session_ends()
    }

    /// Whether all that there was of what is assigned has been taken, as far as the broker has told, and
    /// nothing is on its way to this member.
    pub fn is_caught_up(&self) -> bool {
        let is_reading_all = {
            let core = self.shared.core();
            let held = core.held();
            core.has_all()
                && !core.has_unfinished()
                && held.len() == self.reading.len()
                && held.iter().all(|it| self.reading.get(&it.place) == Some(&it.number))
        };
        is_reading_all && self.pending.is_none() && self.consumer.is_caught_up()
    }

    /// Commits what is done, the last batch included, unless the application commits by itself; and
    /// leaves the group, unless this is a static member that comes back.
    ///
    /// # Errors
    /// If what is done could not be committed.
    pub async fn close(mut self) -> Result<(), CallError> {
        let (lost_before, has_lost) = {
            let core = self.shared.core();
            (core.lost_due(), core.has_lost_in_hand())
        };
        self.shared.finish_in_hand();
        self.shared.close();
        if let Some(membership) = self.membership.take() {
            // It ends by itself, when all is said, or nobody has heard it for long.
            drop(membership.await);
        }
        let mut core = self.shared.core();
        if let Some((_, error)) = core.next_failure() {
            return Err(CallError::Refused(error));
        }
        if core.unsaid() == 0 && core.lost_due() == lost_before && !has_lost {
            return Ok(());
        }
        Err(CallError::Unreachable {
            server: self.shared.client.server().to_owned(),
            cause: "what was done last could not be committed, and comes again".into(),
        })
    }

    async fn wait_for_change(&mut self) {
        if !self.is_new {
            // It cannot end: what is shared holds the other side.
            drop(self.changes.changed().await);
            self.is_new = true;
        }
    }

    /// Subscribes what is held, and no more.
    fn follow(&mut self) {
        let (held, member) = {
            let core = self.shared.core();
            (core.held(), core.member().to_owned())
        };
        let wanted: BTreeMap<_, _> = held.iter().map(|it| (&it.place, it.number)).collect();
        let over = self.reading.iter().filter(|(place, it)| wanted.get(place) != Some(it));
        for place in over.map(|(place, _)| place.clone()).collect::<Vec<_>>() {
            self.consumer.remove(&place.topic, place.partition);
            self.reading.remove(&place);
        }
        // What is on its way to another is handed out still, if it is being committed.
        if let Some(batch) = &self.pending {
            let place = TopicPartition::of(batch);
            if !self.shared.core().has(&place, Some(batch.assignment)) {
                self.pending = None;
            }
        }
        for Held { place, number, epoch } in held {
            if self.reading.contains_key(&place) {
                continue;
            }
            let reader = v1::GroupReader {
                group: self.group.clone(),
                member_id: member.clone(),
                epoch,
                from_committed: true,
            };
            self.consumer.add(Wanted {
                topic: place.topic.clone(),
                partition: place.partition,
                from: self.from,
                until: Until::Forever,
                reader: Some(reader),
            });
            self.reading.insert(place, number);
        }
    }

    /// What of an event is for the application.
    fn take(
        &mut self,
        event: Option<Result<Event, ConsumeError>>,
    ) -> Option<Result<GroupEvent, ConsumeError>> {
        match event? {
            Ok(Event::Batch(mut batch)) => {
                let is_held = self.hand_out(&mut batch);
                if is_held && self.shared.commits_first() {
                    self.pending = Some(batch);
                    return None;
                }
                is_held.then_some(Ok(GroupEvent::Batch(batch)))
            }
            Ok(Event::Gap { topic, partition, from, to, reason }) => {
                let place = TopicPartition { topic, partition };
                Some(Ok(GroupEvent::Gap { place, from, to, reason }))
            }
            Ok(Event::Heartbeat { .. }) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes note that the application has a batch; false if the partition is not held any more.
    fn hand_out(&mut self, batch: &mut ConsumedBatch) -> bool {
        let place = TopicPartition::of(batch);
        let Some(number) = self.reading.get(&place).copied() else { return false };
        batch.assignment = number;
        let end = batch.batch.header.end_offset();
        let is_held = self.shared.core().hand_out(&place, number, end, Instant::now());
        if !is_held {
            // It may have given up everything: what is held is to be looked at.
            self.is_new = true;
        }
        self.first_in_hand = is_held.then(|| batch.first_offset());
        is_held
    }

    /// Commits a batch that is about to be handed out; tries as long as the partition is held, and says
    /// whether it was.
    async fn commit_first(&mut self, batch: &ConsumedBatch) -> bool {
        let (place, end) = (TopicPartition::of(batch), batch.batch.header.end_offset());
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.lost(place.clone(), Some(batch.assignment)) => false,
            is_committed = shared.commit_surely(&place, batch.assignment, end) => is_committed,
        }
    }
}

/// Says, when it is dropped, that the application has not finished what it has.
struct Unfinished<'a> {
    shared: &'a Arc<Shared>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.shared.core().drop_in_hand();
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.shared.core().drop_in_hand();
        self.shared.close();
    }
}

impl std::fmt::Debug for GroupConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupConsumer")
            .field("group", &self.group)
            .field("member", &self.member_id())
            .field("reading", &self.reading.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// What the broker would say, if it were asked.
fn not_ours(place: &TopicPartition) -> ServerError {
    let message =
        format!("{place} is not assigned to this member: what it read of it is another's now");
    shared::refusal("STALE_MEMBER", message)
}

/// A partition, by name and number.
impl TopicPartition {
    /// Where a batch comes from.
    pub fn of(batch: &ConsumedBatch) -> Self {
        Self { topic: batch.topic.clone(), partition: batch.partition }
    }

    /// The partition with this number of a topic.
    pub fn new(topic: TopicName, partition: PartitionIndex) -> Self {
        Self { topic, partition }
    }
}
