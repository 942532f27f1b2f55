//! Compressed payloads: what is packed is opened again, and nothing else becomes larger than it may.

use bytes::Bytes;
use proptest::prelude::*;
use taffrail_model::batch::{Compression, Compressions, OpenError};

const BOTH: [Compression; 2] = [Compression::Lz4, Compression::Zstd];

/// A payload that can be compressed, and is no repetition.
fn text(words: usize) -> Bytes {
    let word = |number: usize| format!("word{} ", number.wrapping_mul(2_654_435_761) % 1_000);
    (0..words).map(word).collect::<String>().into_bytes().into()
}

/// What a frame without its length looks like, as a stream makes it.
fn streamed(compression: Compression, payload: &[u8]) -> Bytes {
    use std::io::Write as _;
    match compression {
        Compression::None => unreachable!("it is none"),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(payload).expect("memory takes all");
            encoder.finish().expect("memory takes all").into()
        }
        Compression::Zstd => {
            let mut context = zstd_safe::CCtx::create();
            let content_size = zstd_safe::CParameter::ContentSizeFlag(false);
            context.set_parameter(content_size).expect("there is such a setting");
            let mut packed = Vec::with_capacity(zstd_safe::compress_bound(payload.len()));
            context.compress2(&mut packed, payload).expect("there is room");
            packed.into()
        }
    }
}

proptest! {
    #[test]
    fn what_is_packed_is_opened_again(payload in prop::collection::vec(any::<u8>(), 1..5_000)) {
        let payload = Bytes::from(payload);
        for compression in BOTH {
            let packed = compression.pack(payload.clone());
            let opened = compression.open(packed.clone(), payload.len());
            prop_assert_eq!(opened.as_ref(), Ok(&payload));
            let opened = compression.open(packed, payload.len() - 1);
            prop_assert_eq!(opened, Err(OpenError::TooLarge { max: payload.len() - 1 }));
            let opened = compression.open(streamed(compression, &payload), payload.len());
            prop_assert_eq!(opened, Ok(payload.clone()));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_stay_within_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        magic in any::<bool>(),
    ) {
        for compression in BOTH {
            let mut bytes = bytes.clone();
            if magic {
                let packed = compression.pack(text(5));
                bytes.splice(0..bytes.len().min(6), packed.iter().copied().take(6));
            }
            if let Ok(opened) = compression.open(bytes.into(), 1_000) {
                prop_assert!(!opened.is_empty() && opened.len() <= 1_000);
            }
        }
    }
}

#[test]
fn text_becomes_smaller() {
    let payload = text(10_000);
    for compression in BOTH {
        let packed = compression.pack(payload.clone());
        assert!(packed.len() < payload.len() / 2, "{compression:?}: {}", packed.len());
    }
    assert_eq!(Compression::None.pack(payload.clone()), payload);
    assert_eq!(Compression::None.open(payload.clone(), payload.len()), Ok(payload.clone()));
    let refused = Compression::None.open(payload, 5);
    assert_eq!(refused, Err(OpenError::TooLarge { max: 5 }));
}

#[test]
fn a_small_frame_that_stands_for_very_much_is_refused() {
    let zeros = Bytes::from(vec![0; 200 << 20]);
    for compression in BOTH {
        for bomb in [compression.pack(zeros.clone()), streamed(compression, &zeros)] {
            assert!(bomb.len() < 2 << 20, "{compression:?}: {}", bomb.len());
            let refused = compression.open(bomb, 1 << 20);
            assert_eq!(refused, Err(OpenError::TooLarge { max: 1 << 20 }), "{compression:?}");
        }
    }
}

#[test]
fn a_frame_that_is_cut_or_continued_is_refused() {
    let payload = text(300);
    for compression in BOTH {
        let packed = compression.pack(payload.clone());
        for length in 0..packed.len() {
            let opened = compression.open(packed.slice(..length), 1 << 20);
            let is_damaged = matches!(opened, Err(OpenError::Damaged { .. }));
            assert!(is_damaged, "{compression:?} cut at {length}");
        }
        let continued = Bytes::from([&packed[..], b"more"].concat());
        let opened = compression.open(continued, 1 << 20);
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{compression:?}: {opened:?}");
        let other = BOTH[usize::from(compression == BOTH[0])];
        let opened = other.open(packed, 1 << 20);
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{compression:?}: {opened:?}");
    }
}

#[test]
fn who_takes_nothing_takes_what_is_not_compressed() {
    let none = Compressions::default();
    assert!(none.contains(Compression::None) && !none.contains(Compression::Lz4));
    let lz4 = Compressions::from_iter([Compression::Lz4]);
    assert!(lz4.contains(Compression::Lz4) && !lz4.contains(Compression::Zstd));
    assert_eq!(Compressions::from_iter(BOTH), Compressions::ALL);
    assert_eq!(Compressions::from_iter([Compression::None]), none);
}
