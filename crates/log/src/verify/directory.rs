//! Inspects a data directory: identity, lock, recovery points, and what stands where.

use std::path::{Path, PathBuf};

use taffrail_model::LogId;

use super::around::{find_points, usage};
use super::log::inspect_log;
use super::{
    DirectoryReport, Finding, IdentityState, Kept, PointsCopy, PointsState, Remedy, Report,
    Severity,
};
use crate::backup::read_manifest;
use crate::directory::{
    DELETED, IDENTITY, Identity, LOCK, LOGS, MANIFEST, QUARANTINE, REMOVED, REPAIRED, REPAIRING,
    RESTORED, SCRUB, SPARE, read_identity,
};
use crate::points::COPIES;
use crate::scrub;
use crate::vfs::{Entry, Vfs};

pub(super) fn inspect_directory(vfs: &dyn Vfs, path: &Path, entries: &[Entry]) -> Report {
    let points = find_points(vfs, path);
    let manifest = |name: &str| read_manifest(vfs, &path.join(name)).ok().flatten();
    let (restored, backup) = (manifest(RESTORED), manifest(MANIFEST));
    let mut directory = DirectoryReport {
        identity: identity(vfs, path),
        usage: usage(vfs, path),
        points: points.copies.clone(),
        is_restored: restored.is_some(),
        backup: restored.or(backup),
        scrub: scrub::load(vfs, path),
        kept: kept_in(vfs, &path.join(REMOVED)),
        unknown: Vec::new(),
        findings: Vec::new(),
    };
    judge_identity(path, &mut directory);
    judge_points(path, &mut directory);
    let unknown = entries.iter().filter(|entry| !is_ours(&entry.name));
    directory.unknown.extend(unknown.map(|entry| path.join(&entry.name)));
    let mut logs = Vec::new();
    let place = path.join(LOGS);
    match vfs.list(&place) {
        Ok(entries) => {
            for entry in &entries {
                let at = place.join(&entry.name);
                if LogId::parse(&entry.name).is_some() {
                    logs.push(inspect_log(vfs, &at, &points, &directory.usage));
                } else {
                    sort_other(&mut directory, &entries, entry, at);
                }
            }
        }
        Err(error) => {
            let what = format!("the logs cannot be read: {error}");
            let advice = "look at the disk, or restore the directory from a backup";
            directory.findings.push(finding(Severity::Damage, place.clone(), what, advice));
        }
    }
    for id in points.entries.keys().filter(|id| logs.iter().all(|log| log.id != Some(**id))) {
        let what = "the recovery points know this log, and it is not there";
        let advice = "if its topic was deleted, nothing; else restore it from a backup";
        let path = place.join(id.to_string());
        directory.findings.push(finding(Severity::Warning, path, what, advice));
    }
    Report { path: path.to_owned(), directory: Some(directory), logs }
}

/// Sorts what stands among the logs and is none.
fn sort_other(directory: &mut DirectoryReport, entries: &[Entry], entry: &Entry, at: PathBuf) {
    let of = |ending: &str| entry.name.strip_suffix(ending).and_then(LogId::parse);
    if of(DELETED).is_some() {
        let what = "the log was deleted, and the deletion did not end";
        let advice = "nothing to do: the next start goes on with it";
        directory.findings.push(finding(Severity::Note, at, what, advice));
    } else if let Some(id) = of(REPAIRING).or_else(|| of(REPAIRED)) {
        let is_there = entries.iter().any(|entry| entry.name == id.to_string());
        let (severity, what, advice) = if is_there {
            let what = "a repair of the log was interrupted before it changed anything";
            (Severity::Note, what, "delete it, or repair again: the repair begins anew")
        } else {
            let what = "a repair of the log was interrupted, and the log is not in its place";
            (Severity::Damage, what, "say the same repair again: it is finished")
        };
        let found = finding(severity, at, what, advice);
        let remedy = (!is_there).then_some(Remedy::AcceptLoss(id));
        directory.findings.push(Finding { remedy, ..found });
    } else if is_quarantine(&entry.name) {
        let what = "a log as it was before a repair".to_owned();
        let advice = "nobody reads it: look at it with inspect, and delete it when nobody wants it \
                      back; to undo the repair, exchange it with the log while no broker runs, before \
                      anything is appended"
            .to_owned();
        directory.kept.push(Kept { path: at, what, advice });
    } else {
        directory.unknown.push(at);
    }
}

