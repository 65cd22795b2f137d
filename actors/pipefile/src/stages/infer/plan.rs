//! A model's stage as far as it is known before it runs: what `--dry` asks.

use millstream_engine::Workspace;
use millstream_runtime::{EngineModel, EngineSequence, Key, ModelHandler, SequenceModel, StageError, Step};
use millstream_tensor::Tensor;

/// A model's stage before it runs.
pub(crate) struct Inference {
    pub(crate) stage: String,
    pub(super) planned: Planned,
    pub(super) example: Vec<Tensor>,
    /// Dims for which 1 stands.
    pub(crate) open: Vec<String>,
    /// The most items of a batch.
    pub(crate) most: usize,
    pub(crate) weight_bytes: u64,
    /// The most sequences that it remembers, and what one's state takes when it begins.
    pub(crate) sequences: Option<(usize, u64)>,
    /// How newer versions come into place.
    pub(crate) versions: Option<String>,
}

/// What can say what a run takes.
pub(super) enum Planned {
    Model(EngineModel),
    /// With the state of a sequence that begins.
    Sequence(EngineSequence, Vec<Tensor>),
}

impl Planned {
    pub(super) fn sequence(model: EngineSequence) -> Result<Self, StageError> {
        let state = model.begin(Key(0))?;
        Ok(Planned::Sequence(model, state))
    }

    /// What a sequence's state takes when it begins.
    pub(super) fn state_bytes(&self) -> u64 {
        match self {
            Planned::Model(_) => 0,
            Planned::Sequence(model, state) => model.state_bytes(state),
        }
    }
}

impl Inference {
    /// The most examples that the model takes at once.
    pub(crate) fn max_batch(&self) -> Option<usize> {
        match &self.planned {
            Planned::Model(model) => model.max_batch(),
            Planned::Sequence(model, _) => model.max_batch(),
        }
    }

    /// What a run of so many examples takes beyond the weights.
    pub(crate) fn plan_bytes(&self, batch: usize) -> Option<u64> {
        let mut workspace = Workspace::with_limit(usize::MAX);
        match &self.planned {
            Planned::Model(model) => model.plan_bytes(&mut workspace, &vec![&self.example; batch]),
            Planned::Sequence(model, state) => {
                let steps: Vec<_> = (0..batch).map(|number| Step::new(Key(number as u64), &self.example, state)).collect();
                model.plan_bytes(&mut workspace, &steps)
            }
        }
    }
}
