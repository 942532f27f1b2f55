//! Runs one consumer's stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use taffrail_log::Read;
use taffrail_model::{Gap, GapReason, Offset, PartitionIndex, limits};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::subscription::Active;
use super::{ConsumeCommand, ConsumeEvent, Position};
use crate::broker::Broker;
use crate::fetch::{FetchError, find, read};
use crate::partition::Partition;

/// Bytes of one delivery, at the most, but for a single batch.
const DELIVERY_BYTES_MAX: usize = 1 << 20;

/// One consumer's stream.
pub struct ConsumeSession {
    broker: Arc<Broker>,
    active: BTreeMap<u64, Active>,
    /// Subscriptions that may have something to read, in turn.
    ready: VecDeque<u64>,
    /// Subscriptions at their partition's end, until it moves.
    idle: FuturesUnordered<BoxFuture<'static, u64>>,
    credit_bytes: i64,
    events: mpsc::Sender<ConsumeEvent>,
}

/// The other side of the stream is gone.
struct Gone;

impl ConsumeSession {
    pub(crate) fn new(broker: Arc<Broker>, events: mpsc::Sender<ConsumeEvent>) -> Self {
        broker.metrics().consume_streams.fetch_add(1, Ordering::Relaxed);
        Self {
            broker,
            active: BTreeMap::new(),
            ready: VecDeque::new(),
            idle: FuturesUnordered::new(),
            credit_bytes: 0,
            events,
        }
    }

