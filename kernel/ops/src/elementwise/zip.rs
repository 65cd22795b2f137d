//! Operators of two (or more) inputs that broadcast: `y = f(a, b)`.

use super::walk::{Operand, each1, each2, source};
use crate::numeric::{Number, Types};
use alloc::{vec, vec::Vec};
use millstream_graph::{Dim, EvalCx, EvalError, Fact, InferCx, InferError};
use millstream_simd::{Simd, SimdF32, dispatch, slice};
use millstream_tensor::{Bool, DType, Tensor, View, ViewMut};
use smallvec::SmallVec;

/// What an operator computes for one pair of elements.
pub(crate) trait Zip: Sync {
    /// The element types of the inputs.
    const TYPES: Types = Types::Numbers;
    /// What an element costs, in additions.
    const WORK: usize = 1;
    /// True if a zero among the integers of the second input is an error.
    const DIVIDES: bool = false;

    /// The function on floats.
    fn real(&self, a: f64, b: f64) -> f64;

    /// The function on integers (and booleans as 0 and 1), if [`Zip::TYPES`] has them.
    fn int(&self, a: i128, _b: i128) -> i128 {
        a
    }

    /// The function on vectors of f32; lane by lane where no vector code exists.
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, a: S::F32, b: S::F32) -> S::F32 {
        // No level has more than 16 lanes.
        let (mut x, mut y) = ([0.0f32; 16], [0.0f32; 16]);
        a.store(&mut x);
        b.store(&mut y);
        for (x, y) in x.iter_mut().zip(y).take(S::F32::LANES) {
            *x = self.real((*x).into(), y.into()) as f32;
        }
        S::F32::load(s, &x)
    }

    /// The function on symbolic integers, where it can be expressed.
    fn dim(&self, _a: &Dim, _b: &Dim) -> Option<Dim> {
        None
    }
}

/// The elements of two small integer inputs, broadcast together, if at least one of them is symbolic.
pub(crate) fn symbolic_pairs(a: &Fact, b: &Fact) -> Option<Vec<(Dim, Dim)>> {
    if (a.as_const().is_some() && b.as_const().is_some()) || a.rank() > 1 || b.rank() > 1 {
        return None;
    }
    let (x, y) = (a.int_dims()?, b.int_dims()?);
    let n = if x.len() == 1 { y.len() } else { x.len() };
    if (x.len() != n && x.len() != 1) || (y.len() != n && y.len() != 1) {
        return None;
    }
    let at = |v: &[Dim], i: usize| v[if v.len() == 1 { 0 } else { i }].clone();
    Some((0..n).map(|i| (at(&x, i), at(&y, i))).collect())
}

/// A constant of booleans with the dims of a scalar or vector.
pub(crate) fn known_bools(values: &[bool], scalar: bool) -> Option<Fact> {
    let elements: Vec<Bool> = values.iter().map(|&b| b.into()).collect();
    let dims: &[usize] = if scalar { &[] } else { &[elements.len()] };
    Tensor::from_slice(dims, &elements).ok().map(|t| Fact::constant(t.into()))
}

/// The dims that all inputs broadcast to, which have one type.
pub(crate) fn infer_types(cx: &InferCx<'_>, types: Types) -> Result<Fact, InferError> {
    let first = cx.input(0)?;
    types.check(0, first.dtype)?;
    let mut dims = first.dims.clone();
    for i in 1..cx.inputs.len() {
        let x = cx.input(i)?;
        if x.dtype != first.dtype {
            return Err(InferError::DType { input: i, found: x.dtype });
        }
        dims = cx.broadcast(&dims, &x.dims)?;
    }
    Ok(Fact::new(first.dtype, dims))
}

/// Broadcast dims; small symbolic integers are computed.
pub(crate) fn infer<Z: Zip>(z: &Z, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let fact = infer_types(cx, Z::TYPES)?;
    if cx.inputs.len() == 2
        && let Some(values) = symbolic_pairs(cx.input(0)?, cx.input(1)?).and_then(|p| p.iter().map(|(a, b)| z.dim(a, b)).collect())
    {
        return Ok(vec![Fact::of_dims(fact.dtype, values, fact.rank() == 0)]);
    }
    Ok(vec![fact])
}

/// Computes `y = f(x0, x1)`, then `y = f(y, x2)` and so on.
pub(crate) fn eval<Z: Zip>(z: &Z, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let dtype = cx.dtype(0)?;
    Z::TYPES.check_kernel(dtype)?;
    if dtype == DType::F32 {
        let level = cx.level();
        return fold::<f32>(cx, Z::WORK, &|a, b, y| dispatch!(level, s => vector_run(s, z, a, b, y))).map(drop);
    }
    let real = |a: f64, b: f64| z.real(a, b);
    let int = |a: i128, b: i128| z.int(a, b);
    by_dtype!(all, dtype, T => {
        if Z::DIVIDES && !dtype.is_float() {
            refuse_zero::<T>(cx)?;
        }
        slow::<T>(cx, Z::WORK, &real, &int).map(drop)
    })
}

