//! Random harm: a repair loses nothing that could still be read, and leaves nothing that is damaged.

use taffrail_log::repair::RepairError;
use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::{Memory, Vfs};
use taffrail_log::{Opened, Read, ReadError, ReadRequest};
use taffrail_model::batch::Batches;

use crate::given::{
    AppendAll, Given, NOW, Numbers, SEGMENT_HEADER_BYTES, batch, has_ending, root, seeds, settled,
};
use crate::repair::accept_loss;

/// The base offsets of all batches that can be read, whatever cannot; and whether something cannot.
fn readable(given: &Given) -> (Vec<u64>, bool) {
    let (reader, limit) = (given.log.reader(), given.log.end());
    let (mut bases, mut is_damaged) = (Vec::new(), given.log.read_only().is_some());
    let mut from = reader.start();
    loop {
        match reader.read(&ReadRequest { from, limit, bytes_max: 1 }) {
            Ok(Read::End) => return (bases, is_damaged),
            Ok(Read::Gap(gap)) => from = gap.to,
            Ok(Read::Batches { bytes, next }) => {
                let first = Batches::received(bytes).next().expect("a batch").expect("sound");
                bases.push(first.header.base_offset.get());
                from = next;
            }
            Err(ReadError::DataLoss { to, .. }) => (from, is_damaged) = (to, true),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Does some harm to the log.
fn harm(memory: &Memory, numbers: &mut Numbers) {
    let files = memory.files().into_iter().filter(|(path, _)| has_ending(path, "log"));
    let files: Vec<_> = files.collect();
    let Some((path, contents)) = files.get(numbers.below(files.len().max(1) as u64) as usize)
    else {
        return;
    };
    let at = numbers.below(contents.len() as u64 + 1);
    let file = memory.open(path).expect("it is there");
    match numbers.below(8) {
        0 => memory.remove_file(path).expect("it is there"),
        1 => file.set_length(at).expect("it can be cut"),
        2 => drop(file.write_at(at, &[0; 150]).expect("there is room")),
        3 => drop(file.write_at(0, &[0; SEGMENT_HEADER_BYTES + 20]).expect("there is room")),
        _ => memory.flip(path, at as usize, 1 << numbers.below(8)).expect("it is there"),
    }
}

#[test]
fn a_repair_loses_nothing_that_can_still_be_read() {
    for seed in seeds(200) {
        let mut numbers = Numbers::new(seed);
        let mut given = Given::new(900);
        for mark in 0..2 + numbers.below(40) {
            let (_, error) = given.log.append(&[batch(mark, 1 + mark as u32 % 5)], NOW);
            assert!(error.is_none());
        }
        given.log.syncer().sync().expect("it syncs");
        given.directory.persist_points().expect("they are written");
        let memory = if numbers.once_in(2) { given.close() } else { given.kill() };
        let memory = settled(&memory);
        for _ in 0..=numbers.below(3) {
            harm(&memory, &mut numbers);
        }
        let before = match Given::try_open_log(&settled(&memory), 900) {
            (given, Ok(Opened { log, .. })) => Some(readable(&given(log))),
            (_, Err(_)) => None,
        };
        let was_sound = match accept_loss(&memory) {
            Ok(()) => false,
            Err(RepairError::Sound { .. }) => true,
            Err(error) => panic!("{error}"),
        };
        let (given, report) = Given::open(&memory, 900);
        assert_eq!((report.damage, given.log.read_only()), (vec![], None));
        let (after, is_damaged) = readable(&given);
        assert!(!is_damaged);
        if let Some((before, is_damaged)) = before {
            assert_eq!(after, before);
            assert!(!was_sound || !is_damaged, "something is to be done");
        }
        let worst = inspect(&memory, root()).expect("it can be inspected").worst();
        assert!(worst <= Some(Severity::Note), "{worst:?}");
    }
}
