//! Adds to an inspection what only the catalog knows: which logs should be there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use taffrail_log::repair::Repair;
use taffrail_log::verify::{Finding, Remedy, Report, Severity};
use taffrail_model::LogId;

use super::{Own, named_logs};

/// Adds what the catalog says to the report on a data directory that no broker uses. Where it cannot be
/// read, the report says so already, or says so now.
pub fn judge(repair: &Repair, report: &mut Report) {
    let path = repair.path().join("logs");
    let is_there = |log: LogId| report.logs.iter().any(|found| found.id == Some(log));
    let mut more = Vec::new();
    for own in Own::ALL {
        if !is_there(own.log()) {
            let what = format!("{} is missing", own.label());
            let advice = "restore it from a backup, or have it built anew";
            let remedy = Some(Remedy::AcceptLoss(own.log()));
            more.push(finding(Severity::Damage, place(&path, own.log()), what, advice, remedy));
        }
    }
    if let Ok(named) = named_logs(repair) {
        let unnamed = report.logs.iter().filter_map(|log| log.id);
        let unnamed = unnamed.filter(|log| !named.contains_key(log));
        more.extend(unnamed.map(|log| judge_unnamed(&path, log)));
        let missing = named.iter().filter(|(log, label)| {
            !is_there(**log) && !label.is_empty() && Own::of(**log).is_none()
        });
        more.extend(missing.map(|(log, label)| judge_missing(repair, &path, *log, label)));
        judge_deleted(report, &named);
    }
    let told: Vec<_> = more.iter().map(|finding| finding.path.clone()).collect();
    if let Some(directory) = &mut report.directory {
        // What is said of the same log with more knowledge replaces what was said before.
        directory.findings.retain(|finding| !told.contains(&finding.path));
        directory.findings.extend(more);
    }
}

fn judge_unnamed(logs: &Path, log: LogId) -> Finding {
    let what =
        "no topic names this log: its creation did not end, or its topic is forgotten".into();
    let advice = "it is left alone; a repair can take it away, and keeps it";
    finding(Severity::Warning, place(logs, log), what, advice, Some(Remedy::Remove(log)))
}

fn judge_missing(repair: &Repair, logs: &Path, log: LogId, label: &str) -> Finding {
    let what = format!("{label} is missing: its partition is offline");
    let remedy = repair.is_known(log).then_some(Remedy::AcceptLoss(log));
    let advice = match remedy {
        Some(_) => {
            "restore it from a backup; or give up what was in it: it then goes on behind that"
        }
        None => "restore it from a backup, or delete the topic: nothing says how far it went",
    };
    finding(Severity::Damage, place(logs, log), what, advice, remedy)
}

/// Of what deletions left, the next start removes what a durable one names.
fn judge_deleted(report: &mut Report, named: &BTreeMap<LogId, String>) {
    let Some(directory) = &mut report.directory else { return };
    for finding in &mut directory.findings {
        let name = finding.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(log) = name.strip_suffix(".deleted").and_then(LogId::parse) else { continue };
        let (topic, _) = log.split();
        let is_doomed =
            |(named, label): (&LogId, &String)| named.split().0 == topic && label.is_empty();
        if !named.iter().any(is_doomed) {
            finding.severity = Severity::Warning;
            finding.what =
                "a deletion did not end, and no topic that is being deleted had this log".into();
            finding.advice =
                "nobody goes on with it; a repair can take it away, and keeps it".into();
            finding.remedy = Some(Remedy::Remove(log));
        }
    }
}

fn place(logs: &Path, log: LogId) -> PathBuf {
    logs.join(log.to_string())
}

fn finding(
    severity: Severity,
    path: PathBuf,
    what: String,
    advice: &str,
    remedy: Option<Remedy>,
) -> Finding {
    let advice = advice.to_owned();
    Finding { severity, path, position: None, from: None, to: None, what, advice, remedy }
}
