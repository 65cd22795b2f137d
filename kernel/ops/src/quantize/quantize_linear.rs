//! `QuantizeLinear`: saturate(round(x / scale) + zero point), rounding ties to even.
//!
//! To u8, i8, u16 and i16; types of 4 and 8 bits that are floats or packed are refused. f32 to 8 bits with one scale for a run
//! of memory is vector code; x / scale is a true division everywhere, so that no path rounds differently.

use super::linear::{self, Granularity, at, bounds, is_quantised};
use crate::{
    elementwise::{
        casting::element_type,
        walk::{Operand, each3},
    },
    numeric::Number,
};
use alloc::{boxed::Box, format, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{Level, Simd, SimdF32, SimdI32, dispatch};
use millstream_tensor::{DType, Order, ViewMut};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "QuantizeLinear",
    since: &[10, 13, 19, 21, 23, 24, 25],
    inputs: Arity::range(2, 3),
    outputs: Arity::exactly(1),
    attributes: &["axis", "saturate", "block_size", "output_dtype", "precision"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, i32 to u8, i8, u16, i16",
    build: |cx: &BuildCx<'_>| {
        let to = match cx.attributes.int_or("output_dtype", 0)? {
            0 => None,
            to => Some(element_type("output_dtype", to)?)
                .filter(|&d| is_quantised(d))
                .map(Some)
                .ok_or(BuildError::UnsupportedAttribute { name: "output_dtype", value: format!("{to}") })?,
        };
        let precision = cx.attributes.int_or("precision", 0)?;
        if !matches!(precision, 0 | 1) {
            return Err(BuildError::UnsupportedAttribute { name: "precision", value: format!("{precision}") });
        }
        Ok(Box::new(QuantizeLinear { granularity: Granularity::build(cx)?, to }))
    },
};

/// saturate(round(x / scale) + zero point).
#[derive(Debug, Clone, Copy)]
pub struct QuantizeLinear {
    /// Which data shares a scale.
    pub granularity: Granularity,
    /// The type of the output, where no zero point says it.
    pub to: Option<DType>,
}

impl Op for QuantizeLinear {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if !(x.dtype.is_float() && x.dtype != DType::F64 || x.dtype == DType::I32) {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        let to = cx.optional(2).map(|f| f.dtype).or(self.to).unwrap_or(DType::U8);
        if !is_quantised(to) {
            return Err(InferError::DType { input: 2, found: to });
        }
        linear::check(cx, to)?;
        linear::like(cx, to)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (from, scale) = (cx.dtype(0)?, cx.dtype(1)?);
        let to = cx.output_spec(0).ok_or(EvalError::Output(0))?.dtype;
        by_dtype!(quantised, to, U => self.source::<U>(cx, from, scale))
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        linear::permute(cx, inputs)
    }
}

impl QuantizeLinear {
    fn source<U: Number>(&self, cx: &mut EvalCx<'_>, from: DType, scale: DType) -> Result<(), EvalError> {
        if from == DType::I32 {
            return by_dtype!(scales, scale, S => self.run::<i32, S, U>(cx));
        }
        by_dtype!(scales, from, T => by_dtype!(scales, scale, S => self.run::<T, S, U>(cx)))
    }

    fn run<T: Number, S: Number, U: Number>(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (x, scale, zero) = (cx.input::<T>(0)?, cx.input::<S>(1)?, cx.optional::<U>(2)?);
        let y = cx.output::<U>(0)?;
        let (layout, stretched) = self.granularity.stretch(y.layout(), scale.layout())?;
        let (from, _) = self.granularity.stretch(x.layout(), scale.layout())?;
        let nothing = [U::default()];
        let zero = match zero {
            Some(z) => z.with_layout(self.granularity.stretch(&layout_of(&y), z.layout())?.1)?,
            None => linear::repeated(&nothing, &layout)?,
        };
        let (x, scale) = (x.with_layout(from)?, scale.with_layout(stretched)?);
        let mut y = ViewMut::new(layout, y.into_data())?;
        let (level, (low, high)) = (cx.level(), bounds(U::DTYPE));
        each3(cx, Some(x), Some(scale), Some(zero), &mut y, 4, &|x, scale, zero, y| {
            if let (Operand::Run(x), Operand::Splat(scale), Operand::Splat(zero)) = (x, scale, zero)
                && T::DTYPE == DType::F32
                && U::DTYPE.size() == 1
                && let (Ok(x), Ok(y)) = (bytemuck::try_cast_slice(x), bytemuck::try_cast_slice_mut(y))
            {
                let zero = Number::to_f64(zero) as f32;
                return bytes(level, x, Number::to_f64(scale) as f32, zero, (low as f32, high as f32), y);
            }
            for (i, y) in y.iter_mut().enumerate() {
                let (x, scale, zero) = (Number::to_f64(at(x, i)), Number::to_f64(at(scale, i)), Number::to_f64(at(zero, i)));
                // Rounded as f32 first, so that all paths see the same quotient.
                let quotient = f64::from((x / scale) as f32);
                *y = U::from_f64((libm::rint(quotient) + zero).clamp(low, high));
            }
        })
    }
}

