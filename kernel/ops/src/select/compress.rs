//! `Compress`: the slices along an axis (or the elements of the flattened input) for which a condition holds.

use crate::movement::pick;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::Bool;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Compress",
    since: &[9, 11],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Compress { axis: cx.attributes.int("axis")?.copied() })),
};

/// Slices chosen by a condition.
#[derive(Debug, Clone, Copy)]
pub struct Compress {
    axis: Option<i64>,
}

impl Op for Compress {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let kept = cx.fresh("kept");
        Ok(vec![match self.axis {
            None => Fact::new(x.dtype, vec![kept]),
            Some(axis) => {
                let mut dims = x.dims.clone();
                *dims.get_mut(InferCx::axis(axis, x.rank())?).ok_or(InferError::Rank { input: 0, found: 0, wanted: "at least 1" })? = kept;
                Fact::new(x.dtype, dims)
            }
        }])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let (outer, dim, row, axis) = match self.axis {
            None => (1, x.elements(), 1, 0),
            Some(axis) => {
                let axis = InferCx::axis(axis, x.rank())?;
                let dim = *x.get(axis).ok_or(EvalError::Invalid("a scalar has no axis"))?;
                (x[..axis].iter().product(), dim, x[axis + 1..].iter().product::<usize>(), axis)
            }
        };
        let kept: Vec<usize> = cx.input::<Bool>(1)?.iter().take(dim).enumerate().filter(|(_, b)| (*b).into()).map(|(i, _)| i).collect();
        let mut dims = if self.axis.is_some() { x.to_vec() } else { vec![0] };
        dims[axis] = kept.len();
        pick::make(cx, 0, &dims, outer * kept.len(), row, |n| (n / kept.len() * dim + kept[n % kept.len()]) * row)
    }

    fn bound(&self, cx: &InferCx<'_>, _output: usize) -> Option<usize> {
        let x = cx.input(0).ok()?;
        x.shape()?.ok()?.elements().checked_mul(x.dtype.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let keep = case.tensor(1).as_slice::<Bool>().unwrap();
        let keep = |i: usize| keep.get(i).is_some_and(|&b| b.into());
        let data = x.as_slice::<f32>().unwrap();
        let Some(&axis) = case.attributes.int("axis").unwrap() else {
            let out: Vec<f32> = data.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, v)| *v).collect();
            return vec![t(&[out.len()], &out)];
        };
        let axis = axis as usize;
        let inner: usize = x.shape()[axis + 1..].iter().product();
        let out: Vec<f32> = data.iter().enumerate().filter(|(i, _)| keep(i / inner % x.shape()[axis])).map(|(_, v)| *v).collect();
        vec![t(&x.shape().with(axis, (0..x.shape()[axis]).filter(|&i| keep(i)).count()), &out)]
    }

    fn flags(bits: &[u8]) -> Tensor {
        t(&[bits.len()], &bits.iter().map(|&b| Bool::from(b != 0)).collect::<Vec<_>>())
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        rows => Case::new([random(&[3, 2], 1), flags(&[0, 1, 1])]).int("axis", 0);
        columns => Case::new([random(&[3, 4, 2], 1), flags(&[1, 0, 1])]).int("axis", 1);
        flat => Case::new([random(&[3, 2], 1), flags(&[0, 1, 0, 0, 1])]);
        none => Case::new([random(&[3, 2], 1), flags(&[0, 0, 0])]).int("axis", 0);
    }
}
