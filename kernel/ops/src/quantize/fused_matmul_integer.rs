//! `millstream.FusedMatMulInteger`: `activation(f32(Σ (a - a_zero)(b - b_zero)) · scale + bias + residual)`.
//!
//! What a layer with dynamically quantised activations is, with its sums turned into floats while they are in registers. Inputs: A, B, their
//! zero points (may be absent), the scale (one element, or one for each column), a bias for each column (may be absent), and where
//! `residual` is 1 a tensor of the output's shape.

use super::{
    matmul_integer::MatMulInteger,
    packed::PackedBytes,
    product::{Product, check_count, zero_points},
};
use crate::matmul::activation;
use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::{Activation, Block, Finish, QUANTISED_PANEL};
use millstream_graph::{Arity, BuildCx, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, PrepackCx, Scratch, StepCx};
use millstream_simd::{Simd, SimdF32, SimdI32};
use millstream_tensor::{DType, TensorError, TensorView};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "millstream",
    name: "FusedMatMulInteger",
    since: &[1],
    inputs: Arity::range(5, 7),
    outputs: Arity::exactly(1),
    attributes: &["activation", "alpha", "beta", "residual"],
    subgraphs: &[],
    dtypes: "u8, i8 to f32",
    build: |cx: &BuildCx<'_>| Ok(Box::new(FusedMatMulInteger { activation: activation::read(cx)?, residual: cx.attributes.flag_or("residual", false)? })),
};

/// Input of the scale.
pub const SCALE: usize = 4;
/// Input of the bias.
pub const BIAS: usize = 5;
/// Input of the residual.
pub const RESIDUAL: usize = 6;

/// A product of bytes that is scaled, with what follows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct FusedMatMulInteger {
    activation: Activation,
    residual: bool,
}

impl FusedMatMulInteger {
    /// What follows the sum.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// True if the last input is added before the activation.
    pub fn has_residual(&self) -> bool {
        self.residual
    }

    /// The same product with a residual as its last input; `None` if it has one already, or an activation before it.
    pub fn with_residual(&self) -> Option<FusedMatMulInteger> {
        (!self.residual && self.activation == Activation::None).then_some(FusedMatMulInteger { residual: true, ..*self })
    }

    /// The same product followed by an activation; `None` if it has one already.
    pub fn with_activation(&self, activation: Activation) -> Option<FusedMatMulInteger> {
        (self.activation == Activation::None).then_some(FusedMatMulInteger { activation, ..*self })
    }
}

