//! Producers: those that send again what was not answered, and those that do not.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use taffrail_broker::{
    Acks, Broker, IncomingBatch, InitProducer, InitProducerError, Outcome, PartitionStatus,
    Placement, ProduceBatch, ProduceError, ProduceSession, Produced, ProducerIdentity,
    SequenceError, StreamRequest,
};
use taffrail_model::batch::{Compression, RecordFields, RecordSetBuilder, records_crc};
use taffrail_model::{Offset, PartitionIndex, ProducerId, ProducerStamp, Sequence};
use tokio::time::sleep;

use crate::history::{Event, RecordId, key_of, value_of};
use crate::lane::{Batch, Lane};
use crate::refusals::check_produce;
use crate::world::{Fenced, World};

/// Batches of a lane that are on their way.
const IN_FLIGHT: usize = 12;

/// Whether a producer sends again what was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It does not.
    Plain,
    /// It does; several may fight for one name.
    Idempotent { name: String },
}

/// A producer, as it is between and during the broker's lives.
pub(crate) struct Producer {
    kind: Kind,
    /// What its records bear: another number with every identity.
    number: u32,
    records: u64,
    identity: Option<ProducerIdentity>,
    /// What it was, if it asks for a new identity.
    former: Option<ProducerId>,
    lanes: BTreeMap<(String, u32), Lane>,
    /// Records that it will still begin to send.
    quota: u64,
}

/// A producer's stream.
struct Stream {
    session: ProduceSession,
    places: HashMap<u64, (String, u32)>,
    /// The request of each place that was answered last.
    answered: HashMap<(String, u32), u64>,
    expected: HashMap<u64, u64>,
    number: u64,
}

/// Why a stream ends before the broker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The identity is worth nothing any more.
    Spent,
    /// Another identity is wanted under the same name.
    Renewed,
}

impl Producer {
    pub(crate) fn new(world: &World, kind: Kind, quota: u64) -> Rc<RefCell<Self>> {
        let (number, lanes) = (world.number(), BTreeMap::new());
        let (identity, former) = (None, None);
        Rc::new(RefCell::new(Self { kind, number, records: 0, identity, former, lanes, quota }))
    }

    /// Whether nothing is left that is not answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.lanes.values().all(|lane| lane.pending.is_empty())
    }

    fn is_plain(&self) -> bool {
        self.kind == Kind::Plain
    }

    /// Whatever was on its way may or may not be there, and is not sent again.
    fn give_up(&mut self, world: &World) {
        for lane in self.lanes.values_mut() {
            for record in lane.pending.drain(..).flat_map(|batch| batch.records) {
                world.history.add(Event::Unknown { record });
            }
        }
    }

    fn is_named(&self) -> bool {
        matches!(&self.kind, Kind::Idempotent { name } if !name.is_empty())
    }

    /// Begins anew, as somebody that nobody knows, but perhaps as who it was before.
    fn begin_anew(&mut self, world: &World, ended: Ended) {
        self.give_up(world);
        self.lanes.clear();
        let before = self.identity.take().filter(|_| ended == Ended::Renewed);
        self.former = before.map(|identity| identity.id);
        (self.number, self.records) = (world.number(), 0);
    }

    fn new_batch(&mut self, world: &World, place: &(String, u32)) {
        let count = 1 + world.dice.below(4).min(self.quota.saturating_sub(1));
        self.quota = self.quota.saturating_sub(count);
        let mut builder = RecordSetBuilder::default();
        let mut records = Vec::new();
        for _ in 0..count {
            self.records += 1;
            let record = RecordId { producer: self.number, sequence: self.records };
            let bytes = if world.dice.once_in(3) { 12_000 } else { 20 + world.dice.below(600) };
            let value = value_of(record, bytes as usize);
            let digest = crc32fast::hash(&value);
            world.history.add(Event::Invoke { record, place: place_of(place), digest });
            let key = key_of(record).to_string();
            let key = Some(key.as_bytes());
            builder.push(&RecordFields { key, value: Some(&value), ..RecordFields::default() });
            records.push(record);
        }
        let lane = self.lanes.entry(place.clone()).or_default();
        let sequence = lane.next_sequence;
        lane.next_sequence = sequence.wrapping_add(count as u32);
        lane.pending.push_back(Batch {
            records,
            payload: builder.finish(),
            sequence,
            number: None,
        });
    }
}

