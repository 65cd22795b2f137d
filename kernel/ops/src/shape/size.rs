//! `Size`: how many elements a tensor has.

use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Size",
    since: &[1, 13, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "any",
    build: |_: &BuildCx<'_>| Ok(Box::new(Size)),
};

/// The count of elements.
#[derive(Debug, Clone, Copy)]
pub struct Size;

impl Op for Size {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![Fact::of_dims(DType::I64, vec![Dim::product(&cx.input(0)?.dims)], true)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let n = cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape().elements();
        cx.output::<i64>(0)?.fill_from([n as i64]);
        Ok(())
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        Some(Permutation { inputs: inputs.to_vec(), outputs: vec![Order::row_major(0)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        vec![t(&[], &[case.tensor(0).shape().elements() as i64])]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        some => Case::new([random(&[2, 3, 4], 1)]);
        scalar => Case::new([random(&[], 1)]);
        empty => Case::new([random(&[2, 0], 1)]);
    }
}
