//! Keeps a member in its group: heartbeats, commits of what is done, release of what is another's.
//!
//! A task of its own. By its own clock a session lasts from the moment at which the last heartbeat was
//! sent that was answered; when that time is over, all is given up, whatever the broker may think.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use taffrail_model::limits;
use taffrail_proto::v1;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::{Status, Streaming};

use super::Commit;
use super::settings::member_id;
use super::shared::Shared;
use crate::connections::{Place, Traffic};
use crate::retry::{self, Backoff};
use crate::{CallError, ServerError};

type Answers = Streaming<v1::MembershipResponse>;
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How long the answer to a farewell is waited for.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long closing may take in all.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a consumer that is closed tries to commit what is done.
const LAST_COMMITS: u32 = 5;

/// What a member says of itself.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) group: String,
    pub(super) instance: String,
    pub(super) join: v1::Join,
}

/// Joins the group.
pub(super) async fn join(shared: &Shared, profile: &Profile) -> Result<(), CallError> {
    let request = heartbeat(shared, profile, true);
    let sent = Instant::now();
    let answer = shared.client.group_service().heartbeat(request).await;
    let answer =
        answer.map_err(|status| CallError::from_status(shared.client.server(), &status))?;
    let answer = answer.into_inner();
    let mut core = shared.core();
    core.extend(sent, Duration::from_millis(answer.session_timeout_ms.into()));
    core.assign(&answer);
    Ok(())
}

/// Stays in the group until the consumer is closed, or the broker says that it is over.
pub(super) async fn keep(shared: Arc<Shared>, profile: Profile) {
    let now = Instant::now();
    // Until the first answer says more.
    let interval = limits::SESSION_TIMEOUT_FLOOR / 3;
    let mut membership = Membership {
        shared,
        profile,
        link: Link::Down(now),
        place: None,
        sent: VecDeque::new(),
        next_number: 1,
        interval,
        next_heartbeat: now,
        next_commit: now,
        commit: None,
        commit_failures: 0,
        attempts: 0,
        close_by: None,
        leaving: None,
    };
    while membership.step().await {}
    membership.shared.tell();
}

struct Membership {
    shared: Arc<Shared>,
    profile: Profile,
    link: Link,
    /// The connection that the stream is on.
    place: Option<Place>,
    /// Heartbeats that were sent and not answered.
    sent: VecDeque<(u64, Instant)>,
    next_number: u64,
    interval: Duration,
    next_heartbeat: Instant,
    /// When what is done is committed next.
    next_commit: Instant,
    commit: Option<Pending<Result<(), CallError>>>,
    commit_failures: u32,
    attempts: u32,
    /// When a consumer that is closed waits no longer.
    close_by: Option<Instant>,
    /// The call that says that it leaves.
    leaving: Option<Pending<()>>,
}

/// The stream to the broker.
enum Link {
    /// None; to be opened at this time.
    Down(Instant),
    Opening(Pending<Result<Answers, Status>>, UnboundedSender<v1::MembershipRequest>),
    Up(Box<Answers>, UnboundedSender<v1::MembershipRequest>),
}

/// What happened.
enum Happened {
    Answer(v1::HeartbeatResponse),
    Opened(Answers),
    Broke(Status),
    Committed(Result<(), CallError>),
    Left,
    /// Something may be due.
    Time,
}

impl Membership {
    /// Waits for what happens next and does what it takes; false once the membership has ended.
    async fn step(&mut self) -> bool {
        let due = self.next_due();
        let wake = Arc::clone(&self.shared);
        let happened = tokio::select! {
            happened = self.link.next() => happened,
            result = pending(self.commit.as_mut()) => {
                self.commit = None;
                Happened::Committed(result)
            }
            () = pending(self.leaving.as_mut()) => Happened::Left,
            () = tokio::time::sleep_until(due.into()) => Happened::Time,
            () = wake.wake.notified() => Happened::Time,
        };
        // First: what an answer says is for a session that lasts, or for another one.
        self.end_session();
        match happened {
            Happened::Answer(answer) => self.take(&answer),
            Happened::Opened(answers) => self.link.rise(answers),
            Happened::Broke(status) => {
                if !self.broke(&status) {
                    return false;
                }
            }
            Happened::Committed(result) => self.take_committed(result),
            Happened::Left => return false,
            Happened::Time => {}
        }
        self.do_what_is_due()
    }

