//! `Mean`: the mean of all inputs, added from left to right and divided by their number.

use super::{walk::permute_broadcast, zip};
use crate::numeric::Types;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Mean",
    since: &[6, 8, 13],
    inputs: Arity::at_least(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |_: &BuildCx<'_>| Ok(Box::new(Mean)),
};

/// The mean of all inputs.
#[derive(Debug, Clone, Copy)]
pub struct Mean;

impl Op for Mean {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![zip::infer_types(cx, Types::Floats)?])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        zip::eval_mean(cx)
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        permute_broadcast(cx, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, zip};
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let sum = zip(case, None, |a, b| a + b).remove(0);
        let n = case.inputs.len() as f64;
        vec![from_reals(sum.dtype(), sum.shape(), &reals(&sum).into_iter().map(|x| x / n).collect::<Vec<f64>>())]
    }

    op_tests! { DEF, reference, Tolerance::F32;
        one => Case::new([spread(DType::F32, &[5], 3.0, 1)]);
        two => Case::new([spread(DType::F32, &[4, 5], 3.0, 1), spread(DType::F32, &[4, 5], 3.0, 2)]);
        three => Case::new([spread(DType::F32, &[4, 5], 3.0, 1), spread(DType::F32, &[5], 3.0, 2), spread(DType::F32, &[4, 1], 3.0, 3)]);
        f64s => Case::new([spread(DType::F64, &[4, 5], 3.0, 1), spread(DType::F64, &[4, 5], 3.0, 2)]);
        empty => Case::new([spread(DType::F32, &[0, 5], 3.0, 1), spread(DType::F32, &[5], 3.0, 2)]);
    }
}
