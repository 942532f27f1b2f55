//! A segment file that was written once and must stay readable, byte for byte.
//!
//! If it can no longer be read, the format was broken: change the code, not the file. If only the
//! writer changed compatibly, `TAFFRAIL_WRITE_GOLDEN=1 cargo test -p taffrail-log golden` writes it
//! anew.

use std::path::{Path, PathBuf};

use taffrail_log::vfs::{Disk, Vfs};
use taffrail_log::{Read, ReadRequest};
use taffrail_model::batch::{Batches, HeaderView, RecordFields, RecordSetBuilder};
use taffrail_model::{Offset, Timestamp};

use crate::given::{AppendAll, Given, LABEL, NOW, checked, log_id, root, segment};

const RECORDS: [(&str, Option<&str>, Option<&str>, i64); 5] = [
    ("first", Some("key-1"), Some("magnitude 4.5"), 1_699_999_990_000),
    ("second", None, Some("magnitude 2.1"), 1_700_000_000_000),
    ("third", Some("key-1"), None, 1_699_999_980_000),
    ("fourth", Some(""), Some(""), 1_700_000_001_000),
    ("fifth", Some("κλειδί"), Some("μέγεθος 6,0"), 1_700_000_001_000),
];

fn golden_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden-segment.log")
}

/// What is written today for the golden file's records.
fn written_today() -> Vec<u8> {
    let mut given = Given::new(1 << 20);
    for (records, seconds) in [(&RECORDS[..3], 0), (&RECORDS[3..], 1_000)] {
        let mut builder = RecordSetBuilder::default();
        for (name, key, value, timestamp) in records {
            // The second record and the last two state no time: they get that of the append.
            let is_stated = *timestamp < NOW.as_millis();
            builder.push(&RecordFields {
                key: key.map(str::as_bytes),
                value: value.map(str::as_bytes),
                headers: &[HeaderView { name: "name", value: name.as_bytes() }],
                timestamp: is_stated.then_some(Timestamp::from_millis(*timestamp)),
            });
        }
        let now = NOW.plus(std::time::Duration::from_millis(seconds));
        let (_, error) = given.log.append(&[checked(builder.finish())], now);
        assert!(error.is_none());
        given.log.syncer().sync().expect("it syncs");
    }
    let files = given.close().files();
    files.into_iter().find(|(path, _)| *path == segment(0)).expect("it is there").1
}

fn golden_file() -> Vec<u8> {
    if std::env::var_os("TAFFRAIL_WRITE_GOLDEN").is_some() {
        let _ = Disk.remove_file(&golden_path());
        let file = Disk.create(&golden_path()).expect("its directory is there");
        file.write_at(0, &written_today()).expect("there is room");
    }
    let file = Disk.open_read_only(&golden_path()).expect("it is committed");
    let mut bytes = vec![0; file.length().expect("it has one") as usize];
    file.read_at(0, &mut bytes).expect("it can be read");
    bytes
}

#[test]
fn the_golden_segment_is_read_as_it_was_written() {
    // Into a directory that has never seen it.
    let memory = Given::new(1 << 20).kill();
    let file = memory.open(&segment(0)).expect("it is there");
    file.set_length(0).expect("it can be cut");
    file.write_at(0, &golden_file()).expect("there is room");
    for name in ["recovery-points.a", "recovery-points.b"] {
        memory.remove_file(&root().join(name)).expect("it is there");
    }
    let (given, report) = Given::open(&memory, 1 << 20);
    assert!(report.damage.is_empty() && report.moved_aside.is_empty(), "{report:?}");
    assert_eq!((given.log.id(), given.log.end()), (log_id(), Offset::new(5)));
    let (from, limit) = (Offset::ZERO, Offset::new(5));
    let read = given.log.reader().read(&ReadRequest { from, limit, bytes_max: 1 << 20 });
    let Ok(Read::Batches { bytes, next }) = read else { panic!("{read:?}") };
    assert_eq!(next, limit);
    let batches: Vec<_> = Batches::received(bytes).map(|batch| batch.expect("sound")).collect();
    let mut records = batches.iter().flat_map(|batch| batch.records());
    for (index, (name, key, value, timestamp)) in RECORDS.iter().enumerate() {
        let record = records.next().expect("it is there").expect("it decodes");
        assert_eq!(record.offset, Offset::new(index as u64));
        assert_eq!(record.key, key.map(str::as_bytes));
        assert_eq!(record.value, value.map(str::as_bytes));
        assert_eq!(record.timestamp, Timestamp::from_millis(*timestamp));
        let headers: Vec<_> = record.headers().collect();
        assert_eq!(headers, [HeaderView { name: "name", value: name.as_bytes() }]);
    }
    assert!(records.next().is_none());
}

#[test]
fn what_is_written_today_is_the_golden_segment() {
    assert_eq!(written_today(), golden_file());
}

#[test]
fn the_golden_segment_says_what_it_is() {
    let bytes = golden_file();
    // The positions of docs/formats, by hand.
    assert_eq!(bytes[0], 0x0a);
    assert_eq!(bytes[11..15], 1u32.to_le_bytes(), "format version");
    assert_eq!(bytes[21..29], 0u64.to_le_bytes(), "compacted end");
    assert_eq!(bytes[30..38], 0u64.to_le_bytes(), "compacted bytes");
    assert_eq!(bytes[48..56], 0u64.to_le_bytes(), "base offset");
    assert_eq!(bytes[71..79], NOW.as_millis().to_le_bytes(), "created");
    assert_eq!(bytes[81..97], log_id().bytes(), "log id");
    assert_eq!(&bytes[100..100 + LABEL.len()], LABEL.as_bytes(), "label");
    let batch = &bytes[100 + LABEL.len()..];
    assert_eq!(batch[0], 0x12);
    assert_eq!(batch[11..19], 0u64.to_le_bytes(), "base offset");
    assert_eq!(batch[20..24], 2u32.to_le_bytes(), "last offset delta");
    assert_eq!(batch[84], 0x7a, "records");
}
