//! Consumers: they read all there is, over all of the broker's lives.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use taffrail_broker::{
    Broker, ConsumeCommand, ConsumeEvent, FetchError, FetchPartition, FetchRequest, Fetched,
    Message, Position, SubscriptionError,
};
use taffrail_model::batch::{Batches, Compressions};
use taffrail_model::{Gap, GapReason, Offset, PartitionIndex};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::history::{Event, History, LAST_READER, read_event};
use crate::producer::place_of;
use crate::refusals::check_fetch;
use crate::world::World;

/// What a consumer with this number takes: some open batches themselves, for others the broker does.
fn message(number: u32) -> Message {
    let accepted =
        if number.is_multiple_of(2) { Compressions::ALL } else { Compressions::default() };
    Message { bytes_max: 4 << 20, envelope_bytes: 1 << 10, accepted }
}

/// Where a consumer stands, between and during the broker's lives.
pub(crate) struct Consumer {
    number: u32,
    /// Where it says what it got: of a backup, not where the world does.
    history: History,
    is_of_backup: bool,
    next: BTreeMap<(String, u32), u64>,
}

impl Consumer {
    pub(crate) fn new(world: &World) -> Rc<RefCell<Self>> {
        let (number, history) = (world.number(), world.history.clone());
        let (is_of_backup, next) = (false, BTreeMap::new());
        Rc::new(RefCell::new(Self { number, history, is_of_backup, next }))
    }

    /// Whoever reads what there is in the end.
    pub(crate) fn last(world: &World) -> RefCell<Self> {
        let (history, is_of_backup) = (world.history.clone(), false);
        RefCell::new(Self { number: LAST_READER, history, is_of_backup, next: BTreeMap::new() })
    }

    /// Whoever reads what there is in a backup.
    pub(crate) fn of_backup(history: History) -> RefCell<Self> {
        let is_of_backup = true;
        RefCell::new(Self { number: LAST_READER, history, is_of_backup, next: BTreeMap::new() })
    }

    fn next(&self, place: &(String, u32)) -> u64 {
        self.next.get(place).copied().unwrap_or_default()
    }

    /// Takes note of records from where it stands on, at once: it may end at any await.
    fn take_batches(&mut self, world: &World, place: &(String, u32), bytes: Bytes) {
        let from = self.next(place);
        for batch in Batches::received(bytes) {
            let batch = batch.expect("whole batches");
            assert!(batch.is_sound(), "{place:?}: damage at {}", batch.header.base_offset);
            for record in batch.open().expect("a frame").records() {
                let record = record.expect("sound records");
                self.pass(world, place, record.offset.get());
                let (offset, value) = (record.offset.get(), record.value.unwrap_or_default());
                if from <= offset {
                    world.note_append(place, offset, batch.header.append_time);
                    self.history.add(read_event(self.number, place_of(place), offset, value));
                    self.next.insert(place.clone(), offset + 1);
                }
            }
            self.pass(world, place, batch.header.end_offset().get());
        }
    }

    /// Passes over what compaction has removed in front of an offset.
    fn pass(&mut self, world: &World, place: &(String, u32), to: u64) {
        let (reader, from) = (self.number, self.next(place));
        if from < to {
            assert!(world.is_compacted(&place.0), "{place:?}: nothing at {from} to {to}");
            world.reach("superseded");
            self.history.add(Event::Superseded { reader, place: place_of(place), from, to });
            self.next.insert(place.clone(), to);
        }
    }

    fn take_gap(&mut self, world: &World, place: &(String, u32), gap: Gap) {
        if gap.reason == GapReason::Retention {
            assert_eq!(gap.from.get(), self.next(place), "{place:?}: {gap:?}");
            return self.take_cut(world, place, gap.to.get());
        }
        if gap.reason == GapReason::Compaction {
            assert_eq!(gap.from.get(), self.next(place), "{place:?}: {gap:?}");
            return self.pass(world, place, gap.to.get());
        }
        assert!(world.is_cached(&place.0), "{place:?}: {gap:?}");
        world.reach("gaps");
        let (from, to) = (gap.from.get(), gap.to.get());
        let reader = self.number;
        self.history.add(Event::Gap { reader, place: place_of(place), from, to });
        self.next.insert(place.clone(), to);
    }

    /// Goes on where the partition begins now.
    fn take_cut(&mut self, world: &World, place: &(String, u32), to: u64) {
        if self.is_of_backup {
            // What is deleted there is not where it was backed up.
            world.check_start(place, to);
            self.history.add(Event::Deletable { place: place_of(place), before: to });
        } else {
            world.note_start(place, to);
            world.reach("cuts");
        }
        let (reader, from) = (self.number, self.next(place));
        assert!(from < to, "{place:?} is cut from {from} to {to}");
        self.history.add(Event::Cut { reader, place: place_of(place), from, to });
        self.next.insert(place.clone(), to);
    }
}

