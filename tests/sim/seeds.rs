//! Runs seeds: those that failed once, and as many others as there is time for.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::run::{Reached, run};

/// Seeds that found something once.
const FOUND: &[u64] = &[239, 304, 3841];

/// What the seeds of a quick run must come upon, or they prove little.
const MUST_REACH: [&str; 45] = [
    "all healed",
    "a full disk",
    "a machine that stands still",
    "acknowledged batches",
    "backups",
    "backups read",
    "backups that failed",
    "clean stops",
    "conditional appends",
    "conditional appends refused",
    "consumers' streams",
    "cuts",
    "dead letters",
    "deleted records",
    "deleted topics",
    "deletions of all",
    "deletions that failed",
    "duplicates",
    "failing reads",
    "failing syncs",
    "failing syncs that drop pages",
    "fenced",
    "files kept aside",
    "forgotten producers",
    "gaps",
    "identities renewed",
    "interrupted calls",
    "kills",
    "late settlements refused",
    "no room for names",
    "one failing sync",
    "one failing write",
    "partitions opened anew",
    "power losses",
    "probes",
    "queues that were done",
    "records of retention by time",
    "records that came again",
    "refused for a full disk",
    "retention by size",
    "rolls",
    "scrubs",
    "short writes",
    "superseded",
    "unknown results",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds_that_found_something_once() {
    for seed in FOUND {
        run(*seed);
    }
}

#[test]
fn whatever_fails_nothing_acknowledged_is_lost() {
    let is_deep = std::env::var_os("TAFFRAIL_DEEP").is_some();
    let first = number("TAFFRAIL_SIM_SEED").unwrap_or(0);
    let runs = number("TAFFRAIL_SIM_RUNS").unwrap_or(if is_deep { 40_000 } else { 1_500 });
    let (next, reached) = (AtomicU64::new(first), Mutex::new(Reached::new()));
    let started = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + runs {
                return None;
            }
            let Ok(once) = catch_unwind(AssertUnwindSafe(|| run(seed))) else {
                next.store(u64::MAX / 2, Ordering::Relaxed);
                return Some(seed);
            };
            let mut reached = reached.lock().expect("nobody panics here");
            for (what, times) in once {
                *reached.entry(what).or_default() += times;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|it| it.join().expect("panics are caught")).collect()
    });
    for seed in &failed {
        eprintln!("seed {seed} failed: cargo xtask sim --seed {seed} --runs 1 runs it again");
    }
    let reached = reached.into_inner().expect("nobody panics here");
    report(&reached, runs, started.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "{failed:?}");
    if runs >= 1_000 {
        let missed: Vec<_> = MUST_REACH.iter().filter(|it| !reached.contains_key(**it)).collect();
        assert!(missed.is_empty(), "no seed came upon {missed:?}");
    }
}

fn report(reached: &BTreeMap<&'static str, u64>, runs: u64, seconds: f64) {
    println!("{runs} runs in {seconds:.1} s, {:.0} a minute", runs as f64 * 60.0 / seconds);
    for (what, times) in reached {
        println!("{times:>10}  {what}");
    }
}
