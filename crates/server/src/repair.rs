//! Repairs that only the broker knows how to do, with the machine's clock.

use taffrail_broker::{Clock as _, SystemClock};
use taffrail_log::repair::Repair;

pub use taffrail_broker::repair::{
    CatalogPlan, Entry, GroupsPlan, Own, ProducersPlan, QueuesPlan, RebuildError, RebuiltTopic,
    entries, judge, named_logs, plan_catalog, plan_producers, plan_queues,
};

/// Puts a new catalog in the place of the old one: see [`plan_catalog`].
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_catalog(repair: &Repair, plan: &CatalogPlan) -> Result<(), RebuildError> {
    taffrail_broker::repair::rebuild_catalog(repair, plan, SystemClock.now())
}

/// Puts a new log of producers in the place of the old one: see [`plan_producers`].
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_producers(repair: &Repair, plan: &ProducersPlan) -> Result<(), RebuildError> {
    taffrail_broker::repair::rebuild_producers(repair, plan, SystemClock.now())
}

/// Puts a new log of groups in the place of the old one: see [`plan_groups`].
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_groups(repair: &Repair, plan: &GroupsPlan) -> Result<(), RebuildError> {
    taffrail_broker::repair::rebuild_groups(repair, plan, SystemClock.now())
}

/// Puts a new log of queues in the place of the old one: see [`plan_queues`].
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_queues(repair: &Repair, plan: &QueuesPlan) -> Result<(), RebuildError> {
    taffrail_broker::repair::rebuild_queues(repair, plan, SystemClock.now())
}

/// What a new log of groups would hold. Changes nothing.
///
/// # Errors
/// If it is sound, or a file cannot be read.
pub fn plan_groups(repair: &Repair) -> Result<GroupsPlan, RebuildError> {
    taffrail_broker::repair::plan_groups(repair, SystemClock.now())
}
