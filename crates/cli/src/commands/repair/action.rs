//! What a repair does or would do, for people and for programs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taffrail_log::repair::LogPlan;
use taffrail_log::{Damage, LogId};
use taffrail_server::repair::{
    CatalogPlan, GroupsPlan, Own, ProducersPlan, QueuesPlan, RebuiltTopic,
};

use crate::commands::remedy::quoted;

/// What a repair does or would do.
pub(super) struct Action {
    /// The flag that asks for it.
    pub(super) name: &'static str,
    pub(super) log: LogId,
    pub(super) label: String,
    /// What it comes to, a line each.
    pub(super) lines: Vec<String>,
    /// More, for programs.
    pub(super) details: Value,
    /// Where the old is kept, if there is any.
    pub(super) kept: Option<PathBuf>,
    /// How to take it back.
    pub(super) undo: Option<String>,
}

impl Action {
    pub(super) fn accept_loss(plan: &LogPlan, place: &Path) -> Self {
        let lost = plan.lost.iter().map(|Damage { from, to, path, position, cause }| {
            let path = path.display();
            format!("offsets {from} to {to} are a gap: {cause} (byte {position} of {path})")
        });
        let restored = plan.restored.iter().map(|path| {
            format!("the header of {} is written anew, nothing of it is lost", path.display())
        });
        let end = if plan.is_built {
            "the repair that was interrupted is finished".to_owned()
        } else {
            format!("it ends at offset {}, and takes appends", plan.end)
        };
        let lost_json = plan.lost.iter().map(|Damage { from, to, path, position, cause }| {
            let (from, to) = (from.get(), to.get());
            json!({ "from": from, "to": to, "path": path, "position": position, "cause": cause })
        });
        Self {
            name: "accept-loss",
            log: plan.log,
            label: plan.label.clone(),
            lines: lost.chain(restored).chain([end]).collect(),
            details: json!({
                "lost": lost_json.collect::<Vec<_>>(),
                "restored": plan.restored,
                "end": plan.end.get(),
                "finishes": plan.is_built,
            }),
            undo: plan.kept.as_deref().map(|kept| exchanged(place, kept)),
            kept: plan.kept.clone(),
        }
    }

    pub(super) fn catalog(plan: &CatalogPlan, place: &Path) -> Self {
        let mut lines: Vec<_> = plan.topics.iter().map(topic_line).collect();
        if plan.topics.iter().any(|topic| !topic.has_settings) {
            lines.push(
                "settings that are lost have their defaults: set them anew with `taffrail topic \
                 alter`, durability above all"
                    .to_owned(),
            );
        }
        lines.extend(plan.left_out.iter().map(|what| format!("left out: {what}")));
        if plan.is_built {
            lines.push("the repair that was interrupted is finished".to_owned());
        }
        let topics = plan.topics.iter().map(|topic| {
            json!({
                "name": topic.name,
                "id": topic.id.to_string(),
                "partitions": topic.partitions,
                "has_settings": topic.has_settings,
                "missing": topic.missing,
            })
        });
        Self {
            name: "rebuild-catalog",
            log: Own::Catalog.log(),
            label: Own::Catalog.label().to_owned(),
            lines,
            details: json!({
                "topics": topics.collect::<Vec<_>>(),
                "left_out": plan.left_out,
                "finishes": plan.is_built,
            }),
            undo: plan.kept.as_deref().map(|kept| exchanged(place, kept)),
            kept: plan.kept.clone(),
        }
    }

    pub(super) fn producers(plan: &ProducersPlan, place: &Path) -> Self {
        let lines = if plan.is_built {
            vec!["the repair that was interrupted is finished".to_owned()]
        } else if plan.loses_names {
            let from = plan.ids_from;
            vec![
                format!("ids of producers go on at {from}, behind every one that may be given out"),
                "names are lost: whoever produces under one is refused, and has to take it anew"
                    .to_owned(),
            ]
        } else {
            vec!["nothing is lost: a snapshot behind the damage holds all of it".to_owned()]
        };
        Self {
            name: "rebuild-producers",
            log: Own::Producers.log(),
            label: Own::Producers.label().to_owned(),
            lines,
            details: json!({
                "ids_from": plan.ids_from.get(),
                "loses_names": plan.loses_names,
                "finishes": plan.is_built,
            }),
            undo: plan.kept.as_deref().map(|kept| exchanged(place, kept)),
            kept: plan.kept.clone(),
        }
    }

