//! Gets a new identity when the producer needs one.
//!
//! Runs beside the stream and needs none: neither waits for the other, and what is late fails
//! meanwhile. When an identity is due, and what its absence means, is `state`'s to decide.

use std::convert::Infallible;
use std::task::Waker;

use super::shared::Shared;
use crate::Client;
use crate::retry::{self, Backoff};

/// Runs for as long as it is polled.
pub(super) async fn run(client: &Client, shared: &Shared, name: &str) -> Infallible {
    loop {
        shared.renewal.notified().await;
        renew(client, shared, name).await;
    }
}

/// Asks until there is a new identity, or nothing that one is needed for.
async fn renew(client: &Client, shared: &Shared, name: &str) {
    let attempt = retry::random();
    let mut attempts = 0;
    loop {
        let Some(spent) = shared.lock().to_renew() else { return };
        // Only a name can be taken by another one.
        let former = Some(spent.id).filter(|_| !name.is_empty());
        match client.init_producer(name, former, attempt).await {
            Ok(identity) => {
                tracing::info!(topic = %shared.topic, id = %identity.id, "a new producer id");
                let sender = shared.lock().renewed(identity);
                sender.inspect(Waker::wake_by_ref);
                return;
            }
            Err(error) => {
                attempts += 1;
                tracing::debug!(topic = %shared.topic, %error, attempts, "no new producer id yet");
                shared.lock().not_renewed(&error);
                shared.announce_room();
                shared.driver.notify_one();
            }
        }
        tokio::time::sleep(Backoff::CONNECTION.delay(attempts, retry::dice())).await;
    }
}
