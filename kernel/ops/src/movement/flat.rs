//! Copies of whole values in memory order, for operators that only give memory another shape.

use crate::movement::strided::{self, Walk};
use millstream_graph::{EvalCx, EvalError};
use millstream_tensor::{DType, Tensor, Value};

/// Copies input `input`'s memory to output 0 as it lies (the layouts of both are dense, in orders that match). `dims` is the
/// output's shape where it becomes a value.
pub(crate) fn copy(cx: &mut EvalCx<'_>, input: usize, dims: &[usize]) -> Result<(), EvalError> {
    if !cx.wants(0) || cx.in_place(input) == Some(0) {
        return Ok(());
    }
    let from = cx.tensor(input)?;
    if from.dtype() == DType::String || cx.output_spec(0).is_none() {
        let tensor = Tensor::from_view(from)?.reshaped(dims)?;
        return cx.set_value(0, Value::Tensor(tensor));
    }
    let to = cx.output_tensor(0)?;
    let n = from.shape().elements();
    if from.layout().order().is_none() || to.shape().elements() != n || to.dtype() != from.dtype() {
        return Err(EvalError::Output(0));
    }
    let mut walk = Walk::new(0);
    walk.push(n, 1);
    strided::copy(cx, &walk, from, to)
}