fn layout_of<T: Copy>(y: &ViewMut<'_, T>) -> millstream_tensor::Layout {
    *y.layout()
}

/// Quantises to bytes, of either sign: the low 8 bits are the same.
pub(crate) fn bytes(level: Level, x: &[f32], scale: f32, zero: f32, bounds: (f32, f32), y: &mut [u8]) {
    dispatch!(level, s => bytes_on(s, x, scale, zero, bounds, y));
}

#[inline(always)]
fn bytes_on<S: Simd>(s: S, x: &[f32], scale: f32, zero: f32, (low, high): (f32, f32), y: &mut [u8]) {
    let splat = |x| S::F32::splat(s, x);
    let (scale, zero, low, high) = (splat(scale), splat(zero), splat(low), splat(high));
    let one = |x: S::F32| high.min(low.max((x / scale).round_ties_even() + zero)).to_i32();
    let (mut from, mut to) = (x.chunks_exact(S::F32::LANES), y.chunks_exact_mut(S::F32::LANES));
    for (x, y) in (&mut from).zip(&mut to) {
        one(S::F32::load(s, x)).store_u8(y);
    }
    let rest = to.into_remainder();
    let mut last = [0; 16];
    one(S::F32::load_partial(s, from.remainder())).store_u8(&mut last);
    rest.copy_from_slice(&last[..rest.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, map, reals, spread, t};
    use alloc::vec;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, scale) = (case.tensor(0), reals(case.tensor(1)));
        let to = case.optional(2).map_or(DType::U8, Tensor::dtype);
        let zero = case.optional(2).map_or_else(|| vec![0.0; scale.len()], reals);
        let (low, high) = bounds(to);
        let axis = case.int_or("axis", 1).rem_euclid(x.shape().rank().max(1) as i64) as usize;
        let inner: usize = x.shape().iter().skip(axis + 1).product();
        let block = case.int_or("block_size", 0) as usize;
        let y = reals(x).into_iter().enumerate().map(|(i, v)| {
            let c = match (scale.len(), block) {
                (1, _) => 0,
                (_, 0) => i / inner % x.shape()[axis],
                _ => (i / inner / block) * inner + i % inner,
            };
            (f64::from((v / scale[c]) as f32).round_ties_even() + zero[c]).clamp(low, high)
        });
        vec![from_reals(to, x.shape(), &y.collect::<Vec<f64>>())]
    }

    fn scales(dims: &[usize]) -> Tensor {
        map(&Case::new([spread(DType::F32, dims, 0.1, 2)]), |x| x.abs() + 0.05).remove(0)
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        bytes => Case::new([spread(DType::F32, &[2, 3, 5, 7], 20.0, 1), t(&[], &[0.1f32]), t(&[], &[128u8])]);
        signed => Case::new([spread(DType::F32, &[333], 20.0, 1), t(&[1], &[0.1f32]), t(&[1], &[-3i8])]);
        no_zero_point => Case::new([spread(DType::F32, &[2, 3], 20.0, 1), t(&[], &[0.1f32])]);
        channels => Case::new([spread(DType::F32, &[2, 5, 3, 7], 20.0, 1), scales(&[5]), spread(DType::I8, &[5], 9.0, 3)]);
        last_axis => Case::new([spread(DType::F32, &[4, 5], 20.0, 1), scales(&[5]), spread(DType::U8, &[5], 9.0, 3)]).int("axis", -1);
        words => Case::new([spread(DType::F32, &[4, 5], 20.0, 1), t(&[], &[0.001f32]), t(&[], &[9i16])]);
        blocks => Case::new([spread(DType::F32, &[3, 8, 5], 20.0, 1), scales(&[3, 2, 5]), spread(DType::I8, &[3, 2, 5], 9.0, 3)]).int("block_size", 4);
        halves => Case::new([spread(DType::F16, &[4, 5], 20.0, 1), spread(DType::F16, &[], 0.9, 3), t(&[], &[9u8])]);
        ints => Case::new([spread(DType::I32, &[4, 5], 200.0, 1), t(&[], &[2.0f32]), t(&[], &[9u8])]);
        empty => Case::new([spread(DType::F32, &[0, 5], 20.0, 1), t(&[], &[2.0f32]), t(&[], &[9u8])]);
    }
}
