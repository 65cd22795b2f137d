//! A model whose outputs are made into something else, example by example.

use std::sync::Arc;

use super::{IntoHandler, ModelHandler, ModelId};
use crate::{error::StageError, stage::Start};

/// A model and what is made of its outputs; see [`postprocess`].
pub struct Postprocess<H, F> {
    handler: H,
    finish: F,
}

/// The same model, each of whose outputs is made into what the pipeline wants: a label, a score, a box. An output that
/// cannot be is its own example's error: the example goes to the dead letters, and its neighbours' results are kept from it
/// by nothing but one more run.
///
/// ```
/// use millstream_runtime::{Pipeline, RunInference, StageError, collect, from_iter, handler, postprocess};
///
/// let logits = handler("logits", |batch: &[&f32]| Ok::<_, StageError>(batch.iter().map(|x| **x - 1.0).collect()));
/// let label = postprocess(logits, |logit: f32| if logit.is_nan() { Err(StageError::permanent("no number")) } else { Ok(logit > 0.0) });
/// let (sink, results) = collect();
/// let report = Pipeline::from(from_iter([0.5, f32::NAN, 2.0])).infer("label", RunInference::new(label)).map("out", |p| p.inference).sink(sink).run()?;
/// assert_eq!(results.take(), [false, true]);
/// assert_eq!(report.counts.dead_lettered, 1);
/// # Ok::<(), millstream_runtime::PipelineError>(())
/// ```
pub fn postprocess<M, U, E, F>(model: M, finish: F) -> Postprocess<M::Handler, F>
where
    M: IntoHandler,
    F: Fn(<M::Handler as ModelHandler>::Output) -> Result<U, E> + Send + Sync + 'static,
    U: Send + 'static,
    E: Into<StageError>,
{
    Postprocess { handler: model.into_handler(), finish }
}

impl<H, U, E, F> ModelHandler for Postprocess<H, F>
where
    H: ModelHandler,
    F: Fn(H::Output) -> Result<U, E> + Send + Sync + 'static,
    U: Send + 'static,
    E: Into<StageError>,
{
    type Input = H::Input;
    type Output = U;
    type Model = H::Model;

    fn id(&self) -> ModelId {
        self.handler.id()
    }

    fn load(&self, start: &Start) -> Result<H::Model, StageError> {
        self.handler.load(start)
    }

    fn bucket(&self, input: &H::Input) -> u64 {
        self.handler.bucket(input)
    }

    fn bytes(&self, input: &H::Input) -> u64 {
        self.handler.bytes(input)
    }

    fn model_bytes(&self) -> u64 {
        self.handler.model_bytes()
    }

    fn contract(&self) -> Vec<String> {
        self.handler.contract()
    }

    fn version(&self, model: &H::Model) -> Option<Arc<ModelId>> {
        self.handler.version(model)
    }

    fn length(&self, input: &H::Input) -> u64 {
        self.handler.length(input)
    }

    fn pad_to(&self) -> u64 {
        self.handler.pad_to()
    }

    fn max_batch(&self) -> Option<usize> {
        self.handler.max_batch()
    }

    fn plan_bytes(&self, model: &mut H::Model, batch: &[&H::Input]) -> Option<u64> {
        self.handler.plan_bytes(model, batch)
    }

    fn run(&self, model: &mut H::Model, batch: &[&H::Input]) -> Result<Vec<U>, StageError> {
        let (mut results, mut errors) = (Vec::with_capacity(batch.len()), Vec::new());
        for (place, output) in self.handler.run(model, batch)?.into_iter().enumerate() {
            match (self.finish)(output) {
                Ok(result) => results.push(result),
                Err(error) => errors.push((place, error.into())),
            }
        }
        if errors.is_empty() { Ok(results) } else { Err(StageError::of_examples(errors)) }
    }
}
