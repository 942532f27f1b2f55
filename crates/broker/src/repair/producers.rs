//! Builds anew who idempotent producers are. What matters most is that no id is given out twice: a
//! partition would take somebody new for somebody that it knows.

use std::path::PathBuf;

use taffrail_log::repair::Repair;
use taffrail_model::{ProducerId, Timestamp};

use super::replay::replay;
use super::{Own, RebuildError};
use crate::coordinator::encode_snapshot;
use crate::producers::Registry;

/// What a new log of producers would hold.
#[derive(Debug)]
pub struct ProducersPlan {
    /// No id below this is given out again.
    pub ids_from: ProducerId,
    /// Whether all names are lost, so that whoever has one must take it anew.
    pub loses_names: bool,
    /// Where the old one is kept, if there is one.
    pub kept: Option<PathBuf>,
    /// Whether a repair that was interrupted has done all but the last step.
    pub is_built: bool,
    registry: Registry,
}

/// What a new log of producers would hold. Reads every log, and changes nothing.
///
/// # Errors
/// If it is sound, or a file cannot be read.
pub fn plan_producers(repair: &Repair) -> Result<ProducersPlan, RebuildError> {
    let log = Own::Producers.log();
    let is_built = repair.is_built(log)?;
    let (mut registry, mut loses_names) = (Registry::default(), false);
    if !is_built {
        let replayed = replay::<Registry>(repair, Own::Producers)?;
        if !replayed.is_damaged {
            return Err(RebuildError::Sound { label: Own::Producers.label() });
        }
        registry = replayed.machine;
        if !replayed.is_whole {
            let mut last = None;
            for log in repair.logs()? {
                last = last.max(repair.last_producer(log)?);
            }
            // Names that were read may have gone to others since.
            registry = registry.restarted(last);
            loses_names = true;
        }
    }
    let (ids_from, kept) = (registry.ids_end(), repair.plan_replacement(log)?);
    Ok(ProducersPlan { ids_from, loses_names, kept, is_built, registry })
}

/// Puts a new log of producers in the place of the old one, which is kept. Durable on return.
///
/// # Errors
/// If the disk refuses. Then the same call ends what was begun.
pub fn rebuild_producers(
    repair: &Repair,
    plan: &ProducersPlan,
    now: Timestamp,
) -> Result<(), RebuildError> {
    let (log, label) = (Own::Producers.log(), Own::Producers.label());
    if plan.is_built {
        return Ok(repair.finish(log)?);
    }
    Ok(repair.replace(log, label, &encode_snapshot(&plan.registry), now)?)
}
