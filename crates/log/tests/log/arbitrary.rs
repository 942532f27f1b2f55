//! What holds whatever a file holds: properties for stable tests, and for the fuzzer in `fuzz/`.
//!
//! The first byte says what the others are: a whole file, changes to a sound one, or changes that are
//! signed afterwards. With a checksum that fits they reach what it keeps rot away from.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use taffrail_log::vfs::{Memory, Vfs};
use taffrail_log::{Known, Log, OpenError, Opened, Read, ReadError, ReadRequest};
use taffrail_model::batch::{BatchHeader, Batches, HEADER_BYTES, HeaderBytes, Salt, records_crc};
use taffrail_model::{ProducerEpoch, ProducerId, ProducerStamp, Sequence, Timestamp, limits};

use crate::given::{
    AppendAll, Given, NOW, SEGMENT_HEADER_BYTES, batch, config, log_id, log_path, root, segment,
    try_open,
};
use crate::model::Model;

/// Takes `bytes` for what lies behind the header of the last segment of a log that was killed.
pub(crate) fn segment_recovery(bytes: &[u8]) {
    let (memory, model) = sound(false);
    let path = segment(6);
    let whole = contents(&memory, &path);
    let (header, behind) = whole.split_at(SEGMENT_HEADER_BYTES);
    let (behind, is_signed) = made_of(bytes, behind);
    let behind = if is_signed { sign_batches(&behind, salt(header)) } else { behind };
    put(&memory, &path, &[header, &behind].concat());
    // What was never changed is right, whatever follows.
    let seen = go_through(&memory, &model, 6);
    assert!(go_through(&memory, &model, 6).starts_with(&seen), "opened anew it is another log");
}

/// Takes `bytes` for the index of a sealed segment, and for that of the last one after a clean stop.
pub(crate) fn index_load(bytes: &[u8]) {
    for base in [0, 6] {
        let (memory, model) = sound(true);
        let path = segment(base).with_extension("index");
        let (index, is_signed) = made_of(bytes, &contents(&memory, &path));
        put(&memory, &path, &if is_signed { sign(&index) } else { index });
        // One that is signed may point to where no batch begins: then a read is refused, never wrong.
        let sound_end = if is_signed { 0 } else { model.end() };
        go_through(&memory, &model, sound_end);
    }
}

/// Takes `bytes` for the newer checkpoint of what a log remembers of producers.
pub(crate) fn producers_load(bytes: &[u8]) {
    let (memory, model) = sound(true);
    let path = log_path().join("producers.b");
    let (checkpoint, is_signed) = made_of(bytes, &contents(&memory, &path));
    put(&memory, &path, &if is_signed { sign(&checkpoint) } else { checkpoint });
    let Opened { mut log, .. } = open(&memory).expect("the log opens");
    for sent in &model.batches {
        let found = log.begin(NOW).find(&sent.batch);
        let is_known = matches!(found, Ok(Known::Duplicate { .. }));
        assert!(is_known || is_signed, "{found:?}");
    }
    for sent in &model.batches {
        let _ = log.begin(NOW.plus(limits::PRODUCER_EXPIRY)).find(&sent.batch);
    }
    drop(log);
    go_through(&memory, &model, model.end());
}

/// A log of two segments with batches of idempotent producers, killed or cleanly closed.
fn sound(is_closed: bool) -> (Memory, Model) {
    static SOUND: OnceLock<[(Memory, Model); 2]> = OnceLock::new();
    let make = |is_closed| {
        let mut given = Given::new(1 << 20);
        let mut model = Model::default();
        for mark in 0..4 {
            let mut batch = batch(mark, 3);
            let id = ProducerId::new(1 + mark % 2).expect("not 0");
            let sequence = Sequence::new(3 * (mark as u32 / 2));
            batch.producer = Some(ProducerStamp { id, epoch: ProducerEpoch::ZERO, sequence });
            let (appended, error) = given.log.append(std::slice::from_ref(&batch), NOW);
            assert!(error.is_none());
            model.append(&[batch], &appended, given.log.leader_epoch());
            if mark == 1 {
                given.log.roll().expect("it rolls");
            }
        }
        (if is_closed { given.close() } else { given.kill() }, model)
    };
    let both = SOUND.get_or_init(|| [make(false), make(true)]);
    let (memory, model) = &both[usize::from(is_closed)];
    (memory.copy(), model.clone())
}

