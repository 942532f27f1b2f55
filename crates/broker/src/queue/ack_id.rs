//! What a worker names a record by that it has: opaque to everybody else.

use super::service::Held;

/// Bytes of an id: the queue's number, partition, offset, lease.
const BYTES: usize = 8 + 4 + 8 + 8;

/// Names a record that a worker has, and the lease under which it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckId {
    /// The queue that gave it out.
    pub(super) queue: u64,
    pub(super) held: Held,
}

impl AckId {
    pub(super) fn encode(self) -> [u8; BYTES] {
        let Held { partition, offset, lease } = self.held;
        let mut bytes = [0; BYTES];
        let (queue, rest) = bytes.split_at_mut(8);
        queue.copy_from_slice(&self.queue.to_be_bytes());
        let (of_partition, rest) = rest.split_at_mut(4);
        of_partition.copy_from_slice(&partition.to_be_bytes());
        let (of_offset, of_lease) = rest.split_at_mut(8);
        of_offset.copy_from_slice(&offset.to_be_bytes());
        of_lease.copy_from_slice(&lease.to_be_bytes());
        bytes
    }

    /// `None` for what cannot be one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (queue, rest) = bytes.split_first_chunk::<8>()?;
        let (partition, rest) = rest.split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (lease, _) = rest.split_first_chunk::<8>()?;
        let held = Held {
            partition: u32::from_be_bytes(*partition),
            offset: u64::from_be_bytes(*offset),
            lease: u64::from_be_bytes(*lease),
        };
        Some(Self { queue: u64::from_be_bytes(*queue), held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written_and_nothing_else_is_one() {
        let id =
            AckId { queue: 7, held: Held { partition: 3, offset: u64::MAX - 1, lease: 1 << 40 } };
        let bytes = id.encode();
        assert_eq!(AckId::decode(&bytes), Some(id));
        assert_eq!(AckId::decode(&bytes[1..]), None);
        assert_eq!(AckId::decode(&[]), None);
        assert_eq!(AckId::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
