//! Reads what `consume --format json` writes, so that a topic can be copied by a pipe.
//!
//! Topic and offset are those of where the record came from, and not used; the partition is.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, Visitor};
use taffrail_client::{PartitionIndex, Timestamp};

use super::base64_text::JsonBytes;
use super::parsed::{LineError, Parsed, timestamp_from_text};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord<'a> {
    #[serde(rename = "topic")]
    _topic: Option<IgnoredAny>,
    #[serde(rename = "offset")]
    _offset: Option<IgnoredAny>,
    partition: Option<u32>,
    timestamp: Option<JsonTimestamp>,
    #[serde(borrow)]
    key: Option<JsonBytes<'a>>,
    #[serde(borrow)]
    value: Option<JsonBytes<'a>>,
    #[serde(borrow, default)]
    headers: Vec<JsonHeader<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonHeader<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    value: JsonBytes<'a>,
}

#[derive(Debug)]
struct JsonTimestamp(Timestamp);

/// Reads one record.
pub(super) fn parse(piece: &[u8]) -> Result<Parsed<'_>, LineError> {
    let record: JsonRecord<'_> = serde_json::from_slice(piece)?;
    Ok(Parsed {
        key: record.key.map(|key| key.0),
        value: record.value.map(|value| value.0),
        headers: record.headers.into_iter().map(|header| (header.name, header.value.0)).collect(),
        timestamp: record.timestamp.map(|timestamp| timestamp.0),
        partition: record.partition.map(PartitionIndex::new),
    })
}

impl<'de> Deserialize<'de> for JsonTimestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TimestampVisitor)
    }
}

struct TimestampVisitor;

impl Visitor<'_> for TimestampVisitor {
    type Value = JsonTimestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of Unix milliseconds or an RFC 3339 string")
    }

    fn visit_i64<E>(self, millis: i64) -> Result<Self::Value, E> {
        Ok(JsonTimestamp(Timestamp::from_millis(millis)))
    }

    fn visit_u64<E: serde::de::Error>(self, millis: u64) -> Result<Self::Value, E> {
        let millis = i64::try_from(millis).map_err(|_| E::custom("the timestamp is too large"))?;
        self.visit_i64(millis)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        timestamp_from_text(text)
            .map(JsonTimestamp)
            .ok_or_else(|| E::custom(format!("{text:?} is not an RFC 3339 timestamp")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_consume_writes_is_read() {
        let line = br#"{"topic":"t","partition":3,"offset":9,"timestamp":1500,"key":"k\n",
            "value":{"base64":"/wA="},"headers":[{"name":"h","value":"x"},{"name":"h","value":""}]}"#;
        let parsed = parse(line).expect("a record");
        assert_eq!(parsed.key.as_deref(), Some(b"k\n".as_slice()));
        assert_eq!(parsed.value.as_deref(), Some([255, 0].as_slice()));
        assert_eq!(parsed.headers.len(), 2);
        assert_eq!(parsed.timestamp, Some(Timestamp::from_millis(1_500)));
        assert_eq!(parsed.partition, Some(PartitionIndex::new(3)));
    }

    #[test]
    fn null_is_nothing_and_mistakes_are_named() {
        let parsed = parse(br#"{"key":null,"value":null,"headers":[]}"#).expect("a record");
        assert_eq!(parsed, Parsed::default());
        for (line, expected) in [
            (r#"{"vaule":"x"}"#, "unknown field `vaule`"),
            (r#"{"value":7}"#, "expected a string"),
            (r#"{"value":{"base64":"?"}}"#, "not base64"),
            (r#"{"value":{"hex":"00"}}"#, "base64"),
            (r#"{"timestamp":"soon"}"#, "\"soon\""),
            ("nonsense", "expected"),
        ] {
            let error = parse(line.as_bytes()).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
