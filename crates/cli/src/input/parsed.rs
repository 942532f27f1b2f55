//! What a piece of input says, or what is wrong with it.

use std::borrow::Cow;

use taffrail_client::{PartitionIndex, Timestamp};

/// What a piece of input says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed<'a> {
    pub(crate) key: Option<Cow<'a, [u8]>>,
    pub(crate) value: Option<Cow<'a, [u8]>>,
    pub(crate) headers: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) partition: Option<PartitionIndex>,
}

/// What is wrong with a piece of input, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error(
        "no separator {separator:?} between key and value: add it, or leave --key-separator out"
    )]
    NoSeparator { separator: String },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("not a JSON object: --key-field and --timestamp-field need one on every line")]
    NotAnObject,
    #[error("no field {field:?}: add it, or name another with --key-field or --timestamp-field")]
    NoField { field: String },
    #[error("the field {field:?} cannot be a key: use a string, a number, true, false or null")]
    Key { field: String },
    #[error(
        "the timestamp {found} is not one: use a number of Unix milliseconds or a string such as \
         \"2018-02-05T00:00:00Z\""
    )]
    Timestamp { found: String },
}

/// Reads a timestamp from text: RFC 3339.
pub(super) fn timestamp_from_text(text: &str) -> Option<Timestamp> {
    let moment = text.parse::<jiff::Timestamp>().ok()?;
    Some(Timestamp::from_millis(moment.as_millisecond()))
}
