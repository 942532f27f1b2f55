//! Holds what becomes of an image that was changed against what may become of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use taffrail_log::verify::{Dumped, Finding, LogReport, Severity, dump, inspect};
use taffrail_log::vfs::Memory;
use taffrail_log::{Directory, Log};
use taffrail_model::batch::HEADER_BYTES;

use super::image::{History, Image, open};
use super::mutation::{Kind, Mutation};
use super::outcome::{Outcome, Piece, joined};
use crate::given::{NOW, SEGMENT_HEADER_BYTES, batch, has_ending, root};
use crate::model::ModelBatch;

/// Where a segment's header lies.
const HEADER: Range<usize> = 0..SEGMENT_HEADER_BYTES;

/// What is known of an image before it is changed.
pub(super) struct Judge<'a> {
    image: &'a Image,
    facts: Vec<Facts>,
}

/// What is known of a log.
struct Facts {
    /// What becomes of it if nothing is changed.
    sound: Outcome,
    /// Where each batch lies, by its base offset.
    places: BTreeMap<u64, (PathBuf, Range<usize>)>,
    /// Bytes that say that everything below an offset was on disk.
    evidence: Vec<(PathBuf, Range<usize>, u64)>,
    /// What the recovery points say, of which there are two copies.
    recovery_point: u64,
}

impl<'a> Judge<'a> {
    pub(super) fn new(image: &'a Image) -> Self {
        let directory = open(&image.memory.copy(), &image.logs).expect("the directory opens");
        let facts = image.logs.iter().map(|history| Facts::of(image, &directory, history));
        Self { facts: facts.collect(), image }
    }

    /// Changes a copy of the image and looks at what becomes of it.
    #[track_caller]
    pub(super) fn check(&self, mutation: &Mutation) {
        let _case = Case(format!("{}: {mutation}", self.image.name));
        let memory = self.image.memory.copy();
        mutation.apply(&memory).expect("it is there");
        let before = memory.files();
        let report = inspect(&memory, root()).expect("it can be inspected");
        assert_eq!(memory.files(), before, "to inspect changes nothing");
        let directory = match open(&memory, &self.image.logs) {
            Ok(directory) => directory,
            Err(error) => {
                let names = error.to_string().contains(&root().display().to_string());
                assert!(names && mutation.path.ends_with("identity"), "{error}");
                assert_eq!(report.worst(), Some(Severity::Damage), "{error}, and {report:?}");
                return;
            }
        };
        let logs: Vec<_> = self.image.logs.iter().zip(&self.facts).collect();
        let mut open_logs = Vec::new();
        for (history, facts) in logs {
            let found = report.logs.iter().find(|log| log.id == Some(history.id));
            let found = found.expect("it is inspected");
            match Outcome::of(&directory, history) {
                Ok((log, outcome)) => {
                    facts.check(mutation, history, &outcome);
                    check_inspected(found, &outcome);
                    open_logs.push((log, outcome, history));
                }
                Err(error) => {
                    // A file of another log, and no other reason.
                    assert!(matches!(mutation.kind, Kind::Replace { .. }), "{error}");
                    let names = error.to_string().contains(&mutation.path.display().to_string());
                    assert!(names && has_ending(&mutation.path, "log"), "{error}");
                    assert_eq!(worst(&found.findings), Some(Severity::Damage), "{error}");
                }
            }
        }
        check_kept(&before, &memory.files());
        self.go_on(&memory, directory, open_logs);
    }

    /// Appends to each log that takes it, closes, and opens once more: all is as it was, with what was
    /// appended.
    #[track_caller]
    fn go_on(&self, memory: &Memory, directory: Directory, logs: Vec<(Log, Outcome, &History)>) {
        let mut expected = Vec::new();
        for (mut log, outcome, history) in logs {
            let mut history = history.clone();
            // What is gone is not there any more when its offsets are used again.
            history.batches.retain(|batch| batch.end() <= outcome.end);
            let more = batch(9, 2);
            let mut append = log.begin(NOW);
            append.push(more.clone());
            let (appended, error) = append.write();
            assert_eq!(error.is_some(), outcome.is_read_only, "{error:?}");
            if let Some(appended) = appended.first() {
                assert_eq!(appended.base_offset.get(), outcome.end);
                let (base, epoch) = (outcome.end, log.leader_epoch());
                let append_time = appended.append_time;
                history.batches.push(ModelBatch { base, batch: more, append_time, epoch });
            }
            log.close().expect("it closes");
            expected.push((outcome, history));
        }
        directory.persist_points().expect("they are written");
        drop(directory);
        let directory = open(memory, &self.image.logs).expect("the directory opens");
        for (before, history) in expected {
            let (_, after) = Outcome::of(&directory, &history).expect("the log opens");
            let mut pieces = before.pieces.clone();
            if !before.is_read_only {
                pieces.push(Piece::Batch { base: before.end });
            }
            assert_eq!(after.pieces, pieces);
            assert_eq!(after.is_read_only, before.is_read_only);
            assert!(after.moved_aside.is_empty() && after.skipped.is_none(), "{after:?}");
        }
    }
}

