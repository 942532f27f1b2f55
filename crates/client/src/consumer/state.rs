//! Decides what to ask the broker for, and what its answers mean.
//!
//! Pure: takes answers and times, returns requests and events. Invariants: what comes under a
//! subscription's old number is dropped; after a broken stream a partition goes on at exactly the
//! offset behind the last batch that came; bytes taken from the grant are given back once the
//! application has the batch.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use taffrail_model::batch::{Batch, BatchKind, Batches};
use taffrail_model::{Offset, PartitionIndex, Timestamp, TopicName};
use taffrail_proto::v1;
use v1::consume_request::Command;
use v1::consume_response::Event as Answer;

use super::ConsumeError;
use super::event::{ConsumedBatch, Event, PartitionPlace};
use crate::retry::{Backoff, Verdict, verdict};
use crate::{Position, ServerError};

/// Where a consumer stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Nowhere: it follows what is appended.
    Forever,
    /// At the high watermark seen when reading began.
    HighWatermark,
    /// Before this offset.
    Offset(Offset),
}

/// A partition to read.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) topic: TopicName,
    pub(crate) partition: PartitionIndex,
    pub(crate) from: Position,
    pub(crate) until: Until,
    /// The group that it is read for.
    pub(crate) reader: Option<v1::GroupReader>,
}

/// What a grant covers and what a message may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) prefetch_bytes: u64,
    pub(crate) max_message_bytes: u32,
}

/// All partitions of a consumer.
#[derive(Debug)]
pub(super) struct Subscriptions {
    partitions: Vec<Reading>,
    /// The partition of each subscription's number.
    by_number: HashMap<u64, usize>,
    next_number: u64,
    bounds: Bounds,
    /// What the application has not taken yet.
    events: VecDeque<Queued>,
    /// Bytes the application took that were not granted again.
    taken_bytes: u64,
}

#[derive(Debug)]
struct Reading {
    place: PartitionPlace,
    /// Where it begins, until the broker has told the offset.
    from: Position,
    until: Until,
    reader: Option<v1::GroupReader>,
    end: Option<Offset>,
    /// Its subscription on this stream; 0: none.
    number: u64,
    is_paused: bool,
    attempts: u32,
    /// When to subscribe again after a refusal that passes.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Queued {
    event: Result<Event, ConsumeError>,
    /// The partition it belongs to.
    index: Option<usize>,
    /// Bytes to grant again once it is taken.
    charged_bytes: u64,
}

impl Subscriptions {
    pub(super) fn new(wanted: Vec<Wanted>, bounds: Bounds) -> Self {
        let partitions = wanted.into_iter().map(Reading::new).collect();
        Self {
            partitions,
            by_number: HashMap::new(),
            next_number: 1,
            bounds,
            events: VecDeque::new(),
            taken_bytes: 0,
        }
    }

    /// A stream was opened: what to say first.
    pub(super) fn open(&mut self) -> Vec<Command> {
        self.by_number.clear();
        // What the application has not taken yet is granted when it takes it.
        let held: u64 = self.events.iter().map(|queued| queued.charged_bytes).sum();
        let bytes = self.bounds.prefetch_bytes.saturating_sub(held).max(1);
        self.taken_bytes = 0;
        let mut commands = vec![Command::Grant(v1::Grant { bytes })];
        for index in 0..self.partitions.len() {
            self.partitions[index].number = 0;
            if self.partitions[index].retry_at.is_none() {
                self.subscribe(index, &mut commands);
            }
        }
        commands
    }

