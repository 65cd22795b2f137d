//! A vector in memory as a sink.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Sink, SinkFactory};
use crate::{
    error::StageError,
    stage::{Context, Start},
};

/// Appends each record to a shared vector.
pub struct Collect<T>(Arc<Mutex<Vec<T>>>);

/// What a [`Collect`] has collected. What it holds is outside of every budget.
pub struct Collected<T>(Arc<Mutex<Vec<T>>>);

/// A sink that collects records in memory, and the place where they can be had.
pub fn collect<T: Send>() -> (Collect<T>, Collected<T>) {
    let records = Arc::new(Mutex::new(Vec::new()));
    (Collect(records.clone()), Collected(records))
}

fn lock<T>(records: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Collected<T> {
    /// Takes what has been collected so far.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut lock(&self.0))
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

impl<T: Send> Sink<T> for Collect<T> {
    fn write(&mut self, record: T, _context: &Context<'_>) -> Result<(), StageError> {
        lock(&self.0).push(record);
        Ok(())
    }
}

impl<T: Send + 'static> SinkFactory<T> for Collect<T> {
    type Sink = Self;

    fn open(&self, _start: &Start) -> Result<Self, StageError> {
        Ok(Collect(self.0.clone()))
    }
}
