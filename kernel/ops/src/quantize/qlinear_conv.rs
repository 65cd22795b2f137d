//! `QLinearConv`: a convolution of quantised images, quantised again. Sums are exact; one rounding makes the result.

use super::{
    convolution::{ATTRIBUTES, Window},
    packed::{PackedBytes, Rescale},
    product::{check_count, pick, zero_points},
    qlinear_matmul::{bytes_of, scales},
};
use crate::conv::conv::Conv;
use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::Activation;
use millstream_graph::{Arity, BuildCx, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, Permutation, PrepackCx, Scratch, StepCx};
use millstream_tensor::{DType, Order, TensorError, TensorView};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "QLinearConv",
    since: &[10],
    inputs: Arity::range(8, 9),
    outputs: Arity::exactly(1),
    attributes: ATTRIBUTES,
    subgraphs: &[],
    dtypes: "u8, i8",
    build: |cx: &BuildCx<'_>| Ok(Box::new(QLinearConv { window: Window::read(cx)? })),
};

/// A convolution of quantised images.
#[derive(Debug, Clone)]
pub struct QLinearConv {
    window: Window,
}

impl Op for QLinearConv {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let to = cx.input(7)?.dtype;
        if !matches!(to, DType::U8 | DType::I8) {
            return Err(InferError::DType { input: 7, found: to });
        }
        if let Some(b) = cx.optional(8).filter(|b| b.dtype != DType::I32) {
            return Err(InferError::DType { input: 8, found: b.dtype });
        }
        self.window.infer(cx, 0, 3, to)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (x_zero, w_zero, y_zero) = (zero_points(cx, 2)?, zero_points(cx, 5)?, zero_points(cx, 7)?);
        let (x_scale, w_scale, y_scale) = (scales(cx, 1)?, scales(cx, 4)?, scales(cx, 6)?);
        let bias = cx.optional::<i32>(8)?.map(|b| b.to_vec());
        let spec = cx.output_spec(0).ok_or(EvalError::Output(0))?;
        let outputs = spec.shape()[1];
        [(&x_scale, 1), (&w_scale, outputs), (&y_scale, 1)].into_iter().try_for_each(|(s, n)| check_count(s, n))?;
        check_count(&y_zero, 1)?;
        if bias.as_ref().is_some_and(|b| b.len() != outputs) {
            return Err(EvalError::Invalid("the bias has not one element for each output channel"));
        }
        let bias = bias.unwrap_or_else(|| vec![0; outputs]);
        let scale: Vec<f32> = (0..outputs).map(|o| x_scale[0] * pick(&w_scale, o) / y_scale[0]).collect();
        let rescale = Rescale { bias: &bias, scale: &scale, zero: y_zero[0], to: spec.dtype };
        let weights = cx.spec(3).ok_or(EvalError::MissingInput(3))?;
        let packed = cx.packed::<PackedBytes>(3);
        let y = bytes_of(cx)?;
        by_dtype!(bytes, cx.dtype(0)?, A => {
            let x = cx.input::<A>(0)?;
            match packed {
                Some(w) => {
                    self.window.run_packed(cx, (x, w, &spec), weights.shape(), (&x_zero, &w_zero), y, |group| rescale.columns(group))
                }
                None => by_dtype!(bytes, weights.dtype, B => {
                    self.window.run(cx, x, cx.input::<B>(3)?, (&x_zero, &w_zero), y, &|o, sum| rescale.one(o, sum))
                }),
            }
        })
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        self.window.scratch(cx, 3)
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, _: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        if input != 3 {
            return Ok(None);
        }
        Ok(PackedBytes::filters(weight, self.window.group())?.map(|p| Arc::new(p) as Arc<dyn Packed>))
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        self.window.permute(cx, inputs, 3)
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        self.window.cost(cx, 3)
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        if cx.is_packed(3) { format!("integer-window-gemm-{}", cx.level) } else { String::from("integer-conv-direct") }
    }
}

impl QLinearConv {
    /// The quantised form of an f32 convolution; `None` if something is fused into it.
    pub fn from_conv(conv: &Conv) -> Option<QLinearConv> {
        (!conv.has_residual() && conv.activation() == Activation::None).then(|| QLinearConv { window: Window::of(conv) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use millstream_tensor::Tensor;

    /// Kernels of one pixel.
    fn reference(case: &Case) -> Vec<Tensor> {
        let v: Vec<Vec<f64>> = (0..8).map(|i| reals(case.tensor(i))).collect();
        let bias = case.optional(8).map(reals);
        let (xs, outputs) = (case.tensor(0).shape(), case.tensor(3).shape()[0]);
        let plane = xs[2] * xs[3];
        let (low, high) = super::super::linear::bounds(case.tensor(7).dtype());
        let y = (0..xs[0] * outputs * plane).map(|i| {
            let (n, o, p) = (i / plane / outputs, i / plane % outputs, i % plane);
            let each = |v: &[f64]| v[if v.len() == 1 { 0 } else { o }];
            let sum: f64 = (0..xs[1]).map(|c| (v[0][(n * xs[1] + c) * plane + p] - v[2][0]) * (v[3][o * xs[1] + c] - each(&v[5]))).sum();
            let sum = sum + bias.as_ref().map_or(0.0, |b| b[o]);
            let scale = v[1][0] as f32 * each(&v[4]) as f32 / v[6][0] as f32;
            (f64::from((sum as f32 * scale).round_ties_even()) + v[7][0]).clamp(low, high)
        });
        vec![from_reals(case.tensor(7).dtype(), &[xs[0], outputs, xs[2], xs[3]], &y.collect::<Vec<f64>>())]
    }

    fn case() -> Case {
        Case::new([
            spread(DType::U8, &[2, 3, 4, 5], 250.0, 1),
            t(&[], &[0.01f32]),
            t(&[], &[120u8]),
            spread(DType::I8, &[2, 3, 1, 1], 120.0, 2),
            t(&[2], &[0.02f32, 0.03]),
            t(&[2], &[0i8, 4]),
            t(&[], &[0.05f32]),
            t(&[], &[118u8]),
        ])
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        plain => case();
        weight => case().constant(3);
        weight_with_bias => case().input(t(&[2], &[1000i32, -2000])).constant(3);
        with_bias => case().input(t(&[2], &[1000i32, -2000]));
    }
}