    pub(super) fn queues(plan: &QueuesPlan, place: &Path) -> Self {
        let queues = plan.queues.iter();
        let mut lines: Vec<_> =
            queues.map(|(name, parked)| format!("queue {name}: {parked} parked records")).collect();
        lines.push(match (plan.is_built, plan.is_behind) {
            (true, _) => "the repair that was interrupted is finished".to_owned(),
            (false, true) => {
                "what was settled last is lost: these records are handed out again".to_owned()
            }
            (false, false) => {
                "nothing is lost: a snapshot behind the damage holds all of it".to_owned()
            }
        });
        let queues =
            plan.queues.iter().map(|(name, parked)| json!({ "queue": name, "parked": parked }));
        Self {
            name: "rebuild-queues",
            log: Own::Queues.log(),
            label: Own::Queues.label().to_owned(),
            lines,
            details: json!({
                "queues": queues.collect::<Vec<_>>(),
                "is_behind": plan.is_behind,
                "finishes": plan.is_built,
            }),
            undo: plan.kept.as_deref().map(|kept| exchanged(place, kept)),
            kept: plan.kept.clone(),
        }
    }

    pub(super) fn groups(plan: &GroupsPlan, place: &Path) -> Self {
        let mut lines: Vec<_> = plan
            .groups
            .iter()
            .map(|(name, offsets)| format!("group {name}: {offsets} committed offsets"))
            .collect();
        lines.push(match (plan.is_built, plan.is_behind) {
            (true, _) => "the repair that was interrupted is finished".to_owned(),
            (false, true) => "what was committed last is lost, and is done again; members join anew                               by themselves"
                .to_owned(),
            (false, false) => {
                "nothing is lost: a snapshot behind the damage holds all of it".to_owned()
            }
        });
        let groups = plan
            .groups
            .iter()
            .map(|(name, offsets)| json!({ "group": name, "committed_offsets": offsets }));
        Self {
            name: "rebuild-groups",
            log: Own::Groups.log(),
            label: Own::Groups.label().to_owned(),
            lines,
            details: json!({
                "groups": groups.collect::<Vec<_>>(),
                "is_behind": plan.is_behind,
                "finishes": plan.is_built,
            }),
            undo: plan.kept.as_deref().map(|kept| exchanged(place, kept)),
            kept: plan.kept.clone(),
        }
    }

    pub(super) fn remove(log: LogId, label: String, from: &Path, to: &Path) -> Self {
        Self {
            name: "remove",
            log,
            label,
            lines: vec![format!("{} is taken away", from.display())],
            details: json!({}),
            kept: Some(to.to_owned()),
            undo: Some(format!("mv {} {}", quoted(to), quoted(from))),
        }
    }

    pub(super) fn text(&self, is_done: bool) -> String {
        let done = if is_done { "done" } else { "would do" };
        let called =
            if self.label.is_empty() { String::new() } else { format!(" ({})", self.label) };
        let mut text = format!("{done}: --{} {}{called}\n", self.name, self.log);
        // Writing to a string cannot fail.
        for line in &self.lines {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "  the old is kept: {}", kept.display());
        }
        if let Some(undo) = &self.undo {
            let _ = writeln!(text, "  to undo, before a broker is started on it: {undo}");
        }
        text
    }

    pub(super) fn json(&self, is_done: bool) -> Value {
        let mut value = json!({
            "action": self.name,
            "done": is_done,
            "log": self.log.to_string(),
            "label": self.label,
            "says": self.lines,
            "kept": self.kept,
            "undo": self.undo,
        });
        if let (Some(value), Some(details)) = (value.as_object_mut(), self.details.as_object()) {
            value.extend(details.clone());
        }
        value
    }
}

fn topic_line(topic: &RebuiltTopic) -> String {
    let RebuiltTopic { name, id, partitions, has_settings, missing } = topic;
    let settings = if *has_settings { "with its settings" } else { "with default settings" };
    let mut line = format!("topic {name} ({id}): {partitions} partitions, {settings}");
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter().map(u32::to_string).collect();
        // Writing to a string cannot fail.
        let _ = write!(line, "; not on disk, and offline: {}", missing.join(", "));
    }
    line
}

/// How the old log gets its place back. What the new one shares with it stays.
fn exchanged(place: &Path, kept: &Path) -> String {
    let (place, kept) = (quoted(place), quoted(kept));
    format!("rm -r {place} && mv {kept} {place}")
}
