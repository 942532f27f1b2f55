//! A report for people.

use std::fmt::Write as _;

use taffrail_log::verify::{
    DirectoryReport, Finding, IdentityState, IndexState, Kept, LogReport, PointsState, Report,
    Severity, Usage,
};
use taffrail_log::{Manifest, ScrubPass, ScrubState};

use crate::commands::remedy::command;
use crate::figures;
use crate::output::table;

pub(super) fn render(report: &Report, with_segments: bool) -> String {
    let mut text = String::new();
    if let Some(directory) = &report.directory {
        text.push_str(&render_directory(report, directory));
    }
    text.push_str(&render_logs(&report.logs));
    if with_segments {
        text.push_str(&render_segments(&report.logs));
    }
    text.push_str(&render_findings(report));
    for Kept { path, what, advice } in report.kept() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\nkept: {}\n  {what}\n  {advice}", path.display());
    }
    text
}

fn render_directory(report: &Report, directory: &DirectoryReport) -> String {
    let identity = match &directory.identity {
        IdentityState::Known { id, format } => format!("data directory {id}, format {format}"),
        IdentityState::Newer { format } => format!("a newer format, {format}"),
        IdentityState::Damaged => "its identity is damaged".to_owned(),
        IdentityState::Missing => "it has no identity".to_owned(),
    };
    let usage = match &directory.usage {
        Usage::Free => "not in use".to_owned(),
        Usage::InUse { holder } => format!("in use by {holder}: this is what was there just now"),
        Usage::Unknown => "whether it is in use cannot be told".to_owned(),
    };
    let points = directory.points.iter().map(|copy| match copy.state {
        PointsState::Sound { generation, .. } => format!("sound ({generation})"),
        PointsState::Damaged => "damaged".to_owned(),
        PointsState::Missing => "missing".to_owned(),
    });
    let points: Vec<_> = points.collect();
    let path = report.path.display();
    let scrub = render_scrub(&directory.scrub);
    let backup = render_backup(directory);
    let points = points.join(", ");
    format!("{path}: {identity}\n{backup}  {usage}; recovery points: {points}\n  {scrub}\n\n")
}

/// Of what it is a backup, or was one.
fn render_backup(directory: &DirectoryReport) -> String {
    let Some(Manifest { source, taken }) = &directory.backup else { return String::new() };
    let taken = figures::moment(taken.as_millis());
    let is = if directory.is_restored { "restored from" } else { "it is" };
    format!("  {is} a backup of data directory {source}, taken {taken}\n")
}

/// When the broker has last read everything again to find rot.
fn render_scrub(ScrubState { current, last }: &ScrubState) -> String {
    let looked = |pass: &ScrubPass| {
        let bytes = figures::bytes(pass.bytes as f64);
        let damaged = match pass.damaged {
            0 => "all sound".to_owned(),
            1 => "damage in 1 place".to_owned(),
            places => format!("damage in {places} places"),
        };
        format!("{} segments, {bytes}, {damaged}", figures::count(pass.segments))
    };
    let last = match last {
        Some(pass) => {
            format!(
                "last scrub ended {}: {}",
                figures::moment(pass.ended.as_millis()),
                looked(pass)
            )
        }
        None => "no scrub has come to its end".to_owned(),
    };
    match current {
        Some((pass, _)) => {
            let began = figures::moment(pass.began.as_millis());
            format!("{last}; one began {began}: {}", looked(pass))
        }
        None => last,
    }
}

fn render_logs(logs: &[LogReport]) -> String {
    let row = |log: &LogReport| {
        let label = log.label.clone().unwrap_or_else(|| log.path.display().to_string());
        let worst = log.findings.iter().map(|finding| finding.severity).max();
        vec![
            label,
            log.start.to_string(),
            log.end.to_string(),
            figures::count(log.records),
            figures::count(log.batches),
            log.segments.len().to_string(),
            figures::bytes(log.bytes as f64),
            worst.map_or("sound", severity).to_owned(),
        ]
    };
    let header = ["LOG", "START", "END", "RECORDS", "BATCHES", "SEGMENTS", "SIZE", "STATE"];
    format!("{}\n", table(&header, &[1, 2, 3, 4, 5, 6], logs.iter().map(row).collect()))
}

fn render_segments(logs: &[LogReport]) -> String {
    let rows = logs.iter().flat_map(|log| &log.segments).map(|segment| {
        let index = match segment.index {
            IndexState::Sound => "sound",
            IndexState::Missing if segment.is_active => "none yet",
            IndexState::Missing => "missing",
            IndexState::Stale => "stale",
            IndexState::Damaged => "damaged",
        };
        vec![
            segment.path.display().to_string(),
            segment.base_offset.to_string(),
            segment.end_offset.to_string(),
            figures::count(segment.records),
            figures::bytes(segment.bytes as f64),
            index.to_owned(),
        ]
    });
    let header = ["SEGMENT", "BASE", "END", "RECORDS", "SIZE", "INDEX"];
    format!("\n{}\n", table(&header, &[1, 2, 3, 4], rows.collect()))
}

fn render_findings(report: &Report) -> String {
    let mut findings: Vec<_> = report.findings().collect();
    if findings.is_empty() {
        return "\neverything was read, and everything is sound\n".to_owned();
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.into_iter().map(|finding| render_finding(report, finding)).collect()
}

fn render_finding(report: &Report, finding: &Finding) -> String {
    let mut text = format!("\n{}: {}", severity(finding.severity), finding.path.display());
    // Writing to a string cannot fail.
    if let Some(position) = finding.position {
        let _ = write!(text, ", byte {position}");
    }
    if let (Some(from), Some(to)) = (finding.from, finding.to) {
        let _ = write!(text, ", offsets {from} to {to}");
    }
    let _ = writeln!(text, "\n  {}\n  {}", finding.what, finding.advice);
    if let Some(command) = command(report, finding) {
        let _ = writeln!(text, "  {command}");
    }
    text
}

pub(super) const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Damage => "damage",
    }
}
