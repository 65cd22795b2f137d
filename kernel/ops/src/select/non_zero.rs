//! `NonZero`: the indices of elements that are not zero, one column each, in row-major order. How many there are only a run
//! can tell.

use crate::movement::typed::by_number;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{Bool, DType, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "NonZero",
    since: &[9, 13],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "numbers, bool",
    build: |_: &BuildCx<'_>| Ok(Box::new(NonZero)),
};

/// Indices of elements that are not zero.
#[derive(Debug, Clone, Copy)]
pub struct NonZero;

impl Op for NonZero {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![Fact::new(DType::I64, vec![Dim::from(cx.input(0)?.rank()), cx.fresh("nonzero")])])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = cx.tensor(0)?;
        let found: Vec<usize> = if x.dtype() == DType::Bool {
            x.typed::<Bool>()?.iter().enumerate().filter(|(_, b)| (*b).into()).map(|(n, _)| n).collect()
        } else {
            by_number!(x.dtype(), T => x.typed::<T>()?.iter().enumerate().filter(|(_, v)| *v != T::default()).map(|(n, _)| n).collect())
        };
        let strides = x.shape().row_major();
        let mut out = Vec::with_capacity(found.len() * x.shape().rank());
        for (axis, &dim) in x.shape().iter().enumerate() {
            out.extend(found.iter().map(|n| (n / strides[axis] % dim) as i64));
        }
        cx.set_value(0, Value::Tensor(Tensor::from_slice(&[x.shape().rank(), found.len()], &out)?))
    }

    fn bound(&self, cx: &InferCx<'_>, _output: usize) -> Option<usize> {
        let x = cx.input(0).ok()?;
        x.shape()?.ok()?.elements().checked_mul(x.rank())?.checked_mul(size_of::<i64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random_ints, t};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let mut columns: Vec<Vec<i64>> = vec![vec![]; x.shape().rank()];
        for (n, &v) in x.as_slice::<i64>().unwrap().iter().enumerate() {
            let mut rest = n;
            for a in (0..columns.len()).rev() {
                if v != 0 {
                    columns[a].push((rest % x.shape()[a]) as i64);
                }
                rest /= x.shape()[a];
            }
        }
        let n = columns.first().map_or(0, Vec::len);
        vec![t(&[columns.len(), n], &columns.concat())]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        some => Case::new([random_ints(&[3, 4, 5], 0, 3, 1)]);
        none => Case::new([t(&[2, 2], &[0i64; 4])]);
        empty => Case::new([random_ints(&[0, 4], 0, 3, 1)]);
    }
}
