//! A log as one imagines it: batches in a list. The real one is held against it.

use taffrail_log::{Appended, Found, LogReader, NewBatch, Read, ReadError, ReadRequest, Unread};
use taffrail_model::batch::{Batch, Batches};
use taffrail_model::{LeaderEpoch, Offset, Timestamp};

use crate::given::bytes_on_disk;

/// A batch as it was appended.
#[derive(Clone, Debug)]
pub(crate) struct ModelBatch {
    pub(crate) base: u64,
    pub(crate) batch: NewBatch,
    pub(crate) append_time: Timestamp,
    pub(crate) epoch: LeaderEpoch,
}

impl ModelBatch {
    pub(crate) fn end(&self) -> u64 {
        self.base + u64::from(self.batch.record_count)
    }

    #[track_caller]
    pub(crate) fn check(&self, found: &Batch) {
        assert_eq!(found.header.base_offset.get(), self.base);
        assert_eq!(found.payload, self.batch.payload, "at offset {}", self.base);
        assert_eq!(found.header.end_offset().get(), self.end(), "at offset {}", self.base);
        assert_eq!(found.header.append_time, self.append_time, "at offset {}", self.base);
        assert_eq!(found.header.leader_epoch, self.epoch, "at offset {}", self.base);
        assert!(found.is_sound(), "at offset {}", self.base);
    }

    pub(crate) fn records(&self) -> Vec<Found> {
        let header = taffrail_model::batch::BatchHeader {
            base_offset: Offset::new(self.base),
            last_offset_delta: self.batch.record_count - 1,
            leader_epoch: self.epoch,
            producer: None,
            append_time: self.append_time,
            max_timestamp: Timestamp::MIN,
            compression: taffrail_model::batch::Compression::None,
            kind: self.batch.kind,
            records_crc: self.batch.records_crc,
            synced_end: Offset::ZERO,
            payload_bytes: self.batch.payload.len() as u32,
        };
        let batch = Batch { header, payload: self.batch.payload.clone() };
        let found = |record: taffrail_model::batch::RecordView<'_>| Found {
            offset: record.offset,
            timestamp: record.timestamp,
        };
        batch.records().map(|record| found(record.expect("it was scanned"))).collect()
    }
}

/// A log as one imagines it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// Where it begins: what lies below is not read any more.
    pub(crate) start: u64,
    pub(crate) batches: Vec<ModelBatch>,
}

impl Model {
    pub(crate) fn end(&self) -> u64 {
        self.batches.last().map_or(0, ModelBatch::end)
    }

    /// Takes note of what was appended, which must continue where the log stood.
    #[track_caller]
    pub(crate) fn append(
        &mut self,
        batches: &[NewBatch],
        appended: &[Appended],
        epoch: LeaderEpoch,
    ) {
        for (batch, appended) in batches.iter().zip(appended) {
            assert_eq!(appended.base_offset.get(), self.end(), "offsets are contiguous");
            let append_time = appended.append_time;
            let before = self.batches.last().map_or(Timestamp::MIN, |batch| batch.append_time);
            assert!(before <= append_time, "append times never fall");
            let base = self.end();
            self.batches.push(ModelBatch { base, batch: batch.clone(), append_time, epoch });
            assert_eq!(appended.end_offset.get(), self.end());
        }
    }

    /// What was deleted before is deleted.
    #[track_caller]
    pub(crate) fn begin_at(&mut self, start: u64) {
        assert!(self.start <= start && start <= self.end(), "{start} behind {}", self.start);
        self.start = start;
    }

    /// Forgets what begins at or behind `end`, which must lie between batches.
    #[track_caller]
    pub(crate) fn truncate(&mut self, end: u64) {
        assert!(end <= self.end(), "the log ends at {end}, only {} were appended", self.end());
        self.batches.retain(|batch| batch.base < end);
        assert_eq!(self.end(), end, "a batch is whole or not there");
    }

    /// Holds one read against the list.
    #[track_caller]
    pub(crate) fn check_read(&self, reader: &LogReader, request: &ReadRequest) -> u64 {
        let (from, limit) = (request.from.get(), request.limit.get());
        match reader.read(request) {
            Err(ReadError::OutOfRange { .. }) => {
                assert!(from < self.start || self.end() < from, "{from} is within the log");
                from
            }
            Err(error) => panic!("{request:?}: {error}"),
            Ok(_) if from < self.start => panic!("{request:?} is read, and was deleted"),
            Ok(Read::End) => {
                assert!(from >= limit.min(self.end()), "{request:?} has not reached its end");
                from
            }
            Ok(Read::Gap(gap)) => panic!("{request:?}: {gap:?}"),
            Ok(Read::Batches { bytes, next }) => {
                let total = bytes.len();
                let mut batches = Batches::received(bytes);
                let mut at = self.batches.partition_point(|batch| batch.end() <= from);
                let first = at;
                for found in &mut batches {
                    let expected = self.batches.get(at).expect("no more than was appended");
                    assert!(expected.base < limit, "{request:?} got offset {}", expected.base);
                    expected.check(&found.expect("what is read are batches"));
                    at += 1;
                }
                assert_eq!(batches.position(), total, "nothing but whole batches");
                assert!(at > first, "{request:?} got nothing");
                assert!(at == first + 1 || total <= request.bytes_max, "{request:?} got {total}");
                assert_eq!(next.get(), self.batches[at - 1].end());
                next.get()
            }
        }
    }

    /// Reads everything, in pieces of some `bytes_max`.
    #[track_caller]
    pub(crate) fn check_all(&self, reader: &LogReader, bytes_max: usize) {
        assert_eq!((reader.start().get(), reader.end().get()), (self.start, self.end()));
        let limit = Offset::new(self.end());
        let mut from = self.start;
        while from < self.end() {
            from =
                self.check_read(reader, &ReadRequest { from: Offset::new(from), limit, bytes_max });
        }
    }

    /// Holds what is said of the batches between two offsets against the list.
    #[track_caller]
    pub(crate) fn check_unread(&self, reader: &LogReader, from: Offset, limit: Offset) {
        let unread = match reader.unread(from, limit) {
            Ok(unread) => unread,
            Err(ReadError::OutOfRange { .. }) => {
                assert!(from.get() < self.start || self.end() < from.get(), "{from} is within");
                return;
            }
            Err(error) => panic!("{from} to {limit}: {error}"),
        };
        let batches = self.batches.iter().filter(|it| from.get() < it.end());
        let batches: Vec<_> = batches.take_while(|it| it.base < limit.get()).collect();
        let batches = if from < limit { &batches[..] } else { &[] };
        let bytes = batches.iter().map(|it| bytes_on_disk(&it.batch) as u64).sum();
        let append_time = batches.first().map(|it| it.append_time);
        assert_eq!(unread, Unread { bytes, append_time }, "{from} to {limit}");
    }

    /// The first record below `limit` whose timestamp is `timestamp` or later.
    pub(crate) fn find_timestamp(&self, timestamp: Timestamp, limit: Offset) -> Option<Found> {
        let records = self.batches.iter().flat_map(ModelBatch::records);
        let start = Offset::new(self.start);
        records
            .filter(|found| start <= found.offset && found.offset < limit)
            .find(|found| found.timestamp >= timestamp)
    }
}
