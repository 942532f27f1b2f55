//! Inspection: it says what is there and what is wrong, exactly, and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_log::verify::{
    Dumped, Finding, IdentityState, IndexState, InspectError, LogReport, PointsState, Report,
    Severity, Usage, dump, inspect,
};
use taffrail_log::vfs::{Disk, Memory, Vfs};
use taffrail_model::Offset;

use crate::given::{
    AppendAll, Given, LABEL, NOW, SEGMENT_HEADER_BYTES, batch, bytes_on_disk, log_id, log_path,
    root, segment, try_open, wreck,
};

/// Three segments of four batches each, of 3 records each.
fn given() -> Given {
    let mut given = Given::new(1 << 20);
    for segment in 0..3 {
        let batches: Vec<_> = (0..4).map(|index| batch(10 + 10 * segment + index, 3)).collect();
        let (_, error) = given.log.append(&batches, NOW);
        assert!(error.is_none());
        if segment < 2 {
            given.log.roll().expect("it rolls");
        }
    }
    given
}

fn position(index: usize) -> u64 {
    (SEGMENT_HEADER_BYTES + index * bytes_on_disk(&batch(10, 3))) as u64
}

fn index_of(base: u64) -> PathBuf {
    segment(base).with_extension("index")
}

/// Inspects without changing anything.
#[track_caller]
fn inspected(memory: &Memory, path: &Path) -> Report {
    let before = memory.files();
    let report = inspect(memory, path).expect("it can be inspected");
    assert_eq!(memory.files(), before, "nothing is changed");
    report
}

fn the_log(report: &Report) -> &LogReport {
    let [log] = &report.logs[..] else { panic!("{report:?}") };
    log
}

fn add(memory: &Memory, path: &Path, bytes: &[u8]) {
    let file = memory.open(path).expect("it is there");
    file.write_at(file.length().expect("it has one"), bytes).expect("there is room");
}

fn put(memory: &Memory, path: &Path) {
    memory.create(path).expect("the place is free");
}

#[test]
fn a_sound_directory_is_described_and_nothing_is_found() {
    let memory = given().close();
    let report = inspected(&memory, root());
    assert_eq!(report.findings().collect::<Vec<_>>(), Vec::<&Finding>::new());
    assert_eq!(report.worst(), None);
    let directory = report.directory.as_ref().expect("it is one");
    let id = try_open(Arc::new(memory.clone()), root()).expect("it opens").id().to_owned();
    assert_eq!(directory.identity, IdentityState::Known { id, format: 1 });
    assert_eq!(directory.usage, Usage::Free);
    assert_eq!(directory.points.len(), 2);
    let is_sound = |state| matches!(state, PointsState::Sound { generation: 1.., logs: 1 });
    assert!(directory.points.iter().all(|copy| is_sound(copy.state)), "{directory:?}");
    assert_eq!(directory.unknown, Vec::<PathBuf>::new());

    let log = the_log(&report);
    assert_eq!((log.id, log.label.as_deref()), (Some(log_id()), Some(LABEL)));
    let point = log.point.expect("it is known");
    assert!(point.is_clean && point.recovery_point == Offset::new(36));
    assert_eq!((log.start, log.end), (Offset::ZERO, Offset::new(36)));
    assert_eq!((log.batches, log.records, log.bytes), (12, 36, 3 * position(4)));
    for (at, found) in log.segments.iter().enumerate() {
        let base = 12 * at as u64;
        assert_eq!(found.path, segment(base));
        assert_eq!(
            (found.base_offset, found.end_offset),
            (Offset::new(base), Offset::new(base + 12))
        );
        assert_eq!((found.bytes, found.batches, found.records), (position(4), 4, 12));
        assert_eq!((found.is_active, found.index), (at == 2, IndexState::Sound));
        let header = found.header.as_ref().expect("it is sound");
        assert_eq!((header.created, header.log_id), (NOW, log_id()));
    }
    assert_eq!((&log.leftovers, &log.unknown), (&vec![], &vec![]));
}

#[test]
fn a_directory_in_use_is_inspected_and_left_alone() {
    let given = given();
    let report = inspected(&given.memory, root());
    let holder = format!("process {}", std::process::id());
    assert_eq!(report.directory.as_ref().expect("it is one").usage, Usage::InUse { holder });
    assert_eq!((report.worst(), the_log(&report).end), (None, Offset::new(36)));
    // What looks torn may be on its way.
    add(&given.memory, &segment(24), b"the beginning of a batch");
    let report = inspected(&given.memory, root());
    let [finding] = &the_log(&report).findings[..] else { panic!("{report:?}") };
    assert_eq!(finding.severity, Severity::Note);
    assert!(finding.advice.contains("a broker uses it"), "{finding:?}");
}

