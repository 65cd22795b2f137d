//! Any model of Candle's as a stage of a pipeline.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use millstream_candle::candle_core::{DType, Module, Result, Tensor};
use millstream_runtime::{ModelHandler, ModelId, StageError, Start};

/// A function of a batch's tensors.
type Forward = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync;

/// A model of Candle's as the model of [`RunInference`](millstream_runtime::RunInference).
///
/// An example is the model's tensors without the batch axis; so is what it gives. Examples of one shape and type make a batch: they
/// are stacked, run together, and their outputs taken apart. All replicas share one model, whose weights Candle shares too.
#[derive(Clone)]
pub struct CandleModule {
    id: ModelId,
    forward: Arc<Forward>,
    weights: u64,
    most: Option<usize>,
}

impl CandleModule {
    /// A module of one tensor.
    pub fn new(id: ModelId, module: impl Module + Send + Sync + 'static) -> CandleModule {
        CandleModule::of(id, move |inputs| match inputs {
            [x] => Ok(vec![module.forward(x)?]),
            other => Err(millstream_candle::candle_core::Error::Msg(format!("a module takes one tensor, an example has {}", other.len()))),
        })
    }

    /// A model of any number of tensors: `forward` gets them with a batch axis in front, and gives its outputs with one.
    pub fn of(id: ModelId, forward: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static) -> CandleModule {
        CandleModule { id, forward: Arc::new(forward), weights: 0, most: None }
    }

    /// What the weights take, for limits on the memory of models.
    pub fn weight_bytes(self, bytes: u64) -> CandleModule {
        CandleModule { weights: bytes, ..self }
    }

    /// The most examples that the model takes at once.
    pub fn at_most(self, examples: usize) -> CandleModule {
        CandleModule { most: Some(examples), ..self }
    }

    fn stacked(batch: &[&Vec<Tensor>]) -> Result<Vec<Tensor>> {
        let count = batch.first().map_or(0, |example| example.len());
        (0..count).map(|i| Tensor::stack(&batch.iter().filter_map(|example| example.get(i)).collect::<Vec<_>>(), 0)).collect()
    }
}

impl ModelHandler for CandleModule {
    type Input = Vec<Tensor>;
    type Output = Vec<Tensor>;
    type Model = Arc<Forward>;

    fn id(&self) -> ModelId {
        self.id.clone()
    }

    fn load(&self, _start: &Start) -> std::result::Result<Arc<Forward>, StageError> {
        Ok(self.forward.clone())
    }

    fn bucket(&self, input: &Vec<Tensor>) -> u64 {
        let mut hasher = DefaultHasher::new();
        for t in input {
            t.dims().hash(&mut hasher);
            t.dtype().as_str().hash(&mut hasher);
        }
        hasher.finish()
    }

    fn bytes(&self, input: &Vec<Tensor>) -> u64 {
        input.iter().map(|t| t.elem_count().saturating_mul(size_of_element(t.dtype())) as u64).sum()
    }

    fn model_bytes(&self) -> u64 {
        self.weights
    }

    fn max_batch(&self) -> Option<usize> {
        self.most
    }

    fn run(&self, model: &mut Arc<Forward>, batch: &[&Vec<Tensor>]) -> std::result::Result<Vec<Vec<Tensor>>, StageError> {
        let made = CandleModule::stacked(batch).and_then(|inputs| model(&inputs)).map_err(StageError::permanent)?;
        let mut examples = vec![Vec::with_capacity(made.len()); batch.len()];
        for t in &made {
            for (i, example) in examples.iter_mut().enumerate() {
                example.push(t.get(i).map_err(StageError::permanent)?);
            }
        }
        Ok(examples)
    }
}

/// Bytes of an element; at least one, for types that have less.
fn size_of_element(dtype: DType) -> usize {
    dtype.size_in_bytes().max(1)
}
