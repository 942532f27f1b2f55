//! A report for programs.

use serde_json::{Value, json};
use taffrail_log::verify::{
    CheckpointReport, CheckpointState, DirectoryReport, Finding, IdentityState, IndexState, Kept,
    LogReport, PointsState, Report, SegmentReport, Usage,
};
use taffrail_log::{Manifest, Point, ScrubPass};

use super::text::severity;
use crate::commands::remedy::command;
use crate::figures;

pub(super) fn render(report: &Report) -> Value {
    json!({
        "path": report.path,
        "directory": report.directory.as_ref().map(directory),
        "logs": report.logs.iter().map(log).collect::<Vec<_>>(),
        "findings": report.findings().map(|found| finding(report, found)).collect::<Vec<_>>(),
        "kept": report.kept().map(kept).collect::<Vec<_>>(),
        "worst": report.worst().map(severity),
    })
}

fn directory(directory: &DirectoryReport) -> Value {
    let (identity, id, format) = match &directory.identity {
        IdentityState::Known { id, format } => ("known", Some(id), Some(format)),
        IdentityState::Newer { format } => ("newer", None, Some(format)),
        IdentityState::Damaged => ("damaged", None, None),
        IdentityState::Missing => ("missing", None, None),
    };
    let (usage, holder) = match &directory.usage {
        Usage::Free => ("free", None),
        Usage::InUse { holder } => ("in_use", Some(holder)),
        Usage::Unknown => ("unknown", None),
    };
    let points = directory.points.iter().map(|copy| match copy.state {
        PointsState::Sound { generation, logs } => {
            json!({"path": copy.path, "state": "sound", "generation": generation, "logs": logs})
        }
        PointsState::Damaged => json!({"path": copy.path, "state": "damaged"}),
        PointsState::Missing => json!({"path": copy.path, "state": "missing"}),
    });
    json!({
        "identity": identity,
        "id": id,
        "format": format,
        "usage": usage,
        "holder": holder,
        "recovery_points": points.collect::<Vec<_>>(),
        "last_scrub": directory.scrub.last.as_ref().map(scrub_pass),
        "scrub": directory.scrub.current.as_ref().map(|(pass, _)| scrub_pass(pass)),
        "backup_of": directory.backup.as_ref().map(|manifest| &manifest.source),
        "backup_taken": directory.backup.as_ref().map(taken),
        "is_restored": directory.is_restored,
        "unknown": directory.unknown,
    })
}

fn taken(manifest: &Manifest) -> String {
    figures::moment(manifest.taken.as_millis())
}

fn scrub_pass(pass: &ScrubPass) -> Value {
    let ended = (pass.ended.as_millis() != 0).then(|| figures::moment(pass.ended.as_millis()));
    json!({
        "began": figures::moment(pass.began.as_millis()),
        "ended": ended,
        "segments": pass.segments,
        "bytes": pass.bytes,
        "damaged": pass.damaged,
    })
}

fn log(log: &LogReport) -> Value {
    let point = log.point.as_ref().map(point);
    json!({
        "path": log.path,
        "id": log.id.map(|id| id.to_string()),
        "label": log.label,
        "point": point,
        "start": log.start.get(),
        "end": log.end.get(),
        "batches": log.batches,
        "records": log.records,
        "bytes": log.bytes,
        "checkpoints": log.checkpoints.iter().map(checkpoint).collect::<Vec<_>>(),
        "segments": log.segments.iter().map(segment).collect::<Vec<_>>(),
        "leftovers": log.leftovers,
        "unknown": log.unknown,
    })
}

/// What is durably known of a log.
pub(super) fn point(point: &Point) -> Value {
    json!({
        "recovery_point": point.recovery_point.get(),
        "leader_epoch": point.leader_epoch.get(),
        "reserved_end": point.reserved_end.get(),
        "log_start": point.log_start.get(),
        "first_segment": point.first_segment.get(),
        "is_clean": point.is_clean,
        "may_have_lost": point.may_have_lost,
    })
}

fn checkpoint(checkpoint: &CheckpointReport) -> Value {
    match checkpoint.state {
        CheckpointState::Sound { end, producers } => json!({
            "path": checkpoint.path,
            "state": "sound",
            "end": end.get(),
            "producers": producers,
        }),
        CheckpointState::Damaged => json!({"path": checkpoint.path, "state": "damaged"}),
    }
}

fn segment(segment: &SegmentReport) -> Value {
    let index = match segment.index {
        IndexState::Sound => "sound",
        IndexState::Missing => "missing",
        IndexState::Stale => "stale",
        IndexState::Damaged => "damaged",
    };
    json!({
        "path": segment.path,
        "base_offset": segment.base_offset.get(),
        "end_offset": segment.end_offset.get(),
        "bytes": segment.bytes,
        "created_ms": segment.header.as_ref().map(|header| header.created.as_millis()),
        "is_active": segment.is_active,
        "batches": segment.batches,
        "records": segment.records,
        "index": index,
    })
}

fn kept(kept: Kept) -> Value {
    json!({ "path": kept.path, "what": kept.what, "advice": kept.advice })
}

fn finding(report: &Report, finding: &Finding) -> Value {
    json!({
        "severity": severity(finding.severity),
        "path": finding.path,
        "position": finding.position,
        "from": finding.from.map(taffrail_client::Offset::get),
        "to": finding.to.map(taffrail_client::Offset::get),
        "what": finding.what,
        "advice": finding.advice,
        "repair": command(report, finding),
    })
}
