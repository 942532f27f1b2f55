//! What is not compacted, and what stays because something else has to.

use taffrail_log::vfs::{Fault, Vfs};
use taffrail_log::{CompactionError, Read, ReadRequest};
use taffrail_model::Offset;
use taffrail_model::batch::{RecordFields, RecordSetBuilder};

use crate::compaction::{DAY, check, compact_by, given, read_from, tight};
use crate::given::{AppendAll, Given, NOW, SEGMENT_HEADER_BYTES, checked, segment, settled};

#[test]
fn a_disk_without_room_is_named_and_left_as_it_is() {
    let (given, history) = given(5);
    let before = given.memory.files();
    given.memory.set_fault(Some(Fault::DiskFull { bytes_left: 10_000 }));
    let refused = compact_by(&given.log, tight(1 << 20, 1_000), NOW);
    assert!(matches!(refused, Err(CompactionError::StorageFull { .. })), "{refused:?}");
    assert_eq!(given.memory.files(), before);
    check(&given.log.reader(), &history.entries);
}

#[test]
fn what_is_damaged_is_not_compacted() {
    let (filled, history) = given(5);
    let memory = settled(&filled.close());
    // In a payload of the second segment.
    memory.flip(&segment(6), SEGMENT_HEADER_BYTES + 89 + 10, 1).expect("it is there");
    let (opened, _) = Given::open(&memory, 1 << 20);
    let before = memory.files();
    let refused = compact_by(&opened.log, tight(1 << 20, 1_000), NOW);
    match refused {
        Err(CompactionError::Damaged { path, .. }) => assert_eq!(path, segment(6)),
        other => panic!("{other:?}"),
    }
    assert_eq!(memory.files(), before);
    let reader = opened.log.reader();
    let behind: Vec<_> = history.entries.iter().filter(|it| it.offset >= 9).cloned().collect();
    assert_eq!(read_from(&reader, 9), behind);
}

#[test]
fn a_log_that_lacks_a_segment_is_not_compacted() {
    let (filled, _) = given(5);
    let memory = settled(&filled.close());
    memory.remove_file(&segment(6)).expect("it is there");
    let (opened, _) = Given::open(&memory, 1 << 20);
    let before = memory.files();
    let refused = compact_by(&opened.log, tight(1 << 20, 1_000), NOW);
    assert!(matches!(refused, Err(CompactionError::Damaged { .. })), "{refused:?}");
    assert_eq!(memory.files(), before);
    // So is one that ends too early.
    let (filled, _) = given(5);
    let memory = settled(&filled.close());
    let file = memory.open(&segment(6)).expect("it is there");
    let first_batch = 12;
    let (opened, _) = Given::open(&memory, 1 << 20);
    let reader = opened.log.reader();
    let request = ReadRequest { from: Offset::new(6), limit: reader.end(), bytes_max: 1 };
    let Ok(Read::Batches { bytes, .. }) = reader.read(&request) else { panic!("it can be read") };
    let length = file.length().expect("it has one");
    assert!(bytes.len() as u64 + first_batch < length);
    let header_bytes = SEGMENT_HEADER_BYTES as u64;
    file.set_length(header_bytes + bytes.len() as u64).expect("it can be cut");
    let (opened, _) = Given::open(&settled(&memory), 1 << 20);
    let refused = compact_by(&opened.log, tight(1 << 20, 1_000), NOW);
    assert!(matches!(refused, Err(CompactionError::Damaged { .. })), "{refused:?}");
}

#[test]
fn a_tombstone_stays_as_long_as_a_record_that_it_supersedes_cannot_be_taken_out() {
    // Of a batch as large as one may be nothing can be taken out: the offsets of the others take more.
    let mut given = Given::new(1 << 30);
    let mut builder = RecordSetBuilder::default();
    builder.push(&RecordFields {
        key: Some(b"gone"),
        value: Some(b"secret"),
        ..Default::default()
    });
    let value = vec![b'v'; 60_000];
    for key in 0.. {
        let key = format!("{key:06}");
        let fields = RecordFields {
            key: Some(key.as_bytes()),
            value: Some(&value),
            ..RecordFields::default()
        };
        let left = (64 << 20) - 89 - builder.payload_bytes();
        if left < fields.encoded_bytes() {
            let last = vec![b'v'; left - 20];
            builder.push(&RecordFields { value: Some(&last), ..fields });
            break;
        }
        builder.push(&fields);
    }
    let (_, error) = given.log.append(&[checked(builder.finish())], NOW);
    assert!(error.is_none(), "{error:?}");
    given.log.roll().expect("it rolls");
    let mut builder = RecordSetBuilder::default();
    builder.push(&RecordFields { key: Some(b"gone"), ..RecordFields::default() });
    let (_, error) = given.log.append(&[checked(builder.finish())], NOW);
    assert!(error.is_none(), "{error:?}");
    given.log.roll().expect("it rolls");
    for days in [0, 2, 4] {
        compact_by(&given.log, tight(1 << 20, 100_000), NOW.plus(DAY * days)).expect("it works");
        let found = read_from(&given.log.reader(), 0);
        let of_it = found.iter().filter(|it| it.key.as_deref() == Some(b"gone"));
        let values: Vec<_> = of_it.map(|it| it.value.clone()).collect();
        assert_eq!(values, [Some("secret".to_owned()), None], "after {days} days");
    }
}
