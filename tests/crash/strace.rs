//! Failures that `strace` makes: system calls that fail, that take long, or that are the last.

use std::path::Path;
use std::process::{Command as Probe, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::broker::Broker;
use crate::skip;

/// How long it may take until it has all threads of a broker.
const ATTACH_MAX: Duration = Duration::from_secs(20);

/// Whether `strace` is there and may trace; else `test` is skipped.
pub(crate) fn strace_works(test: &str) -> bool {
    let mut probe = Probe::new("strace");
    probe.args(["-f", "-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null());
    let works = probe.status().is_ok_and(|status| status.success());
    if !works {
        skip(test, "strace is not here, or may not trace");
    }
    works
}

/// System calls of a broker that do not go as they should, until this is dropped.
pub(crate) struct Strace {
    child: Child,
}

impl Strace {
    /// Does `what` to all these calls of a broker, as in `inject=CALLS:WHAT`; if paths are given, only
    /// to those on them. On return it does.
    pub(crate) async fn attach(broker: &Broker, calls: &str, what: &str, paths: &[&Path]) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null"]).args(inject(calls, what));
        for path in paths {
            command.arg("-P").arg(path);
        }
        command.args(["-p", &broker.pid().to_string()]).kill_on_drop(true);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("strace starts");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let attached = async {
            while let Some(line) = said.next_line().await.expect("strace speaks") {
                if line.contains(" attached") {
                    return;
                }
            }
            panic!("strace ended");
        };
        timeout(ATTACH_MAX, attached).await.expect("strace attaches");
        // Nobody reads it, and it must not wait for that.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Self { child }
    }

    /// Lets calls be as they are again.
    pub(crate) async fn detach(mut self) {
        self.child.kill().await.expect("strace ends");
    }
}

/// The options that trace these calls, and do something to them.
pub(crate) fn inject(calls: &str, what: &str) -> [String; 4] {
    let trace = format!("trace={calls}");
    ["-e".into(), trace, "-e".into(), format!("inject={calls}:{what}")]
}
