//! Connections that are open and want nothing: ten thousand of them, and more than there may be.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::door::Door;
use crate::http::{await_metric, metric};
use crate::pipe::{EARLIEST, Feed};
use crate::raw::Raw;

const RESIDENT: &str = "taffrail_process_resident_memory_bytes";

/// Lets this process, and with it the brokers it starts, have as many open files as it may. Whether so
/// many are allowed; notes that a test is skipped if not.
pub(crate) fn may_open(files: u64, test: &str) -> bool {
    let limit = getrlimit(Resource::Nofile);
    // Whoever may not raise it has what he has.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let is_enough = getrlimit(Resource::Nofile).current.is_none_or(|allowed| files <= allowed);
    if !is_enough {
        skip(test, &format!("{files} open files are not allowed here"));
    }
    is_enough
}

/// Notes that a test cannot run here: in the file that `TAFFRAIL_SKIPS` names, because what a test
/// that passes says is not shown.
fn skip(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
    let Some(path) = std::env::var_os("TAFFRAIL_SKIPS") else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let line = format!("it: {test}\t{why}\n");
    // At once: others may write too.
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a note of what is skipped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_are_held() {
    const COUNT: u64 = 10_000;
    if !may_open(COUNT + 2_000, "ten thousand idle connections") {
        return;
    }
    let broker = Broker::with(&["max_connections=11000"]);
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let before = metric(&broker, RESIDENT).await;
    let mut idle = JoinSet::new();
    let mut opening =
        futures_util::stream::iter(0..COUNT).map(|_| Raw::open(&broker)).buffer_unordered(100);
    while let Some(raw) = opening.next().await {
        idle.spawn(raw.idle());
    }
    drop(opening);
    await_metric(&broker, "taffrail_connections", |connections| connections > COUNT).await;
    let resident = metric(&broker, RESIDENT).await;
    let each = resident.saturating_sub(before) / COUNT;
    assert!(each < 48 << 10, "{each} bytes for a connection");

    let mut feed = Feed::on(&door, "t", EARLIEST, 1 << 20).await;
    feed.subscribed().await;
    for number in 0..20 {
        let text = number.to_string();
        assert_eq!(door.append("t", &[&text]).await, number);
        assert_eq!(feed.values(number, 1).await, [text]);
    }
    assert_eq!(idle.try_join_next().map(|_| ()), None, "none of them was ended");
    idle.shutdown().await;
    await_metric(&broker, "taffrail_connections", |connections| connections <= 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_too_many_waits_and_those_who_are_in_are_served() {
    const ALLOWED: usize = 300;
    const LATE: usize = 500;
    const TEST: &str = "connections beyond the cap";
    if !may_open(3_000, TEST) {
        return;
    }
    let queue = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    if queue.trim().parse::<usize>().is_ok_and(|waiting| waiting < LATE + 100) {
        return skip(TEST, "the kernel lets too few connections wait");
    }
    let broker = Broker::with(&["max_connections=300"]);
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let (mut inside, mut late) = (Vec::new(), Vec::new());
    for _ in 1..ALLOWED {
        inside.push(Raw::open(&broker).await);
    }
    for _ in 0..LATE {
        late.push(Raw::knock(&broker).await);
    }
    for number in 0..20 {
        let text = number.to_string();
        assert_eq!(door.append("t", &[&text]).await, number);
        assert_eq!(door.fetch("t", 0, number).await.next_offset, number + 1);
    }
    let a_while = Duration::from_millis(200);
    let heard = join_all(late.iter().map(|raw| raw.has_heard_within(a_while))).await;
    assert!(!heard.contains(&true), "more are served than may be");
    // Each that goes lets one in, until all have been.
    drop(inside);
    for mut raw in late {
        raw.welcome().await;
    }
    assert_eq!(door.append("t", &["after"]).await, 20);
}