    fn subscribe(&mut self, index: usize, commands: &mut Vec<Command>) {
        let reading = &mut self.partitions[index];
        if reading.place.is_finished {
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.by_number.insert(number, index);
        reading.number = number;
        reading.retry_at = None;
        let place = &reading.place;
        commands.push(Command::Subscribe(v1::Subscribe {
            subscription: number,
            topic: place.topic.to_string(),
            partition: place.partition.get(),
            position: Some(place.next_offset.map_or(reading.from, Position::Offset).into()),
            resume: place.next_offset.is_some(),
            max_message_bytes: self.bounds.max_message_bytes,
            accepted_compressions: vec![v1::Compression::Lz4.into(), v1::Compression::Zstd.into()],
            reader: reading.reader(),
        }));
        if reading.is_paused {
            commands.push(Command::Pause(v1::Pause { subscription: number }));
        }
    }

    /// Takes an answer of the broker, and returns what to say to it.
    pub(super) fn take(&mut self, answer: Answer, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        match answer {
            Answer::Subscribed(subscribed) => self.take_subscribed(subscribed, &mut commands),
            Answer::Delivery(delivery) => self.take_delivery(delivery, &mut commands),
            Answer::Gap(gap) => self.take_gap(gap, &mut commands),
            Answer::Error(error) => self.take_error(error, now),
            Answer::Heartbeat(heartbeat) => self.take_heartbeat(heartbeat),
        }
        self.grant(&mut commands);
        commands
    }

    fn take_subscribed(&mut self, subscribed: v1::Subscribed, commands: &mut Vec<Command>) {
        let Some(index) = self.index(subscribed.subscription) else { return };
        let reading = &mut self.partitions[index];
        reading.attempts = 0;
        let high_watermark = Offset::new(subscribed.high_watermark);
        reading.place.log_start = Offset::new(subscribed.log_start);
        reading.place.high_watermark = high_watermark;
        if reading.place.next_offset.is_none() {
            reading.place.next_offset = Some(Offset::new(subscribed.offset));
        }
        if reading.end.is_none() {
            reading.end = match reading.until {
                Until::Forever => None,
                Until::HighWatermark => Some(high_watermark),
                Until::Offset(offset) => Some(offset),
            };
        }
        self.finish_if_at_end(index, commands);
    }

    fn take_delivery(&mut self, delivery: v1::Delivery, commands: &mut Vec<Command>) {
        let charged_bytes = delivery.charged_bytes;
        let before = self.events.len();
        if let Some(index) = self.index(delivery.subscription) {
            let reading = &mut self.partitions[index];
            reading.place.high_watermark = Offset::new(delivery.high_watermark);
            self.take_batches(index, delivery.data, commands);
            self.finish_if_at_end(index, commands);
        }
        // The delivery's last event gives back what all of it was charged.
        let has_events = before < self.events.len();
        match self.events.back_mut() {
            Some(last) if has_events => last.charged_bytes += charged_bytes,
            _ => self.taken_bytes += charged_bytes,
        }
    }

    fn take_batches(&mut self, index: usize, data: Bytes, commands: &mut Vec<Command>) {
        for batch in Batches::received(data) {
            let reading = &mut self.partitions[index];
            let PartitionPlace { topic, partition, .. } = reading.place.clone();
            let next = reading.place.next_offset.unwrap_or_default();
            let problem = match batch {
                Err(cause) => ConsumeError::Malformed { topic, partition, cause },
                Ok(batch) if batch.header.end_offset() <= next => continue,
                Ok(batch) if !batch.is_sound() => {
                    let offset = batch.header.base_offset;
                    ConsumeError::Corrupt { topic, partition, offset }
                }
                Ok(batch) => {
                    reading.place.next_offset = Some(batch.header.end_offset());
                    let is_before_end =
                        reading.end.is_none_or(|end| batch.header.base_offset < end);
                    if batch.header.kind == BatchKind::Data && is_before_end {
                        let event = reading.batch_event(batch, next);
                        self.queue(Some(index), Ok(event));
                    }
                    continue;
                }
            };
            self.end(index, commands);
            self.queue(Some(index), Err(problem));
            return;
        }
    }

    fn take_gap(&mut self, gap: v1::SubscriptionGap, commands: &mut Vec<Command>) {
        let Some(index) = self.index(gap.subscription) else { return };
        let gap = gap.gap.unwrap_or_default();
        let place = &mut self.partitions[index].place;
        let event = Event::Gap {
            topic: place.topic.clone(),
            partition: place.partition,
            from: Offset::new(gap.from),
            to: Offset::new(gap.to),
            reason: gap.reason(),
        };
        place.next_offset = place.next_offset.max(Some(Offset::new(gap.to)));
        self.queue(Some(index), Ok(event));
        self.finish_if_at_end(index, commands);
    }

    fn take_error(&mut self, error: v1::SubscriptionError, now: Instant) {
        let Some(index) = self.by_number.remove(&error.subscription) else { return };
        let error = ServerError::from(error.error.unwrap_or_default());
        let reading = &mut self.partitions[index];
        reading.number = 0;
        if verdict(&error.reason) == Verdict::Retry {
            reading.attempts += 1;
            reading.retry_at = Some(now + Backoff::CONNECTION.after(&error, reading.attempts));
            tracing::debug!(topic = %reading.place.topic, partition = %reading.place.partition,
                %error, "will subscribe again");
            return;
        }
        if reading.reader.is_some() && is_of_membership(&error.reason) {
            // The membership hears of it too, and takes it away; if it does not, it was a mistake.
            reading.retry_at = Some(now + Backoff::CONNECTION.max);
            return;
        }
        reading.place.is_finished = true;
        let PartitionPlace { topic, partition, .. } = reading.place.clone();
        self.queue(Some(index), Err(ConsumeError::Partition { topic, partition, error }));
    }

    fn take_heartbeat(&mut self, heartbeat: v1::Heartbeat) {
        for state in heartbeat.partitions {
            let Some(index) = self.index(state.subscription) else { continue };
            let place = &mut self.partitions[index].place;
            place.log_start = Offset::new(state.log_start);
            place.high_watermark = Offset::new(state.high_watermark);
        }
        let broker_time = Timestamp::from_millis(heartbeat.broker_time_ms);
        if self.events.is_empty() {
            self.queue(None, Ok(Event::Heartbeat { broker_time }));
        }
    }

    /// What the application takes next.
    pub(super) fn next_event(&mut self) -> Option<Result<Event, ConsumeError>> {
        let queued = self.events.pop_front()?;
        self.taken_bytes += queued.charged_bytes;
        Some(queued.event.and_then(open))
    }

    /// Grants again what was taken, once that is worth a message.
    pub(super) fn grant(&mut self, commands: &mut Vec<Command>) {
        let worth = (self.bounds.prefetch_bytes / 8).max(1);
        if self.taken_bytes >= worth {
            commands.push(Command::Grant(v1::Grant { bytes: self.taken_bytes }));
            self.taken_bytes = 0;
        }
    }

    /// Which of the partitions this is; `None` if it is not read here.
    pub(super) fn find(&self, topic: &TopicName, partition: PartitionIndex) -> Option<usize> {
        self.places().position(|place| place.topic == *topic && place.partition == partition)
    }

    /// Reads another partition, or one anew.
    pub(super) fn add(&mut self, wanted: Wanted) -> Vec<Command> {
        let mut commands = Vec::new();
        let index = if let Some(index) = self.find(&wanted.topic, wanted.partition) {
            commands = self.remove(index);
            self.partitions[index] = Reading::new(wanted);
            index
        } else {
            self.partitions.push(Reading::new(wanted));
            self.partitions.len() - 1
        };
        self.subscribe(index, &mut commands);
        commands
    }

    /// Reads a partition no more; what of it was not taken yet is dropped.
    pub(super) fn remove(&mut self, index: usize) -> Vec<Command> {
        let mut commands = Vec::new();
        self.drop_events(index);
        self.partitions[index].retry_at = None;
        self.end(index, &mut commands);
        self.grant(&mut commands);
        commands
    }

    /// Drops what of a partition was not taken yet.
    fn drop_events(&mut self, index: usize) {
        let mut dropped_bytes = 0;
        self.events.retain(|queued| {
            let keep = queued.index != Some(index);
            dropped_bytes += if keep { 0 } else { queued.charged_bytes };
            keep
        });
        self.taken_bytes += dropped_bytes;
    }

    /// Moves a partition; what of it was not taken yet is dropped.
    pub(super) fn seek(&mut self, index: usize, to: Position, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        self.drop_events(index);
        let reading = &mut self.partitions[index];
        reading.from = to;
        if let Some(reader) = &mut reading.reader {
            reader.from_committed = false;
        }
        reading.place.next_offset = None;
        reading.place.is_finished = false;
        let subscription = std::mem::take(&mut reading.number);
        if subscription == 0 {
            // Without a subscription: the next stream, or the next look, makes one.
            reading.retry_at = reading.retry_at.or(Some(now));
        } else {
            // A new one: the broker may have ended the old one meanwhile, and then it cannot be moved.
            self.by_number.remove(&subscription);
            commands.push(Command::Unsubscribe(v1::Unsubscribe { subscription }));
            self.subscribe(index, &mut commands);
        }
        self.grant(&mut commands);
        commands
    }

    /// Holds a partition back.
    pub(super) fn pause(&mut self, index: usize) -> Option<Command> {
        let reading = &mut self.partitions[index];
        reading.is_paused = true;
        let subscription = reading.number;
        (subscription != 0).then_some(Command::Pause(v1::Pause { subscription }))
    }

    /// Lets a partition go on.
    pub(super) fn resume(&mut self, index: usize) -> Option<Command> {
        let reading = &mut self.partitions[index];
        reading.is_paused = false;
        let subscription = reading.number;
        (subscription != 0).then_some(Command::Resume(v1::Resume { subscription }))
    }

    /// Subscribes again where a wait is over.
    pub(super) fn wake(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        for index in 0..self.partitions.len() {
            if self.partitions[index].retry_at.is_some_and(|at| at <= now) {
                self.subscribe(index, &mut commands);
            }
        }
        commands
    }

    /// When [`Self::wake`] has something to do.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.partitions.iter().filter_map(|reading| reading.retry_at).min()
    }

