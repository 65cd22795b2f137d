//! `GatherND`: slices of the input, each at an index tuple: the last axis of the indices. The first `batch_dims` axes are
//! shared by both.

use crate::movement::{index, pick};
use alloc::{boxed::Box, string::ToString, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "GatherND",
    since: &[11, 12, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["batch_dims"],
    subgraphs: &[],
    dtypes: "any; indices i64",
    build: |cx: &BuildCx<'_>| {
        let batch = cx.attributes.int_or("batch_dims", 0)?;
        let batch = usize::try_from(batch).map_err(|_| BuildError::UnsupportedAttribute { name: "batch_dims", value: batch.to_string() })?;
        Ok(Box::new(GatherNd { batch }))
    },
};

/// Slices at index tuples.
#[derive(Debug, Clone, Copy)]
pub struct GatherNd {
    batch: usize,
}

impl GatherNd {
    /// Whether tuples of `depth` indices fit data and indices of these ranks.
    fn fits(&self, x: usize, i: usize, depth: usize) -> bool {
        i > self.batch && depth.checked_add(self.batch).is_some_and(|d| d <= x)
    }
}

impl Op for GatherNd {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, i) = (cx.input(0)?, cx.input(1)?);
        let depth = i.dims.last().ok_or(InferError::Rank { input: 1, found: 0, wanted: "at least 1" })?.as_extent().ok_or(InferError::NeedsDims(1))?;
        if !self.fits(x.rank(), i.rank(), depth) {
            return Err(InferError::Invalid("the index tuples do not fit the data"));
        }
        let mut dims = i.dims[..i.rank() - 1].to_vec();
        dims.extend_from_slice(&x.dims[self.batch + depth..]);
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let i = *cx.spec(1).ok_or(EvalError::MissingInput(1))?.shape();
        let depth = *i.last().ok_or(EvalError::Invalid("the indices are a scalar"))?;
        let b = self.batch;
        if !self.fits(x.rank(), i.rank(), depth) || i[..b] != x[..b] {
            return Err(EvalError::Invalid("the index tuples do not fit the data"));
        }
        let row: usize = x[b + depth..].iter().product();
        let batch_block: usize = x[b..].iter().product();
        let tuples: usize = i[..i.rank() - 1].iter().product();
        let per_batch: usize = i[b..i.rank() - 1].iter().product();
        let strides = x.row_major();
        let values = index::integers(cx, 1)?;
        let mut starts = Vec::with_capacity(tuples);
        for n in 0..tuples {
            let mut at = n / per_batch.max(1) * batch_block;
            for (k, &v) in values[n * depth..(n + 1) * depth].iter().enumerate() {
                at += index::within(v, x[b + k])? * strides[b + k];
            }
            starts.push(at);
        }
        let mut dims = i[..i.rank() - 1].to_vec();
        dims.extend_from_slice(&x[b + depth..]);
        pick::make(cx, 0, &dims, tuples, row, |n| starts[n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, t};
    use millstream_tensor::Tensor;

    /// The examples of the operator's specification.
    fn reference(case: &Case) -> Vec<Tensor> {
        let data = case.tensor(0).as_slice::<i32>().unwrap();
        let rows: &[(usize, usize)] = match (case.tensor(0).shape().rank(), case.int_or("batch_dims", 0), case.tensor(1).shape().rank()) {
            (2, 0, _) => &[(0, 1), (3, 1)],
            (3, 0, 2) => &[(2, 2), (4, 2)],
            (3, 0, _) => &[(2, 2), (4, 2)],
            _ => &[(2, 2), (4, 2)],
        };
        let values: Vec<i32> = rows.iter().flat_map(|&(a, n)| data[a..a + n].to_vec()).collect();
        let dims: &[usize] = match (case.tensor(0).shape().rank(), case.tensor(1).shape().rank()) {
            (2, _) => &[2],
            (_, 3) => &[2, 1, 2],
            _ => &[2, 2],
        };
        vec![t(dims, &values)]
    }

    fn cube() -> Tensor {
        t(&[2, 2, 2], &[0i32, 1, 2, 3, 4, 5, 6, 7])
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        elements => Case::new([t(&[2, 2], &[0i32, 1, 2, 3]), t(&[2, 2], &[0i64, 0, 1, -1])]);
        rows => Case::new([cube(), t(&[2, 2], &[0i64, 1, 1, 0])]);
        deep => Case::new([cube(), t(&[2, 1, 2], &[0i64, 1, 1, 0])]);
        batched => Case::new([cube(), t(&[2, 1], &[1i64, 0])]).int("batch_dims", 1);
    }
}
