//! Nodes that the host runs: those without a kernel in a plan, and those of which nobody knows beforehand what they give.

use crate::plan::Leaving;
use millstream_engine::{RunError, StepError, Workers, describe};
use millstream_graph::{EvalCx, EvalError, Fact, InferError, Input, Node, NodeId, Output, Parallel, Scratch, Serial, Spec, StepCx, eval_to_values, infer_node};
use millstream_simd::Level;
use millstream_tensor::{
    DType, TensorError, TensorView, TensorViewMut, Value, WorkerScratch, align_up,
    arena::{Grants, Memory},
};

/// A node of a plan that runs on the host: where its inputs are found and its outputs go.
#[derive(Debug, Clone)]
pub(crate) struct HostStep {
    pub(crate) node: NodeId,
    pub(crate) inputs: Vec<Option<Leaving>>,
    pub(crate) outputs: Vec<Option<(usize, Spec)>>,
    pub(crate) need: Scratch,
}

/// Steps of less arithmetic and traffic (in operations and bytes) run on their caller's thread: waking another costs as much.
const ALONE: f64 = 128.0 * 1024.0;

impl HostStep {
    /// Runs the node's kernel over the host's arena, whose part at `scratch` is for the kernel.
    pub(crate) fn run(
        &self,
        node: &Node,
        (level, workers): (Level, &dyn Workers),
        arena: &mut [u8],
        scratch: (usize, usize),
        given: &[Value],
    ) -> Result<(), RunError> {
        let specs: Vec<Option<Spec>> = self.inputs.iter().map(|i| i.as_ref().map(Leaving::spec)).collect();
        let outputs: Vec<Spec> = self.outputs.iter().flatten().map(|(_, spec)| *spec).collect();
        let cost = node.op.cost(&StepCx { inputs: &specs, outputs: &outputs, packed: &[], level });
        let mut made = Ok(());
        let mut body = |parallel: &dyn Parallel| made = self.eval(node, level, parallel, &specs, arena, scratch, given);
        match cost.flops + cost.bytes < ALONE {
            true => body(&Serial),
            false => workers.enter(&mut body),
        }
        made.map_err(|e| failed(node, &specs, e))
    }

    fn eval(
        &self,
        node: &Node,
        level: Level,
        parallel: &dyn Parallel,
        specs: &[Option<Spec>],
        arena: &mut [u8],
        (at, bytes): (usize, usize),
        given: &[Value],
    ) -> Result<(), EvalError> {
        let (mut memory, mut grants) = (Memory::new(), Grants::default());
        let region = memory.push(arena);
        let mut arena = memory.step(&mut grants);
        let (shared, rest) = arena.write(region, at..at + bytes)?.split_at_mut(align_up(self.need.shared));
        let part = align_up(self.need.per_worker);
        let room = rest.get_mut(..part * parallel.workers()).ok_or(TensorError::OutOfMemory(part * parallel.workers()))?;
        let scratch = WorkerScratch::new(room, part, parallel.workers());
        let mut cx = EvalCx::new(level, parallel, &mut shared[..self.need.shared], scratch);
        for (from, spec) in self.inputs.iter().zip(specs) {
            cx.push_input(match (from, spec) {
                (Some(Leaving::Arena(at, spec)), _) => Input::Tensor(TensorView::new(spec.dtype, &spec.layout, arena.read(region, *at..at + spec.bytes())?)?),
                (Some(Leaving::Given(i, _)), Some(spec)) => {
                    let value = given.get(*i).ok_or(EvalError::MissingInput(*i))?;
                    Input::Tensor(TensorView::new(spec.dtype, &spec.layout, value.as_tensor()?.view().bytes()?)?)
                }
                (Some(Leaving::Constant(tensor)), _) => Input::Tensor(tensor.view()),
                _ => Input::Absent,
            });
        }
        for output in &self.outputs {
            cx.push_output(match output {
                Some((at, spec)) => Output::Tensor(TensorViewMut::new(spec.dtype, &spec.layout, arena.write(region, *at..at + spec.bytes())?)?),
                None => Output::Unused,
            });
        }
        node.op.eval(&mut cx)
    }
}

/// Runs a node on values of the host whose results only the run tells: on the calling thread.
pub(crate) fn run_open(node: &Node, level: Level, inputs: &[Option<Value>]) -> Result<Vec<Value>, RunError> {
    let tensor = |v: &Option<Value>| v.as_ref().and_then(|v| v.as_tensor().ok().cloned());
    let specs: Vec<Option<Spec>> = inputs.iter().map(|v| tensor(v).map(|t| Spec::row_major(t.dtype(), *t.shape()))).collect();
    let facts: Vec<Option<Fact>> = inputs.iter().map(|v| tensor(v).map(|t| Fact::constant(t.into()))).collect();
    let made = match infer_node(node, &facts.iter().map(Option::as_ref).collect::<Vec<_>>()) {
        Ok(made) => made,
        // What is no tensor has no facts.
        Err(InferError::NeedsValue(_) | InferError::NeedsDims(_) | InferError::MissingInput(_)) => vec![],
        Err(error) => return Err(failed(node, &specs, error.into())),
    };
    let planned = |i: usize| made.get(i).filter(|f| f.dtype != DType::String).and_then(|f| Some(Spec::row_major(f.dtype, f.shape()?.ok()?)));
    let outputs: Vec<Option<Spec>> = (0..node.outputs.len()).map(planned).collect();
    eval_to_values(&*node.op, level, inputs, &outputs).map_err(|e| failed(node, &specs, e))
}

/// The failure of a node on these inputs.
pub(crate) fn failed(node: &Node, inputs: &[Option<Spec>], error: EvalError) -> RunError {
    match error {
        EvalError::Tensor(TensorError::OutOfMemory(bytes)) => RunError::OutOfMemory(bytes),
        error => RunError::Step(Box::new(StepError { path: node.path.clone(), op: node.op_name.clone(), inputs: describe(inputs.iter().copied()), error })),
    }
}
