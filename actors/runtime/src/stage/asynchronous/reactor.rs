//! The thread on which futures run: a runtime of their own, with timers and sockets, whoever the host is.
//!
//! ```text
//! worker → job → a task: tries, limit, deadline, token → done → worker, who is woken if it sleeps
//! ```
//!
//! A task ends in one of these ways and then is gone; when the worker drops the reactor, all tasks are dropped with it.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Sender, unbounded};
use tokio::{
    sync::mpsc,
    task::{LocalSet, spawn_local},
    time::{sleep, sleep_until},
};

use crate::{
    cancel::{CancelToken, Cancelled},
    error::{ErrorKind, Fault, StageError},
    outcome::Outcome,
    panics::guard,
    stage::OnError,
};

/// Makes futures.
pub(crate) type Call<T, U> = Box<dyn Fn(T) -> Pin<Box<dyn Future<Output = Result<U, StageError>>>> + Send>;

/// A record to work on.
pub(super) struct Job<T> {
    pub(super) number: u64,
    pub(super) payload: T,
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: Option<CancelToken>,
}

/// What became of a record.
pub(super) struct Done<U> {
    pub(super) number: u64,
    pub(super) end: End<U>,
    /// How many tries failed before the last.
    pub(super) retries: u32,
    pub(super) took: Duration,
}

pub(super) enum End<U> {
    Made(U),
    Failed(StageError),
    Panicked(Fault),
    GivenUp(Outcome),
}

/// How often a record is tried, and for how long.
pub(super) struct Tries<T> {
    pub(super) on_error: OnError,
    pub(super) keep: Option<Arc<dyn Fn(&T) -> T + Send + Sync>>,
    pub(super) limit: Option<Duration>,
}

/// The thread, from the worker's side.
pub(super) struct Reactor<T, U> {
    jobs: Option<mpsc::UnboundedSender<Job<T>>>,
    pub(super) done: Receiver<Done<U>>,
    /// The worker was woken and has not looked since.
    pub(super) rung: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static, U: Send + 'static> Reactor<T, U> {
    /// Starts the thread. `wake` wakes the worker, wherever it waits.
    pub(super) fn start(name: &str, call: Call<T, U>, tries: Tries<T>, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (jobs, mut taken) = mpsc::unbounded_channel();
        let (results, done) = unbounded();
        let rung = Arc::new(AtomicBool::new(false));
        let bell = rung.clone();
        let run = move || {
            let shared = Rc::new(Shared { call, tries, results, bell, wake: Box::new(wake) });
            let tasks = LocalSet::new();
            let all = tasks.run_until(async move {
                while let Some(job) = taken.recv().await {
                    spawn_local(shared.clone().work(job));
                }
            });
            runtime.block_on(all);
            // Futures that are half-done are dropped here, and with them user data.
            if let Err(fault) = guard(|| drop(tasks)) {
                tracing::error!(%fault, "a destructor panicked in a future that was dropped");
            }
        };
        let thread = thread::Builder::new().name(format!("{name}:io")).spawn(run)?;
        Ok(Reactor { jobs: Some(jobs), done, rung, thread: Some(thread) })
    }

    pub(super) fn give(&self, job: Job<T>) {
        if let Some(jobs) = &self.jobs {
            // The thread takes jobs for as long as it is not dropped.
            let _ = jobs.send(job);
        }
    }
}

impl<T, U> Drop for Reactor<T, U> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of futures panicked");
        }
    }
}

struct Shared<T, U> {
    call: Call<T, U>,
    tries: Tries<T>,
    results: Sender<Done<U>>,
    bell: Arc<AtomicBool>,
    wake: Box<dyn Fn() + Send>,
}

impl<T: 'static, U: 'static> Shared<T, U> {
    async fn work(self: Rc<Self>, job: Job<T>) {
        let Job { number, payload, deadline, cancel } = job;
        let start = Instant::now();
        let retries = Cell::new(0);
        let mut reply = Reply { shared: self.clone(), number, start, retries: 0, owed: true };
        let end = {
            let mut work = pin!(self.attempts(payload, &retries));
            let mut limit = pin!(self.tries.limit.map(sleep));
            let mut deadline = pin!(deadline.map(|at| sleep_until(at.into())));
            let mut cancel = pin!(cancel.as_ref().map(CancelToken::cancelled));
            poll_fn(|context| {
                match guard(|| work.as_mut().poll(context)) {
                    Ok(Poll::Ready(Ok(result))) => return Poll::Ready(End::Made(result)),
                    Ok(Poll::Ready(Err(error))) => return Poll::Ready(End::Failed(error)),
                    Ok(Poll::Pending) => {}
                    Err(fault) => return Poll::Ready(End::Panicked(fault)),
                }
                if passed::<Cancelled>(cancel.as_mut(), context) {
                    return Poll::Ready(End::GivenUp(Outcome::Cancelled));
                }
                if passed(deadline.as_mut(), context) {
                    return Poll::Ready(End::GivenUp(Outcome::Expired));
                }
                if passed(limit.as_mut(), context) {
                    let message = format!("no answer within {:?}", self.tries.limit.unwrap_or_default());
                    return Poll::Ready(End::Failed(StageError::new(ErrorKind::TimedOut, message)));
                }
                Poll::Pending
            })
            .await
        };
        reply.retries = retries.get();
        reply.send(end);
    }

    /// Tries until it succeeds, or has been tried often enough.
    async fn attempts(&self, mut payload: T, retries: &Cell<u32>) -> Result<U, StageError> {
        loop {
            let again = match (self.tries.on_error, &self.tries.keep) {
                (OnError::Retry { times, backoff }, Some(keep)) if retries.get() < times => {
                    Some((keep(&payload), backoff.saturating_mul(1 << retries.get().min(16))))
                }
                _ => None,
            };
            match ((self.call)(payload).await, again) {
                (Err(error), Some((copy, pause))) if error.kind() != ErrorKind::Fatal => {
                    retries.set(retries.get() + 1);
                    sleep(pause).await;
                    payload = copy;
                }
                (result, _) => return result,
            }
        }
    }
}

/// What the worker is told of a record, whatever becomes of its task.
struct Reply<T, U> {
    shared: Rc<Shared<T, U>>,
    number: u64,
    start: Instant,
    retries: u32,
    owed: bool,
}

impl<T, U> Reply<T, U> {
    fn send(&mut self, end: End<U>) {
        self.owed = false;
        let done = Done { number: self.number, end, retries: self.retries, took: self.start.elapsed() };
        if self.shared.results.send(done).is_ok() && !self.shared.bell.swap(true, Ordering::AcqRel) {
            (self.shared.wake)();
        }
    }
}

impl<T, U> Drop for Reply<T, U> {
    fn drop(&mut self) {
        if self.owed {
            // A future's destructor has panicked; or the worker is gone, and hears nothing.
            self.send(End::Panicked(Fault::Panic { message: "in a destructor".into(), location: None, backtrace: None }));
        }
    }
}

/// Whether there is such a future, and it has come to its end.
fn passed<F: Future<Output = ()>>(future: Pin<&mut Option<F>>, context: &mut Context<'_>) -> bool {
    future.as_pin_mut().is_some_and(|future| future.poll(context).is_ready())
}
