//! Reads the broker's own logs without a broker.

use serde_json::{Value, json};
use taffrail_log::repair::{Repair, RepairError, Walked};
use taffrail_model::batch::Batch;
use taffrail_model::{Offset, Timestamp};

use super::{Own, RebuildError};
use crate::coordinator::{Replay, StateMachine};

/// What a log of the broker's own says.
pub(super) struct Replayed<S> {
    /// The state, as far as it can be known: up to the first damage, or from the first snapshot behind.
    pub(super) machine: S,
    /// Whether that is all of it.
    pub(super) is_whole: bool,
    /// Whether the log has lost anything, so that no broker starts on it.
    pub(super) is_damaged: bool,
}

/// A record of a log of the broker's own.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
    /// Its kind: `event`, `snapshot-begin`, `snapshot-part`, `snapshot-end` or
    /// `nothing`.
    pub kind: String,
    /// What it says.
    pub value: Value,
}

/// Rebuilds a state from its log. Behind damage no event is applied: it may rest on one that is lost. A
/// snapshot rests on none.
pub(super) fn replay<S: StateMachine>(
    repair: &Repair,
    own: Own,
) -> Result<Replayed<S>, RebuildError> {
    let mut is_damaged = !repair.has_log(own.log())?;
    let mut whole = Replay::<S>::from_the_start();
    whole.is_known = !is_damaged;
    let mut behind = Replay::from_a_snapshot();
    repair.walk(own.log(), |walked| {
        let batch = match walked {
            Walked::Lost => {
                (is_damaged, whole.is_known) = (true, false);
                behind = Replay::from_a_snapshot();
                return Ok(());
            }
            Walked::Batch(batch) => batch,
        };
        let replay = if whole.is_known { &mut whole } else { &mut behind };
        replay.apply(&batch).map_err(|error| RebuildError::record(own, &error))?;
        if behind.is_known {
            whole = std::mem::replace(&mut behind, Replay::from_a_snapshot());
        }
        Ok::<(), RebuildError>(())
    })?;
    Ok(Replayed { machine: whole.machine, is_whole: whole.is_known, is_damaged })
}

/// Every record of a log of the broker's own that can be read; `None` where something is lost.
///
/// # Errors
/// If it cannot be read.
pub fn entries(repair: &Repair, own: Own) -> Result<Vec<Option<Entry>>, RepairError> {
    let mut found = Vec::new();
    repair.walk(own.log(), |walked| {
        match walked {
            Walked::Lost => found.push(None),
            Walked::Batch(batch) => found.extend(entries_of(&batch).map(Some)),
        }
        Ok::<(), RepairError>(())
    })?;
    Ok(found)
}

fn entries_of(batch: &Batch) -> impl Iterator<Item = Entry> {
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    batch.records().filter_map(Result::ok).map(move |record| Entry {
        offset: record.offset,
        append_time: batch.header.append_time,
        kind: text(record.key),
        value: value_of(record.value.unwrap_or_default()),
    })
}

/// What a record says; of a part of something, how much it is.
fn value_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| json!({ "bytes": bytes.len() }))
}
