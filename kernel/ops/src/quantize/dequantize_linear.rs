//! `DequantizeLinear`: (x - zero point) * scale.
//!
//! 8 bits to f32 with one scale for a run of memory is vector code.

use super::linear::{self, Granularity, at};
use crate::{
    elementwise::{
        casting::element_type,
        walk::{Operand, each3},
    },
    numeric::Number,
};
use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, SimdI32, dispatch};
use millstream_tensor::{DType, Order, ViewMut};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "DequantizeLinear",
    since: &[10, 13, 19, 21, 23, 24, 25],
    inputs: Arity::range(2, 3),
    outputs: Arity::exactly(1),
    attributes: &["axis", "block_size", "output_dtype"],
    subgraphs: &[],
    dtypes: "u8, i8, u16, i16, i32 to f16, bf16, f32",
    build: |cx: &BuildCx<'_>| {
        let to = match cx.attributes.int_or("output_dtype", 0)? {
            0 => None,
            to => Some(element_type("output_dtype", to)?),
        };
        Ok(Box::new(DequantizeLinear { granularity: Granularity::build(cx)?, to }))
    },
};

/// (x - zero point) * scale.
#[derive(Debug, Clone, Copy)]
pub struct DequantizeLinear {
    /// Which data shares a scale.
    pub granularity: Granularity,
    /// The type of the output, where it is not the scale's.
    pub to: Option<DType>,
}

impl Op for DequantizeLinear {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if !matches!(x.dtype, DType::U8 | DType::I8 | DType::U16 | DType::I16 | DType::I32) {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        linear::check(cx, x.dtype)?;
        let to = self.to.unwrap_or(cx.input(1)?.dtype);
        if !matches!(to, DType::F32 | DType::F16 | DType::BF16) {
            return Err(InferError::Invalid("the output must be f32, f16 or bf16"));
        }
        linear::like(cx, to)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (from, scale) = (cx.dtype(0)?, cx.dtype(1)?);
        let to = cx.output_spec(0).ok_or(EvalError::Output(0))?.dtype;
        if from == DType::I32 {
            return by_dtype!(scales, scale, S => by_dtype!(scales, to, U => self.run::<i32, S, U>(cx)));
        }
        by_dtype!(quantised, from, T => by_dtype!(scales, scale, S => by_dtype!(scales, to, U => self.run::<T, S, U>(cx))))
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        linear::permute(cx, inputs)
    }
}

impl DequantizeLinear {
    fn run<T: Number, S: Number, U: Number>(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (x, scale, zero) = (cx.input::<T>(0)?, cx.input::<S>(1)?, cx.optional::<T>(2)?);
        let y = cx.output::<U>(0)?;
        let whole = *y.layout();
        let (layout, stretched) = self.granularity.stretch(&whole, scale.layout())?;
        let (from, _) = self.granularity.stretch(x.layout(), scale.layout())?;
        let nothing = [T::default()];
        let zero = match zero {
            Some(z) => z.with_layout(self.granularity.stretch(&whole, z.layout())?.1)?,
            None => linear::repeated(&nothing, &layout)?,
        };
        let (x, scale) = (x.with_layout(from)?, scale.with_layout(stretched)?);
        let mut y = ViewMut::new(layout, y.into_data())?;
        let level = cx.level();
        each3(cx, Some(x), Some(scale), Some(zero), &mut y, 2, &|x, scale, zero, y| {
            if let (Operand::Run(x), Operand::Splat(scale), Operand::Splat(zero)) = (x, scale, zero)
                && T::DTYPE.size() == 1
                && U::DTYPE == DType::F32
                && let (Ok(x), Ok(y)) = (bytemuck::try_cast_slice(x), bytemuck::try_cast_slice_mut(y))
            {
                let (scale, zero) = (Number::to_f64(scale) as f32, zero.to_i128() as i32);
                return dispatch!(level, s => bytes(s, x, T::DTYPE == DType::I8, scale, zero, y));
            }
            for (i, y) in y.iter_mut().enumerate() {
                let difference = at(x, i).to_i128() - at(zero, i).to_i128();
                *y = U::from_f64(difference as f64 * Number::to_f64(at(scale, i)));
            }
        })
    }
}

#[inline(always)]
fn bytes<S: Simd>(s: S, x: &[u8], signed: bool, scale: f32, zero: i32, y: &mut [f32]) {
    let (scale, zero) = (S::F32::splat(s, scale), S::I32::splat(s, zero));
    let load = |x: &[u8]| {
        if signed { S::I32::load_i8(s, bytemuck::cast_slice(x)) } else { S::I32::load_u8(s, x) }
    };
    let (mut from, mut to) = (x.chunks_exact(S::F32::LANES), y.chunks_exact_mut(S::F32::LANES));
    for (x, y) in (&mut from).zip(&mut to) {
        ((load(x) - zero).to_f32() * scale).store(y);
    }
    let mut last = [0; 16];
    last[..from.remainder().len()].copy_from_slice(from.remainder());
    ((load(&last) - zero).to_f32() * scale).store_partial(to.into_remainder());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread, t};
    use alloc::vec;
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, scale) = (case.tensor(0), reals(case.tensor(1)));
        let zero = case.optional(2).map_or_else(|| vec![0.0; scale.len()], reals);
        let axis = case.int_or("axis", 1).rem_euclid(x.shape().rank().max(1) as i64) as usize;
        let inner: usize = x.shape().iter().skip(axis + 1).product();
        let block = case.int_or("block_size", 0) as usize;
        let y = reals(x).into_iter().enumerate().map(|(i, v)| {
            let c = match (scale.len(), block) {
                (1, _) => 0,
                (_, 0) => i / inner % x.shape()[axis],
                _ => (i / inner / block) * inner + i % inner,
            };
            (v - zero[c]) * scale[c]
        });
        vec![from_reals(case.tensor(1).dtype(), x.shape(), &y.collect::<Vec<f64>>())]
    }

    op_tests! { DEF, reference, Tolerance::F32;
        bytes => Case::new([spread(DType::U8, &[2, 3, 5, 7], 250.0, 1), t(&[], &[0.1f32]), t(&[], &[128u8])]);
        signed => Case::new([spread(DType::I8, &[333], 120.0, 1), t(&[1], &[0.1f32]), t(&[1], &[-3i8])]);
        no_zero_point => Case::new([spread(DType::I32, &[2, 3], 2000.0, 1), t(&[], &[0.1f32])]);
        channels => Case::new([spread(DType::I8, &[2, 5, 3, 7], 120.0, 1), spread(DType::F32, &[5], 0.1, 2), spread(DType::I8, &[5], 9.0, 3)]);
        rows => Case::new([spread(DType::I8, &[4, 50], 120.0, 1), spread(DType::F32, &[4], 0.1, 2)]).int("axis", 0);
        words => Case::new([spread(DType::U16, &[4, 5], 6e4, 1), t(&[], &[0.001f32]), t(&[], &[9u16])]);
        blocks => Case::new([spread(DType::I8, &[3, 8, 5], 120.0, 1), spread(DType::F32, &[3, 2, 5], 0.1, 2), spread(DType::I8, &[3, 2, 5], 9.0, 3)]).int("block_size", 4);
        halves => Case::new([spread(DType::U8, &[4, 5], 250.0, 1), spread(DType::F16, &[], 0.9, 3), t(&[], &[9u8])]);
        empty => Case::new([spread(DType::U8, &[0, 5], 20.0, 1), t(&[], &[2.0f32]), t(&[], &[9u8])]);
    }
}
