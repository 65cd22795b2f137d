//! `Clip`: min(max(x, low), high); NaN stays NaN. The bounds are attributes before opset 11 and scalar inputs from then on.

use super::walk::{Operand, each1, permute_one, source};
use crate::numeric::{Number, Types};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{Simd, SimdF32, dispatch, slice};
use millstream_tensor::{DType, Order};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Clip",
    since: &[6, 11, 12, 13],
    inputs: Arity::range(1, 3),
    outputs: Arity::exactly(1),
    attributes: &["min", "max"],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Clip { min: cx.attributes.float("min")?.copied(), max: cx.attributes.float("max")?.copied() })),
};

/// min(max(x, low), high).
#[derive(Debug, Clone, Copy)]
pub struct Clip {
    /// The lower bound, where it is an attribute.
    pub min: Option<f32>,
    /// The upper bound, where it is an attribute.
    pub max: Option<f32>,
}

impl Clip {
    /// The bounds, if they are known before a run: attributes, or constant inputs.
    pub fn bounds(&self, min: Option<&Fact>, max: Option<&Fact>) -> Option<(f32, f32)> {
        let one = |attribute: Option<f32>, input: Option<&Fact>, default| match (attribute, input) {
            (Some(v), None) => Some(v),
            (None, None) => Some(default),
            (_, Some(fact)) => fact.floats()?.first().copied(),
        };
        Some((one(self.min, min, f32::NEG_INFINITY)?, one(self.max, max, f32::INFINITY)?))
    }

    fn bound<T: Number>(cx: &EvalCx<'_>, input: usize, attribute: Option<f32>) -> Result<Option<T>, EvalError> {
        match cx.optional::<T>(input)? {
            Some(view) if view.shape().elements() == 1 => Ok(Some(view.data()[0])),
            Some(_) => Err(EvalError::Invalid("a bound of Clip must be a scalar")),
            None => Ok(attribute.map(|a| T::from_f64(a.into()))),
        }
    }
}

impl Op for Clip {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Types::Numbers.check(0, x.dtype)?;
        for i in 1..3 {
            if let Some(bound) = cx.optional(i).filter(|b| b.dtype != x.dtype) {
                return Err(InferError::DType { input: i, found: bound.dtype });
            }
        }
        let bound = |i: usize| cx.optional(i).map_or(Some(None), |f| f.int_dims().and_then(|d| d.first().cloned()).map(Some));
        if x.as_const().is_none()
            && let (Some(values), Some(low), Some(high)) = (x.int_dims(), bound(1), bound(2))
            && let Some(clipped) = values.iter().map(|v| clip_dim(v, low.as_ref(), high.as_ref())).collect()
        {
            return Ok(vec![Fact::of_dims(x.dtype, clipped, x.rank() == 0)]);
        }
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dtype = cx.dtype(0)?;
        if dtype == DType::F32 {
            let low = Clip::bound(cx, 1, self.min)?.unwrap_or(f32::NEG_INFINITY);
            let high = Clip::bound(cx, 2, self.max)?.unwrap_or(f32::INFINITY);
            let level = cx.level();
            let (x, mut y) = (source::<f32>(cx, 0)?, cx.output::<f32>(0)?);
            return each1(cx, x, &mut y, 1, &|x, y| dispatch!(level, s => clip(s, x, y, low, high)));
        }
        by_dtype!(numbers, dtype, T => {
            let (low, high) = (Clip::bound::<T>(cx, 1, self.min)?, Clip::bound::<T>(cx, 2, self.max)?);
            let f = |x: T| {
                let x = low.map_or(x, |low| if x < low { low } else { x });
                high.map_or(x, |high| if x > high { high } else { x })
            };
            let (x, mut y) = (source::<T>(cx, 0)?, cx.output::<T>(0)?);
            each1(cx, x, &mut y, 1, &|x, y| match x {
                Operand::Same => y.iter_mut().for_each(|y| *y = f(*y)),
                Operand::Run(x) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)),
                Operand::Splat(x) => y.fill(f(x)),
            })
        })
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        permute_one(inputs)
    }

    fn kernel(&self, _cx: &StepCx<'_>) -> alloc::string::String {
        "elementwise".into()
    }
}

fn clip_dim(v: &Dim, low: Option<&Dim>, high: Option<&Dim>) -> Option<Dim> {
    let v = match low {
        Some(low) if v.sub(low).at_least(0) => v,
        Some(low) if v.sub(low).at_most(0) => low,
        Some(_) => return None,
        None => v,
    };
    match high {
        Some(high) if v.sub(high).at_most(0) => Some(v.clone()),
        Some(high) if v.sub(high).at_least(0) => Some(high.clone()),
        Some(_) => None,
        None => Some(v.clone()),
    }
}

#[inline(always)]
fn clip<S: Simd>(s: S, x: Operand<'_, f32>, y: &mut [f32], low: f32, high: f32) {
    let (low, high) = (S::F32::splat(s, low), S::F32::splat(s, high));
    // With the bounds first, NaN stays.
    match x {
        Operand::Same => slice::map_in_place(
            s,
            y,
            #[inline(always)]
            |x| high.min(low.max(x)),
        ),
        Operand::Run(x) => slice::map(
            s,
            x,
            y,
            #[inline(always)]
            |x| high.min(low.max(x)),
        ),
        Operand::Splat(x) => {
            y.fill(x);
            slice::map_in_place(
                s,
                y,
                #[inline(always)]
                |x| high.min(low.max(x)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Case, Tolerance, spread, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let bound = |name: &str, i: usize, default: f32| case.optional(i).map_or_else(|| case.float_or(name, default), |b| testing::reals(b)[0]);
        let (low, high) = (bound("min", 1, f32::NEG_INFINITY), bound("max", 2, f32::INFINITY));
        testing::map(case, |x| if x < low { low } else { x })
            .into_iter()
            .map(|y| {
                let clipped: Vec<f64> = testing::reals(&y).into_iter().map(|x| if x > high { high } else { x }).collect();
                testing::from_reals(y.dtype(), y.shape(), &clipped)
            })
            .collect()
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        attributes => Case::new([spread(DType::F32, &[2, 3, 5, 7], 9.0, 1)]).float("min", 0.0).float("max", 6.0).version(6);
        none => Case::new([spread(DType::F32, &[33], 9.0, 1)]);
        both => Case::new([spread(DType::F32, &[2, 3, 5, 7], 9.0, 1), t(&[], &[-1.5f32]), t(&[], &[2.0f32])]);
        upper => Case::new([spread(DType::F32, &[70_001], 9.0, 1)]).input(None).input(t(&[], &[2.0f32]));
        crossed => Case::new([spread(DType::F32, &[9], 9.0, 1), t(&[], &[3.0f32]), t(&[], &[-3.0f32])]);
        nan => Case::new([t(&[2], &[f32::NAN, 9.0]), t(&[], &[0.0f32]), t(&[], &[2.0f32])]);
        i64s => Case::new([spread(DType::I64, &[3, 4], 9.0, 1), t(&[], &[-2i64]), t(&[], &[2i64])]);
        i8s => Case::new([spread(DType::I8, &[3, 4], 90.0, 1), t(&[], &[-20i8])]);
        f16s => Case::new([spread(DType::F16, &[3, 4], 9.0, 1), spread(DType::F16, &[], 1.0, 2)]);
        empty => Case::new([spread(DType::F32, &[0], 9.0, 1), t(&[], &[0.0f32])]);
    }
}
