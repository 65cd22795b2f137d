//! The channel under an edge: a small trait, crossbeam's channel behind it, and a model for loom.
//!
//! The ledger bounds what is in a channel, so the channel itself never refuses and never blocks a sender.

use std::time::Instant;

/// What an edge asks of a channel: many producers, many consumers, first in first out.
pub trait Queue<T>: Send + Sync {
    /// Appends an item and wakes one consumer that waits.
    fn push(&self, item: T);
    /// Takes the oldest item, if there is one.
    fn try_pop(&self) -> Option<T>;
    /// Takes the oldest item, waiting for one until `deadline` (for ever without one).
    fn pop(&self, deadline: Option<Instant>) -> Option<T>;
}

#[cfg(not(loom))]
pub(crate) use real::Channel;

#[cfg(loom)]
pub(crate) use model::Channel;

#[cfg(not(loom))]
mod real {
    use std::time::Instant;

    use crossbeam::channel::{Receiver, Sender, unbounded};

    use super::Queue;

    /// A crossbeam channel with both of its ends, so that it never disconnects.
    pub(crate) struct Channel<T> {
        sender: Sender<T>,
        receiver: Receiver<T>,
    }

    impl<T> Channel<T> {
        pub(crate) fn new() -> Self {
            let (sender, receiver) = unbounded();
            Channel { sender, receiver }
        }
    }

    impl<T: Send> Queue<T> for Channel<T> {
        fn push(&self, item: T) {
            // Cannot fail: `self` keeps a receiver.
            let _ = self.sender.send(item);
        }

        fn try_pop(&self) -> Option<T> {
            self.receiver.try_recv().ok()
        }

        fn pop(&self, deadline: Option<Instant>) -> Option<T> {
            match deadline {
                Some(deadline) => self.receiver.recv_deadline(deadline).ok(),
                None => self.receiver.recv().ok(),
            }
        }
    }
}

#[cfg(loom)]
mod model {
    use std::{collections::VecDeque, time::Instant};

    use super::Queue;
    use crate::sync::{Condvar, Mutex, lock};

    /// What crossbeam promises, in terms that loom can explore. Time does not pass: a deadline is as good as none.
    pub(crate) struct Channel<T> {
        items: Mutex<VecDeque<T>>,
        pushed: Condvar,
    }

    impl<T> Channel<T> {
        pub(crate) fn new() -> Self {
            Channel { items: Mutex::new(VecDeque::new()), pushed: Condvar::new() }
        }
    }

    impl<T: Send> Queue<T> for Channel<T> {
        fn push(&self, item: T) {
            lock(&self.items).push_back(item);
            self.pushed.notify_one();
        }

        fn try_pop(&self) -> Option<T> {
            lock(&self.items).pop_front()
        }

        fn pop(&self, _deadline: Option<Instant>) -> Option<T> {
            let mut items = lock(&self.items);
            loop {
                if let Some(item) = items.pop_front() {
                    return Some(item);
                }
                items = self.pushed.wait(items).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
        }
    }
}
