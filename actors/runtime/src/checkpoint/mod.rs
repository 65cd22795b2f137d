//! Effectively-once: a pipeline that begins again where it was, as if nothing had happened.
//!
//! ```text
//! sources, asked now and then:  snapshot the position → send a barrier → wait until every source has
//! edges:                        a barrier goes on when every open producer has sent it
//! stages, at the barrier:       what is held goes out before it → snapshot the state → pass it on
//! sinks, at the barrier:        make what was written durable, but do not show it yet
//! when all have:                the checkpoint is stored → sinks show what they had made ready
//! ```
//!
//! A pipeline that starts with a store which holds a checkpoint goes on from there: sources from their positions, stages
//! with their state, and sinks throw away what they wrote behind it. What is in the sinks then holds each record's results
//! once. (Dead letters are stored at once, so one may be there twice.) User code must do the same again with the same
//! records.
//!
//! A source that has ended, and whatever has ended behind it, takes part in every later checkpoint with its last snapshot.

mod coordinator;
mod format;

use std::{sync::Arc, time::Duration};

pub(crate) use coordinator::Checkpoints;
pub(crate) use format::{Reader, Writer};

use crate::error::StageError;

/// What a stage remembers from record to record, so that it can go on in another process.
pub trait State {
    /// Everything that [`State::restore`] needs. A sink makes durable what it has written, but does not show it yet.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError>;

    /// Goes on from this snapshot, whose checkpoint is stored; without one, from the beginning. Called before the first
    /// record.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError>;

    /// The checkpoint with this snapshot is stored: it will never be taken back. Only sinks are told.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn committed(&mut self, snapshot: &[u8]) -> Result<(), StageError> {
        let _ = snapshot;
        Ok(())
    }

    /// Whether a fresh instance in the same process finds everything where one that panicked left it. If not, a panic
    /// ends the pipeline, which can then go on from its last checkpoint.
    fn outlives_instances(&self) -> bool {
        false
    }
}

/// A pipeline at a moment: the positions of its sources, the state of its stages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which checkpoint of the pipeline it is, from 1.
    pub epoch: u64,
    /// What each replica of a stage had to say, by the stage's name, in the order of the stages.
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    stage: Arc<str>,
    replica: u32,
    state: Option<Vec<u8>>,
}

/// Where checkpoints are kept.
pub trait CheckpointStore: Send {
    /// The latest that is whole, if there is one.
    ///
    /// # Errors
    /// If there are some and none is whole: to begin anew by mistake would be worse.
    fn latest(&mut self) -> Result<Option<Checkpoint>, StageError>;

    /// Must be durable on return.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StageError>;
}

/// Where a pipeline's checkpoints are kept, and how often there is one.
pub struct CheckpointOptions {
    pub(crate) store: Box<dyn CheckpointStore>,
    pub(crate) every: Duration,
}

impl CheckpointOptions {
    /// A checkpoint every ten seconds, and one at the end.
    pub fn new(store: impl CheckpointStore + 'static) -> Self {
        CheckpointOptions { store: Box::new(store), every: Duration::from_secs(10) }
    }

    /// Sets the time between the end of a checkpoint and the begin of the next.
    #[must_use]
    pub fn every(mut self, time: Duration) -> Self {
        self.every = time;
        self
    }
}
