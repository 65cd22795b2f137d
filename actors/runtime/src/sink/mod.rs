//! Sinks: where records leave a pipeline.

mod closure;
mod collect;

use std::sync::Arc;

pub use closure::{ForEach, for_each};
pub use collect::{Collect, Collected, collect};

use crate::{
    error::StageError,
    stage::{Context, Start},
};

/// Where records leave a pipeline. Each replica has one.
pub trait Sink<T>: Send {
    /// Stores a record.
    ///
    /// # Errors
    /// Handled by the stage's policy: by default, the record goes to the dead letters.
    fn write(&mut self, record: T, context: &Context<'_>) -> Result<(), StageError>;

    /// Makes durable what was written. Called at the end of the stream, when the pipeline drains, and when it is
    /// aborted.
    ///
    /// # Errors
    /// Ends the pipeline: records that were reported as stored are not.
    fn flush(&mut self) -> Result<(), StageError> {
        Ok(())
    }
}

/// Makes sinks: one per replica, and a fresh one after every panic.
pub trait SinkFactory<T>: Send + Sync + 'static {
    /// What it makes.
    type Sink: Sink<T>;

    /// The stage's name in metrics and dead letters.
    fn name(&self) -> Arc<str> {
        "sink".into()
    }

    /// Opens a sink. `start.incarnation` is 0 the first time, and counts the restarts: what was written before one
    /// must be kept.
    ///
    /// # Errors
    /// Counts as a failure of the stage: it is started again, up to the limit.
    fn open(&self, start: &Start) -> Result<Self::Sink, StageError>;
}
