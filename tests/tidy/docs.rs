//! What the documents say of one another.

use std::collections::BTreeSet;
use std::path::Path;

use crate::none;
use crate::tree::{read, root, with_extension};

#[test]
fn every_relative_link_leads_somewhere() {
    none(with_extension("", "md").flat_map(|page| {
        let folder = Path::new(&page).parent().map(|folder| root().join(folder));
        let folder = folder.unwrap_or_default();
        let links = links(&read(&page));
        let broken = links.into_iter().filter(|link| !folder.join(link).exists());
        broken.map(|link| format!("{page}: {link}")).collect::<Vec<_>>()
    }));
}

#[test]
fn links_are_found_in_text_and_not_in_code() {
    let page = "[a](b.md) `[c](d)` [e](f.md#g \"h\") <i> [j](https://k) [l](#m)\n\
                ```\n[n](o)\n```\n[p]: q.md\n    [r](s)\n![t](u.svg)";
    assert_eq!(links(page), ["b.md", "f.md", "q.md", "u.svg"]);
}

#[test]
fn every_error_has_a_row_and_every_row_is_of_an_error() {
    let page = read("docs/errors.md");
    let source = read("crates/grpc/src/status.rs");
    let made = source.split('"').skip(1).step_by(2).filter(|word| is_reason(word));
    let (rows, made): (BTreeSet<_>, BTreeSet<_>) = (reasons(&page).collect(), made.collect());
    assert!(!made.is_empty() && rows.is_subset(&made), "{:?}", rows.difference(&made));
    assert!(made.is_subset(&rows), "docs/errors.md lacks {:?}", made.difference(&rows));
}

#[test]
fn every_error_is_told_in_some_test() {
    let suites = ["tests/it", "tests/crash"].map(|suite| with_extension(suite, "rs"));
    let tests: String = suites.into_iter().flatten().map(|file| read(&file)).collect();
    let page = read("docs/errors.md");
    let is_told = |reason: &&str| tests.contains(&format!("\"{reason}\""));
    let untold: Vec<_> = reasons(&page).filter(|reason| !is_told(reason)).collect();
    assert_eq!(untold, [""; 0], "no test of a real broker names them");
}

#[test]
fn a_changelog_exists() {
    assert!(root().join("CHANGELOG.md").is_file(), "CHANGELOG.md: what users notice");
}

/// The errors that a page has rows for.
fn reasons(page: &str) -> impl Iterator<Item = &str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.filter(|row| is_reason(row))
}

fn is_reason(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// The relative links of a page, without what is behind `#`.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced || line.starts_with("    ") {
            continue;
        }
        if let Some((_, target)) = line.split_once("]: ").filter(|_| line.starts_with('[')) {
            found.push(target);
        }
        for text in line.split('`').step_by(2) {
            let targets = text.split("](").skip(1);
            found.extend(targets.filter_map(|behind| behind.split([')', ' ']).next()));
        }
    }
    let here = |link: &&str| !link.contains("://") && !link.starts_with("mailto:");
    let files = found.into_iter().filter(here).filter_map(|link| link.split('#').next());
    files.filter(|link| !link.is_empty()).map(str::to_owned).collect()
}
