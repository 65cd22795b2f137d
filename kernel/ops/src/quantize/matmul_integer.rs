//! `MatMulInteger`: the product of matrices of 8-bit integers without their zero points, in i32.

use super::{
    packed::PackedBytes,
    product::{Product, infer_dims, zero_points},
};
use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::Exact;
use millstream_graph::{Arity, BuildCx, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, PrepackCx, Scratch, StepCx};
use millstream_tensor::{DType, TensorError, TensorView};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "MatMulInteger",
    since: &[10],
    inputs: Arity::range(2, 4),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "u8, i8 to i32",
    build: |_: &BuildCx<'_>| Ok(Box::new(MatMulInteger)),
};

/// The product of matrices of 8-bit integers.
#[derive(Debug, Clone, Copy)]
pub struct MatMulInteger;

impl Op for MatMulInteger {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![Fact::new(DType::I32, infer_dims(cx, 0, 1)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (a_zero, b_zero) = (zero_points(cx, 2)?, zero_points(cx, 3)?);
        by_dtype!(bytes, cx.dtype(0)?, A => by_dtype!(bytes, cx.dtype(1)?, B => {
            let weights = cx.packed::<PackedBytes>(1);
            let a = cx.input::<A>(0)?;
            let b = if weights.is_some() { &[][..] } else { cx.input::<B>(1)?.data() };
            let product = Product::new(a.layout(), &cx.spec(1).ok_or(EvalError::MissingInput(1))?.layout)?;
            let (scratch, y) = (cx.scratch(), cx.output::<i32>(0)?.into_data());
            product.run(cx, (a.data(), b), weights, (&a_zero, &b_zero), scratch, &Exact, y)
        }))
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        Product::scratch(cx, 0, 1)
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, _: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        if input != 1 {
            return Ok(None);
        }
        Ok(PackedBytes::matrix(weight)?.map(|p| Arc::new(p) as Arc<dyn Packed>))
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        format!("integer-gemm{}-{}", if cx.is_packed(1) { "" } else { "-packing" }, cx.level)
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        let depth = cx.input_shape(0).and_then(|a| a.last().copied()).unwrap_or(1);
        Cost { flops: 2.0 * base.flops * depth as f64, ..base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use millstream_tensor::Tensor;

    /// Matrices of which at most the left is stacked.
    fn reference(case: &Case) -> Vec<Tensor> {
        let (a, b) = (case.tensor(0), case.tensor(1));
        let (k, n) = (b.shape()[0], b.shape()[1]);
        let m = a.shape().get(a.shape().rank().wrapping_sub(2)).copied().unwrap_or(1);
        let zero = |i: usize, at: usize| {
            case.optional(i).map_or(0.0, |z| {
                let z = reals(z);
                z[if z.len() == 1 { 0 } else { at }]
            })
        };
        let (x, w) = (reals(a), reals(b));
        let rows = x.len().checked_div(k).unwrap_or(0);
        let cell = |i: usize, j: usize| (0..k).map(|p| (x[i * k + p] - zero(2, i % m)) * (w[p * n + j] - zero(3, j))).sum::<f64>();
        let y: Vec<f64> = (0..rows * n).map(|c| cell(c / n, c % n)).collect();
        let mut dims = a.shape()[..a.shape().rank() - 1].to_vec();
        dims.push(n);
        vec![from_reals(DType::I32, &dims, &y)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        plain => Case::new([spread(DType::U8, &[5, 7], 250.0, 1), spread(DType::I8, &[7, 9], 120.0, 2)]);
        zero_points => Case::new([spread(DType::U8, &[5, 7], 250.0, 1), spread(DType::I8, &[7, 9], 120.0, 2), t(&[], &[128u8]), t(&[1], &[-3i8])]);
        by_row_and_column => Case::new([spread(DType::U8, &[5, 7], 250.0, 1), spread(DType::U8, &[7, 9], 250.0, 2), spread(DType::U8, &[5], 250.0, 3), spread(DType::U8, &[9], 250.0, 4)]);
        stacked => Case::new([spread(DType::I8, &[3, 5, 70], 120.0, 1), spread(DType::I8, &[70, 33], 120.0, 2)]);
        weight => Case::new([spread(DType::U8, &[2, 5, 300], 250.0, 1), spread(DType::I8, &[300, 70], 120.0, 2), t(&[], &[7u8]), t(&[], &[-3i8])]).constant(1);
        unsigned_weight => Case::new([spread(DType::I8, &[19, 35], 120.0, 1), spread(DType::U8, &[35, 33], 250.0, 2), t(&[], &[7i8]), t(&[], &[200u8])]).constant(1);
        vector => Case::new([spread(DType::I8, &[7], 120.0, 1), spread(DType::I8, &[7, 9], 120.0, 2)]);
        empty => Case::new([spread(DType::U8, &[0, 7], 250.0, 1), spread(DType::I8, &[7, 9], 120.0, 2)]);
    }
}
