//! `IsInf`: true for infinities, of one sign only where an attribute turns the other off.

use super::{map, walk::permute_one};
use crate::numeric::{Number, Types};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{Bool, DType, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "IsInf",
    since: &[10, 20],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["detect_negative", "detect_positive"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| {
        Ok(Box::new(IsInf { negative: cx.attributes.flag_or("detect_negative", true)?, positive: cx.attributes.flag_or("detect_positive", true)? }))
    },
};

/// True for infinities.
#[derive(Debug, Clone, Copy)]
pub struct IsInf {
    /// True if -inf counts.
    pub negative: bool,
    /// True if +inf counts.
    pub positive: bool,
}

impl IsInf {
    fn test(&self, x: f64) -> bool {
        (self.negative && x == f64::NEG_INFINITY) || (self.positive && x == f64::INFINITY)
    }
}

impl Op for IsInf {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Types::Floats.check(0, x.dtype)?;
        Ok(vec![Fact::new(DType::Bool, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dtype = cx.dtype(0)?;
        by_dtype!(floats, dtype, T => map::convert::<T, Bool>(cx, |x| self.test(Number::to_f64(x)).into()))
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        permute_one(inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let test =
            |x: f64| (x == f64::INFINITY && case.int_or("detect_positive", 1) != 0) || (x == f64::NEG_INFINITY && case.int_or("detect_negative", 1) != 0);
        vec![from_reals(DType::Bool, x.shape(), &reals(x).into_iter().map(|x: f64| f64::from(u8::from(test(x)))).collect::<Vec<f64>>())]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        special => Case::new([t(&[2, 3], &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -1.0, f32::MAX])]);
        f64s => Case::new([t(&[4], &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0])]);
        image => Case::new([spread(DType::F16, &[2, 3, 4, 5], 1.0, 1)]);
        empty => Case::new([spread(DType::F32, &[0], 1.0, 1)]);
        positive => Case::new([t(&[3], &[f32::INFINITY, f32::NEG_INFINITY, 1.0])]).int("detect_negative", 0);
        negative => Case::new([t(&[3], &[f32::INFINITY, f32::NEG_INFINITY, 1.0])]).int("detect_positive", 0);
    }
}
