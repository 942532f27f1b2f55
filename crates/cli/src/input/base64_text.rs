//! Bytes in JSON: a string if they are UTF-8, else `{"base64": ...}`.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Bytes read from JSON.
#[derive(Debug)]
pub(super) struct JsonBytes<'a>(pub(super) Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonBytes<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(BytesVisitor)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = JsonBytes<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, {\"base64\": ...} or null")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(JsonBytes(Cow::Borrowed(value.as_bytes())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(JsonBytes(Cow::Owned(value.as_bytes().to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let entry: Option<(String, String)> = map.next_entry()?;
        let Some((name, text)) = entry.filter(|(name, _)| name == "base64") else {
            return Err(A::Error::custom("an object here can only be {\"base64\": ...}"));
        };
        if map.next_key::<String>()?.is_some() {
            return Err(A::Error::custom(format!("nothing may stand beside {name:?}")));
        }
        let bytes = STANDARD.decode(text.as_bytes());
        let bytes = bytes.map_err(|error| A::Error::custom(format!("not base64: {error}")))?;
        Ok(JsonBytes(Cow::Owned(bytes)))
    }
}
