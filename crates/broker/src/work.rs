//! Queues of work for the log threads: where all file I/O runs.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use crate::crew::{Announcer, Crew, Queue, start_thread};

/// A queue that threads take work from. Clones share it.
///
/// Its length is bounded by what may be queued: each partition stands in it at most once, and each
/// read is awaited by a stream or request that is counted.
pub(crate) struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    /// Where there are no threads: what is done with work, and who hears that there is some.
    turns: OnceLock<(Worker<T>, Announcer)>,
}

/// What is done with a piece of work.
type Worker<T> = Arc<dyn Fn(T) + Send + Sync>;

struct State<T> {
    work: VecDeque<T>,
    threads: Vec<thread::JoinHandle<()>>,
    is_closed: bool,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send + 'static> WorkQueue<T> {
    pub(crate) fn new() -> Self {
        let state =
            Mutex::new(State { work: VecDeque::new(), threads: Vec::new(), is_closed: false });
        Self { shared: Arc::new(Shared { state, ready: Condvar::new(), turns: OnceLock::new() }) }
    }

    /// Lets a crew take work and do it, until the queue is closed and empty.
    pub(crate) fn start(
        &self,
        crew: &Crew,
        name: &str,
        threads: usize,
        work: impl Fn(T) + Clone + Send + Sync + 'static,
    ) -> io::Result<()> {
        match crew {
            Crew::Threads => (0..threads).try_for_each(|index| {
                let (queue, work) = (self.clone(), work.clone());
                let thread = start_thread(&format!("{name}-{index}"), move || {
                    while let Some(next) = queue.wait() {
                        work(next);
                    }
                })?;
                self.state().threads.push(thread);
                Ok(())
            }),
            Crew::Turns(turns) => {
                let work = (Arc::new(work) as Worker<T>, turns.announcer());
                assert!(self.shared.turns.set(work).is_ok(), "a queue is started once");
                turns.add(self.clone());
                Ok(())
            }
        }
    }

    /// Queues work; after `stop` it is dropped, and the answer is false.
    pub(crate) fn push(&self, work: T) -> bool {
        {
            let mut state = self.state();
            if state.is_closed {
                return false;
            }
            state.work.push_back(work);
        }
        match self.shared.turns.get() {
            Some((_, turns)) => turns.announce(),
            None => self.shared.ready.notify_one(),
        }
        true
    }

    /// Takes all that is queued, if it is so many at least.
    pub(crate) fn drain_many(&self, min: usize) -> VecDeque<T> {
        let mut state = self.state();
        if state.work.len() < min { VecDeque::new() } else { std::mem::take(&mut state.work) }
    }

    /// Takes all that is queued.
    pub(crate) fn drain(&self) -> VecDeque<T> {
        std::mem::take(&mut self.state().work)
    }

    /// Lets whoever works end when nothing is left to do, and waits for that.
    pub(crate) fn stop(&self) {
        let threads = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.ready.notify_all();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a log thread panicked");
            }
        }
        while let Some(work) = self.next() {
            work();
        }
    }

    fn wait(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if let Some(work) = state.work.pop_front() {
                return Some(work);
            }
            if state.is_closed {
                return None;
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> WorkQueue<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Queue for WorkQueue<T> {
    fn is_empty(&self) -> bool {
        self.state().work.is_empty()
    }

    fn clear(&self) {
        drop(self.drain());
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let (work, _) = self.shared.turns.get()?;
        let (work, next) = (Arc::clone(work), self.state().work.pop_front()?);
        Some(Box::new(move || work(next)))
    }
}
