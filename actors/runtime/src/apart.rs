//! User code with a time limit: it works on a thread of its own, so that whoever waits for it can go on without it.
//!
//! ```text
//! worker: gives a job → waits for the answer, up to the limit → leaves the thread behind, and begins a fresh one
//! thread: takes a job → works → answers; or finds that it was left behind, and ends
//! ```
//!
//! A thread cannot be killed. One that is left behind keeps what it holds until it comes back, if it ever does; then it
//! ends, and what it answers is thrown away. [`MOST_LEFT`] of a stage may be away at a time, one more ends the pipeline.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::{
    error::{ErrorKind, StageError},
    panics::guard,
};

/// So many threads of a stage may be left behind at a time.
const MOST_LEFT: usize = 2;

const IDLE: u8 = 0;
const WORKING: u8 = 1;
const LEFT: u8 = 2;

/// How long a stage's code may take, and how many of its threads did not keep to that and are still away. Clones are one.
#[derive(Clone)]
pub(crate) struct TimeLimit {
    limit: Duration,
    left: Arc<AtomicUsize>,
}

impl TimeLimit {
    pub(crate) fn new(limit: Duration) -> Self {
        TimeLimit { limit, left: Arc::default() }
    }

    /// What a worker says that has just left a thread behind.
    pub(crate) fn passed(&self) -> StageError {
        let (limit, left) = (self.limit, self.left.load(Ordering::Acquire));
        if left > MOST_LEFT {
            return StageError::fatal(format!("no answer within {limit:?}, and {left} threads are left behind"));
        }
        StageError::new(ErrorKind::TimedOut, format!("no answer within {limit:?}"))
    }
}

/// A thread that works on one job at a time.
pub(crate) struct Apart<J, R> {
    jobs: Option<Sender<J>>,
    results: Receiver<R>,
    stand: Arc<AtomicU8>,
    limit: TimeLimit,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static, R: Send + 'static> Apart<J, R> {
    /// Starts the thread. `work` catches its own panics.
    pub(crate) fn start(limit: &TimeLimit, mut work: impl FnMut(J) -> R + Send + 'static) -> io::Result<Self> {
        let (jobs, taken) = bounded::<J>(1);
        let (answers, results) = bounded(1);
        let stand = Arc::new(AtomicU8::new(IDLE));
        let (seen, left) = (stand.clone(), limit.left.clone());
        let run = move || {
            for job in taken {
                let result = work(job);
                if seen.swap(IDLE, Ordering::AcqRel) == LEFT {
                    if let Err(fault) = guard(|| drop((result, work))) {
                        tracing::error!(%fault, "a destructor panicked on a thread that was left behind");
                    }
                    left.fetch_sub(1, Ordering::AcqRel);
                    return;
                }
                if answers.send(result).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("millstream-limited".into()).spawn(run)?;
        Ok(Apart { jobs: Some(jobs), results, stand, limit: limit.clone(), thread: Some(thread) })
    }

    /// The answer to a job; none where it did not come in time. The thread is left behind then, and gives no more answers.
    pub(crate) fn ask(&mut self, job: J) -> Option<R> {
        let jobs = self.jobs.as_ref()?;
        self.stand.store(WORKING, Ordering::Release);
        jobs.send(job).ok()?;
        if let Ok(result) = self.results.recv_timeout(self.limit.limit) {
            return Some(result);
        }
        self.limit.left.fetch_add(1, Ordering::AcqRel);
        if self.stand.compare_exchange(WORKING, LEFT, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            (self.jobs, self.thread) = (None, None);
            return None;
        }
        // It came at the last moment.
        self.limit.left.fetch_sub(1, Ordering::AcqRel);
        self.results.recv().ok()
    }
}

impl<J, R> Drop for Apart<J, R> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It is idle, and ends now. (A panic in a destructor was told of by the hook.)
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_late_is_left_behind_until_it_comes() {
        let limit = TimeLimit::new(Duration::from_millis(30));
        let (gate, open) = bounded::<()>(0);
        let work = move |wait: bool| {
            if wait {
                let _ = open.recv();
            }
            wait
        };
        let mut apart = Apart::start(&limit, work.clone()).expect("a thread");
        assert_eq!(apart.ask(false), Some(false));
        assert_eq!(apart.ask(true), None);
        assert_eq!(apart.ask(false), None, "it is gone for good");
        assert_eq!(limit.left.load(Ordering::Acquire), 1);
        assert_eq!(limit.passed().kind(), ErrorKind::TimedOut);
        gate.send(()).expect("it waits");
        while limit.left.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        for left in 1..=3 {
            let mut apart = Apart::start(&limit, work.clone()).expect("a thread");
            assert_eq!(apart.ask(true), None);
            let kind = if left > MOST_LEFT { ErrorKind::Fatal } else { ErrorKind::TimedOut };
            assert_eq!(limit.passed().kind(), kind);
        }
    }
}