    /// Serves the stream until the client closes it, goes away, or the broker stops.
    pub async fn run(mut self, mut commands: mpsc::Receiver<ConsumeCommand>) {
        let mut heartbeat = interval(limits::HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = self.broker.stopping();
        if self.broker.is_stopping() {
            return;
        }
        // A handle of its own, so that waiting for room borrows nothing.
        let room = self.events.clone();
        loop {
            let can_send = self.credit_bytes > 0 && !self.ready.is_empty();
            let served = tokio::select! {
                biased;
                _ = stopping.changed() => return,
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                permit = room.reserve(), if can_send => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.deliver().await {
                            permit.send(event);
                        }
                        Ok(())
                    }
                    Err(_) => return,
                },
                Some(subscription) = self.idle.next() => {
                    if let Some(active) = self.active.get_mut(&subscription) {
                        active.is_idle = false;
                        self.ready.push_back(subscription);
                    }
                    Ok(())
                }
                _ = heartbeat.tick() => self.beat().await,
            };
            if served.is_err() {
                return;
            }
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
                message_bytes_max,
            } => {
                if let Err(cause) = self.check_new(subscription) {
                    return self.reject(subscription, cause).await;
                }
                let partition = match self.find_partition(&topic, partition) {
                    Ok(partition) => partition,
                    Err(error) => return self.fail(subscription, error).await,
                };
                let next = Offset::ZERO;
                let active =
                    Active { partition, next, message_bytes_max, is_paused: false, is_idle: false };
                self.begin(subscription, active, position, resume).await
            }
            ConsumeCommand::Grant { bytes } => {
                let bytes = i64::try_from(bytes).unwrap_or(limits::CREDIT_BYTES_MAX);
                let credit = self.credit_bytes.saturating_add(bytes);
                self.credit_bytes = credit.min(limits::CREDIT_BYTES_MAX);
                Ok(())
            }
            ConsumeCommand::Seek { subscription, new_subscription, position } => {
                if !self.active.contains_key(&subscription) {
                    return self.reject(subscription, "there is no such subscription").await;
                }
                if let Err(cause) = self.check_new(new_subscription) {
                    return self.reject(new_subscription, cause).await;
                }
                match self.active.remove(&subscription) {
                    Some(active) => self.begin(new_subscription, active, position, false).await,
                    None => Ok(()),
                }
            }
            ConsumeCommand::Pause { subscription } => self.set_paused(subscription, true).await,
            ConsumeCommand::Resume { subscription } => self.set_paused(subscription, false).await,
            ConsumeCommand::Unsubscribe { subscription } => {
                self.active.remove(&subscription);
                Ok(())
            }
        }
    }

    fn check_new(&self, subscription: u64) -> Result<(), &'static str> {
        if self.active.contains_key(&subscription) {
            return Err("this subscription's number is in use: take another one");
        }
        if self.active.len() >= limits::SUBSCRIPTIONS_MAX {
            return Err("this stream has too many subscriptions: open another stream");
        }
        Ok(())
    }

    fn find_partition(
        &self,
        topic: &str,
        partition: PartitionIndex,
    ) -> Result<Arc<Partition>, FetchError> {
        self.broker.partition(topic, partition)
    }

    /// Puts a subscription to where it should begin, and says where that is.
    async fn begin(
        &mut self,
        subscription: u64,
        mut active: Active,
        mut position: Position,
        resume: bool,
    ) -> Result<(), Gone> {
        let log_start = active.partition.log_start();
        if let Position::Offset(from) = position
            && resume
            && from < log_start
        {
            let gap = Gap { from, to: log_start, reason: GapReason::Retention };
            self.say(ConsumeEvent::Gap { subscription, gap }).await?;
            position = Position::Earliest;
        }
        let found = match find(&active.partition, position).await {
            Ok(found) => found,
            Err(error) => return self.fail(subscription, error).await,
        };
        active.next = found.offset;
        active.is_idle = false;
        self.active.insert(subscription, active);
        self.ready.push_back(subscription);
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
        if active.is_paused && !is_paused && !active.is_idle {
            self.ready.push_back(subscription);
        }
        active.is_paused = is_paused;
        Ok(())
    }

    /// What the subscription whose turn it is has to say, if anything.
    async fn deliver(&mut self) -> Option<ConsumeEvent> {
        let subscription = self.ready.pop_front()?;
        let active = self.active.get_mut(&subscription).filter(|active| !active.is_paused)?;
        let bytes_max = usize::try_from(self.credit_bytes).unwrap_or(0).min(DELIVERY_BYTES_MAX);
        let (partition, from) = (Arc::clone(&active.partition), active.next);
        if from < partition.log_start() {
            let (to, reason) = (partition.log_start(), GapReason::Retention);
            active.next = to;
            self.ready.push_back(subscription);
            return Some(ConsumeEvent::Gap { subscription, gap: Gap { from, to, reason } });
        }
        match read(&self.broker, &partition, from, bytes_max, active.message_bytes_max).await {
            Ok(Read::Batches { bytes, next }) => {
                active.next = next;
                self.credit_bytes -= bytes.len() as i64;
                self.ready.push_back(subscription);
                let high_watermark = partition.high_watermark();
                let charge = self.broker.memory().charge(bytes.len()).await;
                Some(ConsumeEvent::Delivery { subscription, high_watermark, bytes, charge })
            }
            Ok(Read::Gap(gap)) => {
                active.next = gap.to;
                self.ready.push_back(subscription);
                Some(ConsumeEvent::Gap { subscription, gap })
            }
            Ok(Read::End) => {
                active.is_idle = true;
                let mut watermark = partition.watch();
                self.idle.push(Box::pin(async move {
                    // An error means that the partition is gone: the next read says so.
                    let _ = watermark.wait_for(|end| *end > from).await;
                    subscription
                }));
                None
            }
            Err(error) => {
                self.active.remove(&subscription);
                Some(ConsumeEvent::Failed { subscription, error })
            }
        }
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        let stands = self.active.iter().map(|(number, active)| active.describe(*number));
        let event = ConsumeEvent::Heartbeat {
            now: self.broker.now(),
            subscriptions: stands.collect(),
            credit_bytes: self.credit_bytes,
        };
        self.say(event).await
    }

    async fn fail(&mut self, subscription: u64, error: FetchError) -> Result<(), Gone> {
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
        self.broker.metrics().consume_streams.fetch_sub(1, Ordering::Relaxed);
    }
}
