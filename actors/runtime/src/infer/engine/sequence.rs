//! Models of the engine whose state is an input and an output.
//!
//! ```text
//! a batch of steps → the states go in beside the examples, along their batch axes → the new ones come out the same way
//! states of different shapes (caches of different lengths) → a run for each shape
//! ```

use std::collections::BTreeMap;

use millstream_engine::{RunError, Workspace};
use millstream_tensor::{DType, Tensor, TensorError};

use super::{Batching, EngineModel, Made, axis_of, stack::dense};
use crate::{
    checkpoint::{Reader, Writer},
    envelope::Key,
    error::StageError,
    infer::{
        ModelHandler, ModelId,
        sequence::{SequenceModel, StateCodec, Step},
    },
    stage::Start,
};

/// A part of a model's state: the input that takes it, and the output that gives it for the next step.
#[derive(Clone, Debug)]
pub struct Carried {
    input: String,
    output: String,
    axis: Option<usize>,
    first: Option<Tensor>,
}

impl Carried {
    /// Its batch axis is the one that the model calls by the name of its other inputs' batch axis, or the first. It begins as
    /// zeros of the shape that the model declares, dims without a number being 0: a cache begins empty.
    pub fn new(input: &str, output: &str) -> Self {
        Carried { input: input.to_owned(), output: output.to_owned(), axis: None, first: None }
    }

    /// Says which axis is the batch axis.
    #[must_use]
    pub fn batch_axis(mut self, axis: usize) -> Self {
        self.axis = Some(axis);
        self
    }

    /// Says what it is before a sequence's first record, without the batch axis.
    #[must_use]
    pub fn first(mut self, state: Tensor) -> Self {
        self.first = Some(state);
        self
    }
}

/// A model of the engine that remembers: a voice detector with its cells, a decoder with its cache. An example lacks the
/// state, and so does what the model says about it.
///
/// ```no_run
/// # use millstream_runtime::{Carried, EngineModel, EngineSequence, RunInference, SequenceOptions, StageError};
/// # fn stage(model: EngineModel) -> Result<(), StageError> {
/// let voice = EngineSequence::new(model, [Carried::new("state", "stateN")])?;
/// let stage = RunInference::sequences(voice, SequenceOptions::new().most(1_000)).batch(1..=32);
/// # let _ = stage;
/// # Ok(())
/// # }
/// ```
pub struct EngineSequence {
    model: EngineModel,
    pairs: Vec<Pair>,
    /// The state of a sequence that begins.
    first: Vec<Tensor>,
}

/// A part of the state, by its places in the signature.
struct Pair {
    input: usize,
    output: usize,
}

impl EngineSequence {
    /// A model with these parts of a state. The model's other options are set before.
    ///
    /// # Errors
    /// If the model has no such input or output, one that is given twice, or of strings, or declares no shape for it.
    pub fn new(mut model: EngineModel, state: impl IntoIterator<Item = Carried>) -> Result<Self, StageError> {
        let refuse = |name: &str, why: &str| StageError::permanent(format!("the state `{name}` {why}"));
        let mut parts: Vec<(Pair, Carried)> = Vec::new();
        for carried in state {
            let signature = model.executable.signature();
            let input = signature.input_index(&carried.input).ok_or_else(|| RunError::InputName(carried.input.clone()))?;
            let output = signature.outputs.iter().position(|port| *port.name == *carried.output);
            let output = output.ok_or_else(|| refuse(&carried.input, &format!("has no output `{}`", carried.output)))?;
            let taken = parts.iter().any(|(pair, _)| pair.input == input || pair.output == output);
            if taken || model.made.iter().any(|(made, _)| *made == input) {
                return Err(refuse(&carried.input, "is given twice"));
            }
            parts.push((Pair { input, output }, carried));
        }
        if parts.is_empty() {
            return Err(StageError::permanent("a model that remembers needs an input and an output for its state"));
        }
        parts.sort_by_key(|(pair, _)| pair.input);
        let name = batch_name(&model, &parts);
        for (pair, carried) in &parts {
            let dims = model.executable.signature().inputs[pair.input].dims.as_deref();
            let named = dims.and_then(|dims| dims.iter().position(|dim| dim.as_ref().is_err_and(|dim| Some(dim) == name.as_ref())));
            let axis = carried.axis.or(named).unwrap_or(0);
            if dims.is_some_and(|dims| axis >= dims.len()) {
                return Err(refuse(&carried.input, &format!("has no axis {axis}")));
            }
            model.input_axes.push((pair.input, axis));
            model.output_axes.push((pair.output, axis));
        }
        model.find_batching();
        let first = parts.iter().map(|(pair, carried)| match &carried.first {
            Some(first) => Ok(first.clone()),
            None => zeros(&model, pair.input)?.ok_or_else(|| refuse(&carried.input, "has no declared type and shape: say what it begins as")),
        });
        let first: Vec<Tensor> = first.map(|first| Ok(dense(&first?)?)).collect::<Result<_, StageError>>()?;
        if let Some(((_, carried), _)) = parts.iter().zip(&first).find(|(_, first)| first.dtype() == DType::String) {
            return Err(refuse(&carried.input, "is of strings"));
        }
        Ok(EngineSequence { model, pairs: parts.into_iter().map(|(pair, _)| pair).collect(), first })
    }

