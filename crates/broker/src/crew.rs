//! The seam to threads: who does the work that may wait for the disk.
//!
//! A broker that serves has threads. A simulated one has none: whoever simulates it takes the turns,
//! one piece of work at a time, in an order of their own choice, and so the same order again.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

/// Bytes of stack of a thread.
const STACK_BYTES: usize = 512 << 10;

/// Who does the work that may wait for the disk.
#[derive(Clone, Debug, Default)]
pub enum Crew {
    /// Threads of the machine.
    #[default]
    Threads,
    /// Whoever takes the turns.
    Turns(Turns),
}

/// Work whose order somebody chooses. Clones share it.
#[derive(Clone, Default)]
pub struct Turns {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Default)]
struct State {
    queues: Vec<Box<dyn Queue>>,
    chores: Vec<Chore>,
}

/// Something that is done now and then.
type Chore = Arc<Mutex<dyn FnMut() -> bool + Send>>;

/// A piece of work.
type Work = Box<dyn FnOnce() + Send>;

/// Work that waits.
pub(crate) trait Queue: Send {
    /// Whether there is some.
    fn is_empty(&self) -> bool;
    /// Forgets all of it.
    fn clear(&self);
    /// Takes the next piece.
    fn next(&self) -> Option<Work>;
}

impl Crew {
    /// Does something at an interval until it returns false; where turns are taken, when whoever
    /// takes them says so.
    pub(crate) fn repeat(
        &self,
        name: &str,
        interval: Duration,
        mut chore: impl FnMut() -> bool + Send + 'static,
    ) -> io::Result<()> {
        match self {
            Self::Threads => {
                let work = move || {
                    thread::sleep(interval);
                    while chore() {
                        thread::sleep(interval);
                    }
                };
                start_thread(name, work).map(drop)
            }
            Self::Turns(turns) => {
                turns.state().chores.push(Arc::new(Mutex::new(chore)));
                Ok(())
            }
        }
    }

    /// Whether somebody takes turns: then no work takes long.
    pub(crate) fn takes_turns(&self) -> bool {
        matches!(self, Self::Turns(_))
    }

    /// Lets a while pass; where turns are taken, the one who takes them has chosen when.
    pub(crate) fn pause(&self, time: Duration) {
        if matches!(self, Self::Threads) {
            thread::sleep(time);
        }
    }
}

/// Starts a thread of the machine.
pub(crate) fn start_thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work)
}

impl Turns {
    /// Does one piece of work: `choose` is given the number of queues that have some, and says which
    /// one. False if none has.
    pub fn take(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let work = {
            let state = self.state();
            let ready: Vec<_> = state.queues.iter().filter(|queue| !queue.is_empty()).collect();
            if ready.is_empty() {
                return false;
            }
            ready.get(choose(ready.len())).and_then(|queue| queue.next())
        };
        // It may make more work, and so must not hold up whoever adds some.
        if let Some(work) = work {
            work();
        }
        true
    }

    /// Does what is done at intervals, once.
    pub fn do_chores(&self) {
        let chores = self.state().chores.clone();
        for chore in chores {
            let mut chore = chore.lock().unwrap_or_else(PoisonError::into_inner);
            chore();
        }
    }

    /// Forgets all work, as the machine does when the process is killed.
    pub fn forget(&self) {
        let state = std::mem::take(&mut *self.state());
        state.queues.iter().for_each(|queue| queue.clear());
    }

    /// Returns when there is more work than there was.
    pub async fn more(&self) {
        self.shared.more.notified().await;
    }

    pub(crate) fn add(&self, queue: impl Queue + 'static) {
        self.state().queues.push(Box::new(queue));
    }

    /// For queues, which these turns hold.
    pub(crate) fn announcer(&self) -> Announcer {
        Announcer { shared: Arc::downgrade(&self.shared) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that there is more work, as long as somebody takes turns.
pub(crate) struct Announcer {
    shared: Weak<Shared>,
}

impl Announcer {
    pub(crate) fn announce(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.more.notify_one();
        }
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}