/// Lives as long as the broker does.
pub(crate) async fn live(world: Rc<World>, broker: Arc<Broker>, consumer: Rc<RefCell<Consumer>>) {
    loop {
        world.moment().await;
        let Some(place) = world.dice.pick(&world.places()).cloned() else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        if world.dice.once_in(3) {
            stream(&world, &broker, &consumer, &place).await;
        } else {
            let wait = Duration::from_millis(world.dice.below(30));
            fetch(&world, &broker, &consumer, &place, wait).await;
        }
    }
}

/// Reads a place to its end, and returns that.
pub(crate) async fn read_back(
    world: &World,
    broker: &Broker,
    place: &(String, u32),
    reader: &RefCell<Consumer>,
) -> u64 {
    loop {
        // What is still being checked is asked for again.
        let end = fetch(world, broker, reader, place, Duration::ZERO).await;
        let reader = reader.borrow();
        if let Some(end) = end.filter(|end| *end == reader.next(place)) {
            reader.history.add(Event::End { place: place_of(place), start: 0, end });
            return end;
        }
    }
}

/// Reads once, and returns the high watermark; `None` if it was refused.
async fn fetch(
    world: &World,
    broker: &Broker,
    consumer: &RefCell<Consumer>,
    place: &(String, u32),
    wait_max: Duration,
) -> Option<u64> {
    let partition = FetchPartition {
        topic: place.0.clone(),
        partition: PartitionIndex::new(place.1),
        from: Offset::new(consumer.borrow().next(place)),
    };
    let request = FetchRequest {
        partitions: vec![partition],
        bytes_max: 1 + world.dice.below(40_000) as usize,
        bytes_min: 1,
        wait_max,
        message: message(consumer.borrow().number),
        error_bytes: 1 << 10,
    };
    let result = broker.fetch(&request).await.into_iter().next().expect("a result");
    match result.fetched {
        Ok(Fetched::Batches(bytes)) => consumer.borrow_mut().take_batches(world, place, bytes),
        Ok(Fetched::Gap(gap)) => consumer.borrow_mut().take_gap(world, place, gap),
        Ok(Fetched::Nothing) => {}
        Err(FetchError::OffsetOutOfRange { offset, start, .. }) if offset < start => {
            consumer.borrow_mut().take_cut(world, place, start.get());
            return None;
        }
        Err(error) => {
            check_fetch(world, place, &error);
            sleep(Duration::from_millis(5)).await;
            return None;
        }
    }
    Some(result.high_watermark.get())
}

/// Reads for a while with a stream.
async fn stream(
    world: &World,
    broker: &Broker,
    consumer: &RefCell<Consumer>,
    place: &(String, u32),
) {
    let (events, mut received) = mpsc::channel(4);
    let (command, commands) = mpsc::channel(16);
    let session = tokio::spawn(broker.consume_session(events).run(commands));
    let subscribe = ConsumeCommand::Subscribe {
        subscription: 1,
        topic: place.0.clone(),
        partition: PartitionIndex::new(place.1),
        position: Position::Offset(Offset::new(consumer.borrow().next(place))),
        resume: true,
        message: message(consumer.borrow().number),
        reader: None,
    };
    let grant = ConsumeCommand::Grant { bytes: 1 + world.dice.below(200_000) };
    for first in [grant, subscribe] {
        command.send(first).await.expect("the session runs");
    }
    let pieces = 1 + world.dice.below(10);
    for _ in 0..pieces {
        let Ok(event) = timeout(Duration::from_millis(50), received.recv()).await else { break };
        match event {
            Some(ConsumeEvent::Delivery { bytes, .. }) => {
                consumer.borrow_mut().take_batches(world, place, bytes);
            }
            Some(ConsumeEvent::Gap { gap, .. }) => {
                consumer.borrow_mut().take_gap(world, place, gap);
            }
            Some(ConsumeEvent::Failed { error: SubscriptionError::Fetch(error), .. }) => {
                check_fetch(world, place, &error);
                break;
            }
            Some(ConsumeEvent::Failed { error, .. }) => panic!("{place:?}: {error}"),
            Some(ConsumeEvent::Rejected { cause, .. }) => panic!("{place:?}: {cause}"),
            Some(ConsumeEvent::Subscribed { .. } | ConsumeEvent::Heartbeat { .. }) => {}
            None => break,
        }
    }
    world.reach("consumers' streams");
    drop((command, received));
    session.await.expect("a session does not panic");
}