    /// Whether every partition is done with and every event was taken.
    pub(super) fn is_finished(&self) -> bool {
        self.events.is_empty() && self.partitions.iter().all(|reading| reading.place.is_finished)
    }

    /// Whether all there was is taken, as far as the broker has told.
    pub(super) fn is_caught_up(&self) -> bool {
        let caught_up = |place: &PartitionPlace| {
            place.is_finished || place.next_offset.is_some_and(|next| next >= place.high_watermark)
        };
        self.events.is_empty() && self.partitions.iter().all(|reading| caught_up(&reading.place))
    }

    /// Where each partition stands.
    pub(super) fn places(&self) -> impl Iterator<Item = &PartitionPlace> {
        self.partitions.iter().map(|reading| &reading.place)
    }

    fn finish_if_at_end(&mut self, index: usize, commands: &mut Vec<Command>) {
        let Reading { end, place, .. } = &self.partitions[index];
        if let (Some(end), Some(next)) = (*end, place.next_offset)
            && end <= next
        {
            self.end(index, commands);
        }
    }

    fn end(&mut self, index: usize, commands: &mut Vec<Command>) {
        let reading = &mut self.partitions[index];
        reading.place.is_finished = true;
        let subscription = std::mem::take(&mut reading.number);
        if self.by_number.remove(&subscription).is_some() {
            commands.push(Command::Unsubscribe(v1::Unsubscribe { subscription }));
        }
    }

