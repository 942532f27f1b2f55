//! Writes records to standard output, as `--format` asks.

pub(crate) mod json;
mod template;

use std::str::FromStr;

use taffrail_client::{PartitionIndex, RecordView, TopicName};

use template::Template;
pub(crate) use template::TemplateError;

/// How records are written.
#[derive(Clone, Debug)]
pub(crate) enum Renderer {
    /// The value and a line feed.
    Value,
    /// A JSON object a line.
    Json,
    /// By a template.
    Template(Template),
}

/// A record and where it is from.
#[derive(Clone, Copy)]
pub(crate) struct Placed<'a> {
    pub(crate) topic: &'a TopicName,
    pub(crate) partition: PartitionIndex,
    pub(crate) record: RecordView<'a>,
}

impl FromStr for Renderer {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        match text {
            "value" => Ok(Self::Value),
            "json" => Ok(Self::Json),
            template => Template::parse(template).map(Self::Template),
        }
    }
}

impl Renderer {
    /// Appends the record to `out`.
    pub(crate) fn render(&self, placed: Placed<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Value => {
                out.extend_from_slice(placed.record.value.unwrap_or_default());
                out.push(b'\n');
            }
            Self::Json => json::render(placed, out),
            Self::Template(template) => template.render(placed, out),
        }
    }
}
