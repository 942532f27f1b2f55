//! Appends records to a topic: batches, order, back-pressure, and what became of each record.
//!
//! Records are encoded straight into their partition's open batch; nothing is allocated or sent per
//! record. One stream carries all partitions. What the broker refuses for a passing reason is sent
//! again in order. What was sent and not answered is sent again too, by an idempotent producer: its
//! batches carry a sequence, by which the broker tells those that it has. Any other producer never
//! sends again what may have been appended.
//!
//! ```text
//! send -> accumulator -> state, lane -> shared::Requests -> (connection)
//!            ^                                                  |
//!            +------- driver: answers, time; renewal <----------+
//! ```

mod accumulator;
mod delivery;
mod driver;
mod error;
mod identity;
mod in_flight;
mod lane;
mod record;
mod renewal;
mod settings;
mod shared;
mod state;
mod tally;

use std::sync::Arc;

use tokio::sync::watch;

use accumulator::{Accepted, Accumulator, NotAccepted};
pub use delivery::{Delivery, Placed};
pub use error::ProduceError;
pub(crate) use identity::Identity;
pub use record::Record;
pub use settings::{Acks, ProducerBuilder};
use settings::{Settings, TopicFacts};
use shared::Shared;
use taffrail_model::TopicName;

use crate::Client;

/// Appends records to one topic. Share it among tasks by reference or in an `Arc`.
///
/// Records for the same partition are appended in the order in which `send` took them, and each
/// once, whatever breaks meanwhile: it is sent again until the broker says that it is in the log, or
/// until the delivery timeout is over. Only then, or if the broker reports that it lost what it knew
/// of this producer, may an outcome be unknown: [`ProduceError::ResultUnknown`]. With
/// [`Acks::None`], or without [idempotence](ProducerBuilder::idempotent), nothing is sent again that
/// may have been appended.
///
/// Dropping it delivers in the background what was taken; [`Self::close`] waits for that.
pub struct Producer {
    shared: Arc<Shared>,
    topic: TopicName,
    partitions: u32,
    /// Closed when the driver has ended.
    driver: watch::Receiver<()>,
}

/// Counts of a producer, since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records taken.
    pub accepted_records: u64,
    /// Records acknowledged; without acknowledgement: handed to the connection.
    pub delivered_records: u64,
    /// Bytes of the delivered records as they were encoded, before any compression.
    pub delivered_bytes: u64,
    /// Records that are surely not in the log: refused, or not appended in time.
    pub failed_records: u64,
    /// Records that may or may not be in the log: [`ProduceError::ResultUnknown`].
    pub unknown_records: u64,
    /// Batches that the broker refused although nobody waited for its word ([`Acks::None`]).
    pub refused_batches: u64,
    /// Bytes of records that are on their way.
    pub buffered_bytes: usize,
}

impl Producer {
    fn start(
        client: Client,
        facts: TopicFacts,
        settings: Settings,
        identity: Option<Identity>,
    ) -> Self {
        let topic = facts.topic.clone();
        let partitions = facts.partitions;
        let name = settings.name.clone().unwrap_or_default();
        let (acks, compression) = (settings.acks, settings.compression);
        let accumulator = Accumulator::new(facts, settings, identity);
        let shared = Shared::new(topic.as_str().into(), acks, compression, accumulator);
        let shared = Arc::new(shared);
        let (ended, driver) = watch::channel(());
        let driving = driver::run(client, Arc::clone(&shared), name);
        tokio::spawn(async move {
            driving.await;
            drop(ended);
        });
        Self { shared, topic, partitions, driver }
    }

    /// The topic it appends to.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The number of the topic's partitions when the producer was started.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Takes a record; waits while the buffer is full.
    ///
    /// On return the record is in the producer's memory only: await the [`Delivery`] to learn what
    /// became of it. Cancelled while it waits for room, it has taken nothing.
    ///
    /// # Errors
    /// If the record is too large, names a partition that is not there, the producer is closed, or
    /// another one has taken its name.
    pub async fn send(&self, record: Record<'_>) -> Result<Delivery, ProduceError> {
        let accepted = match self.try_accept(&record) {
            Ok(accepted) => accepted,
            Err(NotAccepted::Failed(error)) => return Err(error),
            Err(NotAccepted::Full) => self.accept_when_room(&record).await?,
        };
        let Accepted { delivery, has_sealed, sender, rearm } = accepted;
        if rearm {
            self.shared.driver.notify_one();
        }
        if let Some(sender) = sender {
            sender.wake();
        }
        if has_sealed {
            // Lets the connection send, where a busy caller shares its thread.
            tokio::task::yield_now().await;
        }
        Ok(delivery)
    }

    fn try_accept(&self, record: &Record<'_>) -> Result<Accepted, NotAccepted> {
        self.shared.lock().accept(record)
    }

    async fn accept_when_room(&self, record: &Record<'_>) -> Result<Accepted, ProduceError> {
        loop {
            let mut room = std::pin::pin!(self.shared.room.notified());
            room.as_mut().enable();
            match self.try_accept(record) {
                Ok(accepted) => return Ok(accepted),
                Err(NotAccepted::Failed(error)) => return Err(error),
                Err(NotAccepted::Full) => room.await,
            }
        }
    }

    /// Sends what is collected now, and waits until everything that was taken before is delivered.
    ///
    /// # Errors
    /// The first failure since the last flush, whether its delivery was awaited or not.
    pub async fn flush(&self) -> Result<(), ProduceError> {
        let unsettled = {
            let mut accumulator = self.shared.lock();
            accumulator.seal_all();
            accumulator.unsettled()
        };
        self.shared.wake_sender();
        for delivery in unsettled {
            // Its failure, if it has one, is among those kept.
            drop(delivery.await);
        }
        match self.shared.lock().take_failure() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Delivers what was taken and ends the stream. From then on it takes no records.
    ///
    /// Without acknowledgement ([`Acks::None`]) this is when the last refusals are heard.
    ///
    /// # Errors
    /// The first failure since the last flush.
    pub async fn close(&self) -> Result<(), ProduceError> {
        self.begin_close();
        // The driver says nothing, so this is its end.
        while self.driver.clone().changed().await.is_ok() {}
        match self.shared.lock().take_failure() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Counts so far.
    pub fn stats(&self) -> ProducerStats {
        self.shared.lock().stats()
    }

    fn begin_close(&self) {
        {
            let mut accumulator = self.shared.lock();
            accumulator.seal_all();
            accumulator.close();
        }
        self.shared.wake_sender();
        self.shared.driver.notify_one();
        self.shared.room.notify_waiters();
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.begin_close();
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("topic", &self.topic)
            .field("stats", &self.stats())
            .finish()
    }
}
