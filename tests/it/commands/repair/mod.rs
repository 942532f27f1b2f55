//! `repair`: on the files of a broker that has stopped, damaged by hand. It says what it would do, does
//! what it is told, and the broker that starts then serves all the rest.

mod losses;
mod own;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taffrail_proto::v1;

use crate::broker::{Broker, Home};
use crate::door::{Door, batch, produce_batch};
use crate::pipe::{Feed, Pipe};
use crate::program::{Ended, run};

/// Records of the topic `t`: each is a batch of its own, of about 2 KiB.
const RECORDS: u64 = 60;

/// A directory in which the topic `t` has some segments, and what a test needs to damage it.
struct Given {
    home: Home,
    data: String,
    topic: String,
}

impl Given {
    async fn new() -> Self {
        let broker = Broker::new();
        let door = Door::open(&broker).await;
        let settings = [("segment.bytes", "64KiB"), ("max.batch.bytes", "16KiB")];
        let topic = door.create_with("t", 2, &settings).await.id;
        let mut pipe = Pipe::open(&door).await;
        for number in 1..=RECORDS {
            let value = value(number - 1);
            pipe.send(number, produce_batch("t", 0, batch(&[&value])));
        }
        for _ in 0..RECORDS {
            assert_eq!(pipe.next().await.1.error, None);
        }
        door.produce(produce_batch("t", 1, batch(&["beside"]))).await;
        let home = broker.stop().await;
        let data = home.data().to_str().expect("text").to_owned();
        Self { home, data, topic }
    }

    fn log(&self, partition: u32) -> PathBuf {
        self.home.data().join("logs").join(format!("{}-{partition}", self.topic))
    }

    /// The segments of the partition 0 and where their batches begin: file, base offset, positions.
    fn segments(&self) -> Vec<(PathBuf, u64, Vec<u64>)> {
        let files = std::fs::read_dir(self.log(0)).expect("a folder");
        let files = files.map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
        files.sort();
        let segment = |path: PathBuf| {
            let name = path.to_str().expect("text");
            let headers = run(&["inspect", name, "--headers", "--output", "json"]).json_lines();
            let base = headers[0]["base_offset"].as_u64().expect("a number");
            let positions =
                headers[1..].iter().map(|batch| batch["position"].as_u64().expect("one"));
            let positions = positions.collect();
            (path, base, positions)
        };
        files.into_iter().map(segment).collect()
    }

    fn repair(&self, arguments: &[&str]) -> Ended {
        run(&[&["repair", &self.data], arguments].concat())
    }

    /// What the catalog's log is called on disk.
    fn internal(&self, number: u32) -> PathBuf {
        self.home.data().join("logs").join(format!("{number:024}-0"))
    }

