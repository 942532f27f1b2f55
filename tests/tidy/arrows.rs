//! Which crate may depend on which: a strict order, so that there is one direction to read in.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::none;
use crate::tree::{read, walk};

/// Each crate, and those it may depend on. ARCHITECTURE.md draws the same.
const ARROWS: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("proto", &[]),
    ("log", &["model"]),
    ("broker", &["log", "model"]),
    ("grpc", &["broker", "proto", "model"]),
    ("client", &["proto", "model"]),
    ("server", &["grpc", "broker", "log", "model"]),
    ("cli", &["server", "client", "log"]),
    ("xtask", &[]),
];

/// These may depend on anything that is not a leaf.
const UNBOUND: [&str; 4] = ["tests", "benches", "counts", "fuzz"];

/// Nothing depends on these, not even a test.
const LEAVES: [&str; 6] = ["cli", "xtask", "tests", "benches", "counts", "fuzz"];

const PREFIX: &str = "taffrail-";

#[test]
fn a_crate_depends_only_on_those_the_table_allows() {
    let arrows = BTreeMap::from(ARROWS);
    let mut violations = Vec::new();
    for (name, manifest) in manifests() {
        let Some(allowed) = arrows.get(name.as_str()) else {
            if !UNBOUND.contains(&name.as_str()) {
                violations.push(format!("{name} is not in the table of arrows"));
            }
            continue;
        };
        let found = ours(&manifest, &["dependencies", "build-dependencies"]);
        let found = found.iter().filter(|other| !allowed.contains(&other.as_str()));
        violations.extend(found.map(|other| format!("{name} -> {other}")));
    }
    none(violations);
}

#[test]
fn nothing_depends_on_the_leaves() {
    let kinds = ["dependencies", "build-dependencies", "dev-dependencies"];
    none(manifests().into_iter().flat_map(|(name, manifest)| {
        let found = ours(&manifest, &kinds).into_iter().filter(|it| LEAVES.contains(&it.as_str()));
        found.map(|leaf| format!("{name} -> {leaf}")).collect::<Vec<_>>()
    }));
}

#[test]
fn every_package_bears_the_name_of_its_folder() {
    let name = |manifest: &Table| manifest["package"]["name"].as_str().map(str::to_owned);
    let manifests = manifests().into_iter();
    none(manifests.filter_map(|(folder, manifest)| {
        let name = name(&manifest).unwrap_or_default();
        (name != format!("{PREFIX}{folder}")).then(|| format!("{folder}/ holds {name}"))
    }));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let takes = |manifest: &Table| {
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        lints.and_then(Value::as_bool) == Some(true)
    };
    let without = manifests().into_iter().filter(|(_, manifest)| !takes(manifest));
    none(without.map(|(name, _)| format!("{name}: [lints] workspace = true is missing")));
}

/// Every member's manifest, by the name of its folder.
fn manifests() -> BTreeMap<String, Table> {
    let paths = walk("").into_iter().filter(|path| path.ends_with("/Cargo.toml"));
    let manifests = paths.filter_map(|path| {
        let manifest: Table = read(&path).parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let folder = path.strip_suffix("/Cargo.toml")?;
        let name = folder.rsplit('/').next().unwrap_or(folder);
        manifest.contains_key("package").then(|| (name.to_owned(), manifest.clone()))
    });
    manifests.collect()
}

/// The crates of ours that a manifest names in these tables, without the prefix.
fn ours(manifest: &Table, kinds: &[&str]) -> Vec<String> {
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let platforms = platforms.filter_map(|(_, table)| table.as_table());
    let mut found = Vec::new();
    for table in platforms.chain([manifest]) {
        let dependencies = kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()).flatten();
        for (key, value) in dependencies {
            let name = value.get("package").and_then(Value::as_str).unwrap_or(key);
            found.extend(name.strip_prefix(PREFIX).map(str::to_owned));
        }
    }
    found
}