    fn queue(&mut self, index: Option<usize>, event: Result<Event, ConsumeError>) {
        self.events.push_back(Queued { event, index, charged_bytes: 0 });
    }

    fn index(&self, number: u64) -> Option<usize> {
        self.by_number.get(&number).copied()
    }
}

impl Reading {
    fn new(wanted: Wanted) -> Self {
        Self {
            place: PartitionPlace {
                topic: wanted.topic,
                partition: wanted.partition,
                next_offset: None,
                log_start: Offset::ZERO,
                high_watermark: Offset::ZERO,
                is_finished: false,
            },
            from: wanted.from,
            until: wanted.until,
            reader: wanted.reader,
            end: None,
            number: 0,
            is_paused: false,
            attempts: 0,
            retry_at: None,
        }
    }

    /// For whom it is read. Once it is known where it is, it goes on there.
    fn reader(&self) -> Option<v1::GroupReader> {
        let mut reader = self.reader.clone()?;
        reader.from_committed &= self.place.next_offset.is_none();
        Some(reader)
    }

    fn batch_event(&self, batch: Batch, from: Offset) -> Event {
        Event::Batch(ConsumedBatch {
            topic: self.place.topic.clone(),
            partition: self.place.partition,
            high_watermark: self.place.high_watermark,
            batch,
            from,
            until: self.end,
            assignment: 0,
        })
    }
}

/// Whether the partition is another member's by now, or nobody's: what the membership hears of too.
fn is_of_membership(reason: &str) -> bool {
    matches!(reason, "STALE_MEMBER" | "UNKNOWN_MEMBER" | "UNKNOWN_TOPIC")
}

/// Opens the records of a batch, now that they are wanted: until then they take the room that was granted.
fn open(event: Event) -> Result<Event, ConsumeError> {
    let Event::Batch(consumed) = event else { return Ok(event) };
    match consumed.batch.open() {
        Ok(batch) => Ok(Event::Batch(ConsumedBatch { batch, ..consumed })),
        Err(cause) => Err(ConsumeError::Unopened {
            topic: consumed.topic,
            partition: consumed.partition,
            offset: consumed.batch.header.base_offset,
            cause,
        }),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
