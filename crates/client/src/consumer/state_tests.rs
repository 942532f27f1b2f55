//! Tables: what the broker says, and what the application gets and the broker is told then.

use std::time::Duration;

use taffrail_model::LeaderEpoch;
use taffrail_model::batch::{
    BatchHeader, Compression, RecordFields, RecordSetBuilder, Salt, records_crc,
};

use super::*;

/// One partition, `t/0`, and what is said in its name.
struct Bench {
    state: Subscriptions,
    now: Instant,
}

impl Bench {
    fn new(from: Position, until: Until) -> Self {
        let topic = TopicName::parse("t").expect("a name");
        let partition = PartitionIndex::new(0);
        let wanted = Wanted { topic, partition, from, until, reader: None };
        let bounds = Bounds { prefetch_bytes: 800, max_message_bytes: 0 };
        Self { state: Subscriptions::new(vec![wanted], bounds), now: Instant::now() }
    }

    /// Opens a stream; the broker begins at `offset`.
    fn open(&mut self, number: u64, offset: u64, high_watermark: u64) -> Vec<Command> {
        let commands = self.state.open();
        self.take(Answer::Subscribed(v1::Subscribed {
            subscription: number,
            offset,
            log_start: 0,
            high_watermark,
        }));
        commands
    }

    fn take(&mut self, answer: Answer) -> Vec<Command> {
        self.state.take(answer, self.now)
    }

    fn deliver(&mut self, subscription: u64, data: Vec<u8>) -> Vec<Command> {
        let data = Bytes::from(data);
        self.take(Answer::Delivery(v1::Delivery {
            subscription,
            high_watermark: 100,
            data,
            charged_bytes: 60,
        }))
    }

    /// The offsets of all records, and the errors, that the application gets.
    fn offsets(&mut self) -> Vec<Result<u64, ConsumeError>> {
        let mut offsets = Vec::new();
        while let Some(event) = self.state.next_event() {
            match event {
                Ok(Event::Batch(batch)) => {
                    offsets.extend(batch.records().map(|r| Ok(r.expect("sound").offset.get())));
                }
                Ok(Event::Gap { to, .. }) => offsets.push(Ok(1_000 + to.get())),
                Ok(Event::Heartbeat { .. }) => {}
                Err(error) => offsets.push(Err(error)),
            }
        }
        offsets
    }

    #[track_caller]
    fn expect(&mut self, expected: &[u64]) {
        let expected: Vec<_> = expected.iter().copied().map(Ok).collect();
        assert_eq!(self.offsets(), expected);
    }
}

/// Batches of `count` records each, from these base offsets.
fn batches(bases: &[u64], count: u32) -> Vec<u8> {
    bases.iter().flat_map(|base| batch(*base, count, BatchKind::Data)).collect()
}

fn batch(base: u64, count: u32, kind: BatchKind) -> Vec<u8> {
    let mut builder = RecordSetBuilder::default();
    (0..count)
        .for_each(|_| builder.push(&RecordFields { value: Some(b"v"), ..Default::default() }));
    let payload = builder.finish();
    let header = BatchHeader {
        base_offset: Offset::new(base),
        last_offset_delta: count - 1,
        leader_epoch: LeaderEpoch::new(1),
        producer: None,
        append_time: Timestamp::from_millis(1),
        max_timestamp: Timestamp::from_millis(1),
        compression: Compression::None,
        kind,
        records_crc: records_crc(&payload),
        synced_end: Offset::ZERO,
        payload_bytes: payload.len() as u32,
    };
    [header.encode(Salt::new(7)).as_slice(), &payload].concat()
}

fn error(subscription: u64, reason: &str) -> Answer {
    let error = v1::Error { reason: reason.to_owned(), ..Default::default() };
    Answer::Error(v1::SubscriptionError { subscription, error: Some(error) })
}

fn subscribed_to(commands: &[Command]) -> Option<(u64, v1::Position, bool)> {
    commands.iter().find_map(|command| {
        let Command::Subscribe(subscribe) = command else { return None };
        let position = subscribe.position.expect("always set");
        Some((subscribe.subscription, position, subscribe.resume))
    })
}