    /// Every file but for the lock, which says who held it last.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = files_below(&self.home.data());
        found.remove(&self.home.data().join("lock"));
        found
    }

    /// Inspection names this command; without an action nothing is changed and the same is said.
    #[track_caller]
    fn check_advice(&self, flag: &str) {
        let before = files_below(&self.home.data());
        let command = format!("taffrail repair {} {flag}", self.data);
        let said = run(&["inspect", &self.data]).output;
        assert!(said.contains(&command), "{command}: {said}");
        let report = run(&["inspect", &self.data, "--output", "json"]).output;
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let findings = report["findings"].as_array().expect("a list");
        assert!(findings.iter().any(|finding| finding["repair"] == json!(command)), "{report}");
        let advised = self.repair(&[]);
        advised.check(5, &["nothing was done"]);
        assert!(advised.output.contains(&command), "{}", advised.output);
        let advised = self.repair(&["--output", "json"]);
        let commands: Value = serde_json::from_str(&advised.output).expect("JSON");
        assert_eq!(commands["commands"][0]["command"], json!(command));
        let words: Vec<_> = flag.split(' ').collect();
        let dry = self.repair(&[&words[..], &["--dry-run"]].concat());
        dry.check(5, &["nothing was done"]);
        assert!(dry.output.contains("would do"), "{}", dry.output);
        assert!(files_below(&self.home.data()) == before, "not a byte is changed");
    }

    #[track_caller]
    fn check_content(&self) {
        let report = run(&["inspect", &self.data, "--output", "json"]).json();
        assert!([json!(null), json!("note")].contains(&report["worst"]), "{report}");
        assert!(run(&["repair", &self.data]).success().contains("nothing to repair"));
    }

    /// Damages, is advised, accepts the loss, and the broker serves: `lost` is a gap, all else is there.
    async fn check_accepted(&self, log: &str, lost: &[(u64, u64)], end: u64) {
        let before = files_below(&self.log(0));
        let flag = format!("--accept-loss {log}");
        self.check_advice(&flag);
        let done = self
            .repair(&[&flag.split(' ').collect::<Vec<_>>()[..], &["--output", "json"]].concat());
        let done = done.json();
        let action = &done["actions"][0];
        assert_eq!((&action["done"], &action["label"]), (&json!(true), &json!("t/0")));
        let found: Vec<_> = action["lost"].as_array().expect("a list").iter().collect();
        let found: Vec<_> = found
            .iter()
            .map(|lost| (lost["from"].as_u64().expect("one"), lost["to"].as_u64().expect("one")))
            .collect();
        assert_eq!(found, lost);
        if let Some(kept) = action["kept"].as_str() {
            let kept = files_below(Path::new(kept));
            assert!(kept.values().eq(before.values()), "all of it is kept");
        }
        self.check_content();
        self.check_served(lost, end).await;
        self.repair(&[&flag.split(' ').collect::<Vec<_>>()[..]].concat()).check(1, &["no damage"]);
    }

    /// A broker serves all but what is lost, and takes appends at `end`.
    async fn check_served(&self, lost: &[(u64, u64)], end: u64) {
        let broker = self.home.start(&[]);
        let door = Door::open(&broker).await;
        door.online("t").await;
        let (mut next, mut gaps) = (0, Vec::new());
        while next < end {
            let result = door.fetch("t", 0, next).await;
            assert_eq!(result.error, None);
            if let Some(gap) = result.gap {
                assert_eq!((gap.from, gap.reason()), (next, v1::GapReason::Quarantine));
                gaps.push((gap.from, gap.to));
            }
            for placed in crate::door::placed(&result.data) {
                assert_eq!(crate::door::value(&placed), value(placed.offset));
                assert!(!lost.iter().any(|(from, to)| (*from..*to).contains(&placed.offset)));
            }
            next = result.next_offset;
        }
        assert_eq!((next, &gaps[..]), (end, lost));
        check_streamed(&door, lost, end).await;
        assert_eq!(door.append("t", &["next"]).await, end);
        assert_eq!(door.read("t", 1, 0).await.len(), 1, "the other partition is untouched");
        broker.stop().await;
    }
}

/// A consumer is told of the gaps, and gets all the rest.
async fn check_streamed(door: &Door, lost: &[(u64, u64)], end: u64) {
    let mut feed = Feed::on(door, "t", v1::position::At::Offset(0), 1 << 30).await;
    feed.subscribed().await;
    let gone: u64 = lost.iter().map(|(from, to)| to - from).sum();
    let (mut seen, mut gaps) = (0, Vec::new());
    while seen < end - gone || gaps.len() < lost.len() {
        match feed.next().await {
            v1::consume_response::Event::Delivery(records) => {
                seen += crate::door::placed(&records.data).len() as u64;
            }
            v1::consume_response::Event::Gap(gap) => {
                let gap = gap.gap.expect("a gap");
                gaps.push((gap.from, gap.to));
            }
            _ => {}
        }
    }
    assert_eq!((seen, &gaps[..]), (end - gone, lost));
}

fn value(offset: u64) -> String {
    format!("{offset} {}", "x".repeat(2_000))
}

fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let contents = std::fs::read(&path).expect("a file");
                found.insert(path, contents);
            }
        }
    }
    found
}

fn flip(path: &Path, position: u64) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes[position as usize] ^= 0x10;
    std::fs::write(path, bytes).expect("room");
}
