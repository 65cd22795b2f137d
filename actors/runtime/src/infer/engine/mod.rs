//! Models of millstream's own engine as handlers.
//!
//! Examples are tensors without a batch axis. A batch of examples of equal shapes is stacked along a new first axis, run
//! once, and its outputs are divided along their first axis. Examples that differ in a length which the caller declared
//! ([`Ragged`]) are padded, and their outputs cut back. Where a model cannot be batched, each example is run alone: nothing
//! ever fails because it cannot be stacked. A model whose state is an input and an output remembers sequences
//! ([`EngineSequence`]).

mod planned;
mod ragged;
mod run;
mod sequence;
mod stack;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_engine::{Executable, Port, RunError, Workspace};
use millstream_tensor::{DType, Shape, Tensor};

use self::{planned::Planned, ragged::Length};
pub use self::{
    ragged::Ragged,
    sequence::{Carried, EngineSequence},
};
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
    /// Inputs that examples lack, by their places in the signature.
    made: Vec<(usize, Made)>,
    lengths: Vec<Length>,
    /// Inputs and outputs whose batch axis is another than the first, by their places in the signature.
    input_axes: Vec<(usize, usize)>,
    output_axes: Vec<(usize, usize)>,
    memory_limit: usize,
    /// Outputs turned out to have no batch axis.
    alone: AtomicBool,
    planned: Planned,
}

/// An input that is made here.
enum Made {
    /// The same value in every run.
    Shared(Tensor),
    /// The mask of a length.
    Mask(usize, DType),
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
        let mut model = EngineModel {
            id,
            executable,
            batching: Batching::None,
            forced: false,
            made: Vec::new(),
            lengths: Vec::new(),
            input_axes: Vec::new(),
            output_axes: Vec::new(),
            memory_limit: usize::MAX,
            alone: AtomicBool::new(false),
            planned: Planned::default(),
        };
        model.find_batching();
        model
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
        self.make(index, Made::Shared(value));
        Ok(self)
    }

    /// Lets examples differ in a length: a batch of them is padded, and the outputs are cut back. May be called for several
    /// lengths. The inputs of an example that are declared to have the length must agree in it.
    ///
    /// # Errors
    /// If the model has no such inputs or outputs, or a mask's type is none of numbers.
    pub fn ragged(mut self, ragged: Ragged) -> Result<Self, StageError> {
        let length = Length::new(ragged, self.executable.signature())?;
        for (index, dtype) in length.masks.clone() {
            self.make(index, Made::Mask(self.lengths.len(), dtype));
        }
        self.lengths.push(length);
        Ok(self)
    }

    fn make(&mut self, index: usize, made: Made) {
        self.made.push((index, made));
        self.made.sort_by_key(|(index, _)| *index);
        self.find_batching();
    }

    fn find_batching(&mut self) {
        if !self.forced {
            // A shared value's first axis is no batch axis.
            let others = self.executable.signature().inputs.iter().enumerate();
            let others = others.filter(|(i, _)| self.made.iter().all(|(s, made)| s != i || matches!(made, Made::Mask(..))));
            self.batching = batching(others.map(|(i, port)| (port, axis_of(&self.input_axes, i))));
        }
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
}

/// The batch axis of an input or an output: the first, unless it is listed.
fn axis_of(axes: &[(usize, usize)], index: usize) -> usize {
    axes.iter().find(|(listed, _)| *listed == index).map_or(0, |(_, axis)| *axis)
}

