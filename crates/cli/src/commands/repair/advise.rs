//! Says which command would do what. Changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use taffrail_log::repair::Repair;
use taffrail_log::verify::{Finding, Severity};
use taffrail_log::vfs::Disk;

use crate::commands::remedy::{command, survey};
use crate::context::Context;
use crate::exit::NothingDone;

pub(super) fn run(path: &Path, context: &Context) -> anyhow::Result<()> {
    // Refuses what is no data directory, and what a broker uses.
    Repair::look(Arc::new(Disk), path)?;
    let report = survey(path)?;
    let mut commands = BTreeMap::<String, Vec<&Finding>>::new();
    let mut others = Vec::new();
    for finding in report.findings() {
        match command(&report, finding) {
            Some(command) => commands.entry(command).or_default().push(finding),
            None if Severity::Note < finding.severity => others.push(finding),
            None => {}
        }
    }
    let text = || {
        let advised = commands.iter().flat_map(|(command, findings)| {
            let places = findings.iter().map(|finding| format!("  {}", place(finding)));
            std::iter::once(command.clone()).chain(places)
        });
        let left = others.iter().flat_map(|finding| {
            let (place, advice) = (place(finding), &finding.advice);
            ["no repair of ours:".to_owned(), format!("  {place}"), format!("  {advice}")]
        });
        let lines: Vec<_> = advised.chain(left).collect();
        if lines.is_empty() { "there is nothing to repair".to_owned() } else { lines.join("\n") }
    };
    let json = || {
        let commands = commands.iter().map(|(command, findings)| {
            let findings: Vec<_> = findings.iter().map(|finding| place(finding)).collect();
            json!({ "command": command, "findings": findings })
        });
        let others = others.iter().map(|finding| place(finding));
        json!({
            "path": path,
            "commands": commands.collect::<Vec<_>>(),
            "others": others.collect::<Vec<_>>(),
        })
    };
    context.output.result(text, json)?;
    if commands.is_empty() && others.is_empty() {
        return Ok(());
    }
    Err(NothingDone("nothing was done: say which of these to do".to_owned()).into())
}

/// What was found, and where, in a line.
fn place(finding: &Finding) -> String {
    let path = finding.path.display();
    let offsets = match (finding.from, finding.to) {
        (Some(from), Some(to)) => format!(", offsets {from} to {to}"),
        _ => String::new(),
    };
    format!("{path}{offsets}: {}", finding.what)
}
