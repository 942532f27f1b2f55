//! Does what it is told, or says what it would do, one action after another.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{bail, ensure};
use serde_json::json;
use taffrail_log::LogId;
use taffrail_log::repair::{Repair, RepairError};
use taffrail_log::vfs::Disk;
use taffrail_server::repair::{
    Own, RebuildError, named_logs, plan_catalog, plan_groups, plan_producers, plan_queues,
    rebuild_catalog, rebuild_groups, rebuild_producers, rebuild_queues,
};

use super::Arguments;
use super::action::Action;
use crate::context::Context;
use crate::exit::NothingDone;

pub(super) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<()> {
    let path = &arguments.path;
    let open = if arguments.dry_run { Repair::look } else { Repair::hold };
    let mut work = Work { repair: open(Arc::new(Disk), path)?, arguments, actions: Vec::new() };
    let ended = work.run();
    let is_done = !arguments.dry_run;
    let actions = &work.actions;
    if !actions.is_empty() {
        let text = || actions.iter().map(|action| action.text(is_done)).collect();
        let json = || {
            let actions: Vec<_> = actions.iter().map(|action| action.json(is_done)).collect();
            json!({ "path": path, "dry_run": arguments.dry_run, "actions": actions })
        };
        context.output.result(text, json)?;
    }
    ended?;
    if arguments.dry_run && !actions.is_empty() {
        return Err(NothingDone("nothing was done: this is what would be".to_owned()).into());
    }
    Ok(())
}

struct Work<'a> {
    repair: Repair,
    arguments: &'a Arguments,
    /// What was done, or would be.
    actions: Vec<Action>,
}

impl Work<'_> {
    /// The broker's own logs first: the others go by what the catalog says.
    fn run(&mut self) -> anyhow::Result<()> {
        if self.arguments.rebuild_catalog {
            let plan = plan_catalog(&self.repair)?;
            if !self.arguments.dry_run {
                rebuild_catalog(&self.repair, &plan)?;
            }
            self.actions.push(Action::catalog(&plan, &self.repair.place(Own::Catalog.log())));
        }
        if self.arguments.rebuild_producers {
            let plan = plan_producers(&self.repair)?;
            if !self.arguments.dry_run {
                rebuild_producers(&self.repair, &plan)?;
            }
            self.actions.push(Action::producers(&plan, &self.repair.place(Own::Producers.log())));
        }
        if self.arguments.rebuild_groups {
            let plan = plan_groups(&self.repair)?;
            if !self.arguments.dry_run {
                rebuild_groups(&self.repair, &plan)?;
            }
            self.actions.push(Action::groups(&plan, &self.repair.place(Own::Groups.log())));
        }
        if self.arguments.rebuild_queues {
            let plan = plan_queues(&self.repair)?;
            if !self.arguments.dry_run {
                rebuild_queues(&self.repair, &plan)?;
            }
            self.actions.push(Action::queues(&plan, &self.repair.place(Own::Queues.log())));
        }
        self.accept_losses()?;
        self.remove()
    }

    fn accept_losses(&mut self) -> anyhow::Result<()> {
        let named = named_logs(&self.repair);
        for wanted in &self.arguments.accept_loss {
            if wanted == "all" {
                self.accept_all(named.as_ref().map_err(clone)?)?;
                continue;
            }
            let named = named.as_ref().ok();
            let log = self.find(named, wanted)?;
            let label = named.and_then(|named| named.get(&log)).map_or("", String::as_str);
            self.accept_loss(log, label, false)?;
        }
        Ok(())
    }

    /// What cannot be repaired does not keep the others from it, and is told at the end.
    fn accept_all(&mut self, named: &BTreeMap<LogId, String>) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for (log, label) in named {
            // The broker's own are built anew, deleted ones go.
            if Own::of(*log).is_some() || label.is_empty() {
                continue;
            }
            if let Err(error) = self.accept_loss(*log, label, true) {
                failed.push(format!("{label} ({log}): {error:#}"));
            }
        }
        ensure!(failed.is_empty(), "not all could be repaired:\n{}", failed.join("\n"));
        Ok(())
    }

    fn accept_loss(&mut self, log: LogId, label: &str, may_be_sound: bool) -> anyhow::Result<()> {
        match Own::of(log) {
            Some(Own::Catalog) => {
                bail!("a gap in the catalog would be believed: say --rebuild-catalog instead")
            }
            Some(Own::Producers) => {
                bail!(
                    "a gap in what is known of producers would be believed: say \
                       --rebuild-producers instead"
                )
            }
            Some(Own::Groups) => {
                bail!(
                    "a gap in what is known of groups would be believed: say --rebuild-groups instead"
                )
            }
            Some(Own::Queues) => {
                bail!(
                    "a gap in what is known of queues would be believed: say --rebuild-queues instead"
                )
            }
            None => {}
        }
        let plan = match self.repair.plan(log, label) {
            Err(RepairError::Sound { .. }) if may_be_sound => return Ok(()),
            plan => plan?,
        };
        if !self.arguments.dry_run {
            self.repair.accept_loss(&plan)?;
        }
        self.actions.push(Action::accept_loss(&plan, &self.repair.place(log)));
        Ok(())
    }

    fn remove(&mut self) -> anyhow::Result<()> {
        for wanted in &self.arguments.remove {
            let named = named_logs(&self.repair)?;
            let log = self.find(None, wanted.strip_suffix(".deleted").unwrap_or(wanted))?;
            let (from, to) = self.repair.plan_removal(log)?;
            let is_leftover = from.extension().is_some_and(|ending| ending == "deleted");
            if let Some(label) = named.get(&log).filter(|_| !is_leftover) {
                ensure!(label.is_empty(), "the catalog names {log}, as {label}: delete that topic");
                bail!("the topic of {log} is being deleted: the next start removes it");
            }
            let label = self.repair.header(log)?.map(|header| header.label).unwrap_or_default();
            if !self.arguments.dry_run {
                self.repair.remove(log)?;
            }
            self.actions.push(Action::remove(log, label, &from, &to));
        }
        Ok(())
    }

    /// The log with this id, or of this label.
    fn find(&self, named: Option<&BTreeMap<LogId, String>>, wanted: &str) -> anyhow::Result<LogId> {
        if let Some(log) = LogId::parse(wanted) {
            return Ok(log);
        }
        let in_catalog = named.into_iter().flatten().find(|(_, label)| *label == wanted);
        if let Some((log, _)) = in_catalog {
            return Ok(*log);
        }
        let mut found = Vec::new();
        for log in self.repair.logs()? {
            if self.repair.header(log)?.is_some_and(|header| header.label == wanted) {
                found.push(log);
            }
        }
        match found[..] {
            [log] => Ok(log),
            [] => bail!("there is no log {wanted:?}: `taffrail inspect` lists them"),
            _ => bail!("several logs are called {wanted:?}: name one by its id, as inspect does"),
        }
    }
}

/// The same error once more, for the second who meets it.
fn clone(error: &RebuildError) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
