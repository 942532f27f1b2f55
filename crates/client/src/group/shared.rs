//! What a consumer and its membership share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use taffrail_model::Offset;
use taffrail_proto::v1;
use tokio::sync::{Notify, watch};

use super::core::Core;
use super::{Commit, TopicPartition};
use crate::retry::{self, Backoff, Verdict, verdict};
use crate::{CallError, Client, ServerError};

/// What a consumer and its membership share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) group: String,
    /// Whether it leaves the group when it is closed.
    pub(super) leaves: bool,
    core: Mutex<Core>,
    /// Told when the consumer has something to look at.
    changed: watch::Sender<()>,
    /// Told when the membership has something to do.
    pub(super) wake: Notify,
    is_closing: AtomicBool,
}

impl Shared {
    pub(super) fn new(client: Client, group: String, core: Core, leaves: bool) -> Self {
        let (changed, wake) = (watch::Sender::new(()), Notify::new());
        let (core, is_closing) = (Mutex::new(core), AtomicBool::new(false));
        Self { client, group, leaves, core, changed, wake, is_closing }
    }

    /// Never held while anything is awaited.
    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Lets the consumer look at what is held.
    pub(super) fn tell(&self) {
        self.changed.send_replace(());
    }

    /// What the application had is done, as it asks for more.
    pub(super) fn finish_in_hand(&self) {
        let mut core = self.core();
        core.finish_in_hand();
        // Commits that are not pressing wait for their time.
        if core.is_leaving() {
            self.wake.notify_one();
        }
    }

    /// Ends the membership once what is done is committed.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    pub(super) fn commits_first(&self) -> bool {
        self.core().mode() == Commit::BeforeDelivery
    }

    /// Returns when an assignment is not held any more.
    pub(super) async fn lost(&self, place: TopicPartition, number: Option<u64>) {
        let mut changes = self.changes();
        while self.core().has(&place, number) {
            // It cannot be dropped: it is in here.
            drop(changes.changed().await);
        }
    }

    /// Commits, of itself or because the application said so, and takes note of what came of it.
    pub(super) async fn commit(
        &self,
        offsets: Vec<v1::OffsetCommit>,
        is_said: bool,
    ) -> Result<(), CallError> {
        let member_id = self.core().member().to_owned();
        let request = v1::CommitOffsetsRequest { group: self.group.clone(), member_id, offsets };
        let commits = request.offsets.clone();
        let answer = self.client.group_service().commit_offsets(request).await;
        let answer =
            answer.map_err(|status| CallError::from_status(self.client.server(), &status))?;
        let results = answer.into_inner().results;
        if results.len() != commits.len() {
            return Err(CallError::Incomplete { field: "result for every commit" });
        }
        let mut refused = None;
        for (commit, result) in commits.iter().zip(results) {
            match result.error {
                None => self.core().committed(commit, is_said),
                Some(error) => {
                    let error = ServerError::from(error);
                    // What is settled so is not tried again: it is told of elsewhere.
                    let mut is_settled = !is_said;
                    if error.reason == "STALE_MEMBER" {
                        self.core().stale(commit);
                    } else if !is_said && verdict(&error.reason) == Verdict::Final {
                        self.core().cannot_commit(commit, error.clone());
                    } else {
                        is_settled = false;
                    }
                    self.tell();
                    if !is_settled {
                        refused.get_or_insert(error);
                    }
                }
            }
        }
        self.wake_if_leaving();
        refused.map_or(Ok(()), |error| Err(CallError::Refused(error)))
    }

    fn wake_if_leaving(&self) {
        if self.core().is_leaving() {
            self.wake.notify_one();
        }
    }

    /// Commits how far a partition has come, however often that takes; false if it cannot be.
    pub(super) async fn commit_surely(
        &self,
        place: &TopicPartition,
        number: u64,
        end: Offset,
    ) -> bool {
        let mut attempts = 0;
        loop {
            let commit = self.core().commit_of(place, number, end, "");
            let Some(commit) = commit else { return false };
            let Err(error) = self.commit(vec![commit.clone()], true).await else { return true };
            if let CallError::Refused(refusal) = &error
                && verdict(&refusal.reason) == Verdict::Final
            {
                // The application hears of it; the batch is not handed out without.
                self.core().cannot_commit(&commit, refusal.clone());
                return false;
            }
            attempts += 1;
            tracing::debug!(%error, attempts, "not committed yet");
            tokio::time::sleep(Backoff::CONNECTION.delay(attempts, retry::dice())).await;
        }
    }
}

/// A refusal of the client's own.
pub(super) fn refusal(reason: &str, message: String) -> ServerError {
    ServerError { reason: reason.into(), message, metadata: BTreeMap::new(), retry_after: None }
}
