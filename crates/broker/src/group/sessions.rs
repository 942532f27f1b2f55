//! How long each member may be silent: in memory, by the monotonic clock.
//!
//! A member has a session as long as it is one; after a restart of the broker every session gets its
//! full time anew. Whether it goes on or ends is decided under one lock: whoever was told that it goes
//! on has not lost it before that time is over.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::event::Profile;
use crate::clock;

/// When to try again to take note that a member is gone, where that could not be stored.
const RETRY: Duration = Duration::from_secs(1);

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) group: Arc<str>,
    pub(super) member: Arc<str>,
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    state: Mutex<State>,
    /// Told when a session may end sooner than any before.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<Key, Session>,
    /// When to look at each session, each once: not later than it ends.
    looks: BTreeSet<(Instant, Key)>,
}

#[derive(Debug)]
struct Session {
    timeout: Duration,
    /// What the group knows of the member; `None`: it is not sure that it is one.
    profile: Option<Profile>,
    heard: Instant,
    ends: Instant,
    /// When it is looked at.
    look: Instant,
    /// Whether it has ended, and only the group does not know yet.
    is_over: bool,
    touched: watch::Sender<()>,
}

/// The session has ended, or there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended;

impl Sessions {
    /// Begins a session, or goes on with it: whether the group knows all that the member says of itself.
    /// If not, it is to be told, and then this: [`Self::confirm`].
    pub(super) fn begin(&self, key: &Key, profile: &Profile) -> Result<bool, Ended> {
        let mut state = self.state();
        let now = clock::instant();
        if let Some(session) = state.sessions.get(key) {
            if session.is_over {
                return Err(Ended);
            }
            let is_known = session.profile.as_ref() == Some(profile);
            state.extend(key, now);
            return Ok(is_known);
        }
        let timeout = timeout_of(profile);
        let (ends, touched) = (now + timeout, watch::Sender::new(()));
        let (heard, look, is_over) = (now, ends, false);
        let session = Session { timeout, profile: None, heard, ends, look, is_over, touched };
        state.sessions.insert(key.clone(), session);
        state.looks.insert((ends, key.clone()));
        drop(state);
        self.sooner.notify_one();
        Ok(false)
    }

    /// A sign of life.
    pub(super) fn extend(&self, key: &Key) -> Result<(), Ended> {
        let mut state = self.state();
        match state.sessions.get(key) {
            Some(session) if !session.is_over => {
                state.extend(key, clock::instant());
                Ok(())
            }
            Some(_) | None => Err(Ended),
        }
    }

    /// The group knows this of a member.
    pub(super) fn confirm(&self, key: &Key, profile: &Profile) {
        let mut state = self.state();
        if let Some(session) = state.sessions.get_mut(key) {
            session.timeout = timeout_of(profile);
            session.profile = Some(profile.clone());
            state.extend(key, clock::instant());
        }
        drop(state);
        self.sooner.notify_one();
    }

    /// Ends a session before its time.
    pub(super) fn end(&self, key: &Key) {
        if let Some(session) = self.state().sessions.get_mut(key) {
            session.is_over = true;
        }
    }

    /// Forgets the session of somebody who is no member any more.
    pub(super) fn remove(&self, key: &Key) {
        let mut state = self.state();
        if let Some(session) = state.sessions.remove(key) {
            state.looks.remove(&(session.look, key.clone()));
        }
    }

    /// Tells a member's stream that something has changed for it.
    pub(super) fn touch(&self, key: &Key) {
        if let Some(session) = self.state().sessions.get(key) {
            session.touched.send_replace(());
        }
    }

    /// Tells when something changes for a member, and when its session is gone.
    pub(super) fn watch(&self, key: &Key) -> Option<watch::Receiver<()>> {
        self.state().sessions.get(key).map(|session| session.touched.subscribe())
    }

    /// How long a member has been silent.
    pub(super) fn silence(&self, key: &Key) -> Option<Duration> {
        self.state().sessions.get(key).map(|session| session.heard.elapsed())
    }