impl Facts {
    fn of(image: &Image, directory: &Directory, history: &History) -> Self {
        let (_, sound) = Outcome::of(directory, history).expect("the log opens");
        let is_acknowledged = |batch: &&ModelBatch| batch.end() <= history.acknowledged;
        let readable = sound.readable();
        let mut acknowledged = history.batches.iter().filter(is_acknowledged);
        assert!(acknowledged.all(|batch| readable.contains(&batch.base)), "{sound:?}");
        let report = inspect(&image.memory, root()).expect("it can be inspected");
        let log = report.logs.iter().find(|log| log.id == Some(history.id));
        let log = log.expect("it is inspected");
        let recovery_point = log.point.expect("it is known").recovery_point.get();
        let (mut places, mut evidence) = (BTreeMap::new(), Vec::new());
        for segment in &log.segments {
            let path = &segment.path;
            let dump = dump(&image.memory, path).expect("its header is sound");
            evidence.push((path.clone(), HEADER, segment.base_offset.get()));
            for dumped in dump {
                let Ok(Dumped::Batch { position, batch }) = dumped else { continue };
                let (base, position) = (batch.header.base_offset.get(), position as usize);
                let end = position + batch.header.total_bytes();
                let (header, synced_end) =
                    (position..position + HEADER_BYTES, batch.header.synced_end);
                evidence.push((path.clone(), header, synced_end.get()));
                places.insert(base, (path.clone(), position..end));
            }
        }
        Self { sound, places, evidence, recovery_point }
    }

    /// The offset below which everything can still be known to have been on disk. Without a segment's
    /// header nothing that lies in it is evidence.
    fn known_durable(&self, mutation: &Mutation) -> u64 {
        let is_left = |(path, range, _): &&(PathBuf, Range<usize>, u64)| {
            !mutation.touches(path, range) && !mutation.touches(path, &HEADER)
        };
        let left = self.evidence.iter().filter(is_left);
        left.map(|(_, _, end)| *end).fold(self.recovery_point, u64::max)
    }

    #[track_caller]
    fn check(&self, mutation: &Mutation, history: &History, outcome: &Outcome) {
        let is_segment = has_ending(&mutation.path, "log");
        if !is_segment || !mutation.path.starts_with(history.path()) {
            // All else is a cache, or there are two of it. But the recovery points of another directory
            // are believed if they look newer, and then nothing is known of what a log reserved.
            let is_other = matches!(mutation.kind, Kind::Replace { .. });
            if is_other && !mutation.path.starts_with(history.path()) {
                assert_eq!(outcome.readable(), self.sound.readable());
            } else if mutation.is_of_producers() {
                // Where both checkpoints are gone, less is remembered.
                assert_eq!(outcome.without_memory(), self.sound.without_memory());
            } else {
                assert_eq!(*outcome, self.sound);
            }
            return;
        }
        let (readable, durable) = (outcome.readable(), self.known_durable(mutation));
        let mut is_behind = false;
        for base in self.sound.readable() {
            let (path, range) = &self.places[&base];
            let is_changed = mutation.touches(path, range);
            assert!(
                !is_changed || !readable.contains(&base),
                "what was changed is read, at {base}"
            );
            // Who cannot read a segment's header may or may not find its batches.
            let is_touched = is_changed || mutation.touches(path, &HEADER);
            is_behind |= is_touched;
            // What lies behind the first batch that is not whole goes with it, if nothing says that
            // it was on disk: it cannot be told from a torn tail.
            let may_vanish = is_behind && durable <= base;
            let is_named = is_touched && outcome.is_lost(base);
            let is_fine = readable.contains(&base) || is_named || may_vanish;
            assert!(is_fine, "{base} is gone: {outcome:?}");
        }
        if outcome.is_read_only {
            return;
        }
        // A log whose last segment ends with some batch, though not its last one, looks as if it had
        // never held more.
        let vanished = readable.len() < self.sound.readable().len() && outcome.lost().is_empty();
        let leaves_no_trace = vanished && outcome.moved_aside.is_empty();
        if history.config.reserves_offsets && !leaves_no_trace {
            assert!(self.sound.end.max(history.end()) <= outcome.end, "{outcome:?}");
        } else if !vanished {
            assert!(self.sound.end <= outcome.end, "{outcome:?}");
        }
    }
}

/// What was said of a log before it was opened is what became of it.
#[track_caller]
fn check_inspected(found: &LogReport, outcome: &Outcome) {
    let says_damage = worst(&found.findings) == Some(Severity::Damage);
    assert_eq!(says_damage, outcome.has_damage(), "{:?}, and {outcome:?}", found.findings);
    let damage = found.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    let ranges = damage.filter_map(|finding| Some((finding.from?.get(), finding.to?.get())));
    assert_eq!(joined(ranges), outcome.lost(), "{:?}, and {outcome:?}", found.findings);
}

fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}

/// Whatever lay in a segment lies there still, or is kept aside.
#[track_caller]
pub(super) fn check_kept(before: &[(PathBuf, Vec<u8>)], after: &[(PathBuf, Vec<u8>)]) {
    let after: BTreeMap<_, _> = after.iter().map(|(path, bytes)| (path, bytes)).collect();
    for (path, bytes) in before.iter().filter(|(path, _)| has_ending(path, "log")) {
        let left = after.get(path).map_or(&[][..], |left| left);
        let name = format!("{}.{}.0.aside", path.display(), left.len());
        let aside = after.get(&PathBuf::from(name)).map_or(&[][..], |aside| aside);
        assert_eq!([left, aside].concat(), *bytes, "of {}", path.display());
    }
}

/// Says what was tried when a check fails.
pub(super) struct Case(pub(super) String);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("case: {}", self.0);
        }
    }
}
