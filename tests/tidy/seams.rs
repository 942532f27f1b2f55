//! What may be reached in one place only: the clock, and the settings file.

use toml::Value;

use crate::none;
use crate::source::Source;
use crate::tree::{read, sources, walk};

/// Where the wall clock is read. `clippy.toml` forbids it elsewhere; this is the list of exceptions.
const WALL_CLOCK: [&str; 1] = ["crates/broker/src/clock.rs"];

/// Where the monotonic clock is read in crates that get time as an argument.
const MONOTONIC_CLOCK: [&str; 1] = ["crates/broker/src/clock.rs"];

/// The crates that get time as an argument.
const TIMELESS: [&str; 4] = ["crates/model/", "crates/log/", "crates/broker/", "crates/grpc/"];

/// Files that decide, in every crate: so they can be tested with any time.
const DECIDING: [&str; 2] = ["/state.rs", "/event.rs"];

/// The one crate that reads a settings file, and where in it.
const SETTINGS_CRATE: &str = "crates/server/";
const SETTINGS: &str = "crates/server/src/settings";

/// Files of other crates that hold settings, already typed.
const TYPED_SETTINGS: [&str; 2] = ["/config.rs", "/settings.rs"];

#[test]
fn the_wall_clock_is_read_in_its_seam_alone() {
    let files = product().into_iter().filter(|file| !WALL_CLOCK.contains(&file.path.as_str()));
    none(files.flat_map(|file| file.places(file.product_code(), "SystemTime::now")));
}

#[test]
fn what_gets_time_as_an_argument_reads_no_clock() {
    let gets_time = |file: &Source| {
        TIMELESS.iter().any(|folder| file.path.starts_with(folder))
            || DECIDING.iter().any(|name| file.path.ends_with(name))
    };
    let files = product().into_iter().filter(gets_time);
    let files = files.filter(|file| !MONOTONIC_CLOCK.contains(&file.path.as_str()));
    none(files.flat_map(|file| file.places(file.product_code(), "Instant::now")));
}

#[test]
fn only_the_server_can_read_a_settings_file() {
    let manifests = walk("crates").into_iter().filter(|path| path.ends_with("/Cargo.toml"));
    let others = manifests.filter(|path| !path.starts_with(SETTINGS_CRATE));
    let reads_toml = |path: &String| {
        let manifest: Value = toml::from_str(&read(path)).expect("cargo has read it");
        manifest.get("dependencies").is_some_and(|dependencies| dependencies.get("toml").is_some())
    };
    none(others.filter(reads_toml).map(|path| format!("{path}: toml")));
}

#[test]
fn only_the_settings_of_the_server_are_deserialised() {
    let forbidden = |file: &Source| {
        let server = file.path.starts_with(SETTINGS_CRATE) && !file.path.starts_with(SETTINGS);
        let typed = TYPED_SETTINGS.iter().any(|name| file.path.ends_with(name));
        server || (typed && !file.path.starts_with(SETTINGS))
    };
    let files = product().into_iter().filter(forbidden);
    none(files.flat_map(|file| file.places(file.product_code(), "Deserialize")));
}

/// The sources of what users run.
fn product() -> Vec<Source> {
    sources("crates").into_iter().filter(|file| !file.path.starts_with("crates/xtask/")).collect()
}