    /// An example with its state, as the model without a memory takes it.
    fn whole(&self, example: &[Tensor], state: &[Tensor]) -> Result<Vec<Tensor>, StageError> {
        let inputs = self.model.executable.signature().inputs.len() - self.model.made.len();
        if example.len() + self.pairs.len() != inputs {
            let message = format!("an example has {} tensors, the model takes {} beside its state", example.len(), inputs - self.pairs.len());
            return Err(StageError::permanent(message));
        }
        let (mut own, mut states) = (example.iter(), self.pairs.iter().zip(state).peekable());
        let whole = (0..inputs).filter_map(|column| {
            let place = self.model.place(column);
            match states.next_if(|(pair, _)| pair.input == place) {
                Some((_, state)) => Some(state.clone()),
                None => own.next().cloned(),
            }
        });
        Ok(whole.collect())
    }

    /// The steps of each shape of states, by their places in the batch, with their whole examples.
    fn runs(&self, batch: &[Step<'_, Vec<Tensor>, Vec<Tensor>>]) -> Result<Vec<Run>, StageError> {
        let mut runs: BTreeMap<Vec<&[usize]>, Run> = BTreeMap::new();
        for (place, step) in batch.iter().enumerate() {
            let run = runs.entry(step.state.iter().map(|part| part.shape().dims()).collect()).or_default();
            run.places.push(place);
            run.examples.push(self.whole(step.input, step.state)?);
        }
        Ok(runs.into_values().collect())
    }

    /// Takes what a run says about an example apart.
    fn divide(&self, mut outputs: Vec<Tensor>) -> Result<(Vec<Tensor>, Vec<Tensor>), StageError> {
        if outputs.len() != self.model.executable.signature().outputs.len() {
            return Err(StageError::permanent("the model left outputs out"));
        }
        let state = self.pairs.iter().zip(&self.first).map(|(pair, first)| {
            let (part, name) = (dense(&outputs[pair.output])?, &self.model.executable.signature().outputs[pair.output].name);
            if part.dtype() != first.dtype() || part.shape().rank() != first.shape().rank() {
                let message = format!("the state `{name}` came out as {}{}, where it began as {}{}", part.dtype(), part.shape(), first.dtype(), first.shape());
                return Err(StageError::permanent(message));
            }
            Ok(part)
        });
        let state = state.collect::<Result<_, StageError>>()?;
        let mut places = 0..;
        outputs.retain(|_| places.next().is_some_and(|place| self.pairs.iter().all(|pair| pair.output != place)));
        Ok((outputs, state))
    }
}

/// Steps that are run together.
#[derive(Default)]
struct Run {
    places: Vec<usize>,
    examples: Vec<Vec<Tensor>>,
}

/// What the model calls the batch axis of its inputs, states and shared values apart.
fn batch_name(model: &EngineModel, parts: &[(Pair, Carried)]) -> Option<String> {
    let others = model.executable.signature().inputs.iter().enumerate().filter(|(index, _)| {
        let made = model.made.iter().any(|(made, how)| made == index && matches!(how, Made::Shared(_)));
        !made && parts.iter().all(|(pair, _)| pair.input != *index)
    });
    let mut names = others.filter_map(|(_, port)| port.dims.as_ref()?.first()?.as_ref().err().cloned());
    names.next()
}

/// Zeros of the shape that the model declares for an input, without its batch axis; none where it declares too little.
fn zeros(model: &EngineModel, input: usize) -> Result<Option<Tensor>, TensorError> {
    let port = &model.executable.signature().inputs[input];
    let (Some(dtype), Some(dims)) = (port.dtype, &port.dims) else { return Ok(None) };
    let mut dims: Vec<usize> = dims.iter().map(|dim| *dim.as_ref().unwrap_or(&0)).collect();
    if model.batching != Batching::None {
        let axis = axis_of(&model.input_axes, input);
        if axis >= dims.len() {
            return Ok(None);
        }
        dims.remove(axis);
    }
    Tensor::zeros(dtype, &dims).map(Some)
}

impl SequenceModel for EngineSequence {
    type Input = Vec<Tensor>;
    type Output = Vec<Tensor>;
    type State = Vec<Tensor>;
    type Model = Workspace;