/// A batch axis is free where it is open in every input; it is fixed where any input gives it as a number.
fn batching<'p>(inputs: impl IntoIterator<Item = (&'p Port, usize)>) -> Batching {
    let mut batching = Batching::Free;
    for (port, axis) in inputs {
        match port.dims.as_deref().map(|dims| dims.get(axis)) {
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

    /// Types and shapes decide what can be stacked, but for the axes that are padded.
    fn bucket(&self, input: &Vec<Tensor>) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (column, tensor) in input.iter().enumerate() {
            let dims = tensor.shape().dims();
            (tensor.dtype(), dims.len()).hash(&mut hasher);
            let place = self.place(column);
            let fixed = dims.iter().enumerate().filter(|(axis, _)| self.lengths.iter().all(|length| length.pad(place, *axis).is_none()));
            fixed.for_each(|(_, dim)| dim.hash(&mut hasher));
        }
        hasher.finish()
    }

    /// The first length that was declared.
    fn length(&self, input: &Vec<Tensor>) -> u64 {
        let length = self.lengths.first().and_then(|length| self.own_length(length, input));
        length.map_or(1, |length| length as u64)
    }

    fn pad_to(&self) -> u64 {
        self.lengths.first().map_or(1, |length| length.multiple as u64)
    }

    fn bytes(&self, input: &Vec<Tensor>) -> u64 {
        input.iter().map(|tensor| tensor.bytes_len() as u64).sum()
    }

    /// Names, types and dims of inputs and outputs; open dims are alike, whatever they are called.
    fn contract(&self) -> Vec<String> {
        let signature = self.executable.signature();
        let line = |kind: &str, port: &Port| {
            let dims =
                port.dims.as_ref().map(|dims| dims.iter().map(|dim| dim.as_ref().map_or("?".to_owned(), ToString::to_string)).collect::<Vec<_>>().join(", "));
            format!("{kind} {}: {}[{}]", port.name, port.dtype.map_or("?", DType::name), dims.unwrap_or_else(|| "…".to_owned()))
        };
        let inputs = signature.inputs.iter().map(|port| line("input", port));
        inputs.chain(signature.outputs.iter().map(|port| line("output", port))).collect()
    }

    /// What the executable says of a run with one row, and of one in every other open dim.
    fn model_bytes(&self) -> u64 {
        let shape = |port: &Port| Shape::new(&port.dims.as_ref()?.iter().map(|dim| *dim.as_ref().unwrap_or(&1)).collect::<Vec<_>>()).ok();
        let shapes: Option<Vec<Shape>> = self.executable.signature().inputs.iter().map(shape).collect();
        shapes.and_then(|shapes| self.executable.plan_bytes(&shapes).ok()).map_or(0, |bytes| bytes.weights as u64)
    }

    fn max_batch(&self) -> Option<usize> {
        match self.batching {
            Batching::Free => None,
            Batching::Fixed(rows) => Some(rows),
            Batching::None => Some(1),
        }
    }

    fn plan_bytes(&self, _workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Option<u64> {
        let lengths = self.lengths(batch);
        let with_rows = |dims: &[usize], axis: usize| match (self.batching, dims.split_at_checked(axis)) {
            (Batching::None, _) | (_, None) => Shape::new(dims),
            (_, Some((before, behind))) => Shape::new(&[before, &[self.run_rows(batch.len())], behind].concat()),
        };
        let mut shapes = Vec::new();
        for (column, tensor) in batch.first()?.iter().enumerate() {
            let place = self.place(column);
            let (dims, _) = self.row_dims(place, tensor.shape().dims(), &lengths);
            shapes.push(with_rows(&dims, axis_of(&self.input_axes, place)).ok()?);
        }
        for (index, made) in &self.made {
            let shape = match made {
                Made::Shared(tensor) => *tensor.shape(),
                Made::Mask(length, _) => with_rows(&[lengths.padded[*length]], 0).ok()?,
            };
            shapes.insert((*index).min(shapes.len()), shape);
        }
        // What cannot be told from shapes alone is bounded by the workspace's limit, while it runs.
        self.planned.bytes(shapes, |shapes| Some(self.executable.plan_bytes(shapes).ok()?.per_run() as u64))
    }

    fn run(&self, workspace: &mut Workspace, batch: &[&Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, StageError> {
        let alone = batch.len() > 1 && (self.batching == Batching::None || self.alone.load(Ordering::Relaxed));
        let stacked = if alone { None } else { self.run_stacked(workspace, batch)? };
        match stacked {
            Some(results) => Ok(results),
            None => {
                self.alone.store(true, Ordering::Relaxed);
                self.run_alone(workspace, batch)
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
