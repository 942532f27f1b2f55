//! A record as a JSON object on a line; `produce --format json` reads it back.
//!
//! Bytes that are not UTF-8 are `{"base64": ...}`; headers are a list, because names may repeat.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Placed;

/// Appends the record and a line feed.
pub(super) fn render(placed: Placed<'_>, out: &mut Vec<u8>) {
    let Placed { topic, partition, record } = placed;
    // A topic's name needs no escapes, and writing to a vector cannot fail.
    let _ = write!(
        out,
        r#"{{"topic":"{topic}","partition":{partition},"offset":{},"timestamp":{},"key":"#,
        record.offset, record.timestamp,
    );
    put_bytes(out, record.key);
    out.extend_from_slice(br#","value":"#);
    put_bytes(out, record.value);
    put_headers(out, placed);
    out.extend_from_slice(b"}\n");
}

fn put_headers(out: &mut Vec<u8>, placed: Placed<'_>) {
    out.extend_from_slice(br#","headers":["#);
    for (index, header) in placed.record.headers().enumerate() {
        out.extend_from_slice(if index == 0 { br#"{"name":"# } else { br#",{"name":"# });
        put_text(out, header.name);
        out.extend_from_slice(br#","value":"#);
        put_bytes(out, Some(header.value));
        out.push(b'}');
    }
    out.push(b']');
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => out.extend_from_slice(b"null"),
        Some((_, Ok(text))) => put_text(out, text),
        Some((bytes, Err(_))) => {
            out.extend_from_slice(br#"{"base64":""#);
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.extend_from_slice(br#""}"#);
        }
    }
}

/// Bytes as they stand in JSON.
pub(crate) fn bytes_value(bytes: Option<&[u8]>) -> serde_json::Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => serde_json::Value::Null,
        Some((_, Ok(text))) => text.into(),
        Some((bytes, Err(_))) => serde_json::json!({ "base64": STANDARD.encode(bytes) }),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Text always has a JSON form, and writing to a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}
