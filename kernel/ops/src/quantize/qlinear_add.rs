//! `com.microsoft.QLinearAdd`: the sum of quantised tensors, quantised again, in one pass over bytes.
//!
//! ```text
//! y = saturate(round(((a - a_zero) a_scale + (b - b_zero) b_scale) / y_scale) + y_zero)
//! ```
//! in f32, rounding ties to even: what `DequantizeLinear`, `Add` and `QuantizeLinear` give one after the other.

use super::{
    linear::bounds,
    product::{check_count, zero_points},
    qlinear_matmul::scales,
};
use crate::elementwise::walk::{Operand, each2, permute_broadcast, source};
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Cost, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, SimdI32, dispatch};
use millstream_tensor::{DType, Element, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "com.microsoft",
    name: "QLinearAdd",
    since: &[1],
    inputs: Arity::exactly(8),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "u8, i8",
    build: |_: &BuildCx<'_>| Ok(Box::new(QLinearAdd)),
};

/// The sum of quantised tensors.
#[derive(Debug, Clone, Copy)]
pub struct QLinearAdd;

/// A scale and a zero point.
#[derive(Clone, Copy)]
struct Linear {
    scale: f32,
    zero: i32,
}

impl Linear {
    fn read(cx: &EvalCx<'_>, scale: usize) -> Result<Linear, EvalError> {
        let (scales, zeros) = (scales(cx, scale)?, zero_points(cx, scale + 1)?);
        check_count(&scales, 1)?;
        check_count(&zeros, 1)?;
        Ok(Linear { scale: scales[0], zero: zeros[0] })
    }
}

