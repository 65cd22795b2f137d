//! `BatchNormalization` as inference has it: (x - mean) / √(variance + ε) * scale + bias, with one value each a channel.
//!
//! Training (`training_mode`, or the outputs that only training has) is refused.

use crate::{
    carve::{carve, carved},
    grains,
    numeric::Number,
};
use alloc::{boxed::Box, format, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, Scratch, StepCx};
use millstream_simd::{Simd, SimdF32, dispatch, slice};
use millstream_tensor::{DType, Layout, Order, TensorError, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "BatchNormalization",
    since: &[7, 9, 14, 15],
    inputs: Arity::exactly(5),
    outputs: Arity::range(1, 5),
    attributes: &["epsilon", "momentum", "spatial", "training_mode"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| {
        for (name, wanted) in [("training_mode", 0), ("spatial", 1)] {
            let value = cx.attributes.int_or(name, wanted)?;
            if value != wanted {
                return Err(BuildError::UnsupportedAttribute { name, value: format!("{value}") });
            }
        }
        Arity::exactly(1).check("outputs", cx.outputs)?;
        Ok(Box::new(BatchNormalization { epsilon: cx.attributes.float_or("epsilon", 1e-5)? }))
    },
};

/// (x - mean) / √(variance + ε) * scale + bias.
#[derive(Debug, Clone, Copy)]
pub struct BatchNormalization {
    /// What is added to the variance so that no root is 0.
    pub epsilon: f32,
}

impl Op for BatchNormalization {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        for i in 0..5 {
            let f = cx.input(i)?;
            if !f.dtype.is_float() {
                return Err(InferError::DType { input: i, found: f.dtype });
            }
            if i > 0 && f.rank() != 1 {
                return Err(InferError::Rank { input: i, found: f.rank(), wanted: "1" });
            }
        }
        if x.rank() == 0 {
            return Err(InferError::Rank { input: 0, found: 0, wanted: "1 or more" });
        }
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dtype = cx.dtype(0)?;
        by_dtype!(floats, dtype, T => self.eval_typed::<T>(cx))
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        let channels = cx.input_shape(1).map_or(0, |s| s.elements());
        Scratch { shared: 2 * carved::<f64>(channels), per_worker: 0 }
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let mut wanted: Vec<Option<Order>> = inputs.iter().map(|o| o.map(|_| Order::row_major(1))).collect();
        wanted[0] = Some(order);
        Some(Permutation { inputs: wanted, outputs: vec![order; cx.outputs.len()] })
    }
}

impl BatchNormalization {
    fn eval_typed<T: Number>(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = if cx.in_place(0).is_some() { None } else { Some(cx.input::<T>(0)?) };
        let y = cx.output::<T>(0)?;
        if x.is_some_and(|x| !x.layout().same_memory(y.layout())) {
            return Err(TensorError::Strided.into());
        }
        let (channels, inner) = split(y.layout())?;
        let mut bytes = cx.scratch();
        let too_small = || EvalError::Invalid("scratch memory is too small");
        let factor: &mut [f64] = carve(&mut bytes, channels).ok_or_else(too_small)?;
        let term: &mut [f64] = carve(&mut bytes, channels).ok_or_else(too_small)?;
        read(cx, 1, factor)?;
        let mut values = vec![0.0; channels];
        read(cx, 4, &mut values)?;
        factor.iter_mut().zip(&values).for_each(|(f, v)| *f /= libm::sqrt(v + f64::from(self.epsilon)));
        read(cx, 2, term)?;
        read(cx, 3, &mut values)?;
        term.iter_mut().zip(&values).zip(&*factor).for_each(|((t, mean), f)| *t -= mean * f);

        let (x, y, level) = (x.map(|x| x.data()), y.into_data(), cx.level());
        let rows = grains::rows(y.len().checked_div(inner).unwrap_or(0), inner, 1);
        // Rows of `inner` elements of one channel each; channels-last, a row is one element.
        let tiles = Tiles::rows(y, inner, rows).ok_or(EvalError::Output(0))?;
        let (factor, term) = (&*factor, &*term);
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            for (i, y) in tile.as_slice()?.chunks_exact_mut(inner).enumerate() {
                let row = grain * rows + i;
                let x = x.map(|x| &x[row * inner..(row + 1) * inner]);
                let (f, t) = (factor[row % channels], term[row % channels]);
                if inner > 1
                    && T::DTYPE == DType::F32
                    && let Ok(y) = bytemuck::try_cast_slice_mut::<T, f32>(y)
                {
                    let x = x.and_then(|x| bytemuck::try_cast_slice::<T, f32>(x).ok());
                    dispatch!(level, s => line(s, x, y, f as f32, t as f32));
                    continue;
                }
                for (j, y) in y.iter_mut().enumerate() {
                    let v = Number::to_f64(x.map_or(*y, |x| x[j]));
                    *y = T::from_f64(v * f + t);
                }
            }
            Some(())
        })
    }
}

