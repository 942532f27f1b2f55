//! Works on a queue: prints each record, or runs a command for it.
//!
//! A command gets the value on its standard input and the rest in its environment. It ends with 0: done; with
//! 2: there is no use in trying it again; with anything else: to be tried again later.

use std::io::{self, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use taffrail_client::{Job, Verdict};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Notify;

use crate::context::Context;
use crate::output::say;

/// Letters of what a command said that are told why a record is parked.
const REASON: usize = 500;

/// Works on a queue.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The queue
    queue: String,
    /// Run this with `sh -c` for each record: the value is on its standard input, the rest in TAFFRAIL_QUEUE,
    /// TAFFRAIL_KEY, TAFFRAIL_PARTITION, TAFFRAIL_OFFSET, TAFFRAIL_ATTEMPT and TAFFRAIL_TIMESTAMP; exit 0:
    /// done, 2: parked, anything else: tried again later. Without it, records are printed, and done
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Records that are worked on at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    concurrency: u32,
    /// End after so many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<()> {
    let Arguments { queue, exec, concurrency, count } = arguments;
    let client = context.client()?;
    let enough = Arc::new(Notify::new());
    let taken = Arc::new(AtomicU64::new(0));
    // No more is asked for than is to be done.
    let concurrency = count.map_or(concurrency, |count| concurrency.min(count.min(1_000) as u32));
    let handle = {
        let (enough, queue, exec) = (Arc::clone(&enough), queue.clone(), exec.clone());
        move |job: Job| {
            let number = taken.fetch_add(1, Ordering::Relaxed) + 1;
            if count == Some(number) {
                enough.notify_one();
            }
            let is_wanted = count.is_none_or(|count| number <= count);
            let (queue, exec) = (queue.clone(), exec.clone());
            async move {
                match exec {
                    _ if !is_wanted => Verdict::Release,
                    Some(exec) => execute(&exec, &queue, &job).await,
                    None => print(&job),
                }
            }
        }
    };
    let stop = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = enough.notified() => {}
        }
    };
    let worked = client.queue(&queue).concurrency(concurrency).run(handle, stop).await;
    let stats = worked.with_context(|| format!("cannot work on {queue}"))?;
    let (received, late) = (stats.received, stats.late);
    context.output.note(format!("{received} records received, {late} of them settled too late"));
    Ok(())
}

fn print(job: &Job) -> Verdict {
    let value = job.value().map(AsRef::as_ref).unwrap_or_default();
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(value).and_then(|()| stdout.write_all(b"\n"));
    // What nobody could read is somebody else's.
    if printed.and_then(|()| stdout.flush()).is_ok() { Verdict::Done } else { Verdict::Release }
}

async fn execute(exec: &str, queue: &str, job: &Job) -> Verdict {
    match try_execute(exec, queue, job).await {
        Ok(verdict) => verdict,
        Err(error) => {
            say(format!("the command could not be run: {error}"));
            Verdict::Retry { delay: None }
        }
    }
}

async fn try_execute(exec: &str, queue: &str, job: &Job) -> io::Result<Verdict> {
    let mut command = Command::new("sh");
    command.args(["-c", exec]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    command.env("TAFFRAIL_QUEUE", queue);
    command.env("TAFFRAIL_PARTITION", job.partition().get().to_string());
    command.env("TAFFRAIL_OFFSET", job.offset().get().to_string());
    command.env("TAFFRAIL_ATTEMPT", job.attempt().to_string());
    command.env("TAFFRAIL_TIMESTAMP", job.timestamp().as_millis().to_string());
    match job.key().map(|key| (key, std::str::from_utf8(key))) {
        // No variable holds a zero.
        Some((_, Ok(key))) if !key.contains('\0') => command.env("TAFFRAIL_KEY", key),
        Some((key, _)) => command.env("TAFFRAIL_KEY_BASE64", STANDARD.encode(key)),
        None => &mut command,
    };
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let value = job.value().cloned().unwrap_or_default();
        tokio::spawn(async move {
            // Whoever does not read it all need not.
            let _ = stdin.write_all(&value).await;
        });
    }
    let ended = child.wait_with_output().await?;
    io::stderr().write_all(&ended.stderr)?;
    Ok(match ended.status.code() {
        Some(0) => Verdict::Done,
        Some(2) => {
            let said = String::from_utf8_lossy(&ended.stderr);
            let reason: String = said.trim().chars().take(REASON).collect();
            let reason = if reason.is_empty() { "the command ended with 2".into() } else { reason };
            Verdict::Reject { reason }
        }
        Some(_) | None => Verdict::Retry { delay: None },
    })
}
