//! `serve`: the line that says where. What it refuses to start on is in `process`.

use crate::broker::Home;
use crate::program::{Program, product};

/// The line that a broker prints with these flags.
fn ready_line(home: &Home, flags: &[&str]) -> String {
    let mut command = product();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(home.data()).args(flags);
    Program::start(&mut command).lines(1).concat()
}

#[test]
fn a_quiet_broker_says_where_it_is_all_the_same() {
    let home = Home::new();
    let line = ready_line(&home, &["-q"]);
    let place = format!("(data in {})", home.data().display());
    assert!(line.starts_with("taffrail is ready on http://127.0.0.1:"), "{line}");
    assert!(line.ends_with(&place), "{line}");
}

#[test]
fn programs_are_told_in_json_where_a_broker_is() {
    let home = Home::new();
    let line = ready_line(&home, &["--output", "json"]);
    let ready: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let server = ready["server"].as_str().expect("text");
    assert!(server.starts_with("http://127.0.0.1:") && !server.ends_with(":0"), "{server}");
    assert_eq!(ready["data"], home.data().to_str().expect("text"));
}