/// Lives as long as the broker does.
pub(crate) async fn live(world: Rc<World>, broker: Arc<Broker>, producer: Rc<RefCell<Producer>>) {
    if producer.borrow().is_plain() {
        producer.borrow_mut().give_up(&world);
    }
    loop {
        if !producer.borrow().is_plain() && producer.borrow().identity.is_none() {
            take_identity(&world, &broker, &producer).await;
        }
        let ended = stream(&world, &broker, &producer).await;
        producer.borrow_mut().begin_anew(&world, ended);
    }
}

async fn take_identity(world: &World, broker: &Arc<Broker>, producer: &RefCell<Producer>) {
    let Kind::Idempotent { name } = producer.borrow().kind.clone() else { return };
    let attempt = world.dice.next();
    loop {
        let former = producer.borrow().former;
        let request = InitProducer { name: name.clone(), former, attempt };
        match broker.init_producer(request).await {
            Ok(identity) => {
                producer.borrow_mut().identity = Some(identity);
                if former.is_some() {
                    world.reach("identities renewed");
                }
                note_fenced(world, broker, &name, identity, producer.borrow().number);
                world.reach("identities");
                return;
            }
            Err(InitProducerError::Storage(_)) => world.reach("identities refused"),
            Err(InitProducerError::Fenced { .. }) if former.is_some() => {
                producer.borrow_mut().former = None;
                world.reach("renewals fenced");
            }
            Err(error) => assert!(world.is_faulty.get(), "no identity: {error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Nothing of whoever had the name before may be behind the ends that there are now.
fn note_fenced(
    world: &World,
    broker: &Broker,
    name: &str,
    identity: ProducerIdentity,
    number: u32,
) {
    if name.is_empty() {
        return;
    }
    let mut holders = world.holders.borrow_mut();
    let former = holders.get(name).copied();
    if former.is_some_and(|(epoch, _)| identity.epoch < epoch) {
        return;
    }
    holders.insert(name.to_owned(), (identity.epoch, number));
    let Some((_, producer)) = former else { return };
    for description in broker.describe_all() {
        for partition in description.partitions {
            if partition.status == PartitionStatus::Online {
                let place = format!("{}/{}", description.topic.name, partition.partition);
                let end = partition.log_end.get();
                world.fenced.borrow_mut().push(Fenced { producer, place, end });
            }
        }
    }
}

async fn stream(world: &World, broker: &Arc<Broker>, producer: &RefCell<Producer>) -> Ended {
    let (session, mut outcomes) = broker.produce_session();
    let mut stream = Stream::new(session);
    producer.borrow_mut().lanes.values_mut().for_each(Lane::begin_stream);
    loop {
        while let Ok(outcome) = outcomes.try_recv() {
            if let Some(ended) = stream.take(world, producer, outcome) {
                return ended;
            }
        }
        world.moment().await;
        if producer.borrow().is_named() && world.dice.once_in(400) {
            return Ended::Renewed;
        }
        let has_sent = stream.send(world, producer).await;
        if !has_sent && !stream.places.is_empty() {
            let Some(outcome) = outcomes.recv().await else { continue };
            let refused = outcome.result.is_err();
            if let Some(ended) = stream.take(world, producer, outcome) {
                return ended;
            }
            if refused {
                sleep(Duration::from_millis(5)).await;
            }
        } else if !has_sent {
            sleep(Duration::from_millis(1 + world.dice.below(20))).await;
        }
    }
}

/// Sends a batch to every partition, and waits for what is said of each: it is taken, if all `is_well`.
pub(crate) async fn probe(world: &World, broker: &Broker, is_well: bool) {
    let mut producer = Producer {
        kind: Kind::Plain,
        number: world.number(),
        records: 0,
        identity: None,
        former: None,
        lanes: BTreeMap::new(),
        quota: u64::MAX,
    };
    for place in world.places() {
        while let Err(error) = send_one(world, broker, &mut producer, &place).await {
            // Of what failed before, the next one to send may hear.
            let comes_back = matches!(
                error,
                ProduceError::Recovering
                    | ProduceError::StorageFull { .. }
                    | ProduceError::Io { .. }
            );
            assert!(!is_well || comes_back || !world.is_there(&place.0), "{place:?}: {error}");
            if !is_well || !comes_back {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        world.reach("probes");
    }
}

async fn send_one(
    world: &World,
    broker: &Broker,
    producer: &mut Producer,
    place: &(String, u32),
) -> Result<(), ProduceError> {
    producer.new_batch(world, place);
    let lane = producer.lanes.entry(place.clone()).or_default();
    let (batch, _) = lane.send(1).expect("it was made just now");
    let sent = ProduceBatch {
        topic: place.0.clone(),
        placement: Placement::Partition(PartitionIndex::new(place.1)),
        batch: incoming(batch.payload.clone(), None),
        expected_next_offset: None,
    };
    let outcome = broker.produce(vec![sent], Acks::Committed).await.remove(0);
    match outcome.result {
        Ok(produced) => {
            lane.settle(1);
            note_placed(world, &batch, &produced);
            Ok(())
        }
        Err(error) => {
            plain_refused(world, producer, place, 1, &error);
            Err(error)
        }
    }
}

/// A batch as it comes from outside: the same payload is compressed in the same way each time.
fn incoming(payload: Bytes, producer: Option<ProducerStamp>) -> IncomingBatch {
    let compression = match payload.len() % 10 {
        0 => Compression::Lz4,
        1 => Compression::Zstd,
        _ => Compression::None,
    };
    let payload = compression.pack(payload);
    IncomingBatch {
        records_crc: Some(records_crc(&payload)),
        payload,
        compression: compression.code().into(),
        is_compressed: compression != Compression::None,
        is_control: false,
        producer,
    }
}

impl Stream {
    fn new(session: ProduceSession) -> Self {
        Self {
            session,
            places: HashMap::new(),
            answered: HashMap::new(),
            expected: HashMap::new(),
            number: 0,
        }
    }

    /// Sends one batch, if one may be sent.
    async fn send(&mut self, world: &World, producer: &RefCell<Producer>) -> bool {
        let Some((place, request)) = self.next(world, &mut producer.borrow_mut()) else {
            return false;
        };
        self.places.insert(request.number, place);
        self.session.submit(request).await;
        true
    }

    fn next(
        &mut self,
        world: &World,
        producer: &mut Producer,
    ) -> Option<((String, u32), StreamRequest)> {
        let waiting = |lane: &Lane| lane.may_send() && lane.in_flight() < lane.pending.len();
        let waits: Vec<_> = producer
            .lanes
            .iter()
            .filter(|(_, lane)| waiting(lane))
            .map(|(it, _)| it.clone())
            .collect();
        let place = match world.dice.pick(&waits) {
            Some(place) => place.clone(),
            None if world.is_closing.get() || producer.quota == 0 => return None,
            None => {
                let place = world.dice.pick(&world.places())?.clone();
                let lane = producer.lanes.entry(place.clone()).or_default();
                if !lane.may_send() || lane.in_flight() >= IN_FLIGHT {
                    return None;
                }
                producer.new_batch(world, &place);
                place
            }
        };
        self.number += 1;
        let number = self.number;
        let identity = producer.identity;
        let lane = producer.lanes.get_mut(&place)?;
        // Somebody who sends nothing else knows what to expect.
        let is_conditional = identity.is_none() && lane.in_flight() == 0 && world.dice.once_in(4);
        let expected = lane.known_end.filter(|_| is_conditional);
        self.expected.extend(expected.map(|end| (number, end)));
        let (batch, resumes_after) = lane.send(number)?;
        // The door keeps good news from whoever wants none; here they come.
        let acks = if world.dice.once_in(8) { Acks::None } else { Acks::Committed };
        let stamp = |identity: ProducerIdentity| {
            let (id, epoch) = (identity.id, identity.epoch);
            ProducerStamp { id, epoch, sequence: Sequence::new(batch.sequence) }
        };
        let incoming = incoming(batch.payload, identity.map(stamp));
        let batch = ProduceBatch {
            topic: place.0.clone(),
            placement: Placement::Partition(PartitionIndex::new(place.1)),
            batch: incoming,
            expected_next_offset: expected.map(Offset::new),
        };
        Some((place, StreamRequest { number, batch, acks, resumes_after }))
    }

    fn take(
        &mut self,
        world: &World,
        producer: &RefCell<Producer>,
        outcome: Outcome,
    ) -> Option<Ended> {
        let place = self.places.remove(&outcome.number).expect("an answer to a request");
        self.check_order(&place, &outcome);
        let expected = self.expected.remove(&outcome.number);
        let producer = &mut *producer.borrow_mut();
        if !producer.lanes.contains_key(&place) {
            // The topic is gone, and what was sent there counts no more.
            assert!(!world.is_there(&place.0), "{place:?} is there, and was not found");
            return None;
        }
        match outcome.result {
            Ok(produced) => {
                let lane = producer.lanes.get_mut(&place).expect("it has sent something there");
                let batch = lane.settle(outcome.number).expect("it was on its way");
                lane.known_end = Some(note_placed(world, &batch, &produced));
                if let Some(expected) = expected {
                    let found = produced.place.map(|place| place.base_offset.get());
                    assert_eq!(found, Some(expected), "a conditional append");
                    world.reach("conditional appends");
                }
                None
            }
            Err(error) if producer.is_plain() => {
                plain_refused(world, producer, &place, outcome.number, &error);
                None
            }
            Err(error) => refused(world, producer, &place, outcome.number, &error),
        }
    }

    /// Answers come in the order of the requests, but for those that nobody could place.
    fn check_order(&mut self, place: &(String, u32), outcome: &Outcome) {
        let is_placed = !matches!(
            outcome.result,
            Err(ProduceError::UnknownTopic { .. } | ProduceError::UnknownPartition { .. })
        );
        if is_placed {
            let before = self.answered.insert(place.clone(), outcome.number);
            assert!(before < Some(outcome.number), "{place:?}: {before:?}, then {outcome:?}");
        }
    }
}

/// Notes that a batch is there, and returns where it ends.
fn note_placed(world: &World, batch: &Batch, produced: &Produced) -> u64 {
    if produced.is_duplicate {
        world.reach("duplicates");
    }
    let place = produced.place.expect("not so many batches are on their way");
    let offsets = place.base_offset.get()..;
    for (record, offset) in batch.records.iter().zip(offsets) {
        assert!(offset < produced.high_watermark.get(), "acknowledged, and not committed");
        world.history.add(Event::Ok { record: *record, offset });
    }
    world.reach("acknowledged batches");
    place.base_offset.get() + batch.records.len() as u64
}

/// The request that others behind this one are refused for.
fn refused_number(number: u64, error: &ProduceError) -> u64 {
    match error {
        ProduceError::PrecedingFailed { refused } => *refused,
        _ => number,
    }
}

fn plain_refused(
    world: &World,
    producer: &mut Producer,
    place: &(String, u32),
    number: u64,
    error: &ProduceError,
) {
    check_produce(world, place, error);
    let lane = producer.lanes.get_mut(place).expect("it has sent something there");
    let is_unknown = matches!(error, ProduceError::ResultUnknown { .. });
    lane.halt(refused_number(number, error));
    let batch = lane.settle(number).expect("it was on its way");
    for record in batch.records {
        world.history.add(if is_unknown {
            Event::Unknown { record }
        } else {
            Event::Fail { record }
        });
    }
}

fn refused(
    world: &World,
    producer: &mut Producer,
    place: &(String, u32),
    number: u64,
    error: &ProduceError,
) -> Option<Ended> {
    match error {
        ProduceError::Sequence(SequenceError::Fenced { .. }) | ProduceError::NameLost { .. } => {
            assert!(producer.is_named(), "fenced without a name");
            world.reach("fenced");
            Some(Ended::Spent)
        }
        ProduceError::Sequence(error) => {
            assert!(world.is_cached(&place.0), "{place:?} has forgotten a producer: {error}");
            world.reach("forgotten producers");
            Some(Ended::Spent)
        }
        _ => {
            check_produce(world, place, error);
            let lane = producer.lanes.get_mut(place).expect("it has sent something there");
            lane.halt(refused_number(number, error));
            lane.again(number);
            if matches!(error, ProduceError::UnknownTopic { .. }) {
                // Its records count no more.
                producer.lanes.remove(place);
            }
            None
        }
    }
}

pub(crate) fn place_of((topic, partition): &(String, u32)) -> String {
    format!("{topic}/{partition}")
}
