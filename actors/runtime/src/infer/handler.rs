//! The extension point for model frameworks.

use std::{fmt, sync::Arc};

use crate::{error::StageError, stage::Start};

/// Which model it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ModelId {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl ModelId {
    /// A model's name and version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        ModelId { name: name.into(), version: version.into() }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// A model of some framework: how to load it, and how to run a batch through it.
///
/// The handler is shared by all replicas; what [`ModelHandler::load`] makes belongs to one replica, and is made anew
/// after every panic.
pub trait ModelHandler: Send + Sync + 'static {
    /// One example.
    type Input: Send + 'static;
    /// What the model says about it.
    type Output: Send + 'static;
    /// A replica's own state: a session, a workspace.
    type Model: Send + 'static;

    /// Which model it is.
    fn id(&self) -> ModelId;

    /// Makes a replica's model, warmed up. Weights should be shared between replicas.
    ///
    /// # Errors
    /// Counts as a failure of the stage: it is tried again, up to the limit of restarts.
    fn load(&self, start: &Start) -> Result<Self::Model, StageError>;

    /// Examples go into one batch only if they are in the same bucket: for tensors, if they have the same shapes.
    fn bucket(&self, input: &Self::Input) -> u64 {
        let _ = input;
        0
    }

    /// What an example weighs, for the batch's limit in bytes.
    fn bytes(&self, input: &Self::Input) -> u64 {
        size_of_val(input) as u64
    }

    /// How many bytes the model's weights take, shared by all replicas: what is reserved where memory for models is limited.
    fn model_bytes(&self) -> u64 {
        0
    }

    /// What its examples and its outputs look like, a line each, in whatever words. A version replaces another only if these
    /// are the same.
    fn contract(&self) -> Vec<String> {
        Vec::new()
    }

    /// Which model a replica's is, where that may change while it runs: after a batch, the one that ran it.
    fn version(&self, model: &Self::Model) -> Option<Arc<ModelId>> {
        let _ = model;
        None
    }

    /// How long an example is, in what the model counts: tokens, frames. Examples of different lengths go into one batch if
    /// [`ModelHandler::run`] can pad them; a model that cannot puts them into different buckets, or leaves this alone.
    fn length(&self, input: &Self::Input) -> u64 {
        let _ = input;
        1
    }

    /// The model pads lengths to a multiple of this.
    fn pad_to(&self) -> u64 {
        1
    }

    /// The most examples that the model takes at once, if it has a limit: 1 for a model with a fixed batch of one.
    fn max_batch(&self) -> Option<usize> {
        None
    }

    /// How many bytes a run of this batch takes beyond the weights, if that is known: a batch that needs more than the
    /// stage may use is divided before it is run.
    fn plan_bytes(&self, model: &mut Self::Model, batch: &[&Self::Input]) -> Option<u64> {
        let _ = (model, batch);
        None
    }

    /// Runs a batch; the outputs are as many as the inputs, in the same order.
    ///
    /// # Errors
    /// The runtime divides the batch to find the guilty example, unless the error names it
    /// ([`StageError::of_examples`]), and to make it fit into memory where the error says that it did not.
    fn run(&self, model: &mut Self::Model, batch: &[&Self::Input]) -> Result<Vec<Self::Output>, StageError>;
}

/// What [`RunInference::new`](super::RunInference::new) takes: a handler, or a model that knows its handler.
pub trait IntoHandler {
    /// The handler.
    type Handler: ModelHandler;

    /// Makes it.
    fn into_handler(self) -> Self::Handler;
}

impl<H: ModelHandler> IntoHandler for H {
    type Handler = H;

    fn into_handler(self) -> H {
        self
    }
}

/// An example and what a model says about it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction<T, O> {
    /// The record as it came, before preprocessing.
    pub example: T,
    /// The model's output.
    pub inference: O,
    /// Which model it was.
    pub model: Arc<ModelId>,
}
