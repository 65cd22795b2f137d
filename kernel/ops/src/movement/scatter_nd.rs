//! `ScatterND`: the data with slices replaced, or combined with updates, each at an index tuple: the last axis of the indices.

use super::{
    index,
    scatter::{self, Reduction},
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ScatterND",
    since: &[11, 13, 16, 18],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &["reduction"],
    subgraphs: &[],
    dtypes: "any; reductions: numbers; indices i64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ScatterNd { reduction: Reduction::parse(cx)? })),
};

/// Slices replaced at index tuples.
#[derive(Debug, Clone, Copy)]
pub struct ScatterNd {
    reduction: Reduction,
}

impl Op for ScatterNd {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let i = *cx.spec(1).ok_or(EvalError::MissingInput(1))?.shape();
        let Some((&depth, tuples)) = i.split_last() else { return Err(EvalError::Invalid("the indices are a scalar")) };
        if depth > x.rank() {
            return Err(EvalError::Invalid("the index tuples do not fit the data"));
        }
        let (tuples, row): (usize, usize) = (tuples.iter().product(), x[depth..].iter().product());
        let strides = x.row_major();
        let values = index::integers(cx, 1)?;
        let mut starts = Vec::with_capacity(tuples);
        for n in 0..tuples {
            let mut at = 0;
            for (k, &v) in values[n * depth..(n + 1) * depth].iter().enumerate() {
                at += index::within(v, x[k])? * strides[k];
            }
            starts.push(at);
        }
        scatter::make(cx, self.reduction, 2, tuples, row, |n| starts[n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, i, u) = (case.tensor(0), case.tensor(1), case.tensor(2));
        let depth = *i.shape().last().unwrap();
        let row: usize = x.shape()[depth..].iter().product();
        let mut out = x.as_slice::<f32>().unwrap().to_vec();
        for (n, tuple) in i.as_slice::<i64>().unwrap().chunks(depth).enumerate() {
            let at: usize = tuple
                .iter()
                .enumerate()
                .map(|(k, &v)| (if v < 0 { v + x.shape()[k] as i64 } else { v }) as usize * x.shape()[k + 1..].iter().product::<usize>())
                .sum();
            for j in 0..row {
                let (to, new) = (&mut out[at + j], u.as_slice::<f32>().unwrap()[n * row + j]);
                *to = match case.attributes.string_or("reduction", "none").unwrap() {
                    "add" => *to + new,
                    "mul" => *to * new,
                    "max" => to.max(new),
                    "min" => to.min(new),
                    _ => new,
                };
            }
        }
        vec![t(x.shape(), &out)]
    }

    fn rows() -> Case {
        Case::new([random(&[4, 5, 2], 1), t(&[3, 1], &[0i64, -1, 0]), random(&[3, 5, 2], 3)])
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        replace => rows();
        add => rows().string("reduction", "add");
        mul => rows().string("reduction", "mul");
        max => rows().string("reduction", "max");
        min => rows().string("reduction", "min");
        elements => Case::new([random(&[4, 5], 1), t(&[2, 2], &[1i64, 2, -1, -2]), random(&[2], 3)]);
    }
}