    fn next_due(&self) -> Instant {
        let session_ends = self.shared.core().session_ends();
        let retry = match self.link {
            Link::Down(until) => Some(until),
            Link::Opening(..) | Link::Up(..) => Some(self.next_heartbeat),
        };
        let commit = (self.commit.is_none()).then_some(self.next_commit);
        let all = [session_ends, retry, commit, self.close_by];
        all.into_iter().flatten().min().unwrap_or(self.next_heartbeat)
    }

    fn do_what_is_due(&mut self) -> bool {
        let now = Instant::now();
        if self.shared.is_closing() {
            let close_by = *self.close_by.get_or_insert(now + CLOSE_TIMEOUT);
            if close_by <= now {
                return false;
            }
        }
        self.end_session();
        self.commit_what_is_due(now);
        if self.shared.core().release() {
            self.next_heartbeat = now;
            self.shared.tell();
        }
        if self.shared.is_closing() && !self.leave() {
            return false;
        }
        if matches!(self.link, Link::Down(until) if until <= now) {
            self.open(now);
        }
        if self.next_heartbeat <= now {
            self.beat(now);
        }
        true
    }

    /// Gives up everything once the session may have ended.
    fn end_session(&self) {
        let now = Instant::now();
        if self.shared.core().session_ends().is_some_and(|ends| ends <= now) {
            let group = &self.profile.group;
            tracing::warn!(group, "the session may have ended: giving up what was assigned");
            self.shared.core().lose_all();
            self.shared.tell();
        }
    }

    /// Commits at its time; at once what is on its way to another member, or when all ends.
    fn commit_what_is_due(&mut self, now: Instant) {
        let Commit::Auto(interval) = self.shared.core().mode() else {
            self.next_commit = now + self.interval;
            return;
        };
        let is_pressing = self.shared.is_closing() || self.shared.core().is_leaving();
        let is_time = self.next_commit <= now || is_pressing && self.commit_failures == 0;
        if self.commit.is_some() || !is_time {
            return;
        }
        self.next_commit = now + interval.max(Duration::from_millis(1));
        let mut due = self.shared.core().due();
        due.truncate(limits::COMMIT_OFFSETS_MAX);
        if !due.is_empty() {
            let shared = Arc::clone(&self.shared);
            self.commit = Some(Box::pin(async move { shared.commit(due, false).await }));
        }
    }

    fn take_committed(&mut self, result: Result<(), CallError>) {
        self.commit_failures = if result.is_ok() { 0 } else { self.commit_failures + 1 };
        if let Err(error) = result {
            tracing::debug!(%error, failures = self.commit_failures, "not committed yet");
            let pause = Backoff::CONNECTION.delay(self.commit_failures, retry::dice());
            self.next_commit = Instant::now() + pause;
        }
    }

    fn open(&mut self, now: Instant) {
        let (sender, mut receiver) = unbounded_channel();
        self.sent.clear();
        self.say(&sender, now, true);
        let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        self.place = None;
        let place = self.shared.client.place(Traffic::Words, self.attempts);
        let mut service = place.connection().group_service();
        self.place = Some(place);
        let opening = async move { Ok(service.membership(requests).await?.into_inner()) };
        self.link = Link::Opening(Box::pin(opening), sender);
    }

    fn beat(&mut self, now: Instant) {
        if let Link::Opening(_, sender) | Link::Up(_, sender) = &self.link {
            let sender = sender.clone();
            self.say(&sender, now, false);
        } else {
            self.next_heartbeat = now + self.interval;
        }
    }

    fn say(&mut self, sender: &UnboundedSender<v1::MembershipRequest>, now: Instant, joins: bool) {
        let number = self.next_number;
        self.next_number += 1;
        let request = heartbeat(&self.shared, &self.profile, joins);
        self.sent.push_back((number, now));
        self.next_heartbeat = now + self.interval;
        // Without a stream nobody listens, and a new one begins with all of it.
        let heartbeat = Some(v1::HeartbeatRequest { number, ..request });
        drop(sender.send(v1::MembershipRequest { heartbeat }));
    }

