//! Sources: where records enter a pipeline.

mod channel;
mod iter;
mod map;

use std::{sync::Arc, time::Instant};

pub use channel::{ChannelSource, Push, PushError, channel};
pub use iter::{IterSource, from_iter};
pub use map::{MapSource, map_source};

use crate::{
    cancel::CancelToken,
    envelope::{Key, Position, TraceContext},
    error::{Fault, StageError},
    signal::Signal,
};

/// A record as a source delivers it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Record<T> {
    /// The payload.
    pub payload: T,
    /// What it weighs; the size of `T` unless the source says otherwise.
    pub bytes: u64,
    /// The key, where order matters.
    pub key: Option<Key>,
    /// Where the source can find it again. Without one, records are numbered in partition 0.
    pub position: Option<Position>,
    /// Event time in microseconds since 1970.
    pub event_time: Option<i64>,
    /// After this instant, it is dropped rather than executed.
    pub deadline: Option<Instant>,
    /// Higher goes first where a stage chooses.
    pub priority: u8,
    /// Gives the record up.
    pub cancel: Option<CancelToken>,
    /// The distributed trace it belongs to.
    pub trace: Option<TraceContext>,
}

impl<T> Record<T> {
    /// A record of this payload and nothing else.
    pub fn new(payload: T) -> Self {
        Record { bytes: size_of::<T>() as u64, payload, key: None, position: None, event_time: None, deadline: None, priority: 0, cancel: None, trace: None }
    }

    /// The payload, and the rest.
    pub(crate) fn split(self) -> (T, Record<()>) {
        let Record { payload, bytes, key, position, event_time, deadline, priority, cancel, trace } = self;
        (payload, Record { payload: (), bytes, key, position, event_time, deadline, priority, cancel, trace })
    }

    /// The same with this payload.
    pub(crate) fn with<U>(self, payload: U) -> Record<U> {
        let Record { bytes, key, position, event_time, deadline, priority, cancel, trace, .. } = self;
        Record { payload, bytes, key, position, event_time, deadline, priority, cancel, trace }
    }

    /// Sets what it weighs.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: Key) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets where it came from.
    #[must_use]
    pub fn position(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the token that gives it up.
    #[must_use]
    pub fn cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Sets the distributed trace that it belongs to.
    #[must_use]
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Sets the priority.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }
}

/// Whether a source has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Pull again.
    More,
    /// That was all.
    End,
}

/// What a pull collects.
pub struct Pulled<T> {
    pub(crate) items: Vec<PulledItem<T>>,
    pub(crate) rejected: u64,
    bytes: u64,
    max_records: usize,
    max_bytes: u64,
}

pub(crate) enum PulledItem<T> {
    Record(Record<T>),
    Fault { position: Option<Position>, locator: String, fault: Fault },
}

impl<T> Pulled<T> {
    pub(crate) fn new(max_records: usize, max_bytes: u64) -> Self {
        Pulled { items: Vec::with_capacity(max_records), rejected: 0, bytes: 0, max_records, max_bytes }
    }

    pub(crate) fn reset(&mut self) {
        self.items.clear();
        self.bytes = 0;
        self.rejected = 0;
    }

    /// Adds a record.
    pub fn push(&mut self, record: Record<T>) {
        self.bytes = self.bytes.saturating_add(record.bytes);
        self.items.push(PulledItem::Record(record));
    }

    /// Adds a record that could not be read: it goes to the dead letters, and the stream goes on. The locator is what a
    /// person would call the record, a path for example.
    pub fn fault(&mut self, locator: impl Into<String>, error: impl Into<StageError>) {
        let fault = error.into().into();
        self.items.push(PulledItem::Fault { position: None, locator: locator.into(), fault });
    }

    /// As [`Pulled::fault`], where the source knows the position: what it is done with includes such records.
    pub fn fault_at(&mut self, position: Position, locator: impl Into<String>, error: impl Into<StageError>) {
        let fault = error.into().into();
        self.items.push(PulledItem::Fault { position: Some(position), locator: locator.into(), fault });
    }

    /// Counts records that were refused at the door.
    pub fn reject(&mut self, records: u64) {
        self.rejected += records;
    }

    /// Whether the source should return now.
    pub fn is_full(&self) -> bool {
        self.items.len() >= self.max_records || self.bytes >= self.max_bytes
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Where records enter a pipeline. Runs on a thread of its own.
pub trait Source<T>: Send {
    /// The stage's name in metrics and dead letters.
    fn name(&self) -> Arc<str> {
        "source".into()
    }

    /// Whether records carry keys, whose order the pipeline then keeps.
    fn keyed(&self) -> bool {
        false
    }

    /// What is told how far the source's records are done, for a source that can begin again from there. Asked for once,
    /// before the first pull.
    ///
    /// A source that has one delivers at least once: a record that was not committed when the process died is delivered
    /// again. Offsets must rise within a partition.
    ///
    /// # Errors
    /// Fails the pipeline.
    fn committer(&mut self) -> Result<Option<Box<dyn Committer>>, StageError> {
        Ok(None)
    }

    /// The position behind everything that was pulled so far, for a source that can begin again from there. A pipeline with
    /// checkpoints has only such sources; in it, a pull must not wait for records for longer than a checkpoint may take.
    ///
    /// # Errors
    /// Fails the pipeline.
    fn snapshot(&mut self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(None)
    }

    /// Begins behind this position. Called before the first pull.
    ///
    /// # Errors
    /// Fails the pipeline.
    fn restore(&mut self, position: &[u8]) -> Result<(), StageError> {
        let _ = position;
        Err(StageError::fatal("this source cannot begin at a position"))
    }

    /// Waits for the next record, and takes what else is ready until `out` is full. Once `stop` is set, it returns
    /// without waiting, and [`Progress::End`] as soon as it has delivered what nobody could deliver again.
    ///
    /// # Errors
    /// What ends the stream early; the pipeline then fails. A single bad record is a [`Pulled::fault`] instead.
    fn pull(&mut self, out: &mut Pulled<T>, stop: &Signal) -> Result<Progress, StageError>;
}

/// Remembers how far a source's records are done. Runs on a thread of its own.
pub trait Committer: Send {
    /// For each of these partitions: everything up to this offset is done, durably. Must be durable on return.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn commit(&mut self, done: &[Position]) -> Result<(), StageError>;
}

impl<T, S: Source<T> + ?Sized> Source<T> for Box<S> {
    fn name(&self) -> Arc<str> {
        (**self).name()
    }

    fn keyed(&self) -> bool {
        (**self).keyed()
    }

    fn committer(&mut self) -> Result<Option<Box<dyn Committer>>, StageError> {
        (**self).committer()
    }

    fn snapshot(&mut self) -> Result<Option<Vec<u8>>, StageError> {
        (**self).snapshot()
    }

    fn restore(&mut self, position: &[u8]) -> Result<(), StageError> {
        (**self).restore(position)
    }

    fn pull(&mut self, out: &mut Pulled<T>, stop: &Signal) -> Result<Progress, StageError> {
        (**self).pull(out, stop)
    }
}
