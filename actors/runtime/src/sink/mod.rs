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

    /// The first phase of two, where the pipeline has checkpoints: makes durable what was written, so that it can neither
    /// get lost nor be seen as final, and says how it is found again.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn prepare(&mut self) -> Result<Vec<u8>, StageError> {
        self.flush().map(|()| Vec::new())
    }

    /// The second phase: the checkpoint with what was prepared last is stored. Nothing more is prepared before that. It may be
    /// told twice, the second time as [`Sink::restore`] of another process.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn commit(&mut self, prepared: &[u8]) -> Result<(), StageError> {
        let _ = prepared;
        Ok(())
    }

    /// Goes on behind what was prepared, commits it, and takes back everything that was written behind it; all that was
    /// written, where there is no checkpoint. Called before the first record.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn restore(&mut self, prepared: Option<&[u8]>) -> Result<(), StageError> {
        let _ = prepared;
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

    /// Whether its sinks take back what is behind a checkpoint (see [`Sink::restore`]), or replace it by the same when it
    /// comes again. A pipeline with checkpoints has only such sinks.
    fn takes_back(&self) -> bool {
        false
    }

    /// Opens a sink. `start.incarnation` is 0 the first time, and counts the restarts: what was written before one
    /// must be kept.
    ///
    /// # Errors
    /// Counts as a failure of the stage: it is started again, up to the limit.
    fn open(&self, start: &Start) -> Result<Self::Sink, StageError>;
}
