//! `CastLike`: elements as the type of another tensor; see `casting` for the rules.

use super::casting;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "CastLike",
    since: &[15, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["saturate", "round_mode"],
    subgraphs: &[],
    dtypes: "any",
    build: |_: &BuildCx<'_>| Ok(Box::new(CastLike)),
};

/// Elements as the type of another tensor.
#[derive(Debug, Clone, Copy)]
pub struct CastLike;

impl Op for CastLike {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![casting::infer(cx.input(0)?, cx.input(1)?.dtype)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let to = cx.dtype(1)?;
        casting::eval(cx, to)
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        casting::permute(cx, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, cast, spread};
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        vec![cast(case.tensor(0), case.tensor(1).dtype())]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        to_i64 => Case::new([spread(DType::F32, &[2, 3, 5, 7], 300.0, 1), spread(DType::I64, &[1], 1.0, 2)]);
        to_f16 => Case::new([spread(DType::F64, &[5, 7], 300.0, 1), spread(DType::F16, &[1], 1.0, 2)]);
        empty => Case::new([spread(DType::I32, &[0], 300.0, 1), spread(DType::F16, &[], 1.0, 2)]);
    }
}
