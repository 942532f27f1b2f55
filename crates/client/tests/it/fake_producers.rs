//! What the broker of the tests knows of idempotent producers.

use std::collections::{HashMap, HashSet};

use taffrail_client::proto as v1;
use taffrail_model::batch::scan;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

#[derive(Default)]
pub(crate) struct Producers {
    made: u64,
    /// The last producer that was forgotten.
    forgotten: u64,
    named: HashMap<String, u64>,
    fenced: HashSet<u64>,
    /// By partition and producer.
    sequences: HashMap<(u32, u64), Sequences>,
    duplicates: u64,
}

#[derive(Default)]
struct Sequences {
    next: u32,
    /// Offsets of batches, by their first sequence.
    offsets: HashMap<u32, u64>,
}

impl Producers {
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    pub(crate) fn init(
        &mut self,
        request: v1::InitProducerRequest,
    ) -> Result<v1::InitProducerResponse, Status> {
        if self.fenced.contains(&request.producer_id) {
            let details = ErrorDetails::with_error_info("PRODUCER_FENCED", "taffrail", []);
            return Err(Status::with_error_details(Code::FailedPrecondition, "taken", details));
        }
        self.made += 1;
        if !request.name.is_empty() {
            self.fenced.extend(self.named.insert(request.name, self.made));
        }
        let answer = v1::InitProducerResponse { producer_id: self.made, ..Default::default() };
        Ok(answer)
    }

    /// The offset that a batch has already, or why it is refused.
    pub(crate) fn find(
        &mut self,
        partition: u32,
        batch: &v1::RecordBatch,
    ) -> Result<Option<u64>, &'static str> {
        let (id, sequence) = (batch.producer_id, batch.base_sequence);
        if id == 0 {
            return Ok(None);
        }
        if self.fenced.contains(&id) {
            return Err("PRODUCER_FENCED");
        }
        let known = self.sequences.get(&(partition, id));
        let offset = known.and_then(|known| known.offsets.get(&sequence).copied());
        self.duplicates += u64::from(offset.is_some());
        match known {
            None if sequence > 0 || id <= self.forgotten => Err("UNKNOWN_PRODUCER_STATE"),
            Some(known) if sequence > known.next => Err("SEQUENCE_GAP"),
            Some(known) if sequence < known.next => {
                Ok(Some(offset.expect("it is sent again as it was")))
            }
            Some(_) | None => Ok(None),
        }
    }

    pub(crate) fn appended(&mut self, partition: u32, batch: &v1::RecordBatch, offset: u64) {
        let Some(v1::record_batch::Payload::Records(payload)) = &batch.payload else {
            panic!("no records");
        };
        let sequences = self.sequences.entry((partition, batch.producer_id)).or_default();
        sequences.offsets.insert(batch.base_sequence, offset);
        sequences.next = batch.base_sequence + scan(payload).expect("sound").record_count;
    }

    pub(crate) fn forget(&mut self) {
        self.forgotten = self.made;
        self.sequences.clear();
    }
}
