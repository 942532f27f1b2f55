//! Which partition a key belongs to.

use crate::PartitionIndex;

/// The partition that `key` belongs to among `partitions` of them.
///
/// Murmur2 as in Kafka's default partitioner, so that keys land where Kafka users expect them.
/// With no partitions at all the answer is 0.
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionIndex {
    let positive = murmur2(key) & 0x7fff_ffff;
    PartitionIndex::new(positive.checked_rem(partitions).unwrap_or(0))
}

/// Murmur2 in 32 bits with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MIX: u32 = 0x5bd1_e995;
    const ROTATE: u32 = 24;

    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let word = word.iter().rev().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
        let mut mixed = word.wrapping_mul(MIX);
        mixed ^= mixed >> ROTATE;
        hash = hash.wrapping_mul(MIX) ^ mixed.wrapping_mul(MIX);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test of its partitioner.
    #[test]
    fn murmur2_agrees_with_kafka() {
        let cases: [(&[u8], i32); 8] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
            (b"a", -1_563_381_124),
        ];
        for (key, expected) in cases {
            assert_eq!(murmur2(key) as i32, expected, "{key:?}");
        }
    }

    #[test]
    fn every_key_has_a_partition() {
        for partitions in 1..20 {
            for key in 0..200u32 {
                let partition = partition_for_key(&key.to_le_bytes(), partitions);
                assert!(partition.get() < partitions);
            }
        }
    }
}
