//! A log that was closed opens without being read through; one that was not is checked.

use taffrail_log::RecoveryReport;
use taffrail_log::vfs::Vfs;
use taffrail_model::batch::records_crc;

use crate::given::{AppendAll, Given, NOW, batch, has_ending, root};
use crate::model::Model;

/// A log of some records in some segments.
fn given() -> (Given, Model) {
    let mut given = Given::new(400);
    let mut model = Model::default();
    let batches: Vec<_> = (0..9).map(|mark| batch(mark, 3)).collect();
    let (appended, error) = given.log.append(&batches, NOW);
    assert!(error.is_none());
    model.append(&batches, &appended, given.log.leader_epoch());
    (given, model)
}

#[test]
fn a_closed_log_is_clean_once() {
    let (given, model) = given();
    let epoch = given.log.leader_epoch();
    let (given, report) = Given::open(&given.close(), 400);
    assert_eq!(report, RecoveryReport { was_clean: true, ..RecoveryReport::default() });
    assert!(epoch < given.log.leader_epoch());
    model.check_all(&given.log.reader(), 1 << 20);
    let epoch = given.log.leader_epoch();
    let (given, report) = Given::open(&given.kill(), 400);
    assert!(!report.was_clean && report.scanned_bytes > 0);
    assert!(epoch < given.log.leader_epoch());
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn a_log_that_was_not_closed_is_checked() {
    let (given, _) = given();
    given.log.syncer().sync().expect("it syncs");
    given.directory.persist_points().expect("they are written");
    let (_, report) = Given::open(&given.kill(), 400);
    assert!(!report.was_clean && report.scanned_bytes > 0);
    assert_eq!(report.rewritten_bytes, 0, "all of it was known to be on disk");
}

#[test]
fn what_was_not_synced_is_written_again() {
    let (given, _) = given();
    let (_, report) = Given::open(&given.kill(), 400);
    assert!(!report.was_clean && report.rewritten_bytes > 0);
}

#[test]
fn a_clean_mark_that_is_not_written_does_not_count() {
    let (given, model) = given();
    given.log.close().expect("it closes");
    drop(given.directory);
    let (given, report) = Given::open(&given.memory, 400);
    assert!(!report.was_clean);
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn a_clean_log_is_checked_if_its_index_is_missing_or_damaged() {
    for damaged in [true, false] {
        let (given, model) = given();
        let memory = given.close();
        for (path, _) in memory.files() {
            if has_ending(&path, "index") {
                if damaged {
                    memory.flip(&path, 20, 1).expect("it is there");
                } else {
                    memory.remove_file(&path).expect("it is there");
                }
            }
        }
        let (given, report) = Given::open(&memory, 400);
        assert!(!report.was_clean && report.scanned_bytes > 0);
        assert_eq!(report.rewritten_bytes, 0);
        model.check_all(&given.log.reader(), 1 << 20);
    }
}

#[test]
fn a_clean_log_is_checked_if_its_index_points_behind_the_segment() {
    let (given, model) = given();
    let memory = given.close();
    let last = memory.files().into_iter().rfind(|(path, _)| has_ending(path, "index"));
    let (path, mut index) = last.expect("there are indexes");
    // Its last place is that of the next batch, far behind the segment; and its checksum is right.
    let (base, end) = (index[32..40].to_vec(), index[24..32].to_vec());
    let number = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes"));
    let delta = (number(&end) - number(&base)) as u32;
    let last_place = index.len() - 4 - 16;
    index[last_place..last_place + 4].copy_from_slice(&delta.to_le_bytes());
    index[last_place + 4..last_place + 8].copy_from_slice(&9_999_u32.to_le_bytes());
    let body = index.len() - 4;
    let crc = records_crc(&index[..body]);
    index[body..].copy_from_slice(&crc.to_le_bytes());
    memory.open(&path).expect("it is there").write_at(0, &index).expect("there is room");
    let (given, report) = Given::open(&memory, 400);
    assert!(!report.was_clean, "{report:?}");
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn a_clean_log_whose_file_has_changed_since_is_checked() {
    let (given, model) = given();
    let memory = given.close();
    let last = memory.files().into_iter().rfind(|(path, _)| has_ending(path, "log"));
    let (path, contents) = last.expect("there are segments");
    let file = memory.open(&path).expect("it is there");
    file.write_at(contents.len() as u64, b"something").expect("there is room");
    let (given, report) = Given::open(&memory, 400);
    assert!(!report.was_clean);
    assert_eq!(report.moved_aside.len(), 1);
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn what_opening_wrote_again_counts_as_synced_from_then_on() {
    let (given, model) = given();
    let (given, _) = Given::open(&given.kill(), 400);
    given.directory.persist_points().expect("they are written");
    let (given, report) = Given::open(&given.kill(), 400);
    assert_eq!(report.rewritten_bytes, 0, "it was written again, and that was noted");
    model.check_all(&given.log.reader(), 1 << 20);
}

#[test]
fn a_closed_empty_log_is_clean() {
    let (given, report) = Given::open(&Given::new(400).close(), 400);
    assert!(report.was_clean);
    assert_eq!(given.log.end().get(), 0);
    assert!(given.memory.list(root()).is_ok());
}
