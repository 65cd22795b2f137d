//! User code that takes one record at a time, and the closures that are such code.

use std::marker::PhantomData;

use super::Context;
use crate::{
    checkpoint::State,
    envelope::{Key, TraceContext},
    error::StageError,
    sink::Sink,
};

/// Where a transform puts its results.
pub struct Emit<U> {
    pub(super) items: Vec<U>,
    pub(super) key: Option<Key>,
    pub(super) event_time: Option<i64>,
    pub(super) watermark: Option<i64>,
    pub(super) born: Vec<Born<U>>,
}

/// A result that is a record of its own.
pub(super) struct Born<U> {
    pub(super) key: Option<Key>,
    pub(super) event_time: Option<i64>,
    pub(super) item: U,
    /// The spans of what it was made of.
    pub(super) links: Vec<TraceContext>,
}

impl<U> Emit<U> {
    pub(super) fn new() -> Self {
        Emit { items: Vec::new(), key: None, event_time: None, watermark: None, born: Vec::new() }
    }

    /// Takes over what other code has put into its own.
    pub(super) fn absorb(&mut self, other: Emit<U>) {
        let Emit { items, key, event_time, watermark, born } = other;
        self.items.extend(items);
        (self.key, self.event_time) = (key.or(self.key), event_time.or(self.event_time));
        self.watermark = watermark.or(self.watermark);
        self.born.extend(born);
    }

    /// Passes a result on.
    pub fn push(&mut self, item: U) {
        self.items.push(item);
    }

    /// Gives the results this key.
    pub fn set_key(&mut self, key: Key) {
        self.key = Some(key);
    }

    /// Gives the results this event time, in microseconds since 1970.
    pub fn set_event_time(&mut self, time: i64) {
        self.event_time = Some(time);
    }

    /// Says that no record with an earlier event time will leave this stage; `None` says nothing, not even what was said
    /// to this stage.
    pub fn set_watermark(&mut self, time: Option<i64>) {
        self.watermark = time;
    }

    /// Passes on a result that is a record of its own, made of many: it has its own outcome.
    pub fn begin(&mut self, key: Option<Key>, event_time: Option<i64>, item: U) {
        self.begin_of(key, event_time, item, Vec::new());
    }

    /// As [`Emit::begin`], with the spans of what it was made of.
    pub(crate) fn begin_of(&mut self, key: Option<Key>, event_time: Option<i64>, item: U, links: Vec<TraceContext>) {
        self.born.push(Born { key, event_time, item, links });
    }
}

/// A stage's user code: takes one record at a time and gives any number.
///
/// Each replica has its own instance, and a panic replaces it by a fresh one.
pub trait Transform<T, U>: Send {
    /// Works on a record.
    ///
    /// # Errors
    /// Handled by the stage's policy: by default, the record goes to the dead letters.
    fn apply(&mut self, record: T, context: &Context<'_>, out: &mut Emit<U>) -> Result<(), StageError>;

    /// Event time has come so far (microseconds since 1970): no record with an earlier one will come here. At the end of
    /// the stream this is `i64::MAX`. The same is passed on, behind what is begun here, unless
    /// [`Emit::set_watermark`] says otherwise.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn watermark(&mut self, time: i64, out: &mut Emit<U>) -> Result<(), StageError> {
        let _ = (time, out);
        Ok(())
    }

    /// What is remembered from record to record, for code that goes on in another process where this one was; see
    /// [`crate::Pipeline::checkpoint`]. None by default: what such code remembers is lost.
    fn state(&mut self) -> Option<&mut dyn State> {
        None
    }

    /// The stream has ended, or the pipeline is being aborted.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn finish(&mut self) -> Result<(), StageError> {
        Ok(())
    }
}

pub(crate) struct MapFn<F>(pub(crate) F);

impl<T, U, F: FnMut(T) -> U + Send> Transform<T, U> for MapFn<F> {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<U>) -> Result<(), StageError> {
        out.push((self.0)(record));
        Ok(())
    }
}

pub(crate) struct TryMapFn<F>(pub(crate) F);

impl<T, U, E: Into<StageError>, F: FnMut(T) -> Result<U, E> + Send> Transform<T, U> for TryMapFn<F> {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<U>) -> Result<(), StageError> {
        out.push((self.0)(record).map_err(Into::into)?);
        Ok(())
    }
}

pub(crate) struct FilterFn<F>(pub(crate) F);

impl<T, F: FnMut(&T) -> bool + Send> Transform<T, T> for FilterFn<F> {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<T>) -> Result<(), StageError> {
        if (self.0)(&record) {
            out.push(record);
        }
        Ok(())
    }
}

pub(crate) struct FlatMapFn<F>(pub(crate) F);

impl<T, U, I: IntoIterator<Item = U>, F: FnMut(T) -> I + Send> Transform<T, U> for FlatMapFn<F> {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<U>) -> Result<(), StageError> {
        out.items.extend((self.0)(record));
        Ok(())
    }
}

pub(crate) struct KeyByFn<F>(pub(crate) F);

impl<T, F: FnMut(&T) -> Key + Send> Transform<T, T> for KeyByFn<F> {
    fn apply(&mut self, record: T, _context: &Context<'_>, out: &mut Emit<T>) -> Result<(), StageError> {
        out.set_key((self.0)(&record));
        out.push(record);
        Ok(())
    }
}

/// What a sink emits: nothing.
pub(crate) enum Nothing {}

pub(crate) struct SinkStep<S, T>(pub(crate) S, pub(crate) PhantomData<fn(T)>);

impl<T, S: Sink<T>> Transform<T, Nothing> for SinkStep<S, T> {
    fn apply(&mut self, record: T, context: &Context<'_>, _out: &mut Emit<Nothing>) -> Result<(), StageError> {
        self.0.write(record, context)
    }

    fn finish(&mut self) -> Result<(), StageError> {
        self.0.flush()
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(self)
    }
}

impl<S: Sink<T>, T> State for SinkStep<S, T> {
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        self.0.prepare()
    }

    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError> {
        self.0.restore(snapshot)
    }

    fn committed(&mut self, snapshot: &[u8]) -> Result<(), StageError> {
        self.0.commit(snapshot)
    }

    fn outlives_instances(&self) -> bool {
        true
    }
}