    fn id(&self) -> ModelId {
        self.model.id()
    }

    fn load(&self, start: &Start) -> Result<Workspace, StageError> {
        self.model.load(start)
    }

    fn begin(&self, _: Key) -> Result<Vec<Tensor>, StageError> {
        Ok(self.first.clone())
    }

    fn step(&self, workspace: &mut Workspace, batch: &[Step<'_, Vec<Tensor>, Vec<Tensor>>]) -> Result<Vec<(Vec<Tensor>, Vec<Tensor>)>, StageError> {
        let mut results: Vec<Option<_>> = batch.iter().map(|_| None).collect();
        for Run { places, examples } in self.runs(batch)? {
            let outputs = self.model.run(workspace, &examples.iter().collect::<Vec<_>>())?;
            for (place, outputs) in places.into_iter().zip(outputs) {
                results[place] = Some(self.divide(outputs)?);
            }
        }
        // Fewer than there were steps are an error of the stage's.
        Ok(results.into_iter().flatten().collect())
    }

    fn state_bytes(&self, state: &Vec<Tensor>) -> u64 {
        self.model.bytes(state)
    }

    fn codec(&self) -> Option<&dyn StateCodec<Vec<Tensor>>> {
        Some(self)
    }

    fn bucket(&self, input: &Vec<Tensor>) -> u64 {
        self.whole(input, &self.first).map_or(0, |whole| self.model.bucket(&whole))
    }

    fn bytes(&self, input: &Vec<Tensor>) -> u64 {
        self.model.bytes(input)
    }

    fn length(&self, input: &Vec<Tensor>) -> u64 {
        self.whole(input, &self.first).map_or(1, |whole| self.model.length(&whole))
    }

    fn pad_to(&self) -> u64 {
        self.model.pad_to()
    }

    fn max_batch(&self) -> Option<usize> {
        self.model.max_batch()
    }

    /// That of the largest of its runs.
    fn plan_bytes(&self, workspace: &mut Workspace, batch: &[Step<'_, Vec<Tensor>, Vec<Tensor>>]) -> Option<u64> {
        let runs = self.runs(batch).ok()?;
        let bytes = runs.iter().map(|run| self.model.plan_bytes(workspace, &run.examples.iter().collect::<Vec<_>>()));
        bytes.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

/// For each tensor its type, its dims and its elements as they lie in memory.
impl StateCodec<Vec<Tensor>> for EngineSequence {
    fn encode(&self, state: &Vec<Tensor>) -> Vec<u8> {
        let mut out = Writer::default();
        for part in state {
            out.bytes(part.dtype().name().as_bytes());
            out.number(part.shape().rank() as u64);
            part.shape().dims().iter().for_each(|dim| out.number(*dim as u64));
            // There are no strings, and states are dense.
            out.bytes(part.view().bytes().unwrap_or(&[]));
        }
        out.0
    }

    fn decode(&self, bytes: &[u8]) -> Option<Vec<Tensor>> {
        let mut input = Reader::new(bytes);
        let part = |first: &Tensor| {
            let name = input.bytes()?;
            let dtype = *DType::ALL.iter().find(|dtype| dtype.name().as_bytes() == name)?;
            let rank = input.number().filter(|rank| *rank == first.shape().rank() as u64)?;
            let dims: Option<Vec<usize>> = (0..rank).map(|_| usize::try_from(input.number()?).ok()).collect();
            Tensor::from_bytes(dtype, &dims?, input.bytes()?).ok().filter(|part| part.dtype() == first.dtype())
        };
        let state: Vec<Tensor> = self.first.iter().map(part).collect::<Option<_>>()?;
        input.is_empty().then_some(state)
    }
}
