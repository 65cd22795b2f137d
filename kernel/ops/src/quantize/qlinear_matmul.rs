//! `QLinearMatMul`: the product of quantised matrices, quantised again.
//!
//! Sums of (a - a_zero)(b - b_zero) are exact; one rounding (ties to even) makes the result.

use super::{
    matmul_integer::MatMulInteger,
    packed::{PackedBytes, Rescale},
    product::{Product, check_count, infer_dims, pick, zero_points},
};
use crate::numeric::Number;
use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::{Block, Finish, QUANTISED_PANEL};
use millstream_graph::{Arity, BuildCx, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, PrepackCx, Scratch, StepCx};
use millstream_simd::Simd;
use millstream_tensor::{DType, TensorError, TensorView};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "QLinearMatMul",
    since: &[10, 21],
    inputs: Arity::exactly(8),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "u8, i8",
    build: |_: &BuildCx<'_>| Ok(Box::new(QLinearMatMul)),
};

/// The product of quantised matrices.
#[derive(Debug, Clone, Copy)]
pub struct QLinearMatMul;

/// The scales of an input, of any float type.
pub(crate) fn scales(cx: &EvalCx<'_>, input: usize) -> Result<Vec<f32>, EvalError> {
    by_dtype!(floats, cx.dtype(input)?, T => Ok(cx.input::<T>(input)?.iter().map(|x| Number::to_f64(x) as f32).collect()))
}

impl Op for QLinearMatMul {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let to = cx.input(7)?.dtype;
        if !matches!(to, DType::U8 | DType::I8) {
            return Err(InferError::DType { input: 7, found: to });
        }
        Ok(vec![Fact::new(to, infer_dims(cx, 0, 3)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (a_zero, b_zero, y_zero) = (zero_points(cx, 2)?, zero_points(cx, 5)?, zero_points(cx, 7)?);
        let (a_scale, b_scale, y_scale) = (scales(cx, 1)?, scales(cx, 4)?, scales(cx, 6)?);
        let spec = cx.output_spec(0).ok_or(EvalError::Output(0))?;
        let rank = spec.shape().rank();
        let n = if rank > 0 { spec.shape()[rank - 1] } else { 1 };
        let m = if rank > 1 { spec.shape()[rank - 2] } else { 1 };
        [(&a_scale, m), (&b_scale, n), (&y_scale, m)].into_iter().try_for_each(|(s, n)| check_count(s, n))?;
        check_count(&y_zero, m)?;
        // One for all rows, or one for each row of a matrix.
        let rows = if a_scale.len().max(y_scale.len()).max(y_zero.len()) > 1 { m } else { 1 };
        let bias = vec![0; n];
        let scale: Vec<f32> =
            (0..rows).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| pick(&a_scale, i) * pick(&b_scale, j) / pick(&y_scale, i)).collect();
        let rescale = |i: usize| Rescale { bias: &bias, scale: &scale[i * n..(i + 1) * n], zero: pick(&y_zero, i), to: spec.dtype };
        let finish = ByRow((0..rows).map(rescale).collect());
        let weights = cx.packed::<PackedBytes>(3);
        let (scratch, y) = (cx.scratch(), bytes_of(cx)?);
        by_dtype!(bytes, cx.dtype(0)?, A => by_dtype!(bytes, cx.dtype(3)?, B => {
            let a = cx.input::<A>(0)?;
            let b = if weights.is_some() { &[][..] } else { cx.input::<B>(3)?.data() };
            let product = Product::new(a.layout(), &cx.spec(3).ok_or(EvalError::MissingInput(3))?.layout)?;
            product.run(cx, (a.data(), b), weights, (&a_zero, &b_zero), scratch, &finish, y)
        }))
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        Product::scratch(cx, 0, 3)
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, _: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        if input != 3 {
            return Ok(None);
        }
        Ok(PackedBytes::matrix(weight)?.map(|p| Arc::new(p) as Arc<dyn Packed>))
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        MatMulInteger.cost(cx)
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        format!("integer-gemm{}-{}", if cx.is_packed(3) { "" } else { "-packing" }, cx.level)
    }
}

/// One way for all rows, or one for each row of a matrix.
struct ByRow<'a>(Vec<Rescale<'a>>);

impl Finish for ByRow<'_> {
    type Output = u8;

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, (row, col): (usize, usize), sums: &[[i32; QUANTISED_PANEL]], out: &mut Block<'_, '_, u8>) {
        if let [one] = &self.0[..] {
            return one.run(s, (row, col), sums, out);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, y) in out.row(i).iter_mut().enumerate() {
                *y = self.0[(row + i) % self.0.len()].one(col + j, sums[j]);
            }
        }
    }
}

/// The memory of output 0, of u8 or i8, as bytes.
pub(crate) fn bytes_of<'a>(cx: &mut EvalCx<'a>) -> Result<&'a mut [u8], EvalError> {
    match cx.output_spec(0).ok_or(EvalError::Output(0))?.dtype {
        DType::U8 => Ok(cx.output::<u8>(0)?.into_data()),
        _ => Ok(bytemuck::cast_slice_mut(cx.output::<i8>(0)?.into_data())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::linear::bounds;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let v: Vec<Vec<f64>> = (0..8).map(|i| reals(case.tensor(i))).collect();
        let (k, n) = (case.tensor(3).shape()[0], case.tensor(3).shape()[1]);
        let m = case.tensor(0).shape()[0];
        let (low, high) = bounds(case.tensor(7).dtype());
        let cell = |i: usize, j: usize| {
            let sum: f64 = (0..k).map(|p| (v[0][i * k + p] - v[2][0]) * (v[3][p * n + j] - v[5][if v[5].len() == 1 { 0 } else { j }])).sum();
            let scale = v[1][0] as f32 * v[4][if v[4].len() == 1 { 0 } else { j }] as f32 / v[6][0] as f32;
            (f64::from((sum as f32 * scale).round_ties_even()) + v[7][0]).clamp(low, high)
        };
        let y: Vec<f64> = (0..m * n).map(|c| cell(c / n, c % n)).collect();
        vec![from_reals(case.tensor(7).dtype(), &[m, n], &y)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        bytes => Case::new([spread(DType::U8, &[5, 7], 250.0, 1), t(&[], &[0.01f32]), t(&[], &[120u8]),
            spread(DType::U8, &[7, 9], 250.0, 2), t(&[], &[0.02f32]), t(&[], &[100u8]), t(&[], &[0.05f32]), t(&[], &[118u8])]);
        by_column => Case::new([spread(DType::I8, &[5, 7], 120.0, 1), t(&[], &[0.01f32]), t(&[], &[3i8]),
            spread(DType::I8, &[7, 2], 120.0, 2), t(&[2], &[0.02f32, 0.03]), t(&[2], &[1i8, 2]), t(&[], &[0.5f32]), t(&[], &[-8i8])]);
        weight => Case::new([spread(DType::U8, &[9, 70], 250.0, 1), t(&[], &[0.01f32]), t(&[], &[120u8]),
            spread(DType::I8, &[70, 40], 120.0, 2), t(&[], &[0.02f32]), t(&[], &[1i8]), t(&[], &[0.5f32]), t(&[], &[118u8])]).constant(3);
    }
}
