//! What every `.proto` file looks like.

use crate::none;
use crate::tree::{read, with_extension};

/// Words that begin a declaration.
const DECLARATIONS: [&str; 5] = ["message ", "enum ", "service ", "rpc ", "oneof "];
/// Words that begin a line that declares nothing of its own.
const OTHERS: [&str; 5] = ["syntax ", "package ", "import ", "option ", "reserved "];

#[test]
fn every_declaration_of_the_contract_has_a_comment() {
    none(with_extension("proto", "proto").flat_map(|path| {
        let bare = undocumented(&read(&path)).into_iter();
        bare.map(|(line, text)| format!("{path}:{line}: {text}")).collect::<Vec<_>>()
    }));
}

#[test]
fn a_declaration_without_a_comment_is_seen() {
    let text = "// A.\nmessage A {\n  // One.\n  string a = 1;\n  int32 b = 2;\n  oneof c {\n";
    let text = format!("{text}    // D.\n    Option d = 3;\n  }}\n}}\nenum E {{\n  F = 0;\n}}\n");
    let lines: Vec<_> = undocumented(&text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [5, 6, 11, 12]);
}

/// Number and text of each line that declares something and has no comment above it.
fn undocumented(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut above = "";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_field = line.contains(" = ") && !OTHERS.iter().any(|word| line.starts_with(word));
        let declares = is_field || DECLARATIONS.iter().any(|word| line.starts_with(word));
        if declares && !line.starts_with("//") && !above.starts_with("//") {
            found.push((index + 1, line.to_owned()));
        }
        above = line;
    }
    found
}
