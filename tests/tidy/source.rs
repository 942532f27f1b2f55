//! A Rust file taken apart into code, comments and strings, so that a rule about code does not
//! stumble over a sentence that mentions it.

use std::ops::Range;

/// A Rust file. Its parts have the lines of the whole; what is not of the part is blank.
pub(crate) struct Source {
    /// Its path in the repository.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    /// Without comments and without what strings say.
    pub(crate) code: String,
    /// Only comments.
    pub(crate) comments: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (mut code, mut comments) = (String::new(), String::new());
        let mut rest = text;
        while !rest.is_empty() {
            let (kind, length) = token(rest);
            let (now, later) = rest.split_at(length);
            code.push_str(&if kind == Kind::Code { now.to_owned() } else { blank(now) });
            comments.push_str(&if kind == Kind::Comment { now.to_owned() } else { blank(now) });
            rest = later;
        }
        Self { path: path.to_owned(), text: text.to_owned(), code, comments }
    }

    /// The code less what only tests compile: files of tests, and modules behind `cfg(test)`.
    pub(crate) fn product_code(&self) -> &str {
        if ["/tests/", "/tests.rs", "_tests.rs"].iter().any(|part| self.path.contains(part)) {
            return "";
        }
        let module = self.code.find("#[cfg(test)]\nmod tests {");
        self.code.get(..module.unwrap_or(self.code.len())).unwrap_or_default()
    }

    /// `path:line` for each occurrence of `word` in `part`, which is of this file.
    pub(crate) fn places(&self, part: &str, word: &str) -> Vec<String> {
        let line = |range: Range<usize>| 1 + part[range].matches('\n').count();
        let starts = part.match_indices(word).filter(|(at, _)| stands_alone(part, *at, word));
        starts.map(|(at, _)| format!("{}:{}: {word}", self.path, line(0..at))).collect()
    }
}

/// Whether the word at `at` is not a part of a longer one.
fn stands_alone(text: &str, at: usize, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let before = text[..at].chars().next_back().filter(|_| word.starts_with(is_word));
    let after = text[at + word.len()..].chars().next().filter(|_| word.ends_with(is_word));
    !before.is_some_and(is_word) && !after.is_some_and(is_word)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// What `rest` begins with, and its length in bytes.
fn token(rest: &str) -> (Kind, usize) {
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    if let Some(length) = raw_string(rest).or_else(|| string(rest)).or_else(|| character(rest)) {
        return (Kind::Text, length);
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let first = rest.chars().next().map_or(1, char::len_utf8);
    (Kind::Code, rest.find(|c| !is_word(c)).filter(|end| *end > 0).unwrap_or(first))
}

/// Length of a block comment with those nested in it.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        let step = match tail {
            tail if tail.starts_with("/*") => {
                depth += 1;
                2
            }
            tail if tail.starts_with("*/") => {
                depth -= 1;
                2
            }
            tail => tail.chars().next().map_or(1, char::len_utf8),
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of `r"…"`, `r#"…"#` and so on, also of bytes.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let start = prefix.len() + hashes;
    let inside = rest[start..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(start + 1 + inside.find(&end)? + end.len())
}

/// Length of `"…"`, also of bytes.
fn string(rest: &str) -> Option<usize> {
    let start = rest.find('"').filter(|at| ["", "b", "c"].contains(&&rest[..*at]))? + 1;
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Length of `'x'` or `'\n'`; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    if inside.starts_with('\\') {
        return Some(1 + 2 + inside.get(2..)?.find('\'')? + 1);
    }
    let first = inside.chars().next()?.len_utf8();
    inside.get(first..)?.starts_with('\'').then_some(first + 2)
}

/// As many bytes and lines, nothing on them.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

#[test]
fn a_source_falls_apart_into_code_comments_and_strings() {
    let text = "let a = \"// no \\\" \"; // yes 'x\nlet b: &'a u8 = br#\"/* \" */\"#; /* b /* c */ */ d('\\'', '\"', b'\\n')";
    let source = Source::new("a.rs", text);
    let words = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&source.code), "let a = ; let b: &'a u8 = ; d( , , b )");
    assert_eq!(words(&source.comments), "// yes 'x /* b /* c */ */");
    assert_eq!(source.places(&source.code, "d"), ["a.rs:2: d"]);
}
