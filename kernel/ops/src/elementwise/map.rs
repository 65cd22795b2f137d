//! Operators of one input whose output has its type: `y = f(x)`.

use super::walk::{Operand, each1, source};
use crate::numeric::{Number, Types};
use alloc::{vec, vec::Vec};
use millstream_graph::{Dim, EvalCx, EvalError, Fact, InferCx, InferError};
use millstream_simd::{Simd, SimdF32, dispatch, slice};
use millstream_tensor::DType;

/// What an operator computes for one element.
pub(crate) trait Map: Sync {
    /// The element types of the input.
    const TYPES: Types = Types::Floats;
    /// What an element costs, in additions.
    const WORK: usize = 1;

    /// The function on floats.
    fn real(&self, x: f64) -> f64;

    /// The function on integers, if [`Map::TYPES`] has them.
    fn int(&self, x: i128) -> i128 {
        x
    }

    /// The function on vectors of f32; lane by lane where no vector code exists.
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, x: S::F32) -> S::F32 {
        lanewise(s, x, |x| self.real(x.into()) as f32)
    }

    /// The function on symbolic integers, where it can be expressed.
    fn dim(&self, _x: &Dim) -> Option<Dim> {
        None
    }
}

/// `f` of each lane.
#[inline(always)]
pub(crate) fn lanewise<S: Simd>(s: S, x: S::F32, f: impl Fn(f32) -> f32) -> S::F32 {
    // No level has more than 16 lanes.
    let mut lanes = [0.0; 16];
    x.store(&mut lanes);
    lanes.iter_mut().take(S::F32::LANES).for_each(|x| *x = f(*x));
    S::F32::load(s, &lanes)
}

/// Type and dims pass through; small symbolic integers are computed.
pub(crate) fn infer<M: Map>(m: &M, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let x = cx.input(0)?;
    M::TYPES.check(0, x.dtype)?;
    if x.as_const().is_none()
        && let Some(values) = x.int_dims().and_then(|v| v.iter().map(|d| m.dim(d)).collect())
    {
        return Ok(vec![Fact::of_dims(x.dtype, values, x.rank() == 0)]);
    }
    Ok(vec![Fact::new(x.dtype, x.dims.clone())])
}

/// Computes the output in the input's own memory order.
pub(crate) fn eval<M: Map>(m: &M, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
    let dtype = cx.dtype(0)?;
    M::TYPES.check_kernel(dtype)?;
    if dtype == DType::F32 {
        let level = cx.level();
        let (x, mut y) = (source::<f32>(cx, 0)?, cx.output::<f32>(0)?);
        return each1(cx, x, &mut y, M::WORK, &|x, y| dispatch!(level, s => vector_run(s, m, x, y)));
    }
    let real = |x: f64| m.real(x);
    let int = |x: i128| m.int(x);
    by_dtype!(all, dtype, T => slow::<T>(cx, M::WORK, &real, &int))
}

#[inline(always)]
fn vector_run<S: Simd, M: Map>(s: S, m: &M, x: Operand<'_, f32>, y: &mut [f32]) {
    match x {
        Operand::Same => slice::map_in_place(
            s,
            y,
            #[inline(always)]
            |x| m.vector(s, x),
        ),
        Operand::Run(x) => slice::map(
            s,
            x,
            y,
            #[inline(always)]
            |x| m.vector(s, x),
        ),
        Operand::Splat(x) => {
            y.fill(x);
            slice::map_in_place(
                s,
                y,
                #[inline(always)]
                |x| m.vector(s, x),
            );
        }
    }
}

/// Any type: floats through f64, the others through i128.
fn slow<T: Number>(cx: &mut EvalCx<'_>, work: usize, real: &(dyn Fn(f64) -> f64 + Sync), int: &(dyn Fn(i128) -> i128 + Sync)) -> Result<(), EvalError> {
    let f = |x: T| if T::DTYPE.is_float() { T::from_f64(real(Number::to_f64(x))) } else { T::from_i128(int(x.to_i128())) };
    let (x, mut y) = (source::<T>(cx, 0)?, cx.output::<T>(0)?);
    each1(cx, x, &mut y, work, &|x, y| match x {
        Operand::Same => y.iter_mut().for_each(|y| *y = f(*y)),
        Operand::Run(x) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)),
        Operand::Splat(x) => y.fill(f(x)),
    })
}

/// `y = f(x)` where the output has another type.
pub(crate) fn convert<T: Number, U: Number>(cx: &mut EvalCx<'_>, f: impl Fn(T) -> U + Sync) -> Result<(), EvalError> {
    let (x, mut y) = (cx.input::<T>(0)?, cx.output::<U>(0)?);
    each1(cx, Some(x), &mut y, 1, &|x, y| match x {
        Operand::Same => {}
        Operand::Run(x) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)),
        Operand::Splat(x) => y.fill(f(x)),
    })
}

/// Makes a type that is a [`Map`] an operator.
macro_rules! map_op {
    ($t:ty) => {
        impl millstream_graph::Op for $t {
            fn infer(&self, cx: &millstream_graph::InferCx<'_>) -> Result<alloc::vec::Vec<millstream_graph::Fact>, millstream_graph::InferError> {
                crate::elementwise::map::infer(self, cx)
            }

            fn eval(&self, cx: &mut millstream_graph::EvalCx<'_>) -> Result<(), millstream_graph::EvalError> {
                crate::elementwise::map::eval(self, cx)
            }

            fn in_place(&self) -> &'static [(usize, usize)] {
                &[(0, 0)]
            }

            fn permute(&self, _cx: &millstream_graph::StepCx<'_>, inputs: &[Option<millstream_tensor::Order>]) -> Option<millstream_graph::Permutation> {
                crate::elementwise::walk::permute_one(inputs)
            }

            fn kernel(&self, _cx: &millstream_graph::StepCx<'_>) -> alloc::string::String {
                "elementwise".into()
            }
        }
    };
}

pub(crate) use map_op;
