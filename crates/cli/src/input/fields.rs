//! Picks a key and a timestamp out of a JSON object without building it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use taffrail_client::Timestamp;

use super::parsed::{LineError, timestamp_from_text};

/// Which fields to pick.
#[derive(Clone, Debug)]
pub(crate) struct FieldNames {
    pub(super) key: Option<String>,
    pub(super) timestamp: Option<String>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Picked<'a> {
    pub(super) key: Option<Cow<'a, [u8]>>,
    pub(super) timestamp: Option<Timestamp>,
}

/// Picks the fields out of `object`; each one that is named must be there.
pub(super) fn pick<'a>(object: &'a [u8], names: &FieldNames) -> Result<Picked<'a>, LineError> {
    if object.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(LineError::NotAnObject);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(object);
    let found = Fields { names }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    let missing = |field: &String| LineError::NoField { field: field.clone() };
    let key = match &names.key {
        None => None,
        Some(field) => match found.key.ok_or_else(|| missing(field))? {
            Scalar::Null => None,
            Scalar::Text(text) => Some(text_bytes(text)),
            Scalar::Other => {
                return Err(LineError::Key { field: field.clone() });
            }
            scalar @ (Scalar::Bool(_) | Scalar::Int(_) | Scalar::Uint(_) | Scalar::Float(_)) => {
                Some(Cow::Owned(scalar.to_string().into_bytes()))
            }
        },
    };
    let timestamp = match &names.timestamp {
        None => None,
        Some(field) => {
            let scalar = found.timestamp.ok_or_else(|| missing(field))?;
            let found = || LineError::Timestamp { found: scalar.to_string() };
            Some(timestamp(&scalar).ok_or_else(found)?)
        }
    };
    Ok(Picked { key, timestamp })
}

fn text_bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// A number is Unix milliseconds, text is RFC 3339.
fn timestamp(scalar: &Scalar<'_>) -> Option<Timestamp> {
    match scalar {
        Scalar::Int(millis) => Some(Timestamp::from_millis(*millis)),
        Scalar::Uint(millis) => i64::try_from(*millis).ok().map(Timestamp::from_millis),
        Scalar::Float(millis) if millis.fract() == 0.0 && millis.abs() < 9e15 => {
            Some(Timestamp::from_millis(*millis as i64))
        }
        Scalar::Text(text) => timestamp_from_text(text),
        Scalar::Float(_) | Scalar::Bool(_) | Scalar::Null | Scalar::Other => None,
    }
}

/// A value without parts; parts are not looked at.
#[derive(Debug)]
enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(Cow<'a, str>),
    Other,
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::Other => f.write_str("of several parts"),
        }
    }
}

#[derive(Default)]
struct Found<'a> {
    key: Option<Scalar<'a>>,
    timestamp: Option<Scalar<'a>>,
}

struct Fields<'n> {
    names: &'n FieldNames,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Found<'de>, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let mut found = Found::default();
        while let Some(Name(name)) = map.next_key()? {
            let is_key = self.names.key.as_deref() == Some(&*name);
            let is_timestamp = self.names.timestamp.as_deref() == Some(&*name);
            match (is_key, is_timestamp) {
                (false, false) => drop(map.next_value::<IgnoredAny>()?),
                (true, false) => found.key = Some(map.next_value()?),
                (false, true) => found.timestamp = Some(map.next_value()?),
                (true, true) => {
                    let scalar: Scalar<'de> = map.next_value()?;
                    found.key = Some(scalar.again());
                    found.timestamp = Some(scalar);
                }
            }
        }
        Ok(found)
    }
}

impl Scalar<'_> {
    fn again(&self) -> Self {
        match self {
            Self::Null => Self::Null,
            Self::Bool(value) => Self::Bool(*value),
            Self::Int(value) => Self::Int(*value),
            Self::Uint(value) => Self::Uint(*value),
            Self::Float(value) => Self::Float(*value),
            Self::Text(value) => Self::Text(value.clone()),
            Self::Other => Self::Other,
        }
    }
}

/// A field's name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Scalar::Text(name) = Scalar::deserialize(from)? else {
            return Err(serde::de::Error::custom("a field's name is not a string"));
        };
        Ok(Self(name))
    }
}

impl<'de> serde::Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Uint(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}
