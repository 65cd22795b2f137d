//! The queue of spans that have ended, and the thread that sends them.
//!
//! ```text
//! stages ──offer──▶ queue (bounded: full means dropped) ──take──▶ sender ──▶ collector
//! ```
//!
//! The sender sleeps until a batch is full, its oldest span has waited for long enough, or somebody wants the queue flushed.
//! While the collector is away it pauses longer each time; the queue fills up meanwhile, and then drops.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Refusal},
    encode,
};

/// How many times a batch is sent again, and the pauses before that.
const AGAIN: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Limits of the queue and of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most spans in the queue.
    pub(crate) queue: usize,
    /// The most spans in a request.
    pub(crate) batch: usize,
    /// How long a span waits for company.
    pub(crate) every: Duration,
    /// How long a request may take.
    pub(crate) timeout: Duration,
}

pub(crate) struct Queue {
    limits: Limits,
    state: Mutex<State>,
    /// The sender waits for spans, or for the end.
    wake: Condvar,
    /// Who flushes waits for the sender.
    handled: Condvar,
    /// How many wait, to be read without the lock.
    waiting: AtomicUsize,
    pub(crate) exported: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) failed: AtomicU64,
}

#[derive(Default)]
struct State {
    spans: VecDeque<Vec<u8>>,
    /// When the oldest of them came.
    since: Option<Instant>,
    /// How many were ever taken into the queue, and how many of them the sender is done with.
    taken_in: u64,
    done: u64,
    /// The sender does not wait for company until it is done with so many.
    flush_to: u64,
    /// The end, and by when.
    closing: Option<Instant>,
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        let count = AtomicU64::default;
        Queue {
            limits,
            state: Mutex::default(),
            wake: Condvar::new(),
            handled: Condvar::new(),
            waiting: AtomicUsize::new(0),
            exported: count(),
            rejected: count(),
            dropped: count(),
            failed: count(),
        }
    }

    /// Takes a span, or counts it as dropped. It is written only if there seems to be room.
    pub(crate) fn offer(&self, span: impl FnOnce() -> Vec<u8>) {
        if self.waiting.load(Ordering::Relaxed) >= self.limits.queue {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let span = span();
        let mut state = self.lock();
        if state.spans.len() >= self.limits.queue || state.closing.is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.spans.push_back(span);
        state.taken_in += 1;
        state.since.get_or_insert_with(Instant::now);
        let waiting = state.spans.len();
        self.waiting.store(waiting, Ordering::Relaxed);
        drop(state);
        // The first starts the clock, the last fills the batch.
        if waiting == 1 || waiting == self.limits.batch {
            self.wake.notify_one();
        }
    }

    /// Has everything sent that is in the queue now, and waits for that; whether it was done in time.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        let mut state = self.lock();
        let target = state.taken_in;
        state.flush_to = state.flush_to.max(target);
        self.wake.notify_one();
        let waited = self.handled.wait_timeout_while(state, within, |state| state.done < target && state.closing.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.done >= target
    }

    /// No span is taken any more; the sender ends by then.
    pub(crate) fn close(&self, by: Instant) {
        let mut state = self.lock();
        state.closing.get_or_insert(by);
        drop(state);
        self.wake.notify_one();
        self.handled.notify_all();
    }

    /// What the sender's thread does.
    pub(crate) fn send(&self, client: &Client, resource: &[u8]) {
        let mut failing = false;
        while let Some(spans) = self.next() {
            let count = spans.len() as u64;
            match self.deliver(client, &encode::request(resource, &spans)) {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.rejected.fetch_add(rejected, Ordering::Relaxed);
                    self.exported.fetch_add(count - rejected, Ordering::Relaxed);
                    failing = false;
                }
                Err(why) => {
                    self.failed.fetch_add(count, Ordering::Relaxed);
                    if !failing {
                        tracing::warn!(%why, "spans cannot be exported: they are dropped and counted until they can");
                    }
                    failing = true;
                }
            }
            self.lock().done += count;
            self.handled.notify_all();
        }
    }

    /// The next batch, when it is time for it; `None` at the end.
    fn next(&self) -> Option<Vec<Vec<u8>>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let due = state.since.map(|since| since + self.limits.every);
            let at_once = state.closing.is_some() || state.done < state.flush_to || state.spans.len() >= self.limits.batch;
            match due {
                None if state.closing.is_some() => return None,
                None => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) if at_once || due <= now => return Some(self.take(&mut state)),
                Some(due) => (state, _) = self.wake.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn take(&self, state: &mut State) -> Vec<Vec<u8>> {
        let count = state.spans.len().min(self.limits.batch);
        let spans = state.spans.drain(..count).collect();
        state.since = (!state.spans.is_empty()).then(Instant::now);
        self.waiting.store(state.spans.len(), Ordering::Relaxed);
        spans
    }

    /// Sends a request until it is taken, with growing pauses; at the end once. How many of its spans were rejected, or why
    /// it failed.
    fn deliver(&self, client: &Client, body: &[u8]) -> Result<u64, String> {
        let mut pause = PAUSE;
        for attempt in 0.. {
            let closing = self.lock().closing;
            let timeout = closing.map_or(self.limits.timeout, |by| self.limits.timeout.min(by.saturating_duration_since(Instant::now())));
            if timeout.is_zero() {
                return Err("the time to end is over".to_owned());
            }
            let Refusal { again, after, why } = match client.post(body, timeout) {
                Ok(answer) => return Ok(encode::rejected(&answer)),
                Err(refusal) => refusal,
            };
            if !again || closing.is_some() || attempt == AGAIN {
                return Err(why);
            }
            tracing::debug!(%why, ?pause, "spans are sent again");
            let wait = after.unwrap_or(pause).min(LONGEST);
            drop(self.wake.wait_timeout_while(self.lock(), wait, |state| state.closing.is_none()));
            pause = (pause * 2).min(LONGEST);
        }
        Ok(0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