    /// Says that it leaves, once what is done is committed; false if there is nothing to say.
    fn leave(&mut self) -> bool {
        let is_committed = self.commit.is_none() && self.shared.core().unsaid() == 0;
        if self.leaving.is_some() || !is_committed && self.commit_failures < LAST_COMMITS {
            return true;
        }
        if !self.shared.leaves {
            return false;
        }
        let farewell = heartbeat(&self.shared, &self.profile, false);
        let farewell = v1::HeartbeatRequest { leave: true, ..farewell };
        // The stream would be told that nobody is a member of this name, and join again.
        self.link = Link::Down(Instant::now() + 2 * LEAVE_TIMEOUT);
        let mut service = self.shared.client.group_service();
        self.leaving = Some(Box::pin(async move {
            // Whoever is not heard is gone when the session is over.
            let said = tokio::time::timeout(LEAVE_TIMEOUT, service.heartbeat(farewell)).await;
            drop(said);
        }));
        true
    }

    fn take(&mut self, answer: &v1::HeartbeatResponse) {
        self.attempts = 0;
        let mut core = self.shared.core();
        while let Some((number, sent)) = self.sent.front().copied()
            && number <= answer.number
        {
            self.sent.pop_front();
            let timeout = Duration::from_millis(answer.session_timeout_ms.into());
            if number == answer.number {
                core.extend(sent, timeout);
            }
        }
        self.interval = Duration::from_millis(answer.heartbeat_interval_ms.into());
        core.assign(answer);
        drop(core);
        self.next_heartbeat = self.next_heartbeat.min(Instant::now() + self.interval);
        self.shared.tell();
    }

    /// The stream broke: whether it is opened again.
    fn broke(&mut self, status: &Status) -> bool {
        let error = CallError::from_status(self.shared.client.server(), status);
        self.attempts += 1;
        tracing::debug!(%error, attempts = self.attempts, "no membership stream");
        let mut pause = Backoff::CONNECTION.delay(self.attempts, retry::dice());
        if let CallError::Refused(refusal) = error {
            match refusal.reason.as_str() {
                "UNKNOWN_MEMBER" => {
                    tracing::warn!(
                        group = self.profile.group,
                        "the session has ended: joining anew"
                    );
                    self.shared.core().rename(member_id(&self.profile));
                    self.shared.tell();
                    if self.attempts == 1 {
                        pause = Duration::ZERO;
                    }
                }
                _ if retry::is_final_for_call(&refusal) => return self.refuse(refusal),
                _ => {}
            }
        }
        self.link = Link::Down(Instant::now() + pause);
        true
    }

    fn refuse(&self, refusal: ServerError) -> bool {
        self.shared.core().refuse(refusal);
        self.shared.tell();
        false
    }
}

impl Link {
    async fn next(&mut self) -> Happened {
        match self {
            // Whoever waits looks at the time.
            Self::Down(_) => std::future::pending().await,
            Self::Opening(opening, _) => match opening.await {
                Ok(answers) => Happened::Opened(answers),
                Err(status) => Happened::Broke(status),
            },
            Self::Up(answers, _) => match answers.message().await {
                Ok(Some(answer)) => Happened::Answer(answer.heartbeat.unwrap_or_default()),
                Ok(None) => Happened::Broke(Status::unavailable("the broker ended the stream")),
                Err(status) => Happened::Broke(status),
            },
        }
    }

    fn rise(&mut self, answers: Answers) {
        if let Self::Opening(_, sender) = self {
            *self = Self::Up(Box::new(answers), sender.clone());
        }
    }
}

/// What a member says: all that it reads, as far as it has heard.
fn heartbeat(shared: &Shared, profile: &Profile, joins: bool) -> v1::HeartbeatRequest {
    let core = shared.core();
    v1::HeartbeatRequest {
        group: profile.group.clone(),
        member_id: core.member().to_owned(),
        join: joins.then(|| profile.join.clone()),
        epoch: core.epoch(),
        // Of what it had in a session that is over it says nothing: that may be its again.
        owned: core.session_ends().map(|_| core.owned()),
        leave: false,
        number: 0,
        instance_id: profile.instance.clone(),
    }
}

async fn pending<T>(pending: Option<&mut Pending<T>>) -> T {
    match pending {
        Some(pending) => pending.await,
        None => std::future::pending().await,
    }
}
