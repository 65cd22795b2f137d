//! `Shape`: the dims of a tensor as a vector of i64, from `start` to `end` (opset 15).

use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Shape",
    since: &[1, 13, 15, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["start", "end"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ShapeOf { start: cx.attributes.int_or("start", 0)?, end: cx.attributes.int("end")?.copied() })),
};

/// The dims of a tensor, from axis `start` to axis `end` (exclusive; negative axes count from the back).
#[derive(Debug, Clone, Copy)]
pub struct ShapeOf {
    start: i64,
    end: Option<i64>,
}

impl ShapeOf {
    fn range(&self, rank: usize) -> core::ops::Range<usize> {
        let r = rank as i64;
        let clamp = |a: i64| if a < 0 { a.saturating_add(r).max(0) } else { a.min(r) } as usize;
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(r)));
        start..end.max(start)
    }
}

impl Op for ShapeOf {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let dims = &cx.input(0)?.dims;
        Ok(vec![Fact::of_dims(DType::I64, dims[self.range(dims.len())].to_vec(), false)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let shape = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        cx.output::<i64>(0)?.fill_from(shape[self.range(shape.rank())].iter().map(|&d| d as i64));
        Ok(())
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        Some(Permutation { inputs: inputs.to_vec(), outputs: vec![Order::row_major(1)] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let dims: Vec<i64> = case.tensor(0).shape().iter().map(|&d| d as i64).collect();
        let r = dims.len() as i64;
        let at = |name, default| {
            let a = case.int_or(name, default);
            (if a < 0 { a + r } else { a }).clamp(0, r) as usize
        };
        let (start, end) = (at("start", 0), at("end", r));
        let part = dims.get(start..end).unwrap_or(&[]);
        vec![t(&[part.len()], part)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        whole => Case::new([random(&[2, 0, 3], 1)]);
        scalar => Case::new([random(&[], 1)]);
        middle => Case::new([random(&[2, 3, 4, 5], 1)]).int("start", 1).int("end", -1);
        crossed => Case::new([random(&[2, 3], 1)]).int("start", 2).int("end", 1);
        outside => Case::new([random(&[2, 3], 1)]).int("start", -9).int("end", 9);
    }
}