fn granted(commands: &[Command]) -> u64 {
    let bytes =
        |command: &Command| if let Command::Grant(grant) = command { grant.bytes } else { 0 };
    commands.iter().map(bytes).sum()
}

#[test]
fn records_below_the_place_asked_for_are_left_out() {
    let mut bench = Bench::new(Position::Offset(Offset::new(12)), Until::Forever);
    bench.open(1, 12, 20);
    bench.deliver(1, batches(&[10, 15], 5));
    bench.expect(&[12, 13, 14, 15, 16, 17, 18, 19]);
}

#[test]
fn compressed_batches_are_opened_when_they_are_wanted() {
    let packed = |base: u64, compression: Compression, is_sound: bool| {
        let plain = batch(base, 3, BatchKind::Data);
        let (header, payload) = plain.split_first_chunk().expect("a header");
        let header = BatchHeader::decode_unverified(header).expect("a header");
        let payload = Bytes::copy_from_slice(payload);
        let payload = if is_sound { compression.pack(payload) } else { payload };
        let header = BatchHeader {
            compression,
            records_crc: records_crc(&payload),
            payload_bytes: payload.len() as u32,
            ..header
        };
        [header.encode(Salt::new(7)).as_slice(), &payload].concat()
    };
    let mut bench = Bench::new(Position::Earliest, Until::Forever);
    bench.open(1, 0, 12);
    let sound = [packed(0, Compression::Lz4, true), packed(3, Compression::Zstd, true)].concat();
    bench.deliver(1, sound);
    bench.expect(&[0, 1, 2, 3, 4, 5]);
    // One that no broker would have taken is passed over, and said.
    let odd = [packed(6, Compression::Lz4, false), batch(9, 3, BatchKind::Data)].concat();
    bench.deliver(1, odd);
    let offsets = bench.offsets();
    let is_named = matches!(&offsets[0], Err(ConsumeError::Unopened { offset, .. }) if *offset == Offset::new(6));
    assert!(is_named, "{offsets:?}");
    assert_eq!(offsets[1..], [Ok(9), Ok(10), Ok(11)]);
}

#[test]
fn control_batches_are_passed_over() {
    let mut bench = Bench::new(Position::Earliest, Until::Forever);
    bench.open(1, 0, 3);
    let data = [batch(0, 1, BatchKind::Data), batch(1, 1, BatchKind::Control), batches(&[2], 1)];
    bench.deliver(1, data.concat());
    bench.expect(&[0, 2]);
}

#[test]
fn a_new_stream_goes_on_behind_the_last_batch_that_came() {
    let mut bench = Bench::new(Position::Latest, Until::Forever);
    let first = subscribed_to(&bench.open(1, 10, 10)).expect("subscribes");
    assert_eq!(first, (1, Position::Latest.into(), false));
    bench.deliver(1, batches(&[10], 3));
    // The stream breaks before the application took it.
    let second = subscribed_to(&bench.open(2, 13, 13)).expect("subscribes");
    assert_eq!(second, (2, Position::Offset(Offset::new(13)).into(), true));
    bench.deliver(1, batches(&[10], 3));
    bench.deliver(2, batches(&[10, 13], 3));
    bench.expect(&[10, 11, 12, 13, 14, 15]);
}

#[test]
fn what_was_in_flight_when_seeking_is_dropped_and_granted_again() {
    let mut bench = Bench::new(Position::Earliest, Until::Forever);
    bench.open(1, 0, 9);
    bench.deliver(1, batches(&[0], 3));
    let commands = bench.state.seek(0, Position::Offset(Offset::new(6)), bench.now);
    let ended = Command::Unsubscribe(v1::Unsubscribe { subscription: 1 });
    assert_eq!(commands.first(), Some(&ended));
    let position = Position::Offset(Offset::new(6)).into();
    assert_eq!(subscribed_to(&commands), Some((2, position, false)));
    // What the broker said of the old one before it heard of this changes nothing.
    let error = Some(v1::Error { reason: "DATA_LOSS".to_owned(), ..Default::default() });
    bench.take(Answer::Error(v1::SubscriptionError { subscription: 1, error }));
    let commands = bench.deliver(1, batches(&[3], 3));
    assert_eq!(granted(&commands), 120, "two deliveries were dropped");
    bench.take(Answer::Subscribed(v1::Subscribed {
        subscription: 2,
        offset: 6,
        ..Default::default()
    }));
    bench.deliver(2, batches(&[6], 3));
    bench.expect(&[6, 7, 8]);
}

