//! What a log has lost is given up, and what nothing names is taken away.

use super::{Given, RECORDS, files_below, flip};
use crate::door::{Door, check_error, soon};
use crate::program::run;

#[tokio::test]
async fn a_hole_in_a_sealed_segment_becomes_a_gap() {
    let given = Given::new().await;
    let (path, base, positions) = given.segments().remove(0);
    flip(&path, positions[3] + 100);
    given.check_accepted("t/0", &[(base + 3, base + 4)], RECORDS).await;
}

#[tokio::test]
async fn a_hole_in_the_growing_segment_becomes_a_gap() {
    let given = Given::new().await;
    let (path, base, positions) = given.segments().pop().expect("one");
    flip(&path, positions[0] + 100);
    given.check_accepted("t/0", &[(base, base + 1)], RECORDS).await;
}

#[tokio::test]
async fn a_missing_segment_becomes_a_gap() {
    let given = Given::new().await;
    let segments = given.segments();
    std::fs::remove_file(&segments[0].0).expect("it is there");
    given.check_accepted("t/0", &[(0, segments[1].1)], RECORDS).await;
}

#[tokio::test]
async fn a_log_that_lost_its_end_takes_appends_again() {
    let given = Given::new().await;
    let (path, base, positions) = given.segments().pop().expect("one");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("it is there");
    file.set_len(positions[1] + 7).expect("it can be cut");
    given.check_accepted("t/0", &[(base + 1, RECORDS)], RECORDS).await;
}

#[tokio::test]
async fn a_missing_log_goes_on_behind_what_it_held() {
    let given = Given::new().await;
    std::fs::rename(given.log(0), given.home.path().join("away")).expect("it is there");
    let id = format!("{}-0", given.topic);
    given.check_accepted(&id, &[(0, RECORDS)], RECORDS).await;
}

#[tokio::test]
async fn a_damaged_header_loses_nothing_and_is_written_anew() {
    let given = Given::new().await;
    let (path, ..) = given.segments().remove(1);
    flip(&path, 17);
    let said = run(&["inspect", &given.data]).success();
    assert!(said.contains("warning") && said.contains("no record is lost"), "{said}");
    given.check_accepted("t/0", &[], RECORDS).await;
}

#[tokio::test]
async fn all_losses_can_be_accepted_at_once_and_undone() {
    let given = Given::new().await;
    let (path, base, positions) = given.segments().remove(0);
    flip(&path, positions[3] + 100);
    let other = given.log(1).join("00000000000000000000.log");
    let bytes = std::fs::read(&other).expect("a file");
    std::fs::write(&other, &bytes[..bytes.len() - 1]).expect("room");
    let before = given.files();
    let done = given.repair(&["--accept-loss", "all", "--output", "json"]).json();
    let actions = done["actions"].as_array().expect("a list");
    assert_eq!(actions.len(), 2, "{done}");
    given.check_content();
    for action in actions {
        let undo = action["undo"].as_str().expect("a command");
        let status = std::process::Command::new("sh").args(["-c", undo]).status();
        assert!(status.expect("a shell").success(), "{undo}");
    }
    assert!(given.files() == before, "as it was");
    std::fs::write(&other, bytes).expect("room");
    given.repair(&["--accept-loss", "t/0"]).success();
    given.check_served(&[(base + 3, base + 4)], RECORDS).await;
}

#[tokio::test]
async fn what_cannot_be_repaired_does_not_keep_the_rest_from_it() {
    let given = Given::new().await;
    // A segment of the other partition lies among those of the first one.
    let foreign = given.log(1).join("00000000000000000000.log");
    std::fs::copy(foreign, given.log(0).join("00000000000000000007.log")).expect("room");
    let other = given.log(1).join("00000000000000000000.log");
    let bytes = std::fs::read(&other).expect("a file");
    std::fs::write(&other, &bytes[..bytes.len() - 1]).expect("room");
    let done = given.repair(&["--accept-loss", "all"]);
    done.check(1, &["not all could be repaired", "t/0", "00000000000000000007.log"]);
    assert!(done.output.contains("t/1"), "{}", done.output);
    std::fs::remove_file(given.log(0).join("00000000000000000007.log")).expect("it is there");
    given.check_content();
}

