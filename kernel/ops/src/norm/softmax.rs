//! `Softmax`: eˣ / Σ eˣ along an axis, with the greatest element taken out of the powers so that none overflows.
//!
//! Before opset 13 the axis and all axes after it make one line.

use super::lines::{self, Axis, Line};
use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Softmax",
    since: &[1, 11, 13],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Softmax { axis: Axis::build(cx)? })),
};

/// `eˣ / Σ eˣ` along an axis, with the greatest element taken out of the powers so that none overflows.
#[derive(Debug, Clone, Copy)]
pub struct Softmax {
    /// The axis.
    pub axis: Axis,
}

impl Softmax {
    /// The softmax along an axis, counted from the back if negative.
    pub fn along(axis: i64) -> Softmax {
        Softmax { axis: Axis { axis, flatten: false } }
    }
}

impl Op for Softmax {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        self.axis.infer(cx)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        lines::eval(Line::Softmax, self.axis, cx)
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        self.axis.permute(cx, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread};
    use alloc::vec;
    use millstream_tensor::{DType, Tensor};

    fn line(v: &[f64]) -> Vec<f64> {
        let m = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let s: f64 = v.iter().map(|x| (x - m).exp()).sum();
        v.iter().map(|x| (x - m).exp() / s).collect()
    }

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let old = case.version.is_some_and(|v| v < 13);
        let rank = x.shape().rank();
        let axis = case.int_or("axis", if old { 1 } else { -1 }).rem_euclid(rank as i64) as usize;
        let n: usize = if old { x.shape()[axis..].iter().product() } else { x.shape()[axis] };
        let inner: usize = if old { 1 } else { x.shape()[axis + 1..].iter().product() };
        let values = reals(x);
        let mut y = values.clone();
        for start in (0..values.len()).filter(|i| (i / inner).is_multiple_of(n)) {
            let got = line(&(0..n).map(|i| values[start + i * inner]).collect::<Vec<f64>>());
            got.into_iter().enumerate().for_each(|(i, v)| y[start + i * inner] = v);
        }
        vec![from_reals(x.dtype(), x.shape(), &y)]
    }

    op_tests! { DEF, reference, Tolerance { rel: 5e-6, abs: 2e-7 };
        rows => Case::new([spread(DType::F32, &[2, 12, 33, 65], 9.0, 1)]);
        short => Case::new([spread(DType::F32, &[70, 3], 9.0, 1)]);
        long => Case::new([spread(DType::F32, &[3, 20_001], 9.0, 1)]);
        channels => Case::new([spread(DType::F32, &[2, 5, 7, 11], 9.0, 1)]).int("axis", 1);
        first => Case::new([spread(DType::F32, &[9, 40], 9.0, 1)]).int("axis", 0);
        flattened => Case::new([spread(DType::F32, &[3, 4, 5], 9.0, 1)]).version(11);
        flattened_last => Case::new([spread(DType::F32, &[3, 4, 5], 9.0, 1)]).int("axis", 2).version(1);
        far => Case::new([spread(DType::F32, &[3, 17], 1e4, 1)]);
        f64s => Case::new([spread(DType::F64, &[3, 17, 2], 9.0, 1)]).int("axis", 1);
        f16s => Case::new([spread(DType::F16, &[3, 17], 9.0, 1)]);
        empty => Case::new([spread(DType::F32, &[0, 17], 9.0, 1)]);
        no_classes => Case::new([spread(DType::F32, &[3, 0], 9.0, 1)]);
    }
}
