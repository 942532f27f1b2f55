//! Runs a command for so long and no longer.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often to look whether a command has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How a command ended.
pub(crate) enum Ending {
    /// With exit code 0.
    Success,
    /// Otherwise, as said.
    Failure(String),
    /// It was killed, and what it had started too, because its time was over.
    OutOfTime,
}

/// Runs `command` to its end, or to the end of its `budget`.
pub(crate) fn run(command: &mut Command, budget: Duration) -> Result<Ending> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let failure = || Ending::Failure(status.to_string());
            return Ok(if status.success() { Ending::Success } else { failure() });
        }
        if budget < start.elapsed() {
            kill_tree(&mut child)?;
            return Ok(Ending::OutOfTime);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Kills a process and all that descend from it: cargo does not take its tests along.
fn kill_tree(child: &mut Child) -> Result<()> {
    let descendants = descendants(child.id());
    child.kill()?;
    // The shell's own `kill` is everywhere; that some have ended by themselves is no error.
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill -9 \"$@\" 2>/dev/null", "sh"]).args(descendants).status()?;
    child.wait()?;
    Ok(())
}

/// Every process below `ancestor`, children before grandchildren.
fn descendants(ancestor: u32) -> Vec<String> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    found.into_iter().skip(1).map(|pid| pid.to_string()).collect()
}

/// The parent of a process: the second word behind its name, which is in parentheses.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_ends_as_it_says() {
        let budget = Duration::from_secs(60);
        assert!(matches!(run(&mut shell("true"), budget), Ok(Ending::Success)));
        assert!(matches!(run(&mut shell("exit 3"), budget), Ok(Ending::Failure(_))));
    }

    #[test]
    fn a_command_out_of_time_is_killed_with_its_children() {
        let directory = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let note = directory.join("pid");
        let mut command = shell("sleep 600 & echo $! > pid; wait");
        command.current_dir(&directory);
        let ending = run(&mut command, Duration::from_secs(1));
        let pid: u32 = fs::read_to_string(&note).unwrap().trim().parse().unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(matches!(ending, Ok(Ending::OutOfTime)));
        // What is killed ends a little later.
        let killed = Instant::now();
        loop {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            assert!(killed.elapsed() < Duration::from_secs(30), "the child still runs: {state}");
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}
