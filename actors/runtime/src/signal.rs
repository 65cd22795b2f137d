//! One-way switches that threads can wait on: "stop reading" for sources, "give up" for everyone.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

enum Never {}

/// The reading side of a switch.
#[derive(Clone)]
pub struct Signal {
    set: Arc<AtomicBool>,
    /// Disconnects when the switch is thrown.
    thrown: Receiver<Never>,
}

impl Signal {
    /// Whether the switch was thrown.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Sleeps, but not past the switch; whether it was thrown.
    pub fn sleep(&self, time: Duration) -> bool {
        matches!(self.thrown.recv_deadline(Instant::now() + time), Err(RecvTimeoutError::Disconnected))
    }

    /// Waits for an item of a channel: `None` when the channel is empty for good, or when the switch is thrown.
    pub(crate) fn recv<T>(&self, channel: &Receiver<T>) -> Option<T> {
        crossbeam::channel::select_biased! {
            recv(channel) -> item => item.ok(),
            recv(self.thrown) -> _ => None,
        }
    }
}

/// The throwing side of a switch.
pub(crate) struct Switch {
    set: Arc<AtomicBool>,
    sender: Mutex<Option<Sender<Never>>>,
    thrown: Receiver<Never>,
}

impl Switch {
    pub(crate) fn new() -> Self {
        let (sender, thrown) = bounded(0);
        Switch { set: Arc::default(), sender: Mutex::new(Some(sender)), thrown }
    }

    pub(crate) fn signal(&self) -> Signal {
        Signal { set: self.set.clone(), thrown: self.thrown.clone() }
    }

    pub(crate) fn throw(&self) {
        self.set.store(true, Ordering::Release);
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