    /// How long a member may be silent, if it has a session.
    pub(super) fn timeout(&self, key: &Key) -> Option<Duration> {
        self.state().sessions.get(key).map(|session| session.timeout)
    }

    /// Returns at this time, or sooner if a session may end before.
    pub(super) async fn wait_until(&self, when: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(when) => {}
            () = self.sooner.notified() => {}
        }
    }

    /// When the next session may end.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.state().looks.first().map(|(when, _)| *when)
    }

    /// Ends the sessions whose time is over: whose they were. One is named again until it is removed.
    pub(super) fn end_overdue(&self) -> Vec<Key> {
        let mut state = self.state();
        let now = clock::instant();
        let mut over = Vec::new();
        while let Some((when, key)) = state.looks.first().cloned()
            && when <= now
        {
            state.looks.remove(&(when, key.clone()));
            let Some(session) = state.sessions.get_mut(&key) else { continue };
            session.is_over |= session.ends <= now;
            session.look = if session.is_over { now + RETRY } else { session.ends };
            let look = (session.look, key.clone());
            if session.is_over {
                over.push(key);
            }
            state.looks.insert(look);
        }
        over
    }

    /// Gives every session its full time anew: the broker itself did not hear anything for a while.
    pub(super) fn renew_all(&self) {
        let mut state = self.state();
        let now = clock::instant();
        let keys: Vec<_> = state
            .sessions
            .iter()
            .filter(|(_, it)| !it.is_over)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            state.extend(key, now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn extend(&mut self, key: &Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.heard = now;
        session.ends = now + session.timeout;
        // A look that comes too early costs less than one that is put off at every heartbeat.
        if session.ends < session.look {
            self.looks.remove(&(session.look, key.clone()));
            session.look = session.ends;
            self.looks.insert((session.look, key.clone()));
        }
    }
}

fn timeout_of(profile: &Profile) -> Duration {
    Duration::from_millis(profile.session_ms.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(member: &str) -> Key {
        Key { group: "g".into(), member: member.into() }
    }

    fn profile(session_ms: u32) -> Profile {
        Profile { session_ms, ..Profile::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_when_its_time_is_over_since_the_last_sign_of_life() {
        let sessions = Sessions::default();
        assert_eq!(sessions.begin(&key("a"), &profile(1_000)), Ok(false));
        assert_eq!(sessions.begin(&key("b"), &profile(1_000)), Ok(false));
        tokio::time::advance(Duration::from_millis(900)).await;
        assert_eq!(sessions.extend(&key("a")), Ok(()));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(sessions.end_overdue(), [key("b")]);
        assert_eq!(sessions.extend(&key("b")), Err(Ended));
        assert_eq!(sessions.begin(&key("b"), &profile(1_000)), Err(Ended));
        assert_eq!(sessions.end_overdue(), []);
        tokio::time::advance(RETRY).await;
        assert_eq!(sessions.end_overdue(), [key("a"), key("b")], "nobody has taken note of b");
        sessions.remove(&key("b"));
        assert_eq!(sessions.begin(&key("b"), &profile(1_000)), Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_session_is_looked_at_sooner() {
        let sessions = Sessions::default();
        assert_eq!(sessions.begin(&key("a"), &profile(60_000)), Ok(false));
        sessions.confirm(&key("a"), &profile(60_000));
        assert_eq!(sessions.begin(&key("a"), &profile(1_000)), Ok(false));
        assert_eq!(
            sessions.begin(&key("a"), &profile(1_000)),
            Ok(false),
            "nobody has confirmed it"
        );
        assert_eq!(sessions.timeout(&key("a")), Some(Duration::from_secs(60)));
        sessions.confirm(&key("a"), &profile(1_000));
        assert_eq!(sessions.begin(&key("a"), &profile(1_000)), Ok(true));
        assert_eq!(sessions.next_look(), Some(clock::instant() + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        sessions.renew_all();
        assert_eq!(sessions.end_overdue(), []);
    }
}