#[test]
fn a_directory_in_use_is_recognised_on_a_real_disk() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let path = place.path().join("data");
    let directory = try_open(Arc::new(Disk), &path).expect("it opens");
    let usage =
        |path| inspect(&Disk, path).expect("it can be inspected").directory.map(|d| d.usage);
    let holder = format!("process {}", std::process::id());
    let held = usage(&path);
    assert!([Some(Usage::InUse { holder }), Some(Usage::Unknown)].contains(&held), "{held:?}");
    drop(directory);
    let free = usage(&path);
    assert!([Some(Usage::Free), Some(Usage::Unknown)].contains(&free), "{free:?}");
}

/// One finding: severity, file, position, from, to.
type Expected = (Severity, PathBuf, Option<u64>, Option<u64>, Option<u64>);

/// Changes a closed directory and checks what is found in its log.
#[track_caller]
fn check(change: impl FnOnce(&Memory), expected: &[Expected]) {
    let memory = given().close();
    change(&memory);
    let report = inspected(&memory, root());
    assert_eq!(found(&report), expected, "{report:#?}");
    // The same, named by its directory.
    let report = inspected(&memory, &log_path());
    assert_eq!(found(&report), expected, "{report:#?}");
}

fn found(report: &Report) -> Vec<Expected> {
    let offset = |offset: Option<Offset>| offset.map(Offset::get);
    let findings = the_log(report).findings.iter();
    findings
        .map(|f| (f.severity, f.path.clone(), f.position, offset(f.from), offset(f.to)))
        .collect()
}

fn lost(path: PathBuf, position: u64, from: u64, to: u64) -> Expected {
    (Severity::Damage, path, Some(position), Some(from), Some(to))
}

fn flip(memory: &Memory, base: u64, position: u64) {
    memory.flip(&segment(base), position as usize, 0x10).expect("it is there");
}

fn cut(memory: &Memory, base: u64, length: u64) {
    memory.open(&segment(base)).expect("it is there").set_length(length).expect("it can be cut");
}

#[test]
fn damage_is_found_with_its_exact_offsets() {
    check(|memory| flip(memory, 0, position(2) + 95), &[lost(segment(0), position(2), 6, 9)]);
    check(|memory| flip(memory, 12, position(3) + 20), &[lost(segment(12), position(3), 21, 24)]);
    check(|memory| flip(memory, 24, position(0) + 95), &[lost(segment(24), position(0), 24, 27)]);
    check(|memory| flip(memory, 24, position(3) + 95), &[lost(segment(24), position(3), 33, 36)]);
    check(|memory| wreck(memory, 12), &[lost(segment(12), 0, 12, 24)]);
    check(|memory| wreck(memory, 24), &[lost(segment(24), 0, 24, 36)]);
    let stale = (Severity::Note, segment(12), None, None, None);
    check(|memory| cut(memory, 12, position(3)), &[lost(segment(12), position(3), 21, 24), stale]);
    check(|memory| cut(memory, 24, position(2) + 7), &[lost(segment(24), position(2), 30, 36)]);
    check(
        |memory| {
            flip(memory, 0, position(0) + 95);
            flip(memory, 0, position(2) + 20);
        },
        &[lost(segment(0), position(0), 0, 3), lost(segment(0), position(2), 6, 9)],
    );
}

#[test]
fn a_header_that_can_be_restored_is_a_warning() {
    let restored = |base| (Severity::Warning, segment(base), Some(0), None, None);
    for base in [0, 12, 24] {
        check(|memory| flip(memory, base, 17), &[restored(base)]);
    }
}

#[test]
fn missing_segments_are_found_with_their_offsets() {
    let remove =
        |base| move |memory: &Memory| memory.remove_file(&segment(base)).expect("it is there");
    check(remove(0), &[(Severity::Damage, log_path(), None, Some(0), Some(12))]);
    check(remove(12), &[lost(segment(0), position(4), 12, 24)]);
    check(remove(24), &[lost(segment(12), position(4), 24, 36)]);
}

