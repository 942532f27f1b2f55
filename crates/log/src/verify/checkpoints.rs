//! Inspects what a log remembers of idempotent producers.

use std::io;
use std::path::Path;

use taffrail_model::LogId;

use super::{CheckpointReport, CheckpointState, Finding, Severity};
use crate::producers::{CHECKPOINTS, read_checkpoint};
use crate::vfs::Vfs;

/// The checkpoints of the log whose directory is `path`, and what is wrong with them.
pub(super) fn inspect_checkpoints(
    vfs: &dyn Vfs,
    path: &Path,
    id: Option<LogId>,
) -> (Vec<CheckpointReport>, Vec<Finding>) {
    let mut reports = Vec::new();
    let mut findings = Vec::new();
    for name in CHECKPOINTS {
        let path = path.join(name);
        let (state, what) = match read_checkpoint(vfs, &path) {
            Ok(Some(checkpoint)) if id.is_some_and(|id| id != checkpoint.log_id) => {
                let what = format!("this checkpoint belongs to log {}", checkpoint.log_id);
                (CheckpointState::Damaged, what)
            }
            Ok(Some(checkpoint)) => {
                let (end, producers) = (checkpoint.end, checkpoint.producers.len());
                reports.push(CheckpointReport {
                    path,
                    state: CheckpointState::Sound { end, producers },
                });
                continue;
            }
            Ok(None) => (CheckpointState::Damaged, "this checkpoint is damaged".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => (CheckpointState::Damaged, format!("it cannot be read: {error}")),
        };
        findings.push(Finding {
            severity: Severity::Note,
            path: path.clone(),
            position: None,
            from: None,
            to: None,
            what: format!("{what}: it says which producers have sent what"),
            advice: "nothing to do: the next opening reads more of the log instead".into(),
            remedy: None,
        });
        reports.push(CheckpointReport { path, state });
    }
    (reports, findings)
}
