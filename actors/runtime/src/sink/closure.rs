//! A closure as a sink.

use super::{Sink, SinkFactory};
use crate::{
    error::StageError,
    stage::{Context, Start},
};

/// Calls a closure for each record.
#[derive(Clone)]
pub struct ForEach<F>(F);

/// A sink that calls a closure for each record. Each replica, and each restart, gets a clone of it.
pub fn for_each<T, F: FnMut(T) + Clone + Send + Sync + 'static>(call: F) -> ForEach<F> {
    ForEach(call)
}

impl<T, F: FnMut(T) + Send> Sink<T> for ForEach<F> {
    fn write(&mut self, record: T, _context: &Context<'_>) -> Result<(), StageError> {
        (self.0)(record);
        Ok(())
    }
}

impl<T, F: FnMut(T) + Clone + Send + Sync + 'static> SinkFactory<T> for ForEach<F> {
    type Sink = Self;

    fn open(&self, _start: &Start) -> Result<Self, StageError> {
        Ok(self.clone())
    }
}
