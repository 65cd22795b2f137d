//! Models of millstream's own engine as handlers.
//!
//! Examples are tensors without a batch axis. A batch of examples of equal shapes is stacked along a new first axis, run
//! once, and its outputs are divided along their first axis. Where a model cannot be batched, each example is run alone:
//! nothing ever fails because it cannot be stacked.

mod stack;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_engine::{Executable, Port, Request, RunError, Workspace};
use millstream_tensor::{Shape, Tensor, TensorError, Value};

use self::stack::{rows, stack};
use super::{ModelHandler, ModelId};
use crate::{
    error::{ErrorKind, StageError},
    stage::Start,
};

/// An executable of the engine as a model: an example is its inputs in the signature's order, without the batch axis.
///
/// Replicas share the executable and its weights; each has a workspace. Inside a pipeline replicas fill the cores, so the
/// executable should be compiled for one thread.
pub struct EngineModel {
    id: ModelId,
    executable: Arc<dyn Executable>,
    batching: Batching,
    /// The caller said that there is no batch axis.
    forced: bool,
    shared: Vec<(usize, Tensor)>,
    memory_limit: usize,
    /// Outputs turned out to have no batch axis.
    alone: AtomicBool,
}

/// What the signature says about the first axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batching {
    /// Any number of rows.
    Free,
    /// Always this many rows; missing ones are filled up.
    Fixed(usize),
    /// There is no batch axis: examples are inputs as they are.
    None,
}

impl EngineModel {
    /// A model. Its batch axis is free where the first dim of all its inputs is open, and fixed where it is a number.
    pub fn new(id: ModelId, executable: Arc<dyn Executable>) -> Self {
        let batching = batching(&executable.signature().inputs);
        EngineModel { id, executable, batching, forced: false, shared: Vec::new(), memory_limit: usize::MAX, alone: AtomicBool::new(false) }
    }

    /// Says that the model has no batch axis: examples are inputs as they are, and run one at a time.
    #[must_use]
    pub fn without_batch_axis(mut self) -> Self {
        self.batching = Batching::None;
        self.forced = true;
        self
    }

    /// Gives one input the same value in every run; examples then lack it.
    ///
    /// # Errors
    /// If the model has no input of this name.
    pub fn shared_input(mut self, name: &str, value: Tensor) -> Result<Self, StageError> {
        let signature = self.executable.signature();
        let index = signature.input_index(name).ok_or_else(|| RunError::InputName(name.to_owned()))?;
        self.shared.push((index, value));
        self.shared.sort_by_key(|(index, _)| *index);
        if !self.forced {
            let others = signature.inputs.iter().enumerate().filter(|(i, _)| self.shared.iter().all(|(s, _)| s != i));
            self.batching = batching(others.map(|(_, port)| port));
        }
        Ok(self)
    }

    /// The most bytes that one run's arena may take.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// How many rows a run of this many examples has.
    fn run_rows(&self, examples: usize) -> usize {
        match self.batching {
            Batching::Fixed(rows) => rows,
            Batching::Free | Batching::None => examples,
        }
    }

    /// The inputs of one run, in the signature's order.
    fn inputs(&self, batch: &[&Vec<Tensor>]) -> Result<Vec<Value>, TensorError> {
        let columns = batch.first().map_or(0, |example| example.len());
        let mut values = Vec::with_capacity(columns + self.shared.len());
        for column in 0..columns {
            let parts: Vec<&Tensor> = batch.iter().filter_map(|example| example.get(column)).collect();
            let value = match (self.batching, parts.as_slice()) {
                (Batching::None, [only, ..]) => (*only).clone(),
                _ => stack(&parts, self.run_rows(batch.len()))?,
            };
            values.push(Value::Tensor(value));
        }
        for (index, tensor) in &self.shared {
            values.insert((*index).min(values.len()), Value::Tensor(tensor.clone()));
        }
        Ok(values)
    }

