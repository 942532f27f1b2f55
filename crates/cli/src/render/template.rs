//! A template such as `{offset} {key} {value}\n`.

use std::io::Write as _;

use super::Placed;

const NAMES: &str = "{topic}, {partition}, {offset}, {timestamp}, {timestamp_ms}, {key}, {value}, \
                     {headers}";

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampMs,
    Key,
    Value,
    Headers,
}

/// Why a text is not a template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("{text:?} is no format: use value, json, or a template with some of {NAMES}")]
    NotATemplate { text: String },
    #[error("the template has {{{name}}}, which is unknown: use {NAMES}; {{{{ is a brace")]
    UnknownName { name: String },
    #[error("the template has a brace that is not closed: {{{{ is a brace")]
    OpenBrace,
}

impl Template {
    /// Reads a template. `\n`, `\t`, `\r`, `\0` and `\\` are what they are in most languages, `{{`
    /// and `}}` are braces.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let escaped = ["\\n", "\\t", "\\r", "\\0", "\\\\", "{{", "}}"]
                .iter()
                .zip(*b"\n\t\r\0\\{}")
                .find_map(|(spelled, byte)| Some((rest.strip_prefix(spelled)?, byte)));
            if let Some((behind, byte)) = escaped {
                literal.push(byte);
                rest = behind;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let (name, behind) = inner.split_once('}').ok_or(TemplateError::OpenBrace)?;
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::named(name)?);
                rest = behind;
            } else {
                let (this, behind) = rest.split_at(next.len_utf8());
                literal.extend_from_slice(this.as_bytes());
                rest = behind;
            }
        }
        if pieces.is_empty() {
            return Err(TemplateError::NotATemplate { text: text.to_owned() });
        }
        pieces.push(Piece::Literal(literal));
        Ok(Self { pieces })
    }

    /// Appends the record; a missing key or value is empty.
    pub(super) fn render(&self, placed: Placed<'_>, out: &mut Vec<u8>) {
        let Placed { topic, partition, record } = placed;
        for piece in &self.pieces {
            // Writing to a vector cannot fail.
            let _ = match piece {
                Piece::Literal(bytes) => out.write_all(bytes),
                Piece::Topic => write!(out, "{topic}"),
                Piece::Partition => write!(out, "{partition}"),
                Piece::Offset => write!(out, "{}", record.offset),
                Piece::TimestampMs => write!(out, "{}", record.timestamp),
                Piece::Timestamp => {
                    let millis = record.timestamp.as_millis();
                    match jiff::Timestamp::from_millisecond(millis) {
                        Ok(moment) => write!(out, "{moment:.3}"),
                        Err(_) => write!(out, "{millis}"),
                    }
                }
                Piece::Key => out.write_all(record.key.unwrap_or_default()),
                Piece::Value => out.write_all(record.value.unwrap_or_default()),
                Piece::Headers => put_headers(out, placed),
            };
        }
    }
}

/// `name=value` with commas between them.
fn put_headers(out: &mut Vec<u8>, placed: Placed<'_>) -> std::io::Result<()> {
    for (index, header) in placed.record.headers().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(out, "{comma}{}=", header.name)?;
        out.write_all(header.value)?;
    }
    Ok(())
}

impl Piece {
    fn named(name: &str) -> Result<Self, TemplateError> {
        match name {
            "topic" => Ok(Self::Topic),
            "partition" => Ok(Self::Partition),
            "offset" => Ok(Self::Offset),
            "timestamp" => Ok(Self::Timestamp),
            "timestamp_ms" => Ok(Self::TimestampMs),
            "key" => Ok(Self::Key),
            "value" => Ok(Self::Value),
            "headers" => Ok(Self::Headers),
            other => Err(TemplateError::UnknownName { name: other.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_names_text_and_escapes() {
        let literal = |text: &str| Piece::Literal(text.as_bytes().to_owned());
        let template = Template::parse(r"é{offset}\t{{{value}}}\n").expect("a template");
        let pieces =
            vec![literal("é"), Piece::Offset, literal("\t{"), Piece::Value, literal("}\n")];
        assert_eq!(template, Template { pieces });
        assert!(matches!(Template::parse("{oops}"), Err(TemplateError::UnknownName { .. })));
        assert!(matches!(Template::parse("{offset"), Err(TemplateError::OpenBrace)));
        assert!(matches!(Template::parse("values"), Err(TemplateError::NotATemplate { .. })));
    }
}
