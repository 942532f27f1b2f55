//! Writes a snapshot while the state goes on.

use std::sync::Arc;

use taffrail_model::Offset;

use super::journal::{encode_parts, to_json};
use super::{Live, State, StateMachine, settled};
use crate::partition::Partition;
use crate::produce::Lane;

/// A snapshot that has begun in the log.
pub(super) struct Snapshot<S> {
    /// A copy of the state, as it was there.
    pub(super) machine: S,
    pub(super) begin: Offset,
    /// The order of the appends of the state that it is of.
    pub(super) lane: Arc<Lane>,
}

impl<S: StateMachine> Snapshot<S> {
    /// Appends the copy, one part after the other, so that others get between them; then deletes what nobody
    /// needs any more. If the state was dropped meanwhile, so is this.
    pub(super) async fn write(self, partition: Arc<Partition>, state: Arc<State<S>>) {
        let Self { machine, begin, lane } = self;
        // It takes long, and so does dropping the copy.
        let text = partition.on_snapshot_thread(move || to_json(&machine)).await;
        let Some(text) = text else { return };
        for part in encode_parts(&text) {
            let mut locked = state.lock().await;
            let Some(live) = Live::of_lane(&mut locked, &lane) else { return };
            let pending = live.append(&partition, part);
            drop(locked);
            if settled(&state, Some(pending), &lane).await.is_err() {
                return;
            }
        }
        let mut locked = state.lock().await;
        let Some(live) = Live::of_lane(&mut locked, &lane) else { return };
        let former = live.end_snapshot(begin, text.len() as u64);
        drop(locked);
        if let Some(former) = former {
            partition.delete_before(former).await;
        }
    }
}
