//! `Reorder`: the same elements in another memory order. Binding inserts it where an operator wants another order than the
//! one it would get, and where an output of the graph needs a copy of its own.

use alloc::{string::String, vec, vec::Vec};
use millstream_graph::{EvalCx, EvalError, Fact, InferCx, InferError, Op, StepCx};

/// Copies between memory orders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reorder;

impl Op for Reorder {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![cx.input(0)?.clone()])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (x, y) = (cx.tensor(0)?, cx.output_tensor(0)?);
        let size = x.dtype().size();
        let (from, to) = (*x.layout(), *y.layout());
        let (source, target) = (x.bytes()?, y.into_bytes()?);
        if from.same_memory(&to) {
            target.copy_from_slice(&source[..target.len()]);
            return Ok(());
        }
        for (a, b) in from.offsets().zip(to.offsets()) {
            target[b * size..(b + 1) * size].copy_from_slice(&source[a * size..(a + 1) * size]);
        }
        Ok(())
    }

    fn kernel(&self, _cx: &StepCx<'_>) -> String {
        String::from("copy")
    }
}
