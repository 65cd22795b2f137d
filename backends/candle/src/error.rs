//! Why a node failed, before its path is known.

use millstream_engine::{RunError, ShapeError, StepError, describe};
use millstream_graph::{EvalError, InferError, Node, Spec};
use millstream_tensor::TensorError;

/// A node's failure: a kernel's, or Candle's.
#[derive(Debug)]
pub(crate) enum Failure {
    Eval(EvalError),
    Candle(candle_core::Error),
}

impl From<EvalError> for Failure {
    fn from(e: EvalError) -> Failure {
        Failure::Eval(e)
    }
}

impl From<TensorError> for Failure {
    fn from(e: TensorError) -> Failure {
        Failure::Eval(e.into())
    }
}

impl From<candle_core::Error> for Failure {
    fn from(e: candle_core::Error) -> Failure {
        Failure::Candle(e)
    }
}

impl Failure {
    /// The failure as an error of the run, at this node on these inputs.
    pub(crate) fn at(self, node: &Node, inputs: &[Option<Spec>]) -> RunError {
        let inputs = describe(inputs.iter().copied());
        match self {
            Failure::Eval(EvalError::Tensor(TensorError::OutOfMemory(n))) => RunError::OutOfMemory(n),
            Failure::Eval(error) => RunError::Step(Box::new(StepError { path: node.path.clone(), op: node.op_name.clone(), inputs, error })),
            Failure::Candle(e) => RunError::Backend(format!("{} ({}) on {inputs}: Candle: {e}", node.path, node.op_name)),
        }
    }
}

/// Candle's failure outside of any node.
pub(crate) fn backend(e: candle_core::Error) -> RunError {
    RunError::Backend(format!("Candle: {e}"))
}

/// An operator that refuses the shapes that reach it.
pub(crate) fn shape_error(node: &Node, inputs: &[Option<Spec>], error: InferError) -> RunError {
    RunError::Shape(Box::new(ShapeError { path: node.path.clone(), op: node.op_name.clone(), inputs: describe(inputs.iter().copied()), error }))
}
