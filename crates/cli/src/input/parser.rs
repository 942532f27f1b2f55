//! Turns a framed piece of input into a record.

use std::borrow::Cow;

use super::fields::{FieldNames, pick};
use super::json_record;
use super::parsed::{LineError, Parsed};

/// How input is read.
#[derive(Clone, Debug)]
pub(crate) enum Parser {
    /// The piece is the value.
    Value,
    /// Key and value with this between them.
    Separated(Vec<u8>),
    /// The piece is the value, and a JSON object some of whose fields are key and timestamp.
    Fields(FieldNames),
    /// The piece is what `consume --format json` writes.
    Json,
}

impl Parser {
    /// The parser that key and timestamp fields ask for.
    pub(crate) fn fields(key: Option<String>, timestamp: Option<String>) -> Self {
        Self::Fields(FieldNames { key, timestamp })
    }

    /// Reads a piece; `None` if it says nothing.
    pub(crate) fn parse<'a>(&self, piece: &'a [u8]) -> Result<Option<Parsed<'a>>, LineError> {
        let value = Some(Cow::Borrowed(piece));
        match self {
            Self::Value => Ok(Some(Parsed { value, ..Default::default() })),
            Self::Separated(separator) => {
                let at = find(piece, separator).ok_or_else(|| LineError::NoSeparator {
                    separator: String::from_utf8_lossy(separator).into_owned(),
                })?;
                let (key, rest) = piece.split_at(at);
                let value = rest.get(separator.len()..).unwrap_or_default();
                Ok(Some(Parsed {
                    key: Some(Cow::Borrowed(key)),
                    value: Some(Cow::Borrowed(value)),
                    ..Default::default()
                }))
            }
            Self::Fields(names) => {
                let picked = pick(piece, names)?;
                let (key, timestamp) = (picked.key, picked.timestamp);
                Ok(Some(Parsed { key, value, timestamp, ..Default::default() }))
            }
            Self::Json if piece.trim_ascii().is_empty() => Ok(None),
            Self::Json => json_record::parse(piece).map(Some),
        }
    }
}

fn find(piece: &[u8], separator: &[u8]) -> Option<usize> {
    let width = separator.len().max(1);
    piece.windows(width).position(|window| window == separator)
}

#[cfg(test)]
mod tests {
    use taffrail_client::Timestamp;

    use super::*;

    #[track_caller]
    fn check(parser: &Parser, piece: &str, expected: Result<Parsed<'_>, &str>) {
        match (parser.parse(piece.as_bytes()), expected) {
            (Ok(parsed), Ok(expected)) => assert_eq!(parsed, Some(expected), "{piece}"),
            (Err(error), Err(expected)) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{piece}: {error}");
            }
            (parsed, expected) => panic!("{piece}: {parsed:?}, expected {expected:?}"),
        }
    }

    fn text(text: &str) -> Cow<'_, [u8]> {
        Cow::Borrowed(text.as_bytes())
    }

    #[test]
    fn a_separator_divides_key_and_value_at_its_first_place() {
        let parser = Parser::Separated(b"::".to_vec());
        let parsed = |key, value| {
            Ok(Parsed { key: Some(text(key)), value: Some(text(value)), ..Default::default() })
        };
        check(&parser, "a::b::c", parsed("a", "b::c"));
        check(&parser, "::", parsed("", ""));
        check(&parser, "a:b", Err("no separator"));
    }

    #[test]
    fn fields_of_a_json_value_are_key_and_timestamp() {
        let parser = Parser::fields(Some("id".to_owned()), Some("at".to_owned()));
        let expect = |piece: &'static str, key: Option<&'static str>, at| {
            let key = key.map(text);
            let timestamp = Some(Timestamp::from_millis(at));
            let value = Some(text(piece));
            check(&parser, piece, Ok(Parsed { key, value, timestamp, ..Default::default() }));
        };
        expect(r#"{"id":"a","at":7,"x":{"id":[1]}}"#, Some("a"), 7);
        expect(r#"{"at":"1970-01-01T00:00:01.5Z","id":12}"#, Some("12"), 1_500);
        expect(r#"{"at":8.0,"id":true}"#, Some("true"), 8);
        expect(r#"{"at":-1,"id":"a\"b"}"#, Some("a\"b"), -1);
        expect(r#"{"at":-1,"id":null}"#, None, -1);
        check(&parser, r#"{"id":"a"}"#, Err("no field \"at\""));
        check(&parser, r#"{"at":1}"#, Err("no field \"id\""));
        check(&parser, r#"{"at":"soon","id":1}"#, Err("\"soon\""));
        check(&parser, r#"{"at":1,"id":{}}"#, Err("cannot be a key"));
        check(&parser, "[1]", Err("not a JSON object"));
        check(&parser, r#"{"id":"a","at":7"#, Err("EOF"));
        check(&parser, r#"{"id":"a","at":7} x"#, Err("trailing"));
    }
}
