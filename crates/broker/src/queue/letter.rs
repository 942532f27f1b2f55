//! A dead letter: a record as it goes to a dead-letter topic, with headers that say where it comes from.

use taffrail_model::ProducerStamp;
use taffrail_model::batch::{HeaderView, RecordFields, RecordSetBuilder};

use super::record::QueueRecord;
use super::window::Parked;
use crate::produce::IncomingBatch;

const QUEUE: &str = "taffrail-dead-letter-queue";
const TOPIC: &str = "taffrail-dead-letter-topic";
const PARTITION: &str = "taffrail-dead-letter-partition";
const OFFSET: &str = "taffrail-dead-letter-offset";
const REASON: &str = "taffrail-dead-letter-reason";
const ATTEMPTS: &str = "taffrail-dead-letter-attempts";
const TIME: &str = "taffrail-dead-letter-time";
const CONTENT: &str = "taffrail-dead-letter-content";

/// A record that goes to a dead-letter topic.
pub(super) struct Letter {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) parked: Parked,
    /// What it holds, if it is still there.
    pub(super) record: Option<QueueRecord>,
}

/// Where letters come from.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) queue: &'a str,
    pub(super) topic: &'a str,
}

impl Letter {
    fn encode(&self, sender: Sender<'_>, builder: &mut RecordSetBuilder) {
        let Parked { attempts, reason, at_ms } = &self.parked;
        let (partition, offset) = (self.partition.to_string(), self.offset.to_string());
        let (attempts, time) = (attempts.to_string(), at_ms.to_string());
        let own = [
            (QUEUE, sender.queue),
            (TOPIC, sender.topic),
            (PARTITION, &partition),
            (OFFSET, &offset),
            (REASON, reason),
            (ATTEMPTS, &attempts),
            (TIME, &time),
        ];
        // It was deleted by request: what is known of it goes all the same.
        let gone = self.record.is_none().then_some((CONTENT, "gone"));
        let own = own.into_iter().chain(gone);
        let own = own.map(|(name, value)| HeaderView { name, value: value.as_bytes() });
        let own: Vec<_> = own.collect();
        let record = self.record.as_ref();
        let held = record.map_or(&[][..], |record| &record.headers);
        // What was said of a record that was a dead letter before goes.
        let is_said = |name: &str| name == CONTENT || own.iter().any(|header| header.name == name);
        let held = held.iter().filter(|(name, _)| !is_said(name));
        let held = held.map(|(name, value)| HeaderView { name, value });
        let headers: Vec<_> = held.chain(own.iter().copied()).collect();
        builder.push(&RecordFields {
            key: record.and_then(|record| record.key.as_deref()),
            value: record.and_then(|record| record.value.as_deref()),
            headers: &headers,
            timestamp: record.map(|record| record.timestamp),
        });
    }
}

/// A batch of letters.
pub(super) fn batch(
    sender: Sender<'_>,
    letters: &[Letter],
    producer: Option<ProducerStamp>,
) -> IncomingBatch {
    let mut builder = RecordSetBuilder::default();
    for letter in letters {
        letter.encode(sender, &mut builder);
    }
    IncomingBatch {
        payload: builder.finish(),
        records_crc: None,
        compression: 0,
        is_compressed: false,
        is_control: false,
        producer,
    }
}
