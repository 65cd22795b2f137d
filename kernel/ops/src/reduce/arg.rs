//! The index of an extreme element along an axis.

use super::axes::{Axes, Split};
use crate::numeric::{Number, Types};
use alloc::{vec, vec::Vec};
use millstream_graph::{BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Permutation, StepCx};
use millstream_tensor::{DType, Order, tile::Tiles};

/// The attributes of `ArgMax` and `ArgMin`.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// The axis.
    pub axis: i64,
    /// True if the axis stays, with an extent of 1.
    pub keepdims: bool,
    /// True if the last of equal elements counts.
    pub last: bool,
}

impl Arg {
    /// Reads the attributes.
    pub(crate) fn build(cx: &BuildCx<'_>) -> Result<Arg, BuildError> {
        Ok(Arg {
            axis: cx.attributes.int_or("axis", 0)?,
            keepdims: cx.attributes.flag_or("keepdims", true)?,
            last: cx.attributes.flag_or("select_last_index", false)?,
        })
    }

    fn axes(&self) -> Axes {
        Axes { axes: Some(vec![self.axis]), keepdims: self.keepdims, noop: false }
    }
}

/// The dims that are left.
pub(crate) fn infer(arg: &Arg, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
    let x = cx.input(0)?;
    Types::Numbers.check(0, x.dtype)?;
    let axes = arg.axes();
    let axis = InferCx::axis(arg.axis, x.rank())?;
    if x.dims.get(axis).is_some_and(|d| d.is(0)) {
        return Err(InferError::Invalid("no element along the axis"));
    }
    let reduced = axes.reduced_by_facts(cx)?;
    Ok(vec![Fact::new(DType::I64, axes.dims(&x.dims, &reduced))])
}

/// Computes the indices. `better` says that its first argument wins over its second.
pub(crate) fn eval(arg: &Arg, cx: &mut EvalCx<'_>, better: fn(f64, f64) -> bool, better_int: fn(i128, i128) -> bool) -> Result<(), EvalError> {
    let dtype = cx.dtype(0)?;
    by_dtype!(numbers, dtype, T => {
        if dtype.is_float() {
            run::<T>(arg, cx, |a, b| {
                let (a, b) = (Number::to_f64(a), Number::to_f64(b));
                !b.is_nan() && (a.is_nan() || better(a, b) || (arg.last && a == b))
            })
        } else {
            run::<T>(arg, cx, |a, b| better_int(a.to_i128(), b.to_i128()) || (arg.last && a == b))
        }
    })
}

fn run<T: Number>(arg: &Arg, cx: &mut EvalCx<'_>, wins: impl Fn(T, T) -> bool + Sync) -> Result<(), EvalError> {
    let (x, y) = (cx.input::<T>(0)?, cx.output::<i64>(0)?);
    let reduced = arg.axes().reduced_by_attributes(x.shape().rank())?;
    let split = Split::new(x.layout(), y.layout(), &reduced)?;
    let y = y.into_data();
    if split.reduced.count() == 0 && !y.is_empty() {
        return Err(EvalError::Invalid("no element along the axis"));
    }
    let chunk = crate::grains::chunk(y.len(), split.reduced.count());
    let tiles = Tiles::chunks(y, chunk).ok_or(EvalError::Output(0))?;
    cx.parallel(tiles.count(), |grain, _| {
        let mut tile = tiles.claim(grain)?;
        for (i, y) in tile.as_slice()?.iter_mut().enumerate() {
            let part = &x.data()[split.kept.offset(grain * chunk + i)..];
            let (mut best, mut at, mut next) = (part[0], 0, 0);
            split.reduced.each(|o| {
                if next > 0 && wins(part[o], best) {
                    (best, at) = (part[o], next);
                }
                next += 1;
            });
            *y = at;
        }
        Some(())
    })
}

/// The indices' order for an input's.
pub(crate) fn permute(arg: &Arg, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
    let order = (*inputs.first()?)?;
    Some(Permutation { inputs: vec![Some(order)], outputs: vec![arg.axes().order(order, cx.outputs.first()?.shape().rank())] })
}

/// Makes a type around [`Arg`] an operator.
macro_rules! arg_op {
    ($t:ty, |$a:ident, $b:ident| $better:expr) => {
        impl millstream_graph::Op for $t {
            fn infer(&self, cx: &millstream_graph::InferCx<'_>) -> Result<alloc::vec::Vec<millstream_graph::Fact>, millstream_graph::InferError> {
                crate::reduce::arg::infer(&self.arg, cx)
            }

            fn eval(&self, cx: &mut millstream_graph::EvalCx<'_>) -> Result<(), millstream_graph::EvalError> {
                crate::reduce::arg::eval(&self.arg, cx, |$a, $b| $better, |$a, $b| $better)
            }

            fn permute(&self, cx: &millstream_graph::StepCx<'_>, inputs: &[Option<millstream_tensor::Order>]) -> Option<millstream_graph::Permutation> {
                crate::reduce::arg::permute(&self.arg, cx, inputs)
            }
        }
    };
}
pub(crate) use arg_op;
