//! A bounded in-memory channel as a source: the way in for a host program.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::{Progress, Pulled, Record, Source};
use crate::{error::StageError, signal::Signal};

/// A source that is fed through [`Push`] handles. It holds up to `capacity` records that the pipeline has not taken.
///
/// The stream ends when the last handle is dropped. When the pipeline drains, what was pushed by then is still taken.
pub fn channel<T: Send>(capacity: usize) -> (Push<T>, ChannelSource<T>) {
    let (sender, receiver) = bounded(capacity.max(1));
    let door = Arc::new(Door::default());
    (Push { sender, door: door.clone() }, ChannelSource { receiver, door, keyed: false })
}

/// Who may still come in: a record that passed the door is taken by the pipeline, whatever happens next.
#[derive(Default)]
struct Door {
    closed: AtomicBool,
    /// Pushes that have passed the door and are not in the channel yet.
    entering: AtomicUsize,
    rejected: AtomicU64,
}

impl Door {
    fn enter(&self) -> bool {
        self.entering.fetch_add(1, Ordering::SeqCst);
        let open = !self.closed.load(Ordering::SeqCst);
        if !open {
            self.leave();
        }
        open
    }

    fn leave(&self) {
        self.entering.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The records that are pushed into it.
pub struct ChannelSource<T> {
    receiver: Receiver<Record<T>>,
    door: Arc<Door>,
    keyed: bool,
}

impl<T> ChannelSource<T> {
    /// Says that the records will carry keys, whose order the pipeline is to keep.
    #[must_use]
    pub fn keyed(mut self) -> Self {
        self.keyed = true;
        self
    }
}

/// Feeds a pipeline. Clones feed the same one.
pub struct Push<T> {
    sender: Sender<Record<T>>,
    door: Arc<Door>,
}

impl<T> Clone for Push<T> {
    fn clone(&self) -> Self {
        Push { sender: self.sender.clone(), door: self.door.clone() }
    }
}

/// A record that was not taken; it comes back.
pub enum PushError<T> {
    /// The pipeline is busy and the channel full. The record counts as rejected.
    Full(Record<T>),
    /// The pipeline has ended or is draining.
    Closed(Record<T>),
}

impl<T> PushError<T> {
    /// The record.
    pub fn into_record(self) -> Record<T> {
        match self {
            PushError::Full(record) | PushError::Closed(record) => record,
        }
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, PushError::Full(_)) { "Full" } else { "Closed" })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, PushError::Full(_)) { "the pipeline is busy" } else { "the pipeline has ended" })
    }
}

impl<T> std::error::Error for PushError<T> {}

impl<T> Push<T> {
    /// Waits for room.
    ///
    /// # Errors
    /// Gives the record back when the pipeline has ended.
    pub fn send(&self, record: Record<T>) -> Result<(), PushError<T>> {
        if !self.door.enter() {
            return Err(PushError::Closed(record));
        }
        let sent = self.sender.send(record);
        self.door.leave();
        sent.map_err(|refused| PushError::Closed(refused.0))
    }

    /// Does not wait: where there is no room, the record is rejected.
    ///
    /// # Errors
    /// Gives the record back when there is no room or the pipeline has ended.
    pub fn try_send(&self, record: Record<T>) -> Result<(), PushError<T>> {
        if !self.door.enter() {
            return Err(PushError::Closed(record));
        }
        let sent = self.sender.try_send(record);
        self.door.leave();
        sent.map_err(|refused| match refused {
            TrySendError::Full(record) => {
                self.door.rejected.fetch_add(1, Ordering::Relaxed);
                PushError::Full(record)
            }
            TrySendError::Disconnected(record) => PushError::Closed(record),
        })
    }
}

impl<T: Send> Source<T> for ChannelSource<T> {
    fn keyed(&self) -> bool {
        self.keyed
    }

    fn pull(&mut self, out: &mut Pulled<T>, stop: &Signal) -> Result<Progress, StageError> {
        let first = match stop.recv(&self.receiver) {
            Some(first) => Some(first),
            None => self.last_call(),
        };
        out.reject(self.door.rejected.swap(0, Ordering::Relaxed));
        let Some(first) = first else { return Ok(Progress::End) };
        out.push(first);
        while !out.is_full() {
            match self.receiver.try_recv() {
                Ok(record) => out.push(record),
                Err(_) => break,
            }
        }
        if stop.is_set() {
            self.door.closed.store(true, Ordering::SeqCst);
        }
        Ok(Progress::More)
    }
}

impl<T> ChannelSource<T> {
    /// Closes the door and waits for those who are passing it.
    fn last_call(&self) -> Option<Record<T>> {
        self.door.closed.store(true, Ordering::SeqCst);
        loop {
            let nobody = self.door.entering.load(Ordering::SeqCst) == 0;
            match self.receiver.recv_timeout(if nobody { Duration::ZERO } else { Duration::from_micros(100) }) {
                Ok(record) => return Some(record),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if nobody => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl<T> Drop for ChannelSource<T> {
    fn drop(&mut self) {
        self.door.closed.store(true, Ordering::SeqCst);
    }
}