/// Opens the log, reads, searches, appends, closes; all batches below `sound_end` must be there. Says
/// what can be read, the last one being what was appended.
fn go_through(memory: &Memory, model: &Model, sound_end: u64) -> Vec<(u64, Bytes)> {
    let Opened { mut log, .. } = open(memory).expect("the log opens");
    let mut found = read(&log);
    let expected = model.batches.iter().filter(|batch| batch.end() <= sound_end);
    for (expected, found) in expected.zip(&found) {
        assert_eq!((expected.base, &expected.batch.payload), (found.0, &found.1));
    }
    for time in [i64::MIN, 0, NOW.as_millis(), i64::MAX].map(Timestamp::from_millis) {
        let _ = log.reader().find_timestamp(time, log.end());
    }
    let more = batch(99, 2);
    let end = log.end().get();
    let (appended, error) = log.append(std::slice::from_ref(&more), NOW);
    assert_eq!(error.is_some(), log.read_only().is_some(), "{error:?}");
    assert!(appended.iter().all(|appended| appended.base_offset.get() == end));
    if error.is_none() {
        found.push((end, more.payload));
        assert_eq!(read(&log), found);
    }
    log.close().expect("it closes");
    found
}

/// Everything that can be read, which are whole, sound batches in order.
fn read(log: &Log) -> Vec<(u64, Bytes)> {
    let reader = log.reader();
    let (mut from, limit) = (reader.start(), reader.end());
    let mut batches = Vec::new();
    while from < limit {
        let before = from;
        from = match reader.read(&ReadRequest { from, limit, bytes_max: 1 }) {
            Ok(Read::Batches { bytes, next }) => {
                for found in Batches::received(bytes) {
                    let found = found.expect("what is read are batches");
                    assert!(found.is_sound() && found.header.base_offset == from);
                    from = found.header.end_offset();
                    batches.push((found.header.base_offset.get(), found.payload));
                }
                assert_eq!(from, next);
                next
            }
            Ok(Read::Gap(gap)) => gap.to,
            Err(ReadError::DataLoss { to, .. }) => to,
            other => panic!("at {from}: {other:?}"),
        };
        assert!(before < from, "{before} to {from}");
    }
    batches
}

fn open(memory: &Memory) -> Result<Opened, OpenError> {
    let directory = try_open(Arc::new(memory.clone()), root()).expect("the directory opens");
    directory.open_log(log_id(), config(1 << 20), ProducerId::FIRST.advance(2))
}

fn contents(memory: &Memory, path: &Path) -> Vec<u8> {
    memory.files().into_iter().find(|(found, _)| found == path).expect("it is there").1
}

fn put(memory: &Memory, path: &Path, bytes: &[u8]) {
    let file = memory.open(path).expect("it is there");
    file.set_length(0).expect("it can be cut");
    file.write_at(0, bytes).expect("there is room");
}

/// What the bytes make of a sound file, and whether that is to be signed.
fn made_of(bytes: &[u8], sound: &[u8]) -> (Vec<u8>, bool) {
    match bytes.split_first() {
        Some((first, changes)) if first % 3 > 0 => (changed(sound, changes), first % 3 == 2),
        Some((_, whole)) => (whole.to_vec(), false),
        None => (Vec::new(), false),
    }
}

/// Bytes with changes: of each three bytes the first two are a place, the third one is what stands
/// there.
fn changed(sound: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
        bytes[at] = change[2];
    }
    bytes
}

/// Puts the checksum at the end that fits.
fn sign(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[..bytes.len().saturating_sub(4)];
    [body, &records_crc(body).to_le_bytes()].concat()
}

/// Gives each batch header that can be read the checksum that fits, and that of its payload.
fn sign_batches(bytes: &[u8], salt: Salt) -> Vec<u8> {
    let mut signed = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = signed.get(at..).and_then(|rest| rest.first_chunk()) {
        let header: &HeaderBytes = header;
        let Ok(mut header) = BatchHeader::decode_unverified(header) else { break };
        let end = at + header.total_bytes();
        if let Some(payload) = signed.get(at + HEADER_BYTES..end) {
            header.records_crc = records_crc(payload);
        }
        signed[at..at + HEADER_BYTES].copy_from_slice(&header.encode(salt));
        at = end;
    }
    signed
}

fn salt(header: &[u8]) -> Salt {
    Salt::new(u32::from_le_bytes(*header[16..].first_chunk().expect("it is long enough")))
}
