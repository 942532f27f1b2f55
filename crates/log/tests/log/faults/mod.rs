//! Syncs fail, disks fill up, reads and writes fail: nothing false is acknowledged, and what can go on
//! does.

mod full;
mod read;
mod steps;
mod sync;
mod together;

use taffrail_log::AppendError;

use crate::given::{AppendAll, Given, NOW, batch};
use crate::model::Model;

/// Appends a batch for each mark, as far as that goes.
#[track_caller]
fn append(
    given: &mut Given,
    model: &mut Model,
    marks: std::ops::Range<u64>,
) -> Option<AppendError> {
    let batches: Vec<_> = marks.map(|mark| batch(mark, 3)).collect();
    let (appended, error) = given.log.append(&batches, NOW);
    model.append(&batches, &appended, given.log.leader_epoch());
    assert_eq!(appended.len() < batches.len(), error.is_some());
    error
}
