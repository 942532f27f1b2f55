//! Cuts what comes on a stream into messages.
//!
//! In place of tonic's decoder, which takes new memory for each message of a megabyte and gives it back:
//! system calls and page faults that cost as much as all else that a consumer does. Here the memory of a
//! message serves again once the application has dropped its batches. A message that came in one piece is
//! not copied.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use tonic::Status;

/// What is in front of each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Memory that is kept for messages to come: how many, and of which size at most.
const SPARE_MAX: usize = 4;
const SPARE_BYTES_MAX: usize = 4 << 20;

/// A stream of bytes that is cut into messages.
#[derive(Debug)]
pub(super) struct Messages {
    message_bytes_max: usize,
    /// What came and was not taken.
    unread: Bytes,
    prefix: Vec<u8>,
    /// What came of a message that comes in pieces.
    partial: Vec<u8>,
    spare: Arc<Spare>,
}

/// Memory of messages that nobody has any more.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

/// The memory of a message, until the last part of it is dropped.
struct Lent {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl Messages {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            unread: Bytes::new(),
            prefix: Vec::with_capacity(PREFIX_BYTES),
            partial: Vec::new(),
            spare: Arc::default(),
        }
    }

    /// Adds what came, once [`Self::next`] has nothing more.
    pub(super) fn push(&mut self, bytes: Bytes) {
        assert!(self.unread.is_empty(), "{} bytes were not taken", self.unread.len());
        self.unread = bytes;
    }

    /// The next message, if all of it came.
    ///
    /// # Errors
    /// If it is compressed, which nobody asked for, or too large.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        move_bytes(&mut self.unread, &mut self.prefix, PREFIX_BYTES);
        if self.prefix.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let length = self.length()?;
        if self.partial.is_empty() && length <= self.unread.len() {
            self.prefix.clear();
            // Where messages are small, no memory waits for large ones.
            self.spare.clear();
            return Ok(Some(self.unread.split_to(length)));
        }
        if self.partial.capacity() < length {
            self.partial = self.spare.take(length);
        }
        move_bytes(&mut self.unread, &mut self.partial, length);
        if self.partial.len() < length {
            return Ok(None);
        }
        self.prefix.clear();
        let bytes = std::mem::take(&mut self.partial);
        Ok(Some(Bytes::from_owner(Lent { bytes, spare: Arc::clone(&self.spare) })))
    }

    fn length(&self) -> Result<usize, Status> {
        let mut prefix = self.prefix.as_slice();
        if prefix.get_u8() != 0 {
            return Err(Status::internal("the broker compressed a message: nobody asked it to"));
        }
        let length = prefix.get_u32() as usize;
        if self.message_bytes_max < length {
            let max = self.message_bytes_max;
            let message = format!("a message of {length} bytes is larger than {max}");
            return Err(Status::out_of_range(message));
        }
        Ok(length)
    }
}

/// Moves bytes until there are `length`, or no more.
fn move_bytes(from: &mut Bytes, to: &mut Vec<u8>, length: usize) {
    let moved = from.split_to((length - to.len()).min(from.len()));
    to.extend_from_slice(&moved);
}

impl Spare {
    /// Empty memory for so many bytes.
    fn take(&self, length: usize) -> Vec<u8> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = spare.pop().unwrap_or_default();
        taken.reserve_exact(length);
        taken
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, mut bytes: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX && bytes.capacity() <= SPARE_BYTES_MAX {
            bytes.clear();
            spare.push(bytes);
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.spare.keep(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("small");
        [&[0], length.to_be_bytes().as_slice(), message].concat()
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let sent: Vec<Vec<u8>> =
            [0, 1, 4, 300, 0, 7].map(|length| vec![length as u8; length]).into();
        let stream: Bytes = sent.iter().flat_map(|it| encoded(it)).collect::<Vec<u8>>().into();
        for piece in 1..=stream.len() {
            let mut messages = Messages::new(300);
            let mut came = Vec::new();
            let mut rest = stream.clone();
            while !rest.is_empty() {
                messages.push(rest.split_to(piece.min(rest.len())));
                while let Some(message) = messages.next().expect("they are well-formed") {
                    came.push(message.to_vec());
                }
            }
            assert_eq!(came, sent, "pieces of {piece}");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_refused() {
        let mut messages = Messages::new(10);
        messages.push(Bytes::from_static(&[0, 0, 0, 0, 11]));
        let error = messages.next().expect_err("it is too large");
        assert_eq!(error.message(), "a message of 11 bytes is larger than 10");
        let mut messages = Messages::new(10);
        messages.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(messages.next().is_err(), "it is compressed");
    }

    #[test]
    fn memory_serves_again_when_it_was_dropped_and_not_before() {
        let mut messages = Messages::new(1 << 20);
        let stream = Bytes::from(encoded(&[7; 1000]));
        let next = |messages: &mut Messages| {
            messages.push(stream.slice(..500));
            assert!(messages.next().is_ok_and(|it| it.is_none()));
            messages.push(stream.slice(500..));
            messages.next().expect("it is well-formed").expect("it is whole")
        };
        let first = next(&mut messages);
        let second = next(&mut messages);
        assert_ne!(first.as_ptr(), second.as_ptr());
        let (place, part) = (first.as_ptr(), first.slice(990..));
        drop(first);
        assert_ne!(next(&mut messages).as_ptr(), place, "a part is still there");
        assert_eq!(part, [7; 10].as_slice());
        drop(part);
        assert_eq!(next(&mut messages).as_ptr(), place);
    }
}
