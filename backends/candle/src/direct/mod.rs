//! What maps onto Candle's operations: from an operator, types and shapes to a function on Candle's tensors.

mod elementwise;
mod movement;
mod norm;
mod product;
mod window;

use crate::held::is_shared;
use candle_core::{Result, Tensor};
use millstream_graph::{Fact, Node, Op, Spec};
use millstream_tensor::DType;

/// A function on a node's inputs; absent ones, and those that Candle cannot hold, are `None`.
type Run = Box<dyn Fn(&[Option<&Tensor>]) -> Result<Tensor>>;

/// A node on Candle.
pub(crate) struct Direct {
    run: Run,
    scratch: usize,
}

impl Direct {
    fn new(scratch: usize, run: impl Fn(&[Option<&Tensor>]) -> Result<Tensor> + 'static) -> Option<Direct> {
        Some(Direct { run: Box::new(run), scratch })
    }

    /// Computes the node's first output, which is the only one that anybody reads.
    pub(crate) fn run(&self, inputs: &[Option<&Tensor>]) -> Result<Tensor> {
        (self.run)(inputs)
    }

    /// The most bytes that Candle's operations take for values in between.
    pub(crate) fn scratch(&self) -> usize {
        self.scratch
    }
}

/// What is known of a node before it runs.
pub(crate) struct Site<'a> {
    op: &'a dyn Op,
    facts: &'a [Option<&'a Fact>],
    inputs: Vec<Option<Spec>>,
    output: Spec,
}

impl Site<'_> {
    fn input(&self, i: usize) -> Option<&Spec> {
        self.inputs.get(i)?.as_ref()
    }

    fn dims(&self, i: usize) -> Option<Vec<usize>> {
        Some(self.input(i)?.shape().dims().to_vec())
    }

    /// True if all inputs and the output are floats that Candle computes as we do: f32 and f64.
    fn is_float(&self) -> bool {
        let float = |s: &Spec| s.dtype == self.output.dtype;
        matches!(self.output.dtype, DType::F32 | DType::F64) && self.inputs.iter().flatten().all(float)
    }

    /// Bytes of the largest input or output.
    fn largest(&self) -> usize {
        self.inputs.iter().flatten().map(Spec::bytes).max().unwrap_or(0).max(self.output.bytes())
    }
}

/// The tensor at position `i`, which `select` has seen.
fn at<'t>(inputs: &[Option<&'t Tensor>], i: usize) -> Result<&'t Tensor> {
    inputs.get(i).copied().flatten().ok_or_else(|| candle_core::Error::Msg(format!("input {i} is missing")))
}

/// How a node runs on Candle; `None` if our kernel runs it. Depends on the operator, types and shapes, and on small constants.
pub(crate) fn select(node: &Node, facts: &[Option<&Fact>], outputs: &[Spec]) -> Option<Direct> {
    let output = *outputs.first()?;
    let mut inputs = Vec::with_capacity(facts.len());
    for (fact, value) in facts.iter().zip(&node.inputs) {
        let spec = match (fact, value) {
            (Some(f), _) => Some(Spec::row_major(f.dtype, f.shape()?.ok()?)),
            (None, None) => None,
            (None, Some(_)) => return None,
        };
        inputs.push(spec);
    }
    let shared = |s: &Spec| is_shared(s.dtype, s.shape().elements());
    if !node.outputs.iter().skip(1).all(Option::is_none) || !shared(&output) || !inputs.iter().flatten().all(shared) {
        return None;
    }
    let site = Site { op: &*node.op, facts, inputs, output };
    movement::select(&site)
        .or_else(|| elementwise::select(&site))
        .or_else(|| norm::select(&site))
        .or_else(|| product::select(&site))
        .or_else(|| window::select(&site))
}

/// True if Candle runs this operator for some types and shapes; false if our kernel always does.
pub fn runs_on_candle(op: &dyn Op) -> bool {
    op.is_alias() || elementwise::knows(op) || movement::knows(op) || norm::knows(op) || product::knows(op) || window::knows(op)
}
