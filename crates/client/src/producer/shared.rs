//! What the producer's handles, its stream of requests and its driver share.
//!
//! One lock, held for as long as a record is copied and never across an await.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use taffrail_model::batch::{Compression, records_crc};
use taffrail_proto::v1;
use taffrail_proto::v1::record_batch::Payload;
use tokio::sync::Notify;

use super::accumulator::{Accumulator, SealedBatch};
use super::settings::Acks;
use super::state::Outgoing;

/// Shared by handles, requests and driver.
pub(super) struct Shared {
    pub(super) topic: Arc<str>,
    pub(super) acks: Acks,
    compression: Compression,
    accumulator: Mutex<Accumulator>,
    /// There is room again.
    pub(super) room: Notify,
    /// The driver must look at its timers, or at whether it should end.
    pub(super) driver: Notify,
    /// A new identity is needed.
    pub(super) renewal: Notify,
}

impl Shared {
    pub(super) fn new(
        topic: Arc<str>,
        acks: Acks,
        compression: Compression,
        accumulator: Accumulator,
    ) -> Self {
        Self {
            topic,
            acks,
            compression,
            accumulator: Mutex::new(accumulator),
            room: Notify::new(),
            driver: Notify::new(),
            renewal: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Accumulator> {
        self.accumulator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who sends: something changed for it.
    pub(super) fn wake_sender(&self) {
        let sender = self.lock().take_sender();
        sender.inspect(Waker::wake_by_ref);
    }

    /// Lets those go on who wait for room, if there is some.
    pub(super) fn announce_room(&self) {
        if self.lock().has_room() {
            self.room.notify_waiters();
        }
    }
}

/// The requests of one stream: pulled by the connection when it can take another one, so that
/// batches go on filling until that moment. They end when the stream has broken, because the
/// connection may hold on to them for longer than to the answers.
pub(super) struct Requests {
    shared: Arc<Shared>,
    stream: u64,
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let stream = shared.lock().stream();
        Self { shared, stream }
    }

    fn request(&self, outgoing: Outgoing<SealedBatch>) -> v1::ProduceStreamRequest {
        let Outgoing { number, lane, resumes_after, stamp, batch } = outgoing;
        let (compression, payload) = pack(self.shared.compression, batch.payload);
        let batch = v1::RecordBatch {
            producer_id: stamp.map_or(0, |stamp| stamp.id.get()),
            producer_epoch: stamp.map_or(0, |stamp| stamp.epoch.get()),
            base_sequence: stamp.map_or(0, |stamp| stamp.sequence.get()),
            compression: compression.code().into(),
            records_crc: Some(records_crc(&payload)),
            payload: Some(match compression {
                Compression::None => Payload::Records(payload),
                Compression::Lz4 | Compression::Zstd => Payload::CompressedRecords(payload),
            }),
            ..Default::default()
        };
        v1::ProduceStreamRequest {
            number,
            batch: Some(v1::ProduceBatch {
                topic: self.shared.topic.to_string(),
                placement: Some(v1::produce_batch::Placement::Partition(lane as u32)),
                batch: Some(batch),
                expected_next_offset: None,
            }),
            acks: v1::Acks::from(self.shared.acks).into(),
            resumes_after,
        }
    }
}

/// Compresses a payload, if that makes it smaller.
fn pack(compression: Compression, payload: Bytes) -> (Compression, Bytes) {
    let packed = compression.pack(payload.clone());
    if packed.len() < payload.len() { (compression, packed) } else { (Compression::None, payload) }
}

impl Stream for Requests {
    type Item = v1::ProduceStreamRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let now = Instant::now();
        let (outgoing, is_finished) = {
            let mut accumulator = self.shared.lock();
            if accumulator.stream() != self.stream {
                return Poll::Ready(None);
            }
            let outgoing = accumulator.next(now, context.waker());
            if let Some(outgoing) = &outgoing
                && self.shared.acks == Acks::None
            {
                accumulator.handed_over(outgoing.number, now);
            }
            (outgoing, accumulator.is_finished())
        };
        let Some(outgoing) = outgoing else {
            return if is_finished { Poll::Ready(None) } else { Poll::Pending };
        };
        if self.shared.acks == Acks::None {
            self.shared.announce_room();
        }
        Poll::Ready(Some(self.request(outgoing)))
    }
}
