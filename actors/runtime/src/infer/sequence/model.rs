//! The extension point for models that remember.

use crate::{envelope::Key, error::StageError, infer::ModelId, stage::Start};

/// A model whose records belong to sequences: speech in frames, a text that grows by a token at a time. Every record has a
/// key, which says whose it is.
///
/// A step takes a state and gives a new one; it changes nothing in place. So a run that fails leaves every sequence as it
/// was, and its records can be tried again. What is large and grows, as a decoder's keys and values do, is best kept in
/// pages behind [`std::sync::Arc`]: the new state shares all pages but the last.
///
/// [`RunInference::sequences`](crate::RunInference::sequences) makes a stage of it.
pub trait SequenceModel: Send + Sync + 'static {
    /// One example.
    type Input: Send + 'static;
    /// What the model says about it.
    type Output: Send + 'static;
    /// What it remembers of a sequence.
    type State: Send + 'static;
    /// A replica's own state, made anew after every panic; see [`crate::ModelHandler::Model`]. What belongs to a sequence has no
    /// place in it.
    type Model: Send + 'static;

    /// Which model it is.
    fn id(&self) -> ModelId;

    /// Makes a replica's model; see [`crate::ModelHandler::load`].
    ///
    /// # Errors
    /// Counts as a failure of the stage: it is tried again, up to the limit of restarts.
    fn load(&self, start: &Start) -> Result<Self::Model, StageError>;

    /// The state before a sequence's first record.
    ///
    /// # Errors
    /// The record goes the way of records that fail.
    fn begin(&self, key: Key) -> Result<Self::State, StageError>;

    /// Runs a batch of records of different sequences; for each, its output and the state behind it, in the same order.
    ///
    /// # Errors
    /// As in [`crate::ModelHandler::run`]. The states stay as they are.
    fn step(&self, model: &mut Self::Model, batch: &[Step<'_, Self::Input, Self::State>]) -> Result<Vec<(Self::Output, Self::State)>, StageError>;

    /// What a state weighs, for the stage's limit.
    fn state_bytes(&self, state: &Self::State) -> u64 {
        size_of_val(state) as u64
    }

    /// How states become bytes, for pipelines with checkpoints. Without it they refuse the model.
    fn codec(&self) -> Option<&dyn StateCodec<Self::State>> {
        None
    }

    /// See [`crate::ModelHandler::bucket`].
    fn bucket(&self, input: &Self::Input) -> u64 {
        let _ = input;
        0
    }

    /// See [`crate::ModelHandler::bytes`].
    fn bytes(&self, input: &Self::Input) -> u64 {
        size_of_val(input) as u64
    }

    /// See [`crate::ModelHandler::length`].
    fn length(&self, input: &Self::Input) -> u64 {
        let _ = input;
        1
    }

    /// See [`crate::ModelHandler::pad_to`].
    fn pad_to(&self) -> u64 {
        1
    }

    /// See [`crate::ModelHandler::max_batch`].
    fn max_batch(&self) -> Option<usize> {
        None
    }

    /// See [`crate::ModelHandler::plan_bytes`].
    fn plan_bytes(&self, model: &mut Self::Model, batch: &[Step<'_, Self::Input, Self::State>]) -> Option<u64> {
        let _ = (model, batch);
        None
    }
}

/// A record's turn: its example, and what the model remembers of its sequence.
#[derive(Debug)]
#[non_exhaustive]
pub struct Step<'a, I, S> {
    /// The sequence.
    pub key: Key,
    /// The example.
    pub input: &'a I,
    /// The state that the record before it left, or a fresh one.
    pub state: &'a S,
}

impl<'a, I, S> Step<'a, I, S> {
    /// A record's turn.
    pub fn new(key: Key, input: &'a I, state: &'a S) -> Self {
        Step { key, input, state }
    }
}

/// States as bytes.
pub trait StateCodec<S> {
    /// The state as bytes.
    fn encode(&self, state: &S) -> Vec<u8>;

    /// The state of these bytes.
    fn decode(&self, bytes: &[u8]) -> Option<S>;
}
