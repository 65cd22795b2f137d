//! A model with a time limit.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{IntoHandler, ModelHandler, ModelId};
use crate::{
    apart::{Apart, TimeLimit},
    error::{Fault, StageError},
    panics::guard,
    stage::Start,
};

/// A model that must answer in time; see [`within`].
pub struct Within<H> {
    handler: Arc<H>,
    limit: TimeLimit,
}

/// A replica's model, on a thread of its own.
pub struct Limited<H: ModelHandler> {
    start: Start,
    /// None after it was left behind.
    engine: Option<Engine<H>>,
}

type Answer<H> = Result<Result<Vec<<H as ModelHandler>::Output>, StageError>, Fault>;

struct Engine<H: ModelHandler> {
    /// Its thread has it during a run, and the worker between runs.
    model: Arc<Mutex<H::Model>>,
    apart: Apart<Vec<H::Input>, Answer<H>>,
}

/// The same model, each of whose runs must end within this time. The records of a batch that takes longer go to the dead
/// letters; its thread is left behind with a copy of the examples, and a freshly loaded model goes on. A thread that comes
/// back ends. Two may be away at a time, a third ends the pipeline.
///
/// A run costs a hop to that thread and back, and a copy of the examples. Loading has no limit.
///
/// ```
/// use millstream_runtime::{Pipeline, RunInference, StageError, collect, from_iter, handler, ms, within};
///
/// let double = handler("double", |batch: &[&u32]| Ok::<_, StageError>(batch.iter().map(|x| **x * 2).collect()));
/// let (sink, results) = collect();
/// Pipeline::from(from_iter(0..4u32)).infer("double", RunInference::new(within(ms(1_000), double))).map("output", |p| p.inference).sink(sink).run()?;
/// assert_eq!(results.take(), [0, 2, 4, 6]);
/// # Ok::<(), millstream_runtime::PipelineError>(())
/// ```
pub fn within<M: IntoHandler>(limit: Duration, model: M) -> Within<M::Handler>
where
    <M::Handler as ModelHandler>::Input: Clone,
{
    Within { handler: Arc::new(model.into_handler()), limit: TimeLimit::new(limit) }
}

fn lock<M>(model: &Mutex<M>) -> MutexGuard<'_, M> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: ModelHandler> Within<H> {
    fn engine(&self, start: &Start) -> Result<Engine<H>, StageError> {
        let model = Arc::new(Mutex::new(self.handler.load(start)?));
        let (handler, own) = (self.handler.clone(), model.clone());
        let work = move |batch: Vec<H::Input>| guard(|| handler.run(&mut lock(&own), &batch.iter().collect::<Vec<_>>()));
        Ok(Engine { model, apart: Apart::start(&self.limit, work)? })
    }
}

impl<H: ModelHandler> ModelHandler for Within<H>
where
    H::Input: Clone,
{
    type Input = H::Input;
    type Output = H::Output;
    type Model = Limited<H>;

    fn id(&self) -> ModelId {
        self.handler.id()
    }

    fn load(&self, start: &Start) -> Result<Limited<H>, StageError> {
        Ok(Limited { start: *start, engine: Some(self.engine(start)?) })
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

    fn version(&self, model: &Limited<H>) -> Option<Arc<ModelId>> {
        self.handler.version(&lock(&model.engine.as_ref()?.model))
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

    fn plan_bytes(&self, model: &mut Limited<H>, batch: &[&H::Input]) -> Option<u64> {
        self.handler.plan_bytes(&mut lock(&model.engine.as_ref()?.model), batch)
    }

    fn run(&self, model: &mut Limited<H>, batch: &[&H::Input]) -> Result<Vec<H::Output>, StageError> {
        let engine = match &mut model.engine {
            Some(engine) => engine,
            left => left.insert(self.engine(&model.start)?),
        };
        match engine.apart.ask(batch.iter().map(|input| (*input).clone()).collect()) {
            Some(Ok(result)) => result,
            // It panics here as it would have panicked there.
            Some(Err(fault)) => resume_unwind(Box::new(fault)),
            None => {
                model.engine = None;
                Err(self.limit.passed())
            }
        }
    }
}