#[test]
fn a_torn_tail_is_no_more_than_a_note() {
    let torn = |position, from| (Severity::Note, segment(24), Some(position), Some(from), None);
    check(|memory| add(memory, &segment(24), &[7; 99]), &[torn(position(4), 36)]);
    // A batch above the recovery point that is not whole, and one behind it that is.
    let (mut given, _) = Given::open(&given().close(), 1 << 20);
    let (_, error) = given.log.append(&[batch(91, 3), batch(92, 3)], NOW);
    assert!(error.is_none());
    let memory = given.kill();
    flip(&memory, 24, position(4) + 95);
    let report = inspected(&memory, root());
    assert_eq!(found(&report), [torn(position(4), 36)]);
    let log = the_log(&report);
    assert_eq!((log.end, log.records), (Offset::new(36), 36));
    let (_, recovered) = Given::open(&memory, 1 << 20);
    assert_eq!(recovered.moved_aside.len(), 1, "as it was said");
    let report = inspected(&memory, root());
    assert_eq!(found(&report), []);
    assert_eq!(the_log(&report).leftovers, recovered.moved_aside);
}

#[test]
fn what_lies_behind_a_sealed_segment_loses_nothing() {
    let surplus = |base: u64| {
        let (position, end) = (Some(position(4)), Some(base + 12));
        (Severity::Warning, segment(base), position, end, end)
    };
    let stale = |base| (Severity::Note, segment(base), None, None, None);
    check(|memory| add(memory, &segment(12), &[7; 99]), &[surplus(12), stale(12)]);
}

#[test]
fn a_segment_that_a_roll_left_unfinished_is_a_note() {
    let torn = (Severity::Note, segment(36), Some(0), Some(36), None);
    check(|memory| put(memory, &segment(36)), &[torn]);
}

#[test]
fn without_recovery_points_a_torn_tail_is_a_warning() {
    let memory = given().close();
    for name in ["recovery-points.a", "recovery-points.b"] {
        memory.flip(&root().join(name), 9, 1).expect("it is there");
    }
    add(&memory, &segment(24), &[7; 99]);
    let report = inspected(&memory, root());
    let severities: Vec<_> = report.findings().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Warning], "{report:#?}");
}

#[test]
fn indexes_are_held_against_their_segments() {
    let note = |base| (Severity::Note, segment(base), None, None, None);
    check(|memory| memory.remove_file(&index_of(12)).expect("it is there"), &[note(12)]);
    check(|memory| memory.flip(&index_of(0), 20, 1).expect("it is there"), &[note(0)]);
    // An active segment needs none.
    check(|memory| memory.remove_file(&index_of(24)).expect("it is there"), &[]);
    let memory = given().close();
    memory.rename(&index_of(0), &index_of(12)).expect("it is there");
    memory.flip(&index_of(24), 20, 1).expect("it is there");
    let report = inspected(&memory, root());
    let states: Vec<_> = the_log(&report).segments.iter().map(|segment| segment.index).collect();
    assert_eq!(states, [IndexState::Missing, IndexState::Stale, IndexState::Damaged]);
    assert_eq!(report.worst(), Some(Severity::Note));
}

#[test]
fn what_does_not_belong_is_listed() {
    let memory = given().close();
    put(&memory, &root().join("notes.txt"));
    put(&memory, &root().join("identity.new"));
    put(&memory, &root().join("logs/readme"));
    put(&memory, &log_path().join("core"));
    put(&memory, &log_path().join("00000000000000000099.index"));
    put(&memory, &log_path().join("00000000000000000036.log.new"));
    let deleted = root().join(format!("logs/{}.deleted", log_id()));
    memory.create_directory(&deleted).expect("the place is free");
    let report = inspected(&memory, root());
    let directory = report.directory.as_ref().expect("it is one");
    assert_eq!(directory.unknown, [root().join("notes.txt"), root().join("logs/readme")]);
    let [finding] = &directory.findings[..] else { panic!("{directory:?}") };
    assert_eq!((finding.severity, &finding.path), (Severity::Note, &deleted));
    let log = the_log(&report);
    let stray = log_path().join("00000000000000000099.index");
    assert_eq!(log.unknown, [stray, log_path().join("core")]);
    assert_eq!(log.leftovers, [log_path().join("00000000000000000036.log.new")]);
    assert_eq!(log.findings, []);
}