impl Op for QLinearAdd {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (a, b, to) = (cx.input(0)?, cx.input(3)?, cx.input(7)?.dtype);
        for (input, dtype) in [(0, a.dtype), (3, b.dtype), (7, to)] {
            if !matches!(dtype, DType::U8 | DType::I8) || dtype != to {
                return Err(InferError::DType { input, found: dtype });
            }
        }
        Ok(vec![Fact::new(to, cx.broadcast(&a.dims, &b.dims)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        match cx.dtype(0)? {
            DType::U8 => run::<u8>(cx),
            DType::I8 => run::<i8>(cx),
            other => Err(EvalError::DType(other)),
        }
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (3, 0)]
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        permute_broadcast(cx, inputs)
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        Cost { flops: 6.0 * base.flops, ..base }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        alloc::format!("elementwise-bytes-{}", cx.level.vectors())
    }
}

fn run<T: Element>(cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let linear = [Linear::read(cx, 1)?, Linear::read(cx, 4)?, Linear::read(cx, 6)?];
    let (a, b) = (source::<T>(cx, 0)?, source::<T>(cx, 3)?);
    let mut y = cx.output::<T>(0)?;
    let level = cx.level();
    each2(cx, a, b, &mut y, 2, &|a, b, y| {
        let y: &mut [u8] = bytemuck::cast_slice_mut(y);
        dispatch!(level, s => add::<_, T>(s, linear, bytes(a), bytes(b), y));
    })
}

/// The operand's elements as bytes.
fn bytes<T: Element>(x: Operand<'_, T>) -> Operand<'_, u8> {
    match x {
        Operand::Same => Operand::Same,
        Operand::Run(x) => Operand::Run(bytemuck::cast_slice(x)),
        Operand::Splat(x) => Operand::Splat(bytemuck::bytes_of(&x)[0]),
    }
}

#[inline(always)]
fn add<S: Simd, T: Element>(s: S, linear: [Linear; 3], x: Operand<'_, u8>, z: Operand<'_, u8>, y: &mut [u8]) {
    let lanes = S::F32::LANES;
    let whole = y.len() / lanes * lanes;
    if let (Operand::Run(x), Operand::Run(z)) = (x, z) {
        for ((x, z), y) in x.chunks_exact(lanes).zip(z.chunks_exact(lanes)).zip(y.chunks_exact_mut(lanes)) {
            one::<S, T>(s, linear, x, z, y);
        }
    } else {
        for (i, y) in y.chunks_exact_mut(lanes).enumerate() {
            one::<S, T>(s, linear, &lanes_of(x, i * lanes, y), &lanes_of(z, i * lanes, y), y);
        }
    }
    let rest = &mut y[whole..];
    if !rest.is_empty() {
        let mut last = [0; 16];
        one::<S, T>(s, linear, &lanes_of(x, whole, rest), &lanes_of(z, whole, rest), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// A vector of results.
#[inline(always)]
fn one<S: Simd, T: Element>(s: S, [a, b, to]: [Linear; 3], x: &[u8], z: &[u8], y: &mut [u8]) {
    let (low, high) = bounds(T::DTYPE);
    let (low, high) = (S::F32::splat(s, low as f32), S::F32::splat(s, high as f32));
    let quotient = (real::<S, T>(s, a, x) + real::<S, T>(s, b, z)) / S::F32::splat(s, to.scale);
    high.min(low.max(quotient.round_ties_even() + S::F32::splat(s, to.zero as f32))).to_i32().store_u8(y);
}

/// A vector of what bytes stand for.
#[inline(always)]
fn real<S: Simd, T: Element>(s: S, linear: Linear, x: &[u8]) -> S::F32 {
    let x = if T::DTYPE == DType::I8 { S::I32::load_i8(s, bytemuck::cast_slice(x)) } else { S::I32::load_u8(s, x) };
    (x - S::I32::splat(s, linear.zero)).to_f32() * S::F32::splat(s, linear.scale)
}

/// As many elements as `y` has: of `y` itself, of a run from `at` on, or the only one.
#[inline(always)]
fn lanes_of(x: Operand<'_, u8>, at: usize, y: &[u8]) -> [u8; 16] {
    let mut lanes = [0; 16];
    match x {
        Operand::Same => lanes[..y.len()].copy_from_slice(y),
        Operand::Run(x) => lanes[..y.len()].copy_from_slice(&x[at..at + y.len()]),
        Operand::Splat(x) => lanes.fill(x),
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use millstream_tensor::Tensor;

    /// Equal shapes, or one of the tensors is one element or the last axes of the other.
    fn reference(case: &Case) -> Vec<Tensor> {
        let v: Vec<Vec<f64>> = (0..8).map(|i| reals(case.tensor(i))).collect();
        let whole = if v[0].len() < v[3].len() { case.tensor(3) } else { case.tensor(0) };
        let (low, high) = bounds(case.tensor(7).dtype());
        let y = (0..whole.shape().elements()).map(|i| {
            let real = |x: usize| (v[x][i % v[x].len()] - v[x + 2][0]) as f32 * v[x + 1][0] as f32;
            let sum = (real(0) + real(3)) / v[6][0] as f32;
            (f64::from(sum.round_ties_even()) + v[7][0]).clamp(low, high)
        });
        vec![from_reals(case.tensor(7).dtype(), whole.shape(), &y.collect::<Vec<f64>>())]
    }

    fn unsigned(a: &[usize], b: &[usize]) -> Case {
        Case::new([spread(DType::U8, a, 250.0, 1), t(&[], &[0.03f32]), t(&[], &[20u8])])
            .input(spread(DType::U8, b, 250.0, 2))
            .input(t(&[], &[0.02f32]))
            .input(t(&[], &[131u8]))
            .input(t(&[], &[0.025f32]))
            .input(t(&[], &[9u8]))
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        same => unsigned(&[2, 5, 3, 7], &[2, 5, 3, 7]);
        many => unsigned(&[3, 33_333], &[3, 33_333]);
        row => unsigned(&[4, 37], &[37]);
        left_scalar => unsigned(&[], &[4, 37]);
        signed => Case::new([spread(DType::I8, &[4, 37], 120.0, 1), t(&[1], &[0.03f32]), t(&[1], &[-20i8]), spread(DType::I8, &[4, 37], 120.0, 2),
            t(&[], &[0.02f32]), t(&[], &[31i8]), t(&[], &[0.02f32]), t(&[], &[-128i8])]);
        empty => unsigned(&[2, 0, 3], &[2, 0, 3]);
    }
}
