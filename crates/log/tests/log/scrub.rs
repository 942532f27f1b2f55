//! Reading sealed segments once more: what has rotted is found and named, and nothing else is.

use taffrail_log::vfs::{Fault, Vfs};
use taffrail_log::{
    CompactionConfig, CompactionStep, LogReader, ReadError, ReadRequest, ScrubStep,
};
use taffrail_model::Offset;

use crate::given::{
    AppendAll, DeleteAll, Given, NOW, SEGMENT_HEADER_BYTES, batch, segment, settled,
};

/// Three sealed segments of two batches of 3 records each, and an active one.
fn given() -> Given {
    let mut given = Given::new(1 << 20);
    for at in 0..4 {
        let (_, error) = given.log.append(&[batch(10 + 2 * at, 3), batch(11 + 2 * at, 3)], NOW);
        assert!(error.is_none());
        if at < 3 {
            given.log.roll().expect("it rolls");
        }
    }
    given
}

/// What a look at everything found: bytes and segments that are sound, and what is damaged.
fn scrub(reader: &LogReader) -> (u64, u64, Vec<String>) {
    let mut scrub = reader.begin_scrub();
    let (mut sound_bytes, mut sound_segments, mut found) = (0, 0, Vec::new());
    loop {
        match scrub.step() {
            ScrubStep::Sound { bytes, segments } => {
                (sound_bytes, sound_segments) = (sound_bytes + bytes, sound_segments + segments);
            }
            ScrubStep::Damaged(damage) => {
                found.push(format!("{} to {}", damage.from, damage.to));
                assert!(!damage.cause.is_empty());
            }
            ScrubStep::Unreadable { path, .. } => found.push(path.display().to_string()),
            ScrubStep::Done => return (sound_bytes, sound_segments, found),
        }
    }
}

#[test]
fn every_byte_of_every_sealed_segment_is_looked_at() {
    let memory = settled(&given().close());
    for base in [0, 6, 12] {
        let length =
            memory.open(&segment(base)).expect("it is there").length().expect("it has one");
        for at in 0..length as usize {
            let (given, _) = Given::open(&settled(&memory), 1 << 20);
            let reader = given.log.reader();
            given.memory.flip(&segment(base), at, 0x10).expect("it is there");
            let (_, segments, found) = scrub(&reader);
            assert_eq!(segments, 3, "the others are looked at too");
            let [from, to]: [u64; 2] = match &found[..] {
                [one] => {
                    let parts = one.split(" to ").map(|part| part.parse().expect("an offset"));
                    parts.collect::<Vec<_>>().try_into().expect("two")
                }
                other => panic!("byte {at} of {base}: {other:?}"),
            };
            let is_header = at < SEGMENT_HEADER_BYTES;
            assert!(base <= from && to <= base + 6, "byte {at} of {base}: {found:?}");
            assert_eq!(from == to, is_header, "byte {at} of {base}: {found:?}");
            let damaged = [Offset::new(from)..Offset::new(to)];
            assert_eq!(reader.damage(), if is_header { &[][..] } else { &damaged[..] });
        }
    }
}

#[test]
fn what_is_sound_is_counted_and_nothing_is_changed() {
    let given = given();
    let before = given.memory.files();
    let (bytes, segments, found) = scrub(&given.log.reader());
    let sealed: u64 = (0..3)
        .map(|at| given.memory.open(&segment(6 * at)).expect("there").length().expect("it has one"))
        .sum();
    assert_eq!((bytes, segments, found), (sealed - 3 * SEGMENT_HEADER_BYTES as u64, 3, vec![]));
    assert_eq!(given.memory.files(), before);
}

#[test]
fn a_file_that_ends_early_or_cannot_be_read_does_not_end_the_look() {
    let given = given();
    let length = given.memory.open(&segment(6)).expect("there").length().expect("it has one");
    given.memory.open(&segment(6)).expect("there").set_length(length - 1).expect("it can be cut");
    let (_, segments, found) = scrub(&given.log.reader());
    assert_eq!((segments, &found[..]), (3, &["9 to 12".to_owned()][..]));
    let path = segment(6);
    given.memory.set_fault(Some(Fault::FileFails { path: path.clone() }));
    let (_, segments, found) = scrub(&given.log.reader());
    assert_eq!((segments, &found[..]), (2, &[path.display().to_string()][..]));
}

#[test]
fn what_a_reader_would_have_met_is_known_before() {
    let given = given();
    let reader = given.log.reader();
    given.memory.flip(&segment(6), SEGMENT_HEADER_BYTES + 100, 1).expect("it is there");
    scrub(&reader);
    assert_eq!(reader.damage(), [Offset::new(6)..Offset::new(9)]);
    let request = ReadRequest { from: Offset::new(6), limit: reader.end(), bytes_max: 1 };
    assert!(matches!(reader.read(&request), Err(ReadError::DataLoss { .. })));
}

#[test]
fn what_goes_while_it_is_looked_at_is_not_damaged() {
    for steps in 0..12 {
        for compacts in [false, true] {
            let mut given = given();
            let reader = given.log.reader();
            let mut scrub = reader.begin_scrub();
            for _ in 0..steps {
                scrub.step();
            }
            if compacts {
                let config = CompactionConfig::default();
                let mut compaction = given.log.begin_compaction(config, NOW, true);
                while !matches!(compaction.step().expect("it works"), CompactionStep::Done(_)) {}
            } else {
                given.log.delete_before(Offset::new(18)).expect("nothing is wrong");
            }
            loop {
                match scrub.step() {
                    ScrubStep::Sound { .. } => {}
                    ScrubStep::Done => break,
                    step @ (ScrubStep::Damaged(_) | ScrubStep::Unreadable { .. }) => {
                        panic!("after {steps}: {step:?}")
                    }
                }
            }
            assert_eq!(reader.damage(), []);
        }
    }
}