#[test]
fn what_is_wrong_with_the_directory_itself_is_found() {
    #[track_caller]
    fn check(change: impl FnOnce(&Memory), severity: Severity, path: &str) {
        let memory = given().close();
        change(&memory);
        let report = inspected(&memory, root());
        let findings = &report.directory.as_ref().expect("it is one").findings;
        let found: Vec<_> = findings.iter().map(|f| (f.severity, f.path.clone())).collect();
        assert_eq!(found, [(severity, root().join(path))]);
    }
    let remove = |name: &'static str| {
        move |memory: &Memory| memory.remove_file(&root().join(name)).expect("it is there")
    };
    check(remove("identity"), Severity::Damage, "identity");
    let damage =
        |memory: &Memory| memory.flip(&root().join("identity"), 3, 1).expect("it is there");
    check(damage, Severity::Damage, "identity");
    check(remove("recovery-points.a"), Severity::Note, "");
    let log = format!("logs/{}", log_id());
    let remove = |memory: &Memory| memory.remove_directory(&log_path()).expect("it is there");
    check(remove, Severity::Warning, &log);
}

#[test]
fn a_segment_of_another_log_is_found() {
    let memory = given().close();
    let other = taffrail_model::LogId::new(*b"another sixteen!");
    let path = root().join("logs").join(other.to_string());
    memory.create_directory(&path).expect("the place is free");
    memory.rename(&segment(24), &path.join("00000000000000000024.log")).expect("it is there");
    let report = inspect(&memory, root()).expect("it can be inspected");
    let foreign = report.logs.iter().find(|log| log.id == Some(other)).expect("it is listed");
    let finding = foreign.findings.first().expect("something is wrong");
    assert_eq!(finding.severity, Severity::Damage);
    assert!(finding.what.contains(&log_id().to_string()), "{finding:?}");
}

#[test]
fn one_segment_can_be_inspected_alone() {
    let memory = given().close();
    flip(&memory, 12, position(1) + 95);
    let report = inspected(&memory, &segment(12));
    assert_eq!(found(&report), [lost(segment(12), position(1), 15, 18)]);
    assert_eq!(the_log(&report).records, 9);
    // The last one is judged by the recovery point of its log.
    flip(&memory, 24, position(3) + 95);
    let report = inspected(&memory, &segment(24));
    assert_eq!(found(&report), [lost(segment(24), position(3), 33, 36)]);
    // A copy in another place, under another name.
    let copy = Path::new("/copy");
    memory.rename(&segment(0), copy).expect("it is there");
    let report = inspected(&memory, copy);
    assert_eq!((found(&report), the_log(&report).records), (vec![], 12));
}

#[test]
fn what_is_not_ours_is_refused_by_name() {
    let memory = given().close();
    assert!(matches!(inspect(&memory, Path::new("/nowhere")), Err(InspectError::Io { .. })));
    memory.create_directory(Path::new("/empty")).expect("the place is free");
    assert!(matches!(inspect(&memory, Path::new("/empty")), Err(InspectError::Unknown { .. })));
    let identity = root().join("identity");
    assert!(matches!(inspect(&memory, &identity), Err(InspectError::Unknown { .. })));
    assert!(matches!(dump(&memory, &identity), Err(InspectError::Header { .. })));
}

#[test]
fn what_cannot_be_read_is_a_finding() {
    let memory = given().close();
    memory.remove_file(&segment(12)).expect("it is there");
    memory.create_directory(&segment(12)).expect("the place is free");
    let report = inspect(&memory, root()).expect("the rest can be inspected");
    assert_eq!(report.worst(), Some(Severity::Damage));
    assert_eq!(the_log(&report).records, 24);
}

#[test]
fn a_dump_shows_batches_and_what_is_damaged_between_them() {
    let memory = given().close();
    flip(&memory, 12, position(1) + 95);
    let dump = dump(&memory, &segment(12)).expect("it can be read");
    assert_eq!(dump.header.base_offset, Offset::new(12));
    let dumped: Vec<_> = dump.map(|dumped| dumped.expect("it can be read")).collect();
    assert_eq!(dumped.len(), 4);
    for (at, dumped) in dumped.iter().enumerate() {
        let base = 12 + 3 * at as u64;
        match dumped {
            Dumped::Batch { position: found, batch } => {
                assert_ne!(at, 1);
                assert_eq!((*found, batch.header.base_offset.get()), (position(at), base));
                assert_eq!(batch.records().count(), 3);
            }
            Dumped::Damaged { position: found, end_position, from, to, cause } => {
                assert_eq!(at, 1);
                assert_eq!((*found, *end_position), (position(1), position(2)));
                assert_eq!((from.get(), to.map(Offset::get)), (15, Some(18)));
                assert!(cause.contains("crc"), "{cause}");
            }
        }
    }
}
