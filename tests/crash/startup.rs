//! Killed while it starts, again and again: recovery must be able to begin anew at any point.

use std::time::Duration;

use tokio::time::sleep;

use crate::broker::Home;
use crate::dice::Dice;
use crate::kills::{TOPICS, create_topics, start_load};
use crate::readback::conclude;
use crate::rounds;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_starts_it_starts_the_next_time() {
    let mut dice = Dice::new("startup");
    let home = Home::new().await;
    let mut broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    for round in 1..=rounds(5, 60) {
        sleep(dice.millis(100, 500)).await;
        load.history.note(format!("kill {round}"));
        broker.kill().await;
        for _ in 0..=dice.below(6) {
            let starting = home.spawn(&[]);
            sleep(dice.millis(0, 60)).await;
            starting.kill().await;
        }
        broker = home.start().await;
    }
    sleep(Duration::from_millis(300)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_sets_up_its_directory_it_starts_the_next_time() {
    let mut dice = Dice::new("set-up");
    for _ in 0..rounds(12, 200) {
        let home = Home::new().await;
        for _ in 0..=dice.below(3) {
            let starting = home.spawn(&[]);
            sleep(Duration::from_micros(dice.below(40_000))).await;
            starting.kill().await;
        }
        let broker = home.start().await;
        create_topics(&broker).await;
        broker.kill().await;
    }
}
