//! Identities: of topics, partitions and logs.

use std::fmt;

/// A partition's number within its topic, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(u32);

impl PartitionIndex {
    /// The partition with this number.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic's identity: random, and never used again, whatever becomes of the topic's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId([u8; TopicId::BYTES]);

impl TopicId {
    /// Length of an identity.
    pub const BYTES: usize = 12;

    /// The identity made of these bytes.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads what `Display` writes: 24 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }

    /// The identity of the log that holds one of this topic's partitions.
    pub fn log(self, partition: PartitionIndex) -> LogId {
        let mut bytes = [0; LogId::BYTES];
        let (topic, index) = bytes.split_at_mut(Self::BYTES);
        topic.copy_from_slice(&self.0);
        index.copy_from_slice(&partition.get().to_be_bytes());
        LogId(bytes)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// A log's identity: to the log itself opaque, in truth a topic's id and a partition's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId([u8; LogId::BYTES]);

impl LogId {
    /// Length of an identity.
    pub const BYTES: usize = 16;

    /// The identity made of these bytes.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; Self::BYTES] {
        self.0
    }

    /// Reads what `Display` writes: the topic's id, a dash, the partition's number.
    pub fn parse(text: &str) -> Option<Self> {
        let (topic, partition) = text.split_once('-')?;
        let id = TopicId::parse(topic)?.log(PartitionIndex::new(partition.parse().ok()?));
        (id.to_string() == text).then_some(id)
    }

    /// The topic and the partition that this log belongs to.
    pub fn split(self) -> (TopicId, PartitionIndex) {
        let mut topic = [0; TopicId::BYTES];
        let mut index = [0; 4];
        let (front, back) = self.0.split_at(TopicId::BYTES);
        topic.copy_from_slice(front);
        index.copy_from_slice(back);
        (TopicId(topic), PartitionIndex::new(u32::from_be_bytes(index)))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (topic, partition) = self.split();
        write!(f, "{topic}-{partition}")
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_id_is_its_topic_and_its_partition() {
        let topic = TopicId::new(*b"twelve bytes");
        let log = topic.log(PartitionIndex::new(0x0102_0304));
        assert_eq!(log.split(), (topic, PartitionIndex::new(0x0102_0304)));
        assert_eq!(LogId::parse(&log.to_string()), Some(log));
        assert_eq!(TopicId::parse(&topic.to_string()), Some(topic));
        assert_eq!(TopicId::parse("+f"), None);
        assert_eq!(LogId::parse(&topic.to_string()), None);
        assert_eq!(LogId::parse(&format!("{topic}-007")), None);
    }
}
