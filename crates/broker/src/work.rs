//! Named threads that take work from a queue: where all file I/O runs.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Bytes of stack of a log thread.
const STACK_BYTES: usize = 512 << 10;

/// A queue that threads take work from. Clones share it.
///
/// Its length is bounded by what may be queued: each partition stands in it at most once, and each
/// read is awaited by a stream or request that is counted.
#[derive(Debug)]
pub(crate) struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

#[derive(Debug)]
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
        Self { shared: Arc::new(Shared { state, ready: Condvar::new() }) }
    }

    /// Starts threads that take work and do it, until the queue is closed and empty.
    pub(crate) fn start(
        &self,
        name: &str,
        threads: usize,
        work: impl Fn(T) + Clone + Send + 'static,
    ) -> io::Result<()> {
        for index in 0..threads {
            let (queue, work) = (self.clone(), work.clone());
            let builder = thread::Builder::new().name(format!("{name}-{index}"));
            let handle = builder.stack_size(STACK_BYTES).spawn(move || {
                while let Some(next) = queue.take() {
                    work(next);
                }
            })?;
            self.state().threads.push(handle);
        }
        Ok(())
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
        self.shared.ready.notify_one();
        true
    }

    /// Takes all that is queued.
    pub(crate) fn drain(&self) -> VecDeque<T> {
        std::mem::take(&mut self.state().work)
    }

    /// Lets the threads end when nothing is left to do, and waits for them.
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
    }

    fn take(&self) -> Option<T> {
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

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
