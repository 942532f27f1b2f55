//! Builds the log of consumer groups anew. What is lost of it is work that is done again: a group goes on
//! where it is known to have been.

use std::path::PathBuf;

use taffrail_log::repair::Repair;
use taffrail_model::Timestamp;

use super::replay::replay;
use super::{Own, RebuildError};
use crate::coordinator::encode_snapshot;
use crate::group::Registry;

/// What a new log of groups would hold.
#[derive(Debug)]
pub struct GroupsPlan {
    /// Each group, ascending by name, and the number of partitions of which it has committed something.
    pub groups: Vec<(String, usize)>,
    /// Whether what was committed last is lost, and members have to join anew.
    pub is_behind: bool,
    /// Where the old one is kept, if there is one.
    pub kept: Option<PathBuf>,
    /// Whether a repair that was interrupted has done all but the last step.
    pub is_built: bool,
    registry: Registry,
}

/// What a new log of groups would hold. Changes nothing.
///
/// # Errors
/// If it is sound, or a file cannot be read.
pub fn plan_groups(repair: &Repair, now: Timestamp) -> Result<GroupsPlan, RebuildError> {
    let log = Own::Groups.log();
    let is_built = repair.is_built(log)?;
    let (mut registry, mut is_behind) = (Registry::default(), false);
    if !is_built {
        let replayed = replay::<Registry>(repair, Own::Groups)?;
        if !replayed.is_damaged {
            return Err(RebuildError::Sound { label: Own::Groups.label() });
        }
        registry = replayed.machine;
        if !replayed.is_whole {
            registry = registry.restarted(now);
            is_behind = true;
        }
    }
    let groups = registry.all().map(|(name, group)| (name.clone(), group.committed().len()));
    let (groups, kept) = (groups.collect(), repair.plan_replacement(log)?);
    Ok(GroupsPlan { groups, is_behind, kept, is_built, registry })
}

/// Puts a new log of groups in the place of the old one, which is kept. Durable on return.
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_groups(
    repair: &Repair,
    plan: &GroupsPlan,
    now: Timestamp,
) -> Result<(), RebuildError> {
    let (log, label) = (Own::Groups.log(), Own::Groups.label());
    if plan.is_built {
        return Ok(repair.finish(log)?);
    }
    Ok(repair.replace(log, label, &encode_snapshot(&plan.registry), now)?)
}
