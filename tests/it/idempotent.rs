//! Idempotent producers: a batch is in the log once, however often it is sent.

use taffrail_client::{ProduceError, Record};
use taffrail_proto::v1;
use tonic::Code;

use crate::broker::Broker;
use crate::door::{Door, batch, check_error, check_status, produce_batch, soon};
use crate::pipe::Pipe;

/// An idempotent producer by hand.
#[derive(Clone, Copy)]
struct Producer {
    id: u64,
    epoch: u32,
}

impl Producer {
    async fn new(door: &Door) -> Self {
        Self::take(door, "", 0).await.expect("a producer without a name")
    }

    async fn named(door: &Door, name: &str) -> Self {
        Self::take(door, name, 0).await.expect("a name")
    }

    async fn take(door: &Door, name: &str, former: u64) -> Result<Self, tonic::Status> {
        let name = name.to_owned();
        let request = v1::InitProducerRequest { name, producer_id: former, attempt: 0 };
        let answer = soon(door.log.clone().init_producer(request)).await?.into_inner();
        assert!(answer.producer_id != 0 && answer.remembered_batches >= 64, "{answer:?}");
        Ok(Self { id: answer.producer_id, epoch: answer.producer_epoch })
    }

    /// The batch that begins with this sequence.
    fn batch(self, sequence: u32, values: &[&str]) -> v1::ProduceBatch {
        let stamped = v1::RecordBatch {
            producer_id: self.id,
            producer_epoch: self.epoch,
            base_sequence: sequence,
            ..batch(values)
        };
        produce_batch("t", 0, stamped)
    }

    /// Sends it; the offset of its first record, and whether it was there already.
    async fn send(self, door: &Door, sequence: u32, values: &[&str]) -> (Option<u64>, bool) {
        let result = door.produce(self.batch(sequence, values)).await;
        assert_eq!(result.error, None);
        assert!(result.high_watermark > result.base_offset(), "answered once it is committed");
        (result.base_offset, result.duplicate)
    }

    /// Sends it, which is refused.
    async fn refused(self, door: &Door, sequence: u32, values: &[&str]) -> v1::Error {
        door.produce(self.batch(sequence, values)).await.error.expect("refused")
    }
}

async fn given() -> (Broker, Door) {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    (broker, door)
}

#[tokio::test]
async fn what_is_sent_twice_is_appended_once_and_answered_with_its_place() {
    let (broker, door) = given().await;
    let producer = Producer::new(&door).await;
    assert_eq!(producer.send(&door, 0, &["a", "b"]).await, (Some(0), false));
    assert_eq!(producer.send(&door, 2, &["c"]).await, (Some(2), false));
    assert_eq!(producer.send(&door, 0, &["a", "b"]).await, (Some(0), true));
    assert_eq!(producer.send(&door, 2, &["c"]).await, (Some(2), true));
    assert_eq!(door.append("t", &["without a producer"]).await, 3);
    assert_eq!(producer.send(&door, 3, &["d"]).await, (Some(4), false));
    let other = Producer::new(&door).await;
    assert!(producer.id < other.id, "ids ascend");
    assert_eq!(other.send(&door, 0, &["a", "b"]).await, (Some(5), false));
    assert_eq!(door.values("t").await, ["a", "b", "c", "without a producer", "d", "a", "b"]);

    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("t").await;
    assert_eq!(producer.send(&door, 2, &["c"]).await, (Some(2), true));
    assert_eq!(producer.send(&door, 4, &["e"]).await, (Some(7), false));
    assert!(other.id < Producer::new(&door).await.id, "no id is given out again");
}

#[tokio::test]
async fn duplicates_in_flight_keep_their_place_and_count_once() {
    let (_broker, door) = given().await;
    let producer = Producer::new(&door).await;
    let mut pipe = Pipe::open(&door).await;
    let sequences = [0, 1, 0, 1, 2, 2, 0, 3];
    for (number, sequence) in (1..).zip(sequences) {
        pipe.send(number, producer.batch(sequence, &[&sequence.to_string()]));
    }
    let mut seen = 0;
    for (number, sequence) in (1..).zip(sequences) {
        let (answered, result) = pipe.next().await;
        let offset = result.base_offset();
        assert_eq!((answered, offset, result.error), (number, u64::from(sequence), None));
        assert_eq!(result.duplicate, sequence < seen, "request {number}");
        seen = seen.max(sequence + 1);
    }
    assert_eq!(door.values("t").await, ["0", "1", "2", "3"]);
}

