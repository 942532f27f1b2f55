//! Compressed payloads: a frame of LZ4 or Zstandard around an encoded `RecordSet`.
//!
//! Whoever opens one says how large it may become: a small frame can stand for very much.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use lz4_flex::frame::{BlockMode, FrameDecoder, FrameEncoder, FrameInfo};
use zstd_safe::{
    CCtx, DCtx, compress_bound, find_frame_compressed_size, get_error_name, get_frame_content_size,
};

use super::{Batch, BatchHeader, records_crc};
use crate::limits;

/// Little is won behind this: libzstd's own choice.
const ZSTD_LEVEL: i32 = 3;

/// The smallest block that an LZ4 frame can have.
const LZ4_BLOCK_BYTES: usize = 64 << 10;

/// What is made room for at first, where a frame does not say how large it becomes.
const GUESS_FACTOR: usize = 4;

thread_local! {
    // Up to a MiB and more each, which nobody wants to make for each batch.
    static ZSTD_OPENER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    static ZSTD_PACKER: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
}

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// An LZ4 frame: little work, little gain.
    Lz4,
    /// A Zstandard frame: more of both.
    Zstd,
}

/// Which compressions somebody can open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressions(u8);

/// Why a payload cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It would become larger than it may.
    #[error("it holds more than {max} bytes")]
    TooLarge {
        /// The bytes that it may have.
        max: usize,
    },
    /// It is not what its compression makes.
    #[error("{cause}")]
    Damaged {
        /// What is wrong.
        cause: String,
    },
}

impl Compressions {
    /// Every one that there is.
    pub const ALL: Self = Self(1 << Compression::Lz4.code() | 1 << Compression::Zstd.code());

    /// Whether what has this compression can be taken as it is.
    pub const fn contains(self, compression: Compression) -> bool {
        matches!(compression, Compression::None) || self.0 & 1 << compression.code() != 0
    }
}

impl FromIterator<Compression> for Compressions {
    fn from_iter<T: IntoIterator<Item = Compression>>(compressions: T) -> Self {
        let one = |compression: Compression| 1 << compression.code() & Self::ALL.0;
        Self(compressions.into_iter().map(one).fold(0, |all, one| all | one))
    }
}

impl Compression {
    /// Its number in the format, below 128.
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// The compression with this number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name, as settings and commands have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Compresses a payload.
    pub fn pack(self, payload: Bytes) -> Bytes {
        match self {
            Self::None => payload,
            Self::Lz4 => pack_lz4(&payload).into(),
            Self::Zstd => pack_zstd(&payload).into(),
        }
    }

    /// Opens a payload that may become `bytes_max` long.
    ///
    /// # Errors
    /// If it becomes longer, or is no such frame.
    pub fn open(self, payload: Bytes, bytes_max: usize) -> Result<Bytes, OpenError> {
        let opened = match self {
            Self::None if bytes_max < payload.len() => {
                return Err(OpenError::TooLarge { max: bytes_max });
            }
            Self::None => return Ok(payload),
            Self::Lz4 => open_lz4(&payload, bytes_max)?,
            Self::Zstd => open_zstd(&payload, bytes_max)?,
        };
        if opened.is_empty() {
            // As some decoders take a frame that ends in its header.
            return Err(OpenError::Damaged { cause: "it holds nothing".into() });
        }
        Ok(opened.into())
    }
}

impl Batch {
    /// The same records, not compressed: as large as any batch may be.
    ///
    /// # Errors
    /// If they are larger, or the payload is no such frame.
    pub fn open(&self) -> Result<Self, OpenError> {
        let Self { header, payload } = self.clone();
        if header.compression == Compression::None {
            return Ok(Self { header, payload });
        }
        let payload = header.compression.open(payload, limits::BATCH_BYTES_MAX as usize)?;
        let header = BatchHeader {
            compression: Compression::None,
            records_crc: records_crc(&payload),
            payload_bytes: payload.len() as u32,
            ..header
        };
        Ok(Self { header, payload })
    }
}

