//! Runs one consumer's stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use futures_util::future::{Aborted, BoxFuture, abortable};
use futures_util::stream::FuturesUnordered;
use taffrail_log::Read;
use taffrail_model::{Gap, GapReason, Offset, limits};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::seat::{Delivery, Seat};
use super::subscription::{Active, IdleHandle, Taken, Turn};
use super::{ConsumeCommand, ConsumeEvent, SubscriptionError};
use crate::fetch::{self, Position, find, read};
use crate::group::{GroupError, GroupReader, GroupRefusal};
use crate::shared::Shared;

/// Bytes of one delivery, at the most, but for a single batch.
const DELIVERY_BYTES_MAX: usize = 1 << 20;

/// One consumer's stream.
pub struct ConsumeSession {
    shared: Arc<Shared>,
    active: BTreeMap<u64, Active>,
    /// Subscriptions that may have something to read, in turn.
    ready: VecDeque<u64>,
    /// Subscriptions at their partition's end, until it moves.
    idle: FuturesUnordered<BoxFuture<'static, Result<u64, Aborted>>>,
    /// Subscriptions that read for a group, until the partition is another member's.
    lost: FuturesUnordered<BoxFuture<'static, u64>>,
    credit_bytes: i64,
    /// Whether there is credit, for whoever describes a group.
    has_credit: Arc<AtomicBool>,
    events: mpsc::Sender<ConsumeEvent>,
}

const IN_USE: &str = "this subscription's number is in use: take another one";

/// The other side of the stream is gone.
struct Gone;

impl ConsumeSession {
    pub(crate) fn new(shared: Arc<Shared>, events: mpsc::Sender<ConsumeEvent>) -> Self {
        shared.metrics.consume_streams.fetch_add(1, Ordering::Relaxed);
        Self {
            shared,
            active: BTreeMap::new(),
            ready: VecDeque::new(),
            idle: FuturesUnordered::new(),
            lost: FuturesUnordered::new(),
            credit_bytes: 0,
            has_credit: Arc::default(),
            events,
        }
    }

