//! The contract between a model and whatever executes it.

use crate::{CompileError, Given, Profiler, RunError, Signature, Workspace};
use alloc::{string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};
use millstream_graph::{Graph, Spec};
use millstream_tensor::{Shape, TensorView, TensorViewMut, Value};

/// Compiles a simplified graph for some device.
pub trait Backend: Send + Sync {
    /// The backend's name, for people.
    fn name(&self) -> &str;

    /// Makes an executable of a graph.
    fn compile(&self, graph: Graph) -> Result<Arc<dyn Executable>, CompileError>;
}

/// A model that can run, from many threads at once.
pub trait Executable: Send + Sync {
    /// The inputs and outputs.
    fn signature(&self) -> &Signature;

    /// Runs the model and returns its outputs in order. Outputs with a buffer in the request are written there and come
    /// back as `None`; where all have one, the list may be empty.
    fn run(&self, workspace: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError>;

    /// Runs the model on tensors where they lie in the caller's memory, dense and row-major; else as [`Executable::run`]. An
    /// executable that keeps its inputs copies them first.
    fn run_views(
        &self,
        workspace: &mut Workspace,
        inputs: &[TensorView<'_>],
        outputs: &mut [Option<TensorViewMut<'_>>],
    ) -> Result<Vec<Option<Value>>, RunError> {
        let inputs = Given::Views(inputs).to_values()?;
        self.run(workspace, Request { outputs, ..Request::new(&inputs) })
    }

    /// Types and shapes of the outputs of a run on these inputs, `None` for those that only the run tells. What was found out on
    /// the way is kept for the run.
    fn output_specs(&self, workspace: &mut Workspace, inputs: &[TensorView<'_>]) -> Result<Vec<Option<Spec>>, RunError> {
        let _ = (workspace, inputs);
        Ok(alloc::vec![None; self.signature().outputs.len()])
    }

    /// The memory that a run with inputs of these shapes takes, exactly, without running it.
    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError>;

    /// The steps of a run with inputs of these shapes, a line each, for people.
    fn describe(&self, inputs: &[Shape]) -> Result<Vec<String>, RunError>;
}

/// Memory of a run, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanBytes {
    /// Constants, shared by all runs.
    pub weights: usize,
    /// Intermediate values and scratch memory of one run.
    pub arena: usize,
    /// The part of the arena that scratch memory takes in the step that takes most.
    pub scratch: usize,
    /// Inputs and outputs, which belong to the caller.
    pub io: usize,
}

impl PlanBytes {
    /// Bytes of `weights`, `arena`, `scratch` and `io` as given.
    pub fn new(weights: usize, arena: usize, scratch: usize, io: usize) -> PlanBytes {
        PlanBytes { weights, arena, scratch, io }
    }

    /// What one more run takes beside the shared constants.
    pub fn per_run(&self) -> usize {
        self.arena + self.io
    }
}

/// Stops runs from another thread: checked between steps.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token that nobody has cancelled.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Stops every run that holds this token or a clone of it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One run: inputs in the signature's order, and what the caller wants beside the outputs.
pub struct Request<'a, 'o> {
    /// The inputs.
    pub inputs: &'a [Value],
    /// Buffers that outputs are written into: none, or one entry for each output.
    pub outputs: &'a mut [Option<TensorViewMut<'o>>],
    /// Stops the run between two steps.
    pub cancel: Option<&'a Cancel>,
    /// Sees each step.
    pub profiler: Option<&'a mut dyn Profiler>,
}

impl<'a> Request<'a, 'a> {
    /// A run on these inputs, with nothing else asked for.
    pub fn new(inputs: &'a [Value]) -> Request<'a, 'a> {
        Request { inputs, outputs: &mut [], cancel: None, profiler: None }
    }
}

/// Text for a spec in messages: type and shape.
pub(crate) fn spec_text(spec: &Spec) -> String {
    alloc::format!("{}[{}]", spec.dtype, spec.shape())
}
