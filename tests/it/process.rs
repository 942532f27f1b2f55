//! The process: what it refuses to start on, and what it says then.

use crate::broker::{Broker, Home};
use crate::door::Door;
use crate::program::{Ended, run, run_with};

/// Checks that the product refuses to serve, and says why and what to do.
#[track_caller]
fn check(arguments: &[&str], environment: &[(&str, &str)], says: &[&str]) {
    let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
    check_said(run_with(&arguments, environment), says);
}

#[track_caller]
fn check_said(ended: Ended, says: &[&str]) {
    let code = ended.status.code().filter(|code| *code != 0);
    ended.check(code.expect("it served"), says);
}

#[tokio::test]
async fn a_second_broker_on_the_same_data_is_refused_and_the_first_goes_on() {
    let broker = Broker::new();
    let data = broker.home.data();
    let data = data.to_str().expect("text");
    check(&["--data", data], &[], &[data, "in use", &broker.id().to_string()]);
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["x"]).await;
}

#[tokio::test]
async fn a_second_broker_on_the_same_address_is_told_who_has_it() {
    let broker = Broker::new();
    let (home, address) = (Home::new(), broker.address.to_string());
    let data = home.data();
    // The first one must answer meanwhile: it is a process of its own, and does.
    let said = run(&["serve", "--listen", &address, "--data", data.to_str().expect("text")]);
    let holder = broker.home.data();
    let holder = holder.to_str().expect("text");
    let id = format!("process {}", broker.id());
    check_said(said, &[&address, "Taffrail broker", &id, holder, "--listen"]);
    assert!(!data.exists(), "nothing was set up");
}

#[test]
fn an_address_that_another_program_has_is_named() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("an address").to_string();
    let home = Home::new();
    let said = run(&["serve", "--listen", &address, "--data", home.data().to_str().expect("text")]);
    check_said(said, &[&address, "another program", "--listen"]);
}

#[test]
fn listening_beyond_this_machine_must_be_meant() {
    let home = Home::new();
    let data = home.data();
    let data = data.to_str().expect("text");
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let said = run(&["serve", "--listen", listen, "--data", data]);
        check_said(said, &["--allow-unauthenticated", listen]);
    }
    let broker = home.start_at("0.0.0.0:0", &["allow_unauthenticated=true"]);
    assert!(broker.address.ip().is_unspecified());
}

#[test]
fn a_setting_that_does_not_exist_is_named_with_the_nearest() {
    let home = Home::new();
    let data = home.data();
    let data = data.to_str().expect("text");
    let file = home.path().join("taffrail.toml");
    let path = file.to_str().expect("text");
    let near = "did you mean \"memory\"?";
    check(&["--data", data, "--set", "memori=1GiB"], &[], &["memori", near]);
    check(&["--data", data], &[("TAFFRAIL_MEMORI", "1GiB")], &["TAFFRAIL_MEMORI", near]);
    std::fs::write(&file, "memori = \"1GiB\"\n").expect("room");
    check(&["--data", data, "--config", path], &[], &[path, near]);
    std::fs::write(&file, "memory = \"lots\"\n").expect("room");
    check(&["--data", data, "--config", path], &[], &[path, "memory takes bytes", "lots"]);
    std::fs::write(&file, "memory = \n").expect("room");
    check(&["--data", data, "--config", path], &[], &[path, "not valid TOML"]);
    std::fs::remove_file(&file).expect("ours");
    check(&["--data", data, "--config", path], &[], &[path, "cannot read"]);
    assert!(!home.data().exists(), "nothing was set up");
}

#[test]
fn settings_of_a_file_the_environment_and_flags_count() {
    let home = Home::new();
    let file = home.path().join("taffrail.toml");
    std::fs::write(&file, "memory = \"1KiB\"\n").expect("room");
    let data = home.data();
    let arguments =
        ["--data", data.to_str().expect("text"), "--config", file.to_str().expect("text")];
    check(&arguments, &[], &["1024", "at least 16777216"]);
    check(&arguments, &[("TAFFRAIL_MEMORY", "2KiB")], &["2048", "at least"]);
    let flag = [&arguments[..], &["--set", "memory=3KiB"]].concat();
    check(&flag, &[("TAFFRAIL_MEMORY", "2KiB")], &["3072", "at least"]);
}

#[test]
fn an_empty_directory_may_be_an_unmounted_disk() {
    let home = Home::new();
    let data = home.data();
    let data = data.to_str().expect("text").to_owned();
    std::fs::create_dir(&data).expect("room");
    check(&["--data", &data], &[], &[&data, "empty", "--init"]);
    let broker = home.start_at("127.0.0.1:0", &["init=true"]);
    drop(broker);
    // What is a data directory once needs no leave.
    drop(home.start(&[]));
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    let home = Home::new();
    let data = home.data();
    std::fs::create_dir(&data).expect("room");
    std::fs::write(data.join("holiday.jpg"), b"sea").expect("room");
    let path = data.to_str().expect("text");
    check(&["--data", path, "--init"], &[], &[path, "holiday.jpg"]);
    assert_eq!(std::fs::read_dir(&data).expect("a folder").count(), 1);
}