#[tokio::test]
async fn what_leaves_a_gap_is_refused_and_the_next_one_still_goes() {
    let (_broker, door) = given().await;
    let producer = Producer::new(&door).await;
    let id = producer.id.to_string();
    assert_eq!(producer.send(&door, 0, &["a", "b"]).await, (Some(0), false));
    for (sequence, values) in [(3, &["d"][..]), (1, &["b"]), (0, &["a"]), (u32::MAX, &["z", "a"])] {
        let found = sequence.to_string();
        let metadata = [("producer_id", &*id), ("expected", "2"), ("found", &*found)];
        let error = producer.refused(&door, sequence, values).await;
        check_error(Some(&error), "SEQUENCE_GAP", &metadata, "new producer id");
    }
    assert_eq!(producer.send(&door, 2, &["c"]).await, (Some(2), false));
    // Of an epoch that is over, and one that begins.
    let later = Producer { epoch: producer.epoch + 1, ..producer };
    let error = later.refused(&door, 3, &["d"]).await;
    check_error(
        Some(&error),
        "SEQUENCE_GAP",
        &[("producer_id", "*"), ("expected", "0"), ("found", "3")],
        "",
    );
    assert_eq!(later.send(&door, 0, &["a"]).await, (Some(3), false));
    let metadata = [("producer_id", &*id), ("epoch", "1"), ("found", "0")];
    let error = producer.refused(&door, 3, &["d"]).await;
    check_error(Some(&error), "PRODUCER_FENCED", &metadata, "stop this producer");
}

#[tokio::test]
async fn who_is_not_remembered_begins_anew() {
    let (_broker, door) = given().await;
    let producer = Producer::new(&door).await;
    let error = producer.refused(&door, 5, &["f"]).await;
    let metadata = [("producer_id", &*producer.id.to_string())];
    check_error(Some(&error), "UNKNOWN_PRODUCER_STATE", &metadata, "begin at sequence 0");
    assert_eq!(producer.send(&door, 0, &["a"]).await, (Some(0), false));
}

#[tokio::test]
async fn a_batch_that_is_no_longer_remembered_is_a_duplicate_without_a_place() {
    let (_broker, door) = given().await;
    let producer = Producer::new(&door).await;
    let mut pipe = Pipe::open(&door).await;
    let count = 1_100;
    for number in 1..=count {
        pipe.send(u64::from(number), producer.batch(number - 1, &["x"]));
        if number > 1_000 {
            assert_eq!(pipe.next().await.1.error, None);
        }
    }
    for _ in 0..1_000 {
        assert_eq!(pipe.next().await.1.error, None);
    }
    let result = door.produce(producer.batch(0, &["x"])).await;
    assert_eq!((result.base_offset, result.duplicate, result.error), (None, true, None));
    assert_eq!(producer.send(&door, 1_050, &["x"]).await, (Some(1_050), true));
    assert_eq!(door.describe("t").await.partitions[0].log_end, u64::from(count));
}

#[tokio::test]
async fn a_duplicate_is_one_whatever_offset_it_expects_now() {
    let (_broker, door) = given().await;
    let producer = Producer::new(&door).await;
    let conditional = |sequence, expected| v1::ProduceBatch {
        expected_next_offset: Some(expected),
        ..producer.batch(sequence, &["x"])
    };
    let first = door.produce(conditional(0, 0)).await;
    assert_eq!((first.base_offset, first.duplicate), (Some(0), false));
    let again = door.produce(conditional(0, 0)).await;
    assert_eq!((again.base_offset, again.duplicate, again.error), (Some(0), true, None));
    let late = door.produce(conditional(1, 0)).await;
    let metadata = [("expected", "0"), ("actual", "1")];
    check_error(late.error.as_ref(), "OFFSET_MISMATCH", &metadata, "read what came in between");
    assert_eq!(door.produce(conditional(1, 1)).await.base_offset, Some(1));
}

#[tokio::test]
async fn whoever_takes_a_name_fences_the_one_who_had_it() {
    let (broker, door) = given().await;
    let first = Producer::named(&door, "billing").await;
    assert_eq!(first.send(&door, 0, &["a"]).await, (Some(0), false));
    let second = Producer::named(&door, "billing").await;
    assert!(first.epoch < second.epoch, "epochs ascend with every holder of the name");
    let metadata = [("producer_id", &*first.id.to_string())];
    for (sequence, value) in [(1, "b"), (0, "a")] {
        let error = first.refused(&door, sequence, &[value]).await;
        check_error(Some(&error), "PRODUCER_FENCED", &metadata, "lost its name");
    }
    assert_eq!(second.send(&door, 0, &["a"]).await, (Some(1), false));
    let renewed = Producer::take(&door, "billing", first.id).await.map(|_| ());
    let metadata = [("name", "billing"), ("producer_id", &*first.id.to_string())];
    check_status(renewed, Code::FailedPrecondition, "PRODUCER_FENCED", &metadata, "lost its name");
    let renewed = Producer::take(&door, "billing", second.id).await.expect("it has the name");
    assert_eq!(renewed.send(&door, 0, &["b"]).await, (Some(2), false));

    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("t").await;
    for former in [first, second] {
        assert_eq!(former.refused(&door, 0, &["z"]).await.reason, "PRODUCER_FENCED");
    }
    assert_eq!(renewed.send(&door, 1, &["c"]).await, (Some(3), false));
    assert_eq!(door.values("t").await, ["a", "a", "b", "c"]);
}

