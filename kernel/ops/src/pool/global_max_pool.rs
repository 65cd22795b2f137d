//! `GlobalMaxPool`: the greatest element of every plane, NaNs passed over.

use super::{
    global::{self, GlobalFold},
    max_pool::Max,
};
use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{DType, Order, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "GlobalMaxPool",
    since: &[1, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats",
    build: |_: &BuildCx<'_>| Ok(Box::new(GlobalMaxPool)),
};

/// The greatest element of every plane, NaNs passed over.
#[derive(Debug, Clone, Copy)]
pub struct GlobalMaxPool;

impl Op for GlobalMaxPool {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        global::infer(cx)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        match cx.dtype(0)? {
            DType::F32 => global::run_f32(cx, Max),
            DType::F64 => global::run::<f64, _>(cx, Max),
            DType::F16 => global::run::<f16, _>(cx, Max),
            DType::BF16 => global::run::<bf16, _>(cx, Max),
            other => Err(EvalError::DType(other)),
        }
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        global::permute(cx, inputs)
    }
}

macro_rules! joins {
    ($($t:ty),*) => { $(
        impl GlobalFold<$t> for Max {
            #[inline(always)]
            fn join(self, a: $t, b: $t) -> $t {
                if b > a { b } else { a }
            }
        }
    )* };
}
joins!(f32, f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use alloc::vec;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let mut dims = x.shape().to_vec();
        let pixels = dims[2..].iter().product::<usize>();
        dims[2..].fill(1);
        let plane = |plane: &[f32]| {
            let y = plane.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b.into()));
            y as f32
        };
        let y: Vec<f32> = x.as_slice::<f32>().unwrap().chunks(pixels.max(1)).map(plane).collect();
        vec![t(&dims, &y)]
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 1e-6 };
        image => Case::new([random(&[2, 100, 7, 7], 1)]);
        large => Case::new([random(&[1, 13, 40, 41], 2)]);
        one_axis => Case::new([random(&[2, 67, 129], 3)]);
        three_axes => Case::new([random(&[2, 3, 4, 5, 6], 4)]);
        no_batch => Case::new([random(&[0, 3, 4, 4], 5)]);
        many_images => Case::new([random(&[600, 3, 2, 2], 6)]);
    }
}
