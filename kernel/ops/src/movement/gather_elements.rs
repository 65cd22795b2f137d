//! `GatherElements`: each output element is the input's element at the same place, but for its index along `axis`.

use crate::movement::{index, pick};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "GatherElements",
    since: &[11, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "any; indices i32, i64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(GatherElements { axis: cx.attributes.int_or("axis", 0)? })),
};

/// Elements picked along an axis.
#[derive(Debug, Clone, Copy)]
pub struct GatherElements {
    axis: i64,
}

impl GatherElements {
    /// The axis as the model gives it, maybe negative.
    pub fn axis(&self) -> i64 {
        self.axis
    }
}

impl Op for GatherElements {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, i) = (cx.input(0)?, cx.input(1)?);
        InferCx::axis(self.axis, x.rank())?;
        if i.rank() != x.rank() {
            return Err(InferError::Rank { input: 1, found: i.rank(), wanted: "the rank of the data" });
        }
        Ok(vec![Fact::new(x.dtype, i.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let dims = *cx.spec(1).ok_or(EvalError::MissingInput(1))?.shape();
        let axis = InferCx::axis(self.axis, x.rank())?;
        if x.rank() == 0 || dims.rank() != x.rank() || (0..x.rank()).any(|a| a != axis && dims[a] > x[a]) {
            return Err(EvalError::Invalid("the indices do not fit the data"));
        }
        let at = index::indices(cx, 1, x[axis])?;
        let strides = x.row_major();
        pick::make(cx, 0, &dims, at.len(), 1, |n| source(n, &dims, &strides, axis, at[n]))
    }
}

/// The source's offset of element `n` of `dims` with its index along `axis` replaced by `at`.
pub(crate) fn source(n: usize, dims: &[usize], strides: &[usize], axis: usize, at: usize) -> usize {
    let (mut rest, mut offset) = (n, 0);
    for a in (0..dims.len()).rev() {
        offset += strides[a] * if a == axis { at } else { rest % dims[a] };
        rest /= dims[a];
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, i) = (case.tensor(0), case.tensor(1));
        let axis = case.int_or("axis", 0) as usize;
        let (x, i) = (x.view().typed::<f32>().unwrap(), i.view().typed::<i64>().unwrap());
        let mut out = vec![];
        for (n, v) in i.iter().enumerate() {
            let (mut rest, mut index) = (n, vec![0; x.shape().rank()]);
            for a in (0..index.len()).rev() {
                index[a] = rest % i.shape()[a];
                rest /= i.shape()[a];
            }
            index[axis] = if v < 0 { v + x.shape()[axis] as i64 } else { v } as usize;
            out.push(x.at(&index).unwrap());
        }
        vec![t(i.shape(), &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        rows => Case::new([random(&[5, 4], 1), random_ints(&[3, 4], -5, 5, 2)]);
        columns => Case::new([random(&[3, 4, 5], 1), random_ints(&[2, 9, 5], 0, 4, 2)]).int("axis", 1);
        empty => Case::new([random(&[3, 4], 1), random_ints(&[0, 4], 0, 1, 2)]);
    }
}