    /// One run: an output per example, or `None` where the outputs have no batch axis.
    fn run_stacked(&self, workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Result<Option<Vec<Vec<Tensor>>>, RunError> {
        let inputs = self.inputs(batch)?;
        let outputs = self.executable.run(workspace, Request::new(&inputs))?;
        let mut results: Vec<Vec<Tensor>> = batch.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
        for output in outputs.into_iter().flatten() {
            let output = output.into_tensor()?;
            if self.batching == Batching::None {
                if let [result] = results.as_mut_slice() {
                    result.push(output);
                }
                continue;
            }
            match rows(&output, self.run_rows(batch.len()))? {
                Some(parts) => results.iter_mut().zip(parts).for_each(|(result, part)| result.push(part)),
                // One example gets what the model says about it, whatever its shape.
                None => match results.as_mut_slice() {
                    [result] => result.push(output),
                    _ => return Ok(None),
                },
            }
        }
        Ok(Some(results))
    }

    fn run_alone(&self, workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, RunError> {
        let mut results = Vec::with_capacity(batch.len());
        for example in batch {
            results.extend(self.run_stacked(workspace, &[*example])?.into_iter().flatten());
        }
        Ok(results)
    }
}

/// A batch axis is free where it is open in every input; it is fixed where any input gives it as a number.
fn batching<'p>(inputs: impl IntoIterator<Item = &'p Port>) -> Batching {
    let mut batching = Batching::Free;
    for port in inputs {
        match port.dims.as_deref().map(<[_]>::first) {
            Some(None) => return Batching::None,
            Some(Some(Ok(rows))) => batching = Batching::Fixed((*rows).max(1)),
            Some(Some(Err(_))) | None => {}
        }
    }
    batching
}

impl ModelHandler for EngineModel {
    type Input = Vec<Tensor>;
    type Output = Vec<Tensor>;
    type Model = Workspace;

    fn id(&self) -> ModelId {
        self.id.clone()
    }

    fn load(&self, _start: &Start) -> Result<Workspace, StageError> {
        Ok(Workspace::with_limit(self.memory_limit))
    }

    /// Types and shapes decide what can be stacked.
    fn bucket(&self, input: &Vec<Tensor>) -> u64 {
        let mut hasher = DefaultHasher::new();
        for tensor in input {
            (tensor.dtype(), tensor.shape().dims()).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn bytes(&self, input: &Vec<Tensor>) -> u64 {
        input.iter().map(|tensor| tensor.bytes_len() as u64).sum()
    }

    fn max_batch(&self) -> Option<usize> {
        match self.batching {
            Batching::Free => None,
            Batching::Fixed(rows) => Some(rows),
            Batching::None => Some(1),
        }
    }

    fn plan_bytes(&self, _workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Option<u64> {
        let rows = self.run_rows(batch.len());
        let mut shapes = Vec::new();
        for tensor in *batch.first()? {
            let dims = tensor.shape().dims();
            shapes.push(match self.batching {
                Batching::None => *tensor.shape(),
                _ => Shape::new(&[&[rows], dims].concat()).ok()?,
            });
        }
        for (index, tensor) in &self.shared {
            shapes.insert((*index).min(shapes.len()), *tensor.shape());
        }
        // What cannot be told from shapes alone is bounded by the workspace's limit, while it runs.
        Some(self.executable.plan_bytes(&shapes).ok()?.per_run() as u64)
    }

    fn run(&self, workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, StageError> {
        let alone = batch.len() > 1 && (self.batching == Batching::None || self.alone.load(Ordering::Relaxed));
        let stacked = if alone { None } else { self.run_stacked(workspace, batch).map_err(failed)? };
        match stacked {
            Some(results) => Ok(results),
            None => {
                self.alone.store(true, Ordering::Relaxed);
                self.run_alone(workspace, batch).map_err(failed)
            }
        }
    }
}

fn failed(error: RunError) -> StageError {
    let kind = match &error {
        RunError::OutOfMemory(_) | RunError::MemoryLimit { .. } => ErrorKind::OutOfMemory,
        RunError::Cancelled => ErrorKind::Transient,
        _ => ErrorKind::Permanent,
    };
    StageError::new(kind, error)
}
