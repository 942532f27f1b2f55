//! A copy of the disk at one moment of a broker under load: what the kernel had not written back is
//! not in it, and its file system replays its journal, as after a power loss.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::broker::{Broker, Home};
use crate::dice::Dice;
use crate::history::{Event, History};
use crate::kills::{TOPICS, create_topics, start_load};
use crate::mount::Mount;
use crate::power::start_machine_anew;
use crate::readback::{conclude, read_back, wait_until_online};
use crate::rounds;

/// Power losses of one directory.
const LOSSES: u32 = 3;
/// Directories that are tried beside them while no copy lacks anything.
const MORE: u64 = 6;
/// What clients do not hear within this time, nobody will tell them.
const QUIET: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_copy_of_its_disk_the_broker_has_all_that_was_synced() {
    let mut dice = Dice::new("disk copy");
    let mut lost = 0;
    let rounds = rounds(1, 12);
    for round in 1.. {
        let Some(more) = run(&mut dice).await else { return };
        lost += more;
        // Where all was on the disk by chance, it is tried again: then nothing is proved yet.
        if rounds <= round && (0 < lost || rounds + MORE <= round) {
            break;
        }
    }
    println!("{lost} records were acknowledged by page_cache topics, and lost");
    assert!(0 < lost, "no copy lacked anything: this proves nothing");
}

/// Loses power a few times under load; how many acknowledged records are gone in the end.
async fn run(dice: &mut Dice) -> Option<usize> {
    let mut home = Home::new().await;
    let mut disk = Mount::new(home.folder(), "ext4", "disk copy")?;
    home.data = disk.path.join("data");
    home.syncs_together_half_the_time(dice);
    let mut broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, dice);
    for loss in 1..=LOSSES {
        sleep(dice.millis(200, 1400)).await;
        broker.signal("STOP").await;
        let copy = home.folder().join(format!("copy-{loss}"));
        copy_one_moment(&disk.image, &copy);
        load.history.note(format!("power loss {loss}"));
        broker.kill().await;
        // It unmounts the other one.
        disk = Mount::of(copy);
        home.data = disk.path.join("data");
        start_machine_anew(&home);
        wait_until_quiet(&load.history).await;
        let cached = TOPICS.into_iter().filter(|(topic, _)| *topic == "cached");
        for partition in cached.flat_map(|(_, partitions)| 0..partitions) {
            load.history.add(Event::Loss { place: format!("cached/{partition}") });
        }
        broker = home.start().await;
        for (topic, _) in TOPICS {
            wait_until_online(&broker, topic).await;
        }
    }
    sleep(Duration::from_millis(300)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
    let lost = count_lost(&broker, &load.history).await;
    assert!(broker.stop().await.success(), "a clean stop");
    assert!(!home.said_all().contains("panicked"), "the broker panicked");
    Some(lost)
}

/// Copies a file as it is at one moment: until it was the same from its begin to its end.
fn copy_one_moment(image: &Path, copy: &Path) {
    let read = || std::fs::read(image).expect("the image is read");
    let mut before = read();
    loop {
        let now = read();
        if before == now {
            break;
        }
        before = now;
    }
    std::fs::write(copy, before).expect("the copy is written");
}

/// Waits until clients have noted all that the broker told them before it ended.
async fn wait_until_quiet(history: &History) {
    let is_heard = |event: &&Event| matches!(event, Event::Ok { .. } | Event::Read { .. });
    let heard = || history.events().iter().filter(is_heard).count();
    let mut before = heard();
    loop {
        sleep(QUIET).await;
        let now = heard();
        if before == now {
            return;
        }
        before = now;
    }
}

/// How many records were acknowledged at offsets that readers are told to be gone.
async fn count_lost(broker: &Broker, history: &History) -> usize {
    let last = History::default();
    for (topic, partitions) in TOPICS {
        read_back(broker, topic, partitions, &last).await;
    }
    let last = last.events();
    let is_gone = |at: &str, offset: u64| {
        let holds = |event: &Event| matches!(event, Event::Gap { place, from, to, .. } if place == at && (*from..*to).contains(&offset));
        last.iter().any(holds)
    };
    let events = history.events();
    let mut places = HashMap::new();
    for event in &events {
        if let Event::Invoke { record, place, .. } = event {
            places.insert(*record, place);
        }
    }
    let is_lost = |event: &&Event| matches!(event, Event::Ok { record, offset } if is_gone(places[record], *offset));
    events.iter().filter(is_lost).count()
}