fn pack_lz4(payload: &[u8]) -> Vec<u8> {
    let content_size = Some(payload.len() as u64);
    // Whoever opens linked blocks needs three times as much memory, which is worth it if there are some.
    let is_one_block = payload.len() <= LZ4_BLOCK_BYTES;
    let mode = if is_one_block { BlockMode::Independent } else { BlockMode::Linked };
    let info = FrameInfo::new().block_mode(mode).content_size(content_size);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::with_capacity(payload.len() / 2));
    encoder.write_all(payload).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn open_lz4(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, OpenError> {
    let damaged = |cause: &str| OpenError::Damaged { cause: format!("no LZ4 frame: {cause}") };
    if lz4_frame_bytes(payload) != Some(payload.len()) {
        // Which the decoder lets pass, and others do not.
        return Err(damaged("it does not end where its blocks do"));
    }
    let mut decoder = FrameDecoder::new(payload);
    let mut opened = Vec::with_capacity(payload.len().saturating_mul(GUESS_FACTOR).min(bytes_max));
    let limit = (bytes_max as u64).saturating_add(1);
    let read = decoder.by_ref().take(limit).read_to_end(&mut opened);
    read.map_err(|error| damaged(&error.to_string()))?;
    if opened.len() > bytes_max {
        return Err(OpenError::TooLarge { max: bytes_max });
    }
    Ok(opened)
}

/// How long the LZ4 frame is that a payload begins with, its end mark included.
fn lz4_frame_bytes(payload: &[u8]) -> Option<usize> {
    let flags = *payload.get(4)?;
    let has = |flag: u8, bytes: usize| if flags & flag == 0 { 0 } else { bytes };
    let (block_checksum, content_checksum) = (has(1 << 4, 4), has(1 << 2, 4));
    // Magic, flags, block size and checksum; and the content's size and the dictionary's id.
    let mut position = 7 + has(1 << 3, 8) + has(1, 4);
    loop {
        let size = u32::from_le_bytes(*payload.get(position..)?.first_chunk()?);
        position += 4;
        if size == 0 {
            return Some(position + content_checksum);
        }
        // The highest bit says whether it is compressed.
        position += (size & !(1 << 31)) as usize + block_checksum;
    }
}

fn pack_zstd(payload: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(compress_bound(payload.len()));
    ZSTD_PACKER.with_borrow_mut(|packer| {
        packer.compress(&mut packed, payload, ZSTD_LEVEL).expect("there is room for all");
    });
    packed.shrink_to_fit();
    packed
}

fn open_zstd(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, OpenError> {
    let damaged =
        |cause: &str| OpenError::Damaged { cause: format!("no Zstandard frame: {cause}") };
    if find_frame_compressed_size(payload) != Ok(payload.len()) {
        return Err(damaged("it does not end where its blocks do"));
    }
    let stated = get_frame_content_size(payload).map_err(|error| damaged(&error.to_string()))?;
    let stated = stated.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if stated.is_some_and(|bytes| bytes > bytes_max) {
        return Err(OpenError::TooLarge { max: bytes_max });
    }
    // Where it says nothing, more is made room for as it is needed.
    let mut room = stated.unwrap_or(payload.len().saturating_mul(GUESS_FACTOR)).min(bytes_max);
    loop {
        let mut opened = Vec::with_capacity(room);
        let done = ZSTD_OPENER.with_borrow_mut(|opener| opener.decompress(&mut opened, payload));
        match done.map_err(get_error_name) {
            Ok(_) => return Ok(opened),
            Err("Destination buffer is too small") if room < bytes_max => {
                room = room.saturating_mul(GUESS_FACTOR).clamp(1, bytes_max);
            }
            Err("Destination buffer is too small") => {
                return Err(OpenError::TooLarge { max: bytes_max });
            }
            Err(cause) => return Err(damaged(cause)),
        }
    }
}