#[tokio::test]
async fn what_cannot_be_repaired_is_refused_and_nothing_is_changed() {
    let given = Given::new().await;
    let before = given.files();
    let id = format!("{}-0", given.topic);
    for (arguments, says) in [
        (&["--accept-loss", "t/0"][..], "no damage"),
        (&["--accept-loss", &id], "no damage"),
        (&["--accept-loss", "u/0"], "no log \"u/0\""),
        (&["--accept-loss", "ffffffffffffffffffffffff-0"], "there is no log"),
        (&["--accept-loss", "__catalog/0"], "--rebuild-catalog"),
        (&["--accept-loss", "__producers/0"], "--rebuild-producers"),
        (&["--remove", &id], "the catalog names"),
        (&["--remove", "ffffffffffffffffffffffff-0"], "there is no log"),
        (&["--rebuild-catalog"], "is sound"),
        (&["--rebuild-producers"], "is sound"),
    ] {
        given.repair(arguments).check(1, &["error: ", says]);
    }
    assert!(given.repair(&[]).success().contains("nothing to repair"));
    assert!(given.files() == before, "nothing is changed");
    let nowhere = given.home.path().join("nowhere");
    run(&["repair", nowhere.to_str().expect("text")]).check(1, &["not a data directory"]);
    assert!(!nowhere.exists());
    let broker = given.home.start(&[]);
    let process = format!("process {}", broker.id());
    for arguments in [&[][..], &["--accept-loss", "all"], &["--rebuild-catalog", "--dry-run"]] {
        given.repair(arguments).check(1, &["in use", &process]);
    }
}

#[tokio::test]
async fn a_log_that_nothing_names_is_taken_away_and_kept() {
    let given = Given::new().await;
    let stranger = "abababababababababababab-0";
    let folder = given.home.data().join("logs").join(stranger);
    std::fs::create_dir(&folder).expect("room");
    std::fs::copy(
        given.log(1).join("00000000000000000000.log"),
        folder.join("00000000000000000000.log"),
    )
    .expect("room");
    given.check_advice(&format!("--remove {stranger}"));
    given.repair(&["--remove", stranger]).success();
    assert!(!folder.exists());
    assert_eq!(files_below(&given.home.data().join("removed").join(stranger)).len(), 1);
    given.check_content();
    // And what a deletion left that nothing names any more.
    std::fs::create_dir(folder.with_extension("deleted")).expect("room");
    given.check_advice(&format!("--remove {stranger}"));
    given.repair(&["--remove", stranger]).success();
    assert!(!folder.with_extension("deleted").exists());
    given.check_content();
    let said = run(&["inspect", &given.data]).success();
    assert!(said.contains("kept: ") && said.contains(stranger), "{said}");
    given.check_served(&[], RECORDS).await;
}

#[tokio::test]
async fn an_interrupted_repair_is_named_and_finished_by_the_same_command() {
    let given = Given::new().await;
    let (path, base, positions) = given.segments().remove(0);
    flip(&path, positions[3] + 100);
    given.repair(&["--accept-loss", "t/0"]).success();
    // As if it had been killed before its last step.
    let place = given.log(0);
    let built = place.with_file_name(format!("{}-0.repaired", given.topic));
    std::fs::rename(&place, &built).expect("it is there");
    let broker = given.home.start(&[]);
    let door = Door::open(&broker).await;
    let result = soon(async {
        loop {
            let result = door.fetch("t", 0, 0).await;
            let error = result.error.expect("its files are not there");
            if error.reason != "PARTITION_RECOVERING" {
                return error;
            }
        }
    });
    check_error(Some(&result.await), "PARTITION_OFFLINE", &[("cause", "*")], "taffrail repair");
    broker.stop().await;
    let id = format!("{}-0", given.topic);
    given.check_advice(&format!("--accept-loss {id}"));
    given.repair(&["--accept-loss", "t/0"]).success();
    given.check_content();
    given.check_served(&[(base + 3, base + 4)], RECORDS).await;
}
