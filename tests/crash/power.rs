//! A broker that finds its machine started anew, as after a power loss: records of `page_cache`
//! topics may be gone then, so their offsets are not used again, and readers are told.
//!
//! The files are those of a killed process; `disk_copy` has those that a power loss leaves.

use std::time::Duration;

use tokio::time::sleep;

use crate::broker::Home;
use crate::dice::Dice;
use crate::history::Event;
use crate::kills::{TOPICS, create_topics, start_load};
use crate::readback::{conclude, wait_until_online};
use crate::rounds;

/// Where the boot id lies in the recovery points, and the checksum of all before it at the end.
const BOOT_ID: usize = 16;
const CRC_BYTES: usize = 4;

/// Makes the recovery points those of an earlier start of the machine.
pub(crate) fn start_machine_anew(home: &Home) {
    for copy in ["recovery-points.a", "recovery-points.b"] {
        let path = home.data.join(copy);
        let mut bytes = std::fs::read(&path).expect("there are recovery points");
        bytes[BOOT_ID] ^= 1;
        let (body, crc) = bytes.split_last_chunk_mut::<CRC_BYTES>().expect("a checksum");
        crc.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        std::fs::write(&path, &bytes).expect("the recovery points are changed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_may_be_lost_are_not_used_again() {
    let mut dice = Dice::new("power");
    let home = Home::new().await;
    let mut broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    let rounds = rounds(3, 40);
    for round in 1..=rounds {
        sleep(dice.millis(200, 600)).await;
        load.history.note(format!("power loss {round}"));
        broker.kill().await;
        start_machine_anew(&home);
        broker = home.start().await;
        for (topic, _) in TOPICS {
            wait_until_online(&broker, topic).await;
        }
    }
    sleep(Duration::from_millis(300)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
    let events = load.history.events();
    let is_gap = |event: &&Event| matches!(event, Event::Gap { .. });
    let gaps = events.iter().filter(is_gap).count() as u64;
    assert!(rounds <= gaps, "readers were told of {gaps} gaps");
    assert!(home.said_all().contains("offsets are skipped"), "it says so in the log");
}
