//! Builds the log of work queues anew. What is lost of it is work that is done again: a queue goes on where
//! it is known to have been, and no lease that may have been given out comes again.

use std::path::PathBuf;

use taffrail_log::repair::Repair;
use taffrail_model::Timestamp;

use super::replay::replay;
use super::{Own, RebuildError};
use crate::coordinator::encode_snapshot;
use crate::queue::Registry;

/// What a new log of queues would hold.
#[derive(Debug)]
pub struct QueuesPlan {
    /// Each queue, ascending by name, and how many records are parked in it.
    pub queues: Vec<(String, usize)>,
    /// Whether what was settled last is lost: it is handed out again.
    pub is_behind: bool,
    /// Where the old one is kept, if there is one.
    pub kept: Option<PathBuf>,
    /// Whether a repair that was interrupted has done all but the last step.
    pub is_built: bool,
    registry: Registry,
}

/// What a new log of queues would hold. Changes nothing.
///
/// # Errors
/// If it is sound, or a file cannot be read.
pub fn plan_queues(repair: &Repair) -> Result<QueuesPlan, RebuildError> {
    let log = Own::Queues.log();
    let is_built = repair.is_built(log)?;
    let (mut registry, mut is_behind) = (Registry::default(), false);
    if !is_built {
        let replayed = replay::<Registry>(repair, Own::Queues)?;
        if !replayed.is_damaged {
            return Err(RebuildError::Sound { label: Own::Queues.label() });
        }
        registry = replayed.machine;
        if !replayed.is_whole {
            registry = registry.restarted();
            is_behind = true;
        }
    }
    let parked = registry.all().map(|(name, queue)| (name.clone(), queue.parked()));
    let (queues, kept) = (parked.collect(), repair.plan_replacement(log)?);
    Ok(QueuesPlan { queues, is_behind, kept, is_built, registry })
}

/// Puts a new log of queues in the place of the old one, which is kept. Durable on return.
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_queues(
    repair: &Repair,
    plan: &QueuesPlan,
    now: Timestamp,
) -> Result<(), RebuildError> {
    let (log, label) = (Own::Queues.log(), Own::Queues.label());
    if plan.is_built {
        return Ok(repair.finish(log)?);
    }
    Ok(repair.replace(log, label, &encode_snapshot(&plan.registry), now)?)
}