#[test]
fn what_the_application_takes_is_granted_again() {
    let mut bench = Bench::new(Position::Earliest, Until::Forever);
    assert_eq!(granted(&bench.open(1, 0, 9)), 800);
    assert_eq!(granted(&bench.deliver(1, batches(&[0, 1], 1))), 0);
    assert_eq!(granted(&bench.deliver(1, batches(&[2, 3], 1))), 0);
    assert_eq!(granted(&bench.state.open()), 680, "two deliveries of 60 are held");
    bench.expect(&[0, 1, 2, 3]);
    let mut commands = Vec::new();
    bench.state.grant(&mut commands);
    assert_eq!(granted(&commands), 120);
}

#[test]
fn a_reader_that_does_not_follow_stops_at_the_end_seen_at_first() {
    let mut bench = Bench::new(Position::Earliest, Until::HighWatermark);
    bench.open(1, 0, 5);
    bench.deliver(1, batches(&[0], 4));
    assert!(!bench.state.is_finished());
    let commands = bench.deliver(1, batches(&[4], 4));
    assert!(matches!(commands.as_slice(), [Command::Unsubscribe(_)]));
    bench.deliver(1, batches(&[8], 4));
    bench.expect(&[0, 1, 2, 3, 4]);
    assert!(bench.state.is_finished());
}

#[test]
fn an_empty_partition_ends_at_once_for_a_reader_that_does_not_follow() {
    let mut bench = Bench::new(Position::Earliest, Until::HighWatermark);
    bench.open(1, 0, 0);
    assert!(bench.state.is_finished());
}

#[test]
fn gaps_are_told_and_can_reach_the_end() {
    let mut bench = Bench::new(Position::Earliest, Until::Offset(Offset::new(7)));
    bench.open(1, 0, 100);
    let gap = v1::Gap { from: 0, to: 7, reason: v1::GapReason::Retention.into() };
    bench.take(Answer::Gap(v1::SubscriptionGap { subscription: 1, gap: Some(gap) }));
    bench.expect(&[1_007]);
    assert!(bench.state.is_finished());
}

#[test]
fn a_refusal_that_passes_is_subscribed_again_and_others_end_the_partition() {
    let mut bench = Bench::new(Position::Earliest, Until::Forever);
    bench.open(1, 0, 9);
    bench.take(error(1, "PARTITION_RECOVERING"));
    assert!(bench.state.wake(bench.now).is_empty());
    bench.now += Duration::from_secs(1);
    let again = subscribed_to(&bench.state.wake(bench.now)).expect("subscribes");
    assert_eq!(again, (2, Position::Offset(Offset::ZERO).into(), true));
    bench.take(error(2, "DATA_LOSS"));
    assert!(matches!(bench.offsets().as_slice(), [Err(ConsumeError::Partition { .. })]));
    assert!(bench.state.is_finished());
}

#[test]
fn a_batch_whose_checksum_is_wrong_ends_its_partition() {
    let mut bench = Bench::new(Position::Earliest, Until::Forever);
    bench.open(1, 0, 9);
    let mut data = batches(&[0, 3], 3);
    *data.last_mut().expect("not empty") ^= 1;
    bench.deliver(1, data);
    let got = bench.offsets();
    assert!(
        matches!(got.as_slice(), [Ok(0), Ok(1), Ok(2), Err(ConsumeError::Corrupt { offset, .. })]
        if offset.get() == 3),
        "{got:?}"
    );
    assert!(bench.state.is_finished());
    bench.state.seek(0, Position::Offset(Offset::new(6)), bench.now);
    assert!(subscribed_to(&bench.state.wake(bench.now)).is_some(), "a seek revives it");
}