    /// Serves the stream until the client closes it, goes away, or the broker stops.
    pub async fn run(self, commands: mpsc::Receiver<ConsumeCommand>) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.stopping() => {}
            () = self.serve(commands) => {}
        }
    }

    async fn serve(mut self, mut commands: mpsc::Receiver<ConsumeCommand>) {
        let mut heartbeat = interval(limits::HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A handle of its own, so that waiting for room borrows nothing.
        let room = self.events.clone();
        loop {
            let can_send = self.credit_bytes > 0 && !self.ready.is_empty();
            // With little memory left, nothing is read before all that was read is on its way.
            let is_short = self.shared.read_memory.is_short();
            let slots = if is_short { room.max_capacity() } else { 1 };
            // What comes seldom goes first, so that a long replay holds up nothing else.
            let served = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                _ = heartbeat.tick() => self.beat().await,
                Some(lost) = self.lost.next() => self.lose(lost).await,
                Some(woken) = self.idle.next() => {
                    // What was aborted is a subscription that moved or ended.
                    if let Ok(subscription) = woken {
                        self.wake(subscription);
                    }
                    Ok(())
                }
                permits = room.reserve_many(slots), if can_send => match permits {
                    Ok(mut permits) => {
                        if let Some(event) = self.deliver().await
                            && let Some(permit) = permits.next()
                        {
                            permit.send(event);
                        }
                        Ok(())
                    }
                    Err(_) => return,
                },
            };
            if served.is_err() {
                return;
            }
        }
    }

    /// A subscription may have something to read: it gets its turn, once.
    fn wake(&mut self, subscription: u64) {
        if let Some(active) = self.active.get_mut(&subscription)
            && !active.is_paused
            && !matches!(active.turn, Turn::Ready)
        {
            active.turn = Turn::Ready;
            active.note(Delivery::Delivering);
            self.ready.push_back(subscription);
        }
    }

    async fn obey(&mut self, command: ConsumeCommand) -> Result<(), Gone> {
        match command {
            ConsumeCommand::Subscribe {
                subscription,
                topic,
                partition,
                position,
                resume,
                message,
                reader,
            } => {
                if let Err(cause) = self.check_new(subscription) {
                    return self.reject(subscription, cause).await;
                }
                let partition = match fetch::partition(&self.shared, &topic, partition) {
                    Ok(partition) => partition,
                    Err(error) => return self.fail(subscription, error.into()).await,
                };
                let next = Offset::ZERO;
                let turn = Turn::None;
                let mut active =
                    Active { partition, next, message, is_paused: false, turn, seat: None };
                let (mut position, mut resume) = (position, resume);
                if let Some(reader) = reader {
                    match self.sit_down(subscription, &mut active, reader).await {
                        Ok(None) => {}
                        Ok(Some(offset)) => (position, resume) = (Position::Offset(offset), true),
                        Err(error) => return self.fail(subscription, error.into()).await,
                    }
                }
                self.begin(subscription, active, position, resume).await
            }
            ConsumeCommand::Grant { bytes } => {
                let bytes = i64::try_from(bytes).unwrap_or(limits::CREDIT_BYTES_MAX);
                let credit = self.credit_bytes.saturating_add(bytes);
                self.set_credit(credit.min(limits::CREDIT_BYTES_MAX));
                Ok(())
            }
            ConsumeCommand::Seek { subscription, new_subscription, position } => {
                if !self.active.contains_key(&subscription) {
                    return self.reject(subscription, "there is no such subscription").await;
                }
                if self.active.contains_key(&new_subscription) {
                    return self.reject(new_subscription, IN_USE).await;
                }
                match self.forget(subscription) {
                    Some(active) => {
                        self.watch_seat(new_subscription, &active);
                        self.begin(new_subscription, active, position, false).await
                    }
                    None => Ok(()),
                }
            }
            ConsumeCommand::Pause { subscription } => self.set_paused(subscription, true).await,
            ConsumeCommand::Resume { subscription } => self.set_paused(subscription, false).await,
            ConsumeCommand::Unsubscribe { subscription } => {
                self.forget(subscription);
                Ok(())
            }
        }
    }

    /// Ends a subscription, and its turn.
    fn forget(&mut self, subscription: u64) -> Option<Active> {
        self.ready.retain(|ready| *ready != subscription);
        self.active.remove(&subscription)
    }

    fn check_new(&self, subscription: u64) -> Result<(), &'static str> {
        if self.active.contains_key(&subscription) {
            return Err(IN_USE);
        }
        if self.active.len() >= limits::SUBSCRIPTIONS_MAX {
            return Err("this stream has too many subscriptions: open another stream");
        }
        Ok(())
    }

    /// Gives a subscription its place among those that read for a group; says what that has committed.
    async fn sit_down(
        &mut self,
        subscription: u64,
        active: &mut Active,
        reader: GroupReader,
    ) -> Result<Option<Offset>, GroupError> {
        let seat = Seat::new(Arc::clone(&self.has_credit));
        let log = active.partition.log_id;
        let committed = self.shared.groups.take_seat(&reader, log, &seat).await?;
        if !reader.member.is_empty() {
            active.seat = Some(Taken { seat, reader });
            self.watch_seat(subscription, active);
        }
        Ok(committed)
    }

    fn watch_seat(&self, subscription: u64, active: &Active) {
        if let Some(taken) = &active.seat {
            let lost = taken.seat.lost();
            self.lost.push(Box::pin(async move {
                lost.await;
                subscription
            }));
        }
    }

    /// Ends a subscription whose partition is another member's now.
    async fn lose(&mut self, subscription: u64) -> Result<(), Gone> {
        // It may have ended, or have another number, and another one may have this.
        let active = self.active.get(&subscription).and_then(|active| active.seat.as_ref());
        if !active.is_some_and(|taken| taken.seat.is_lost()) {
            return Ok(());
        }
        let Some(Taken { reader, .. }) = self.forget(subscription).and_then(|it| it.seat) else {
            return Ok(());
        };
        let GroupReader { group, member, epoch, .. } = reader;
        let refusal = GroupRefusal::StaleMember { group, member, epoch, owner: None };
        self.fail(subscription, GroupError::from(refusal).into()).await
    }

    fn set_credit(&mut self, credit_bytes: i64) {
        self.credit_bytes = credit_bytes;
        self.has_credit.store(credit_bytes > 0, Ordering::Relaxed);
    }

    /// Puts a subscription to where it should begin, and says where that is.
    async fn begin(
        &mut self,
        subscription: u64,
        mut active: Active,
        mut position: Position,
        resume: bool,
    ) -> Result<(), Gone> {
        let found = loop {
            let found = find(&active.partition, position).await;
            let log_start = active.partition.log_start();
            match (found, position) {
                (Ok(found), _) => break found,
                (Err(_), Position::Offset(from)) if resume && from < log_start => {
                    let gap = Gap { from, to: log_start, reason: GapReason::Retention };
                    self.say(ConsumeEvent::Gap { subscription, gap }).await?;
                    position = Position::Earliest;
                }
                (Err(error), _) => return self.fail(subscription, error.into()).await,
            }
        };
        active.next = found.offset;
        active.turn = Turn::None;
        self.active.insert(subscription, active);
        self.wake(subscription);
        self.say(ConsumeEvent::Subscribed {
            subscription,
            offset: found.offset,
            log_start: found.log_start,
            high_watermark: found.high_watermark,
        })
        .await
    }

    async fn set_paused(&mut self, subscription: u64, is_paused: bool) -> Result<(), Gone> {
        let Some(active) = self.active.get_mut(&subscription) else {
            return self.reject(subscription, "there is no such subscription").await;
        };
        active.is_paused = is_paused;
        active.note(if is_paused { Delivery::Paused } else { Delivery::Delivering });
        self.wake(subscription);
        Ok(())
    }

    /// What the subscription whose turn it is has to say, if anything.
    async fn deliver(&mut self) -> Option<ConsumeEvent> {
        let subscription = self.ready.pop_front()?;
        let active = self.active.get_mut(&subscription)?;
        active.turn = Turn::None;
        if active.is_paused {
            return None;
        }
        let (partition, from) = (Arc::clone(&active.partition), active.next);
        if from < partition.log_start() {
            return Some(self.skip_deleted(subscription, from, partition.log_start()));
        }
        let credit = usize::try_from(self.credit_bytes).unwrap_or(0);
        let bytes_max = self.shared.read_memory.share(DELIVERY_BYTES_MAX).min(credit);
        // Before reading, so that those who read at the same time see it.
        let mut charge = self.shared.read_memory.charge(bytes_max);
        match read(&self.shared, &partition, from, bytes_max, active.message).await {
            Ok(Read::Batches { bytes, next }) => {
                charge.resize(bytes.len());
                active.next = next;
                self.set_credit(self.credit_bytes - bytes.len() as i64);
                self.wake(subscription);
                let high_watermark = partition.high_watermark();
                Some(ConsumeEvent::Delivery { subscription, high_watermark, bytes, charge })
            }
            Ok(Read::Gap(gap)) => {
                active.next = gap.to;
                self.wake(subscription);
                Some(ConsumeEvent::Gap { subscription, gap })
            }
            Ok(Read::End) => {
                let (end_moves, handle) = abortable(partition.moved_beyond(from));
                active.turn = Turn::Idle { _wait: IdleHandle(handle) };
                active.note(Delivery::AtEnd);
                self.idle.push(Box::pin(async move { end_moves.await.map(|()| subscription) }));
                None
            }
            // It was deleted while it was read.
            Err(_) if from < partition.log_start() => {
                Some(self.skip_deleted(subscription, from, partition.log_start()))
            }
            Err(error) => {
                self.forget(subscription);
                Some(ConsumeEvent::Failed { subscription, error: error.into() })
            }
        }
    }

    /// Goes on where the log begins now.
    fn skip_deleted(&mut self, subscription: u64, from: Offset, to: Offset) -> ConsumeEvent {
        if let Some(active) = self.active.get_mut(&subscription) {
            active.next = to;
        }
        self.wake(subscription);
        let gap = Gap { from, to, reason: GapReason::Retention };
        ConsumeEvent::Gap { subscription, gap }
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        let stands = self.active.iter().map(|(number, active)| active.describe(*number));
        let event = ConsumeEvent::Heartbeat {
            now: self.shared.now(),
            subscriptions: stands.collect(),
            credit_bytes: self.credit_bytes,
        };
        self.say(event).await
    }

    async fn fail(&mut self, subscription: u64, error: SubscriptionError) -> Result<(), Gone> {
        self.say(ConsumeEvent::Failed { subscription, error }).await
    }

    async fn reject(&mut self, subscription: u64, cause: &'static str) -> Result<(), Gone> {
        self.say(ConsumeEvent::Rejected { subscription, cause }).await
    }

    async fn say(&mut self, event: ConsumeEvent) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

impl Drop for ConsumeSession {
    fn drop(&mut self) {
        self.shared.metrics.consume_streams.fetch_sub(1, Ordering::Relaxed);
    }
}
