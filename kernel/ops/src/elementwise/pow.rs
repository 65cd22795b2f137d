//! `Pow`: a to the power b; the exponents may have another type than the bases.
//!
//! f32 exponents 2, 1/2, 3, 1, 0, -1 and -1/2 that are the same for all elements are products and roots; others, and other
//! types, are computed in f64 and rounded once. Integer powers wrap; negative exponents of integers give 0 (±1 for ±1).

use super::walk::{Operand, each2, permute_broadcast, source};
use crate::numeric::{Number, Types};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, dispatch, slice};
use millstream_tensor::{DType, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Pow",
    since: &[7, 12, 13, 15],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(Pow)),
};

/// a to the power b.
#[derive(Debug, Clone, Copy)]
pub struct Pow;

impl Op for Pow {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        Types::Numbers.check(0, a.dtype)?;
        Types::Numbers.check(1, b.dtype)?;
        Ok(vec![Fact::new(a.dtype, cx.broadcast(&a.dims, &b.dims)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (base, exponent) = (cx.dtype(0)?, cx.dtype(1)?);
        let level = cx.level();
        by_dtype!(numbers, exponent, E => {
            let b = cx.input::<E>(1)?;
            if base == DType::F32 {
                let (a, mut y) = (source::<f32>(cx, 0)?, cx.output::<f32>(0)?);
                return each2(cx, a, Some(b), &mut y, 16, &|a, b: Operand<'_, E>, y| match b {
                    Operand::Splat(e) if dispatch!(level, s => vector_run(s, a, Number::to_f64(e), y)) => {}
                    b => run(a, b, y),
                });
            }
            by_dtype!(numbers, base, T => {
                let (a, mut y) = (source::<T>(cx, 0)?, cx.output::<T>(0)?);
                each2(cx, a, Some(b), &mut y, 16, &|a, b: Operand<'_, E>, y| run(a, b, y))
            })
        })
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        permute_broadcast(cx, inputs)
    }
}

/// Powers that are products or roots; false if this exponent is none of them, and nothing was written.
#[inline(always)]
fn vector_run<S: Simd>(s: S, a: Operand<'_, f32>, exponent: f64, y: &mut [f32]) -> bool {
    let one = S::F32::splat(s, 1.0);
    macro_rules! over {
        ($x:ident => $e:expr) => {
            match a {
                Operand::Same => slice::map_in_place(
                    s,
                    y,
                    #[inline(always)]
                    |$x: S::F32| $e,
                ),
                Operand::Run(a) => slice::map(
                    s,
                    a,
                    y,
                    #[inline(always)]
                    |$x: S::F32| $e,
                ),
                Operand::Splat(_) => return false,
            }
        };
    }
    // A root of -inf is NaN here, as `Sqrt` has it.
    match exponent {
        2.0 => over!(x => x * x),
        3.0 => over!(x => x * x * x),
        1.0 => over!(x => x),
        -1.0 => over!(x => one / x),
        0.5 => over!(x => x.sqrt()),
        -0.5 => over!(x => one / x.sqrt()),
        _ => return false,
    }
    true
}

fn run<T: Number, E: Number>(a: Operand<'_, T>, b: Operand<'_, E>, y: &mut [T]) {
    for (i, y) in y.iter_mut().enumerate() {
        let a = match a {
            Operand::Same => *y,
            Operand::Run(a) => a[i],
            Operand::Splat(a) => a,
        };
        let b = match b {
            Operand::Run(b) => b[i],
            Operand::Splat(b) => b,
            // The exponents are never overwritten.
            Operand::Same => E::default(),
        };
        *y = if T::DTYPE.is_int() && E::DTYPE.is_int() {
            T::from_i128(int_power(a.to_i128(), b.to_i128()))
        } else {
            T::from_f64(libm::pow(a.to_f64(), b.to_f64()))
        };
    }
}

fn int_power(base: i128, exponent: i128) -> i128 {
    match (base, exponent) {
        (_, e) if e >= 0 => {
            // Past 2³² the exponent's low bits decide: powers wrap, and their order divides 2⁶⁴.
            let (mut result, mut square, mut e) = (1i128, base, e as u128);
            while e > 0 {
                if e & 1 == 1 {
                    result = result.wrapping_mul(square);
                }
                square = square.wrapping_mul(square);
                e >>= 1;
            }
            result
        }
        (1, _) => 1,
        (-1, e) => {
            if e % 2 == 0 {
                1
            } else {
                -1
            }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, map, pairs, random_ints, spread, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (shape, pairs) = pairs(case.tensor(0), case.tensor(1));
        let y: Vec<f64> = pairs.into_iter().map(|(a, b)| a.powf(b)).collect();
        vec![from_reals(case.tensor(0).dtype(), &shape, &y)]
    }

    fn positive(dims: &[usize]) -> Tensor {
        map(&Case::new([spread(DType::F32, dims, 3.0, 1)]), f64::abs).remove(0)
    }

    op_tests! { DEF, reference, Tolerance::F32;
        square => Case::new([spread(DType::F32, &[2, 3, 5, 7], 3.0, 1), t(&[], &[2.0f32])]);
        cube => Case::new([spread(DType::F32, &[2, 3, 5, 7], 3.0, 1), t(&[1], &[3.0f32])]);
        root => Case::new([positive(&[9, 5]), t(&[], &[0.5f32])]);
        inverse_root => Case::new([positive(&[9, 5]), t(&[], &[-0.5f32])]);
        other => Case::new([positive(&[9, 5]), t(&[], &[1.7f32])]);
        rows => Case::new([positive(&[9, 5]), spread(DType::F32, &[5], 3.0, 2)]);
        one_base => Case::new([t(&[], &[2.0f32]), spread(DType::F32, &[7, 5], 3.0, 2)]);
        ints => Case::new([spread(DType::I64, &[7, 5], 9.0, 1), random_ints(&[5], 0, 4, 2)]);
        mixed => Case::new([spread(DType::F32, &[7, 5], 9.0, 1), random_ints(&[5], -2, 4, 2)]);
        int_base => Case::new([random_ints(&[7, 5], 1, 9, 1), t(&[], &[2.0f32])]);
        f16s => Case::new([spread(DType::F16, &[7, 5], 9.0, 1), t(&[], &[2.0f32])]);
        empty => Case::new([spread(DType::F32, &[0, 5], 9.0, 1), t(&[], &[2.0f32])]);
    }
}
