//! The few pieces of protobuf's wire format that batches need: tags, varints, lengths.
//!
//! Strict: what is not accepted by every official decoder is an error. Nothing here allocates.

/// How a field's value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Length,
    Fixed32,
}

/// What is wrong with a piece of protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("it ends in the middle of a value")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("a number is longer than 64 bits")]
    Varint,
    /// A tag or a length of more bytes than decoders everywhere take.
    #[error("a tag or a length is padded with needless bytes")]
    Padded,
    /// Field number 0, or beyond what protobuf allows.
    #[error("a field has an impossible number")]
    FieldNumber,
    /// A group, or a wire type that does not exist.
    #[error("field {field} has wire type {wire_type}, which is not allowed")]
    WireType {
        /// The field's number.
        field: u32,
        /// The wire type's number.
        wire_type: u8,
    },
    /// The bytes are compressed.
    #[error("it is compressed: open it first")]
    Compressed,
    /// A known field encoded as something else than its type says.
    #[error("field {field} has the wrong wire type for its declared type")]
    Mismatch {
        /// The field's number.
        field: u32,
    },
}

/// Bytes of a length at the most: some decoders refuse more, whatever the value.
const LENGTH_BYTES_MAX: usize = 5;

/// Reads protobuf from a slice, front to back.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let (first, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
        if *first < 0x80 {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            if index == 9 && *byte > 1 {
                return Err(WireError::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { WireError::Truncated } else { WireError::Varint })
    }

    /// Reads a field's number and wire type.
    #[inline]
    pub(crate) fn tag(&mut self) -> Result<(u32, WireType), WireError> {
        let before = self.rest.len();
        let tag = self.varint()?;
        if before - self.rest.len() > varint_bytes(tag) {
            return Err(WireError::Padded);
        }
        let tag = u32::try_from(tag).map_err(|_| WireError::FieldNumber)?;
        let field = tag >> 3;
        if field == 0 {
            return Err(WireError::FieldNumber);
        }
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Length,
            5 => WireType::Fixed32,
            other => return Err(WireError::WireType { field, wire_type: other as u8 }),
        };
        Ok((field, wire_type))
    }

    /// Reads a length and the bytes it promises.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let before = self.rest.len();
        let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        if before - self.rest.len() > LENGTH_BYTES_MAX {
            return Err(WireError::Padded);
        }
        self.take(length)
    }

    /// Passes over a value that nobody asked for.
    pub(crate) fn skip(&mut self, wire_type: WireType) -> Result<(), WireError> {
        match wire_type {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.take(8).map(drop),
            WireType::Length => self.bytes().map(drop),
            WireType::Fixed32 => self.take(4).map(drop),
        }
    }

    pub(crate) fn fixed64(&mut self) -> Result<u64, WireError> {
        let bytes = self.take(8)?.first_chunk().ok_or(WireError::Truncated)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Bytes that `value` takes as a varint.
pub(crate) const fn varint_bytes(value: u64) -> usize {
    match value.checked_ilog2() {
        None => 1,
        Some(log) => log as usize / 7 + 1,
    }
}

/// Appends `value` as a varint.
#[inline]
pub(crate) fn put_varint(out: &mut impl bytes::BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// `value` as a varint of exactly four bytes.
///
/// Protobuf readers take padded varints; writers do not make them, which makes positions constant.
pub(crate) const fn padded_varint(value: u32) -> [u8; 4] {
    assert!(value < 1 << 28, "a padded length has 28 bits");
    [value as u8 | 0x80, (value >> 7) as u8 | 0x80, (value >> 14) as u8 | 0x80, (value >> 21) as u8]
}

/// Reads what [`padded_varint`] writes, and nothing else.
pub(crate) const fn read_padded_varint(bytes: [u8; 4]) -> Option<u32> {
    let [a, b, c, d] = bytes;
    if a < 0x80 || b < 0x80 || c < 0x80 || d >= 0x80 {
        return None;
    }
    Some(
        (a & 0x7f) as u32 | ((b & 0x7f) as u32) << 7 | ((c & 0x7f) as u32) << 14 | (d as u32) << 21,
    )
}
