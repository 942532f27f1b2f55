//! What lies on disk, with what the catalog knows of it, and the command that mends a finding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_log::repair::Repair;
use taffrail_log::verify::{Finding, InspectError, LogReport, Remedy, Report, Usage, inspect};
use taffrail_log::vfs::Disk;
use taffrail_server::repair::{Own, judge};

/// Inspects what lies at `path`, and adds what the catalog says if nobody changes it meanwhile.
pub(super) fn survey(path: &Path) -> Result<Report, InspectError> {
    let mut report = inspect(&Disk, path)?;
    let is_free = |report: &Report| {
        let usage = report.directory.as_ref().map(|directory| &directory.usage);
        usage.is_some_and(|usage| !matches!(usage, Usage::InUse { .. }))
    };
    if is_free(&report)
        && let Ok(repair) = Repair::look(Arc::new(Disk), path)
    {
        judge(&repair, &mut report);
    }
    Ok(report)
}

/// The command that does something about a finding, if one does.
pub(super) fn command(report: &Report, finding: &Finding) -> Option<String> {
    let remedy = finding.remedy?;
    Some(format!("taffrail repair {} {}", quoted(&directory_of(report)?), flag(report, remedy)))
}

/// The flag of `repair` that does something about a finding.
fn flag(report: &Report, remedy: Remedy) -> String {
    match remedy {
        Remedy::AcceptLoss(log) => match Own::of(log) {
            Some(Own::Catalog) => "--rebuild-catalog".to_owned(),
            Some(Own::Producers) => "--rebuild-producers".to_owned(),
            Some(Own::Groups) => "--rebuild-groups".to_owned(),
            Some(Own::Queues) => "--rebuild-queues".to_owned(),
            None => format!("--accept-loss {}", label(report, log).unwrap_or(log.to_string())),
        },
        // Another log may have the same label.
        Remedy::Remove(log) => format!("--remove {log}"),
    }
}

/// What a log is called, if no other one is.
fn label(report: &Report, log: taffrail_log::LogId) -> Option<String> {
    let label = |found: &LogReport| found.label.clone().filter(|label| !label.is_empty());
    let own = report.logs.iter().find(|found| found.id == Some(log)).and_then(label)?;
    let others = report.logs.iter().filter(|found| label(found).as_ref() == Some(&own)).count();
    (others == 1 && report.directory.is_some()).then_some(own)
}

/// The data directory that a report is about, or that the one log in it lies in.
fn directory_of(report: &Report) -> Option<PathBuf> {
    if report.directory.is_some() {
        return Some(report.path.clone());
    }
    let logs = report.logs.first()?.path.parent()?;
    let directory = logs.parent().filter(|_| logs.ends_with("logs"))?;
    let is_here = directory.as_os_str().is_empty();
    Some(if is_here { PathBuf::from(".") } else { directory.to_owned() })
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        for (path, expected) in
            [("/a/b-c.d", "/a/b-c.d"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")]
        {
            assert_eq!(quoted(Path::new(path)), expected);
        }
    }
}