#[inline(always)]
fn line<S: Simd>(s: S, x: Option<&[f32]>, y: &mut [f32], factor: f32, term: f32) {
    let (f, t) = (S::F32::splat(s, factor), S::F32::splat(s, term));
    match x {
        Some(x) => slice::map(
            s,
            x,
            y,
            #[inline(always)]
            |x| x.mul_add(f, t),
        ),
        None => slice::map_in_place(
            s,
            y,
            #[inline(always)]
            |x| x.mul_add(f, t),
        ),
    }
}

/// Channels, and elements of one channel that follow each other in memory.
fn split(layout: &Layout) -> Result<(usize, usize), EvalError> {
    let shape = layout.shape();
    if shape.rank() < 2 {
        return Ok((1, 1));
    }
    let order = layout.order().ok_or(TensorError::Strided)?;
    Ok((shape[1], order.axes().rev().take_while(|&a| a != 1).map(|a| shape[a]).product()))
}

/// Reads a vector of one value a channel.
fn read(cx: &EvalCx<'_>, input: usize, to: &mut [f64]) -> Result<(), EvalError> {
    let view = cx.tensor(input)?;
    if view.shape().elements() != to.len() {
        return Err(EvalError::Invalid("a vector is not as long as there are channels"));
    }
    by_dtype!(floats, view.dtype(), T => {
        to.iter_mut().zip(cx.input::<T>(input)?.iter()).for_each(|(to, v)| *to = Number::to_f64(v));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, map, reals, spread};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let channels = x.shape().get(1).copied().unwrap_or(1);
        let inner: usize = x.shape().iter().skip(2).product();
        let of = |i: usize| reals(case.tensor(i));
        let (scale, bias, mean, variance) = (of(1), of(2), of(3), of(4));
        let y = reals(x).into_iter().enumerate().map(|(i, v)| {
            let c = i / inner % channels;
            (v - mean[c]) / (variance[c] + case.float_or("epsilon", 1e-5)).sqrt() * scale[c] + bias[c]
        });
        vec![from_reals(x.dtype(), x.shape(), &y.collect::<Vec<f64>>())]
    }

    fn case(dtype: DType, dims: &[usize]) -> Case {
        let vector = |seed| spread(dtype, &[dims.get(1).copied().unwrap_or(1)], 1.0, seed);
        let variance = map(&Case::new([vector(5)]), |x| x.abs() + 0.5).remove(0);
        Case::new([spread(dtype, dims, 2.0, 1), vector(2), vector(3), vector(4), variance])
    }

    op_tests! { DEF, reference, Tolerance::SUM;
        image => case(DType::F32, &[2, 5, 7, 9]);
        sequence => case(DType::F32, &[2, 70, 9]).float("epsilon", 1e-3);
        matrix => case(DType::F32, &[33, 17]);
        vector => case(DType::F32, &[33]);
        large => case(DType::F32, &[1, 3, 200, 201]);
        f64s => case(DType::F64, &[2, 3, 4]);
        f16s => case(DType::F16, &[2, 3, 4]);
        empty => case(DType::F32, &[0, 3, 4]);
        old => case(DType::F32, &[2, 3, 4]).version(7).int("spatial", 1);
    }
}