/// The sum of all inputs over their number.
pub(crate) fn eval_mean(cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let dtype = cx.dtype(0)?;
    let count = cx.inputs() as f64;
    by_dtype!(floats, dtype, T => {
        let mut y = slow::<T>(cx, 1, &|a, b| a + b, &|a, _| a)?;
        each1(cx, None, &mut y, 1, &|_: Operand<'_, T>, y| y.iter_mut().for_each(|y| *y = T::from_f64(Number::to_f64(*y) / count)))
    })
}

/// Any type: floats through f64, the others through i128.
fn slow<'a, T: Number>(
    cx: &mut EvalCx<'a>,
    work: usize,
    real: &(dyn Fn(f64, f64) -> f64 + Sync),
    int: &(dyn Fn(i128, i128) -> i128 + Sync),
) -> Result<ViewMut<'a, T>, EvalError> {
    let f = |a: T, b: T| {
        if T::DTYPE.is_float() { T::from_f64(real(Number::to_f64(a), Number::to_f64(b))) } else { T::from_i128(int(a.to_i128(), b.to_i128())) }
    };
    fold(cx, work, &|a, b, y| {
        for (i, y) in y.iter_mut().enumerate() {
            let at = |o: Operand<'_, T>| match o {
                Operand::Same => *y,
                Operand::Run(x) => x[i],
                Operand::Splat(x) => x,
            };
            *y = f(at(a), at(b));
        }
    })
}

fn refuse_zero<T: Number>(cx: &EvalCx<'_>) -> Result<(), EvalError> {
    // In place of input 1 nothing can be read before the output is taken: divisions offer input 0 only.
    if cx.input::<T>(1)?.iter().any(|b| b.to_i128() == 0) {
        return Err(EvalError::Element { what: "division by zero", value: 0 });
    }
    Ok(())
}

/// Runs `f` over the first two inputs, then over the output and each further input; returns the output. One input is copied.
fn fold<'a, T: Number>(cx: &mut EvalCx<'a>, work: usize, f: &(dyn Fn(Operand<'_, T>, Operand<'_, T>, &mut [T]) + Sync)) -> Result<ViewMut<'a, T>, EvalError> {
    let a = source::<T>(cx, 0)?;
    let rest: SmallVec<[Option<View<'_, T>>; 3]> = (1..cx.inputs()).map(|i| source::<T>(cx, i)).collect::<Result<_, _>>()?;
    let mut y = cx.output::<T>(0)?;
    let Some((&second, rest)) = rest.split_first() else {
        each1(cx, a, &mut y, 1, &|x, y| match x {
            Operand::Same => {}
            Operand::Run(x) => y.copy_from_slice(x),
            Operand::Splat(x) => y.fill(x),
        })?;
        return Ok(y);
    };
    each2(cx, a, second, &mut y, work, f)?;
    rest.iter().try_for_each(|&b| each2(cx, None, b, &mut y, work, f))?;
    Ok(y)
}

#[inline(always)]
fn vector_run<S: Simd, Z: Zip>(s: S, z: &Z, a: Operand<'_, f32>, b: Operand<'_, f32>, y: &mut [f32]) {
    let splat = |x| S::F32::splat(s, x);
    match (a, b) {
        (Operand::Run(a), Operand::Run(b)) => slice::zip_map(
            s,
            a,
            b,
            y,
            #[inline(always)]
            |a, b| z.vector(s, a, b),
        ),
        (Operand::Run(a), Operand::Splat(b)) => {
            let b = splat(b);
            slice::map(
                s,
                a,
                y,
                #[inline(always)]
                |a| z.vector(s, a, b),
            );
        }
        (Operand::Splat(a), Operand::Run(b)) => {
            let a = splat(a);
            slice::map(
                s,
                b,
                y,
                #[inline(always)]
                |b| z.vector(s, a, b),
            );
        }
        (Operand::Splat(a), Operand::Splat(b)) => {
            let mut one = [0.0];
            z.vector(s, splat(a), splat(b)).store_partial(&mut one);
            y.fill(one[0]);
        }
        (Operand::Same, Operand::Run(b)) => slice::zip_map_in_place(
            s,
            y,
            b,
            #[inline(always)]
            |y, b| z.vector(s, y, b),
        ),
        (Operand::Same, Operand::Splat(b)) => {
            let b = splat(b);
            slice::map_in_place(
                s,
                y,
                #[inline(always)]
                |y| z.vector(s, y, b),
            );
        }
        (Operand::Run(a), Operand::Same) => slice::zip_map_in_place(
            s,
            y,
            a,
            #[inline(always)]
            |y, a| z.vector(s, a, y),
        ),
        (Operand::Splat(a), Operand::Same) => {
            let a = splat(a);
            slice::map_in_place(
                s,
                y,
                #[inline(always)]
                |y| z.vector(s, a, y),
            );
        }
        (Operand::Same, Operand::Same) => slice::map_in_place(
            s,
            y,
            #[inline(always)]
            |y| z.vector(s, y, y),
        ),
    }
}

/// Makes a type that is a [`Zip`] an operator; after a semicolon, the inputs that it may overwrite.
macro_rules! zip_op {
    ($t:ty) => {
        zip_op!($t; &[(0, 0), (1, 0)]);
    };
    ($t:ty; $in_place:expr) => {
        impl millstream_graph::Op for $t {
            fn infer(&self, cx: &millstream_graph::InferCx<'_>) -> Result<alloc::vec::Vec<millstream_graph::Fact>, millstream_graph::InferError> {
                crate::elementwise::zip::infer(self, cx)
            }

            fn eval(&self, cx: &mut millstream_graph::EvalCx<'_>) -> Result<(), millstream_graph::EvalError> {
                crate::elementwise::zip::eval(self, cx)
            }

            fn in_place(&self) -> &'static [(usize, usize)] {
                $in_place
            }

            fn permute(&self, cx: &millstream_graph::StepCx<'_>, inputs: &[Option<millstream_tensor::Order>]) -> Option<millstream_graph::Permutation> {
                crate::elementwise::walk::permute_broadcast(cx, inputs)
            }

            fn kernel(&self, _cx: &millstream_graph::StepCx<'_>) -> alloc::string::String {
                "elementwise".into()
            }
        }
    };
}

pub(crate) use zip_op;
