//! The broker stands still for seconds, or minutes (SIGSTOP, SIGCONT) while clients go on.

use std::time::Duration;

use tokio::time::sleep;

use crate::broker::Home;
use crate::dice::Dice;
use crate::history::Event;
use crate::kills::{TOPICS, UNASKED, create_topics, start_load};
use crate::readback::conclude;
use crate::{is_deep, rounds};

/// How long it stands still once: longer than anybody keeps a silent connection, in the deep form longer
/// than a producer waits for an answer.
fn long_pause() -> Duration {
    Duration::from_secs(if is_deep() { 120 } else { 5 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stood_still_goes_on_as_if_nothing_had_happened() {
    let mut dice = Dice::new("pauses");
    let home = Home::new().await;
    let mut broker = home.start().await;
    create_topics(&broker).await;
    let load = start_load(&home, &mut dice);
    for round in 1..=rounds(2, 20) {
        sleep(dice.millis(300, 800)).await;
        broker.signal("STOP").await;
        load.history.note(format!("pause {round}"));
        sleep(dice.millis(1500, 3000)).await;
        broker.signal("CONT").await;
    }
    broker.signal("STOP").await;
    load.history.note("a long pause");
    // Those that wait for no answers connect anew, while what they sent before still lies in the old
    // connections.
    for producer in UNASKED {
        load.history.add(Event::Unordered { producer });
    }
    sleep(long_pause()).await;
    broker.signal("CONT").await;
    sleep(Duration::from_millis(300)).await;
    // Killed while it stands still: it cannot even notice.
    broker.signal("STOP").await;
    sleep(dice.millis(100, 1000)).await;
    broker.kill().await;
    broker = home.start().await;
    sleep(Duration::from_millis(500)).await;
    load.stop().await;
    conclude(&home, &broker, &TOPICS, &load.history).await;
}
