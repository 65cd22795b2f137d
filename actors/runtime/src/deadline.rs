//! The deadline timer: ends expired records on time, whatever their stage is doing.
//!
//! One thread per pipeline, started by the first record that has a deadline; it sleeps until the earliest one. It only
//! ends the record's account: whoever holds the record finds that out before executing it, and drops it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{outcome::Outcome, ticket::Family};

#[derive(Default)]
pub(crate) struct Reaper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    due: BTreeMap<(Instant, u64), Weak<Family>>,
    next: u64,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reaper {
    /// Ends the record at the deadline, if it has not ended by then.
    pub(crate) fn watch(&self, deadline: Instant, family: Weak<Family>) {
        self.start();
        let mut state = self.shared.lock();
        let number = state.next;
        state.next += 1;
        let earliest = state.due.first_key_value().is_none_or(|(first, _)| deadline < first.0);
        state.due.insert((deadline, number), family);
        drop(state);
        if earliest {
            self.shared.changed.notify_one();
        }
    }

    /// Stops the thread and waits for its end.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It runs no user code but the observer, which must not panic.
            let _ = thread.join();
        }
    }

    fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = self.shared.clone();
            let spawned = thread::Builder::new().name("millstream-deadlines".into()).spawn(move || run(&shared));
            match spawned {
                Ok(handle) => *thread = Some(handle),
                // Expiry at insertion and at release still works.
                Err(error) => tracing::warn!(%error, "no thread for the deadline timer"),
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // Not joined: the last owner of the accounts may be this very thread.
        self.shared.lock().stopped = true;
        self.shared.changed.notify_one();
    }
}

fn run(shared: &Shared) {
    let mut state = shared.lock();
    while !state.stopped {
        let now = Instant::now();
        match state.due.first_entry() {
            None => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(first) if first.key().0 <= now => {
                let family = first.remove();
                drop(state);
                if let Some(family) = family.upgrade() {
                    family.claim(Outcome::Expired);
                }
                state = shared.lock();
            }
            Some(first) => {
                let wait = first.key().0 - now;
                state = shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}