#[tokio::test]
async fn the_same_attempt_gets_the_same_producer() {
    let (_broker, door) = given().await;
    let ask = async |attempt| {
        let name = "billing".to_owned();
        let request = v1::InitProducerRequest { name, producer_id: 0, attempt };
        let answer = soon(door.log.clone().init_producer(request)).await.expect("a name");
        answer.into_inner().producer_id
    };
    let first = ask(77).await;
    assert_eq!(ask(77).await, first);
    assert_ne!(ask(78).await, first);
    assert_ne!(ask(0).await, ask(0).await, "0 is no attempt at all");
}

#[tokio::test]
async fn an_id_that_nobody_was_given_is_refused() {
    let (broker, door) = given().await;
    let producer = Producer::new(&door).await;
    for id in [producer.id + 2, producer.id + 1_000_000, u64::MAX - 1] {
        let stranger = Producer { id, epoch: 0 };
        let error = stranger.refused(&door, 0, &["x"]).await;
        let metadata = [("producer_id", &*id.to_string())];
        check_error(Some(&error), "UNKNOWN_PRODUCER_STATE", &metadata, "new producer id");
    }
    let stranger = Producer { id: producer.id + 1, epoch: 0 };
    assert_eq!(stranger.refused(&door, 0, &["x"]).await.reason, "PRODUCER_FENCED", "as if named");
    let next = Producer::new(&door).await;
    assert_eq!(next.send(&door, 0, &["a"]).await, (Some(0), false));
    let broker = broker.restart().await;
    let door = Door::open(&broker).await;
    door.online("t").await;
    assert_eq!(next.send(&door, 1, &["b"]).await, (Some(1), false));
}

#[tokio::test]
async fn a_producers_name_has_a_length() {
    let (_broker, door) = given().await;
    let taken = Producer::take(&door, &"n".repeat(201), 0).await.map(|_| ());
    let metadata = [("found", "201"), ("max", "200")];
    check_status(taken, Code::InvalidArgument, "INVALID_PRODUCER_NAME", &metadata, "1 to 200");
    Producer::named(&door, &"n".repeat(200)).await;
}

#[tokio::test]
async fn a_producer_of_the_rust_client_ends_when_its_name_is_taken() {
    let (broker, door) = given().await;
    let client = broker.client();
    let take = async || client.producer("t").name("billing").build().await.expect("the name");
    let send = async |producer: &taffrail_client::Producer, value: &[u8]| {
        let delivery = producer.send(Record::value(value)).await?;
        delivery.await.map(drop)
    };
    let first = take().await;
    soon(send(&first, b"a")).await.expect("it has the name");
    let second = take().await;
    soon(send(&second, b"b")).await.expect("it has the name now");
    let fenced = soon(send(&first, b"c")).await.expect_err("it has lost the name");
    let is_fenced = |error: &ProduceError| match error {
        ProduceError::Fenced => true,
        ProduceError::Refused(error) => error.reason == "PRODUCER_FENCED",
        _ => false,
    };
    assert!(is_fenced(&fenced), "{fenced:?}");
    let again = soon(send(&first, b"d")).await.expect_err("it stays so");
    assert_eq!(again, ProduceError::Fenced);
    soon(send(&second, b"e")).await.expect("it still has the name");
    assert_eq!(door.values("t").await, ["a", "b", "e"]);
}

#[tokio::test]
async fn what_is_sent_twice_is_known_when_its_records_are_deleted() {
    let broker = Broker::new();
    let mut door = Door::open(&broker).await;
    door.create("t", 1).await;
    let producer = Producer::new(&door).await;
    for sequence in 0..4_u32 {
        let sent = producer.send(&door, sequence, &["x"]).await;
        assert_eq!(sent, (Some(u64::from(sequence)), false));
    }
    // All goes: also the file that held them.
    let deleted = door.delete_records("t", 0, None).await.expect("it can");
    assert_eq!((deleted.log_start, deleted.segments), (4, 1));
    let check = async |door: &Door| {
        for sequence in 0..4_u32 {
            let sent = producer.send(door, sequence, &["x"]).await;
            assert_eq!(sent, (Some(u64::from(sequence)), true), "it was there, and is known");
        }
        let error = producer.refused(door, 9, &["x"]).await;
        assert_eq!(error.reason, "SEQUENCE_GAP");
    };
    check(&door).await;
    // Killed first: what is remembered at a stop in order would help.
    let home = broker.home.clone();
    drop(broker);
    let broker = home.start(&[]);
    door = Door::open(&broker).await;
    door.online("t").await;
    check(&door).await;
    let broker = broker.restart().await;
    door = Door::open(&broker).await;
    door.online("t").await;
    check(&door).await;
    assert_eq!(producer.send(&door, 4, &["y"]).await, (Some(4), false));
    assert_eq!(door.read("t", 0, 4).await.len(), 1);
}
