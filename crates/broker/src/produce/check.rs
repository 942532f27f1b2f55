//! Whether a batch may be stored at all: everything that can be said without its partition's log.

use std::time::Duration;

use taffrail_log::NewBatch;
use taffrail_model::Timestamp;
use taffrail_model::batch::{
    BatchKind, Compression, HEADER_BYTES, OpenError, keyless, records_crc, scan,
};

use super::{IncomingBatch, ProduceError};

/// Records that an error names, at the most.
const NAMED_MAX: usize = 10;

/// What batches must keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchRules {
    pub(crate) bytes_max: u32,
    /// Whether each record must have a key.
    pub(crate) needs_keys: bool,
    pub(crate) timestamp_ahead: Duration,
    pub(crate) now: Timestamp,
}

/// Checks a batch from outside, each byte of it.
pub(crate) fn check(batch: &IncomingBatch, rules: &BatchRules) -> Result<NewBatch, ProduceError> {
    let bytes = (HEADER_BYTES + batch.payload.len()) as u64;
    if bytes > u64::from(rules.bytes_max) {
        return Err(ProduceError::BatchTooLarge { found: bytes, max: u64::from(rules.bytes_max) });
    }
    if batch.is_control {
        return Err(ProduceError::ControlBatch);
    }
    let code = u8::try_from(batch.compression).ok();
    let Some(compression) = code.and_then(Compression::from_code) else {
        return Err(ProduceError::UnsupportedCompression { compression: batch.compression });
    };
    if batch.is_compressed != (compression != Compression::None) {
        return Err(ProduceError::PayloadMismatch { compression: compression.name() });
    }
    let computed = records_crc(&batch.payload);
    if let Some(found) = batch.records_crc.filter(|found| *found != computed) {
        return Err(ProduceError::CorruptBatch { found, computed });
    }
    // Whoever reads it may have the broker open it, and is promised that it fits.
    let opened = compression.open(batch.payload.clone(), rules.bytes_max as usize - HEADER_BYTES);
    let opened = opened.map_err(|error| match error {
        OpenError::TooLarge { .. } => ProduceError::OpensTooLarge { max: rules.bytes_max.into() },
        OpenError::Damaged { cause } => ProduceError::Unopened { cause },
    })?;
    let summary = scan(&opened)?;
    if rules.needs_keys && summary.keyless_count > 0 {
        let records = keyless(&opened).take(NAMED_MAX).collect();
        return Err(ProduceError::KeyMissing { records, count: summary.keyless_count });
    }
    let latest = rules.now.plus(rules.timestamp_ahead);
    if let Some(found) = summary.max_timestamp.filter(|found| *found > latest) {
        let ahead_ms = u64::try_from(rules.timestamp_ahead.as_millis()).unwrap_or(u64::MAX);
        return Err(ProduceError::TimestampAhead { found, now: rules.now, ahead_ms });
    }
    Ok(NewBatch {
        payload: batch.payload.clone(),
        compression,
        records_crc: computed,
        record_count: summary.record_count,
        max_timestamp: summary.max_timestamp,
        has_unstamped: summary.has_unstamped,
        kind: BatchKind::Data,
        producer: batch.producer,
    })
}