fn is_quarantine(name: &str) -> bool {
    let parts = name.split_once(QUARANTINE);
    parts.is_some_and(|(id, number)| LogId::parse(id).is_some() && number.parse::<u32>().is_ok())
}

/// What repairs have taken away.
fn kept_in(vfs: &dyn Vfs, removed: &Path) -> Vec<Kept> {
    let entries = vfs.list(removed).unwrap_or_default();
    let kept = entries.iter().map(|entry| Kept {
        path: removed.join(&entry.name),
        what: "a log that nothing named, taken away by a repair".into(),
        advice: "delete it when nobody wants it; to undo, move it back to logs/".into(),
    });
    kept.collect()
}

fn identity(vfs: &dyn Vfs, path: &Path) -> IdentityState {
    match read_identity(vfs, path) {
        Ok(Some(Identity::Known { id, format })) => IdentityState::Known { id, format },
        Ok(Some(Identity::Newer(format))) => IdentityState::Newer { format },
        Ok(Some(Identity::Damaged)) | Err(_) => IdentityState::Damaged,
        Ok(None) => IdentityState::Missing,
    }
}

fn judge_identity(path: &Path, directory: &mut DirectoryReport) {
    let (what, advice) = match &directory.identity {
        IdentityState::Known { .. } => return,
        IdentityState::Newer { format } => (
            format!("the directory has format {format}, which this version does not know"),
            "use a newer Taffrail: what is said below may be wrong",
        ),
        IdentityState::Damaged => (
            "the directory's identity is damaged".to_owned(),
            "no broker starts on it: restore this file from a backup",
        ),
        IdentityState::Missing => (
            "the directory has no identity".to_owned(),
            "if its set-up was interrupted, say --init to do it again; else restore this file from \
             a backup",
        ),
    };
    directory.findings.push(finding(Severity::Damage, path.join(IDENTITY), what, advice));
}

fn judge_points(path: &Path, directory: &mut DirectoryReport) {
    let is_sound = |copy: &&PointsCopy| matches!(copy.state, PointsState::Sound { .. });
    let sound = directory.points.iter().filter(is_sound).count();
    if sound == directory.points.len() {
        return;
    }
    let one_is_damaged = directory.points.iter().any(|copy| copy.state == PointsState::Damaged);
    if sound == 0 {
        let what = "there are no recovery points: torn tails cannot be told from damage for sure";
        let advice = if one_is_damaged {
            "restore one of recovery-points.a and .b from a backup of this very moment, if there is \
             one; a start without them goes by what the segments say"
        } else {
            "nothing, if no broker ever ran on it; a start goes by what the segments say"
        };
        let severity = if one_is_damaged { Severity::Warning } else { Severity::Note };
        directory.findings.push(finding(severity, path.to_owned(), what, advice));
        return;
    }
    let what = "of the two copies of the recovery points one is damaged or missing";
    let advice = "nothing to do: the other one holds everything, and the next start writes both";
    directory.findings.push(finding(Severity::Note, path.to_owned(), what, advice));
}

/// Whether an entry of a data directory may stand there.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    [IDENTITY, LOCK, LOGS, MANIFEST, REMOVED, RESTORED, SCRUB, SPARE, "lost+found"].contains(&name)
        || COPIES.contains(&name)
}

fn finding(severity: Severity, path: PathBuf, what: impl Into<String>, advice: &str) -> Finding {
    let (what, advice) = (what.into(), advice.into());
    Finding { severity, path, position: None, from: None, to: None, what, advice, remedy: None }
}