impl Op for FusedMatMulInteger {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let [fact] = &MatMulInteger.infer(cx)?[..] else { return Err(InferError::Invalid("a product has one result")) };
        for input in [SCALE, BIAS, RESIDUAL] {
            if let Some(f) = cx.optional(input).filter(|f| f.dtype != DType::F32) {
                return Err(InferError::DType { input, found: f.dtype });
            }
        }
        Ok(vec![Fact::new(DType::F32, fact.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (a_zero, b_zero) = (zero_points(cx, 2)?, zero_points(cx, 3)?);
        let dense = |input: usize| -> Result<Option<&[f32]>, EvalError> {
            let view = cx.optional::<f32>(input)?;
            view.map(|v| v.as_slice().ok_or(EvalError::Invalid("row-major memory is expected"))).transpose()
        };
        let (scale, bias) = (dense(SCALE)?.ok_or(EvalError::MissingInput(SCALE))?, dense(BIAS)?);
        let residual = if self.residual { dense(RESIDUAL)? } else { None };
        let n = cx.output_spec(0).and_then(|y| y.shape().last().copied()).unwrap_or(1);
        check_count(scale, n)?;
        let finish = Dequantise { n, scale, bias, residual, activation: self.activation };
        let weights = cx.packed::<PackedBytes>(1);
        let (a_spec, b_spec) = (cx.spec(0).ok_or(EvalError::MissingInput(0))?, cx.spec(1).ok_or(EvalError::MissingInput(1))?);
        let product = Product::new(&a_spec.layout, &b_spec.layout)?;
        let (scratch, y) = (cx.scratch(), cx.output::<f32>(0)?.into_data());
        if bias.is_some_and(|b| b.len() != n) || residual.is_some_and(|r| r.len() != y.len() || !product.is_one()) {
            return Err(EvalError::Invalid("the bias or the residual does not fit the product"));
        }
        by_dtype!(bytes, a_spec.dtype, A => by_dtype!(bytes, b_spec.dtype, B => {
            let a = cx.input::<A>(0)?;
            let b = if weights.is_some() { &[][..] } else { cx.input::<B>(1)?.data() };
            product.run(cx, (a.data(), b), weights, (&a_zero, &b_zero), scratch, &finish, y)
        }))
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        Product::scratch(cx, 0, 1)
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        MatMulInteger.prepack(input, weight, cx)
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        format!("{}{}", MatMulInteger.kernel(cx), activation::suffix(self.activation, self.residual))
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        MatMulInteger.cost(cx)
    }
}

/// Sums as floats: scaled, and followed by the rest of the layer.
struct Dequantise<'a> {
    n: usize,
    /// One, or one for each column.
    scale: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    activation: Activation,
}

impl Finish for Dequantise<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, (row, col): (usize, usize), sums: &[[i32; QUANTISED_PANEL]], out: &mut Block<'_, '_, f32>) {
        let lanes = S::F32::LANES;
        for at in (0..out.cols()).step_by(lanes) {
            let columns = col + at..col + at + lanes.min(out.cols() - at);
            let scale = if let [one] = *self.scale { S::F32::splat(s, one) } else { S::F32::load_partial(s, &self.scale[columns.clone()]) };
            let bias = if let Some(bias) = self.bias { S::F32::load_partial(s, &bias[columns.clone()]) } else { S::F32::splat(s, 0.0) };
            for (i, sums) in sums.iter().enumerate() {
                let mut y = S::I32::load(s, &sums[at..]).to_f32() * scale;
                if self.bias.is_some() {
                    y = y + bias;
                }
                if let Some(residual) = self.residual {
                    y = y + S::F32::load_partial(s, &residual[(row + i) * self.n..][columns.clone()]);
                }
                y.store_partial(&mut out.row(i)[at..at + columns.len()]);
            }
        }
        if self.activation != Activation::None {
            for i in 0..sums.len() {
                self.activation.run(s, out.row(i));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, reals, spread, t};
    use millstream_tensor::Tensor;

    /// Matrices of which at most the left is stacked, without a zero point of B.
    fn reference(case: &Case) -> Vec<Tensor> {
        let (a, b) = (case.tensor(0), case.tensor(1));
        let (k, n) = (b.shape()[0], b.shape()[1]);
        let (x, w, scale) = (reals(a), reals(b), reals(case.tensor(SCALE)));
        let (zero, bias, residual) = (case.optional(2).map_or(0.0, |z| reals(z)[0]), case.optional(BIAS).map(reals), case.optional(RESIDUAL).map(reals));
        let cell = |c: usize| {
            let (i, j) = (c / n, c % n);
            let sum = (0..k).map(|p| (x[i * k + p] - zero) * w[p * n + j]).sum::<f64>() * scale[if scale.len() == 1 { 0 } else { j }];
            let y = sum + bias.as_ref().map_or(0.0, |b| b[j]) + residual.as_ref().map_or(0.0, |r| r[c]);
            if case.attributes.find("activation").is_some() { y.max(0.0) as f32 } else { y as f32 }
        };
        let mut dims = a.shape()[..a.shape().rank() - 1].to_vec();
        dims.push(n);
        vec![t(&dims, &(0..x.len() / k * n).map(cell).collect::<Vec<f32>>())]
    }

    fn case(a: &[usize], b: &[usize]) -> Case {
        Case::new([spread(DType::U8, a, 250.0, 1), spread(DType::I8, b, 120.0, 2), t(&[], &[120u8])]).constant(1).input(None)
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 1e-3 };
        one_scale => case(&[2, 9, 70], &[70, 33]).input(t(&[1], &[0.001f32]));
        by_column => case(&[19, 35], &[35, 40]).input(random(&[40], 3)).input(random(&[40], 4));
        residual => case(&[2, 19, 35], &[35, 40]).input(t(&[], &[0.01f32])).input(random(&[40], 4)).input(random(&[2, 19, 40], 5)).int("residual", 1);
        activation => case(&[19, 35], &[35, 40]).input(t(&[], &[0.01f32])).input(random(&[40], 4)).string("activation", "relu");
        no_bias => case(&[3, 2, 8], &[8, 5]).input(t(&[], &[0.01f32])).input(None).input(random(&[3, 2, 5], 5)).int("residual", 1).string("activation", "relu");
    }
}
