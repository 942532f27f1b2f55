//! Readers and a syncer work beside the writer, each on a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use taffrail_log::{LogConfig, LogReader, LogSyncer, Read, ReadRequest};
use taffrail_model::Offset;
use taffrail_model::batch::Batches;

use crate::given::{AppendAll, Given, NOW, batch};

const BATCHES: u64 = 3_000;

#[test]
fn readers_see_what_is_durable_whole_and_in_order_while_a_log_grows() {
    for tail_bytes_max in [0, 4_000] {
        let mut given = Given::new(20_000);
        let segment_bytes = 20_000;
        given
            .log
            .configure(LogConfig {
                segment_bytes,
                segment_age: None,
                tail_bytes_max,
                ..LogConfig::default()
            })
            .expect("it is configured");
        let is_over = AtomicBool::new(false);
        let (reader, syncer) = (given.log.reader(), given.log.syncer());
        thread::scope(|scope| {
            for bytes_max in [1, 700, 100_000] {
                scope.spawn({
                    let (reader, syncer) = (reader.clone(), syncer.clone());
                    move || follow(&reader, &syncer, bytes_max)
                });
            }
            scope.spawn(|| {
                let mut before = Offset::ZERO;
                while !is_over.load(Ordering::Acquire) {
                    let end = syncer.sync().expect("it syncs");
                    assert!(before <= end && end <= reader.end());
                    before = end;
                }
                syncer.sync().expect("it syncs");
            });
            for mark in (0..BATCHES).step_by(3) {
                let batches = [batch(mark, 2), batch(mark + 1, 2), batch(mark + 2, 2)];
                let (appended, error) = given.log.append(&batches, NOW);
                assert!(error.is_none() && appended.len() == 3);
            }
            is_over.store(true, Ordering::Release);
        });
        let (given, report) = Given::open(&given.kill().crash(1), 20_000);
        assert_eq!((report.damage, given.log.end().get()), (vec![], 2 * BATCHES));
    }
}

/// Reads from the beginning to the end, as it becomes durable.
fn follow(reader: &LogReader, syncer: &LogSyncer, bytes_max: usize) {
    let mut from = Offset::ZERO;
    while from.get() < 2 * BATCHES {
        let limit = syncer.durable_end();
        let read = reader.read(&ReadRequest { from, limit, bytes_max });
        let Read::Batches { bytes, next } = read.expect("it reads") else {
            thread::yield_now();
            continue;
        };
        assert!(next <= limit, "{next} is not durable");
        for found in Batches::received(bytes) {
            let found = found.expect("what is read are batches");
            let mark = found.header.base_offset.get() / 2;
            assert_eq!((found.header.base_offset, found.payload), (from, batch(mark, 2).payload));
            from = found.header.end_offset();
        }
        assert_eq!(from, next);
    }
}
