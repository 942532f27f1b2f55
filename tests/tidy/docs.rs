//! What the documents say of one another.

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
fn a_changelog_exists() {
    assert!(root().join("CHANGELOG.md").is_file(), "CHANGELOG.md: what users notice");
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
