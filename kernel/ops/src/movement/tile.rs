//! `Tile`: the input repeated along each axis.

use crate::movement::{
    index,
    strided::{self, Walk},
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{Order, Shape};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Tile",
    since: &[6, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "any",
    build: |_: &BuildCx<'_>| Ok(Box::new(Tile)),
};

/// The input repeated.
#[derive(Debug, Clone, Copy)]
pub struct Tile;

impl Op for Tile {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, repeats) = (cx.input(0)?, cx.int_dims(1)?);
        if repeats.len() != x.rank() || repeats.iter().any(|r| r.as_const().is_some_and(|r| r < 0)) {
            return Err(InferError::Invalid("there must be one repeat, not negative, for each axis"));
        }
        let dims: Vec<Dim> = x.dims.iter().zip(&repeats).map(|(d, r)| d.mul(r)).collect();
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let from = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let repeats: Option<Vec<usize>> = index::integers(cx, 1)?.into_iter().map(|r| usize::try_from(r).ok()).collect();
        let repeats = repeats.filter(|r| r.len() == from.rank()).ok_or(EvalError::Invalid("there must be one repeat, not negative, for each axis"))?;
        let dims: Vec<usize> = from.iter().zip(&repeats).map(|(d, r)| d.saturating_mul(*r)).collect();
        let dims = Shape::new(&dims)?;
        strided::make(cx, 0, 0, &dims, |layout, order| {
            let mut walk = Walk::new(0);
            for axis in order.axes() {
                walk.push(repeats[axis], 0);
                walk.push(from[axis], layout.strides()[axis] as isize);
            }
            walk
        })
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        Some(Permutation { inputs: vec![Some(order), inputs.get(1)?.map(|_| Order::row_major(1))], outputs: vec![order] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let dims: Vec<usize> = x.shape().iter().zip(case.tensor(1).as_slice::<i64>().unwrap()).map(|(d, r)| d * *r as usize).collect();
        let (view, size) = (x.view(), x.dtype().size());
        let mut out = vec![];
        for n in 0..dims.iter().product() {
            let (mut rest, mut index) = (n, vec![0; dims.len()]);
            for a in (0..dims.len()).rev() {
                index[a] = rest % dims[a] % x.shape()[a];
                rest /= dims[a];
            }
            let o = view.layout().offset(&index).unwrap() * size;
            out.extend(&view.bytes().unwrap()[o..o + size]);
        }
        vec![Tensor::from_bytes(x.dtype(), &dims, &out).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        all_axes => Case::new([random(&[2, 3, 4], 1), t(&[3], &[2i64, 1, 3])]);
        rows => Case::new([random(&[1, 300], 1), t(&[2], &[70i64, 1])]);
        integers => Case::new([random_ints(&[2, 2], 0, 9, 1), t(&[2], &[2i64, 2])]);
        none => Case::new([random(&[2, 2], 1), t(&[2], &[2i64, 0])]);
        scalar => Case::new([random(&[], 1), t::<i64>(&[0], &[])]);
    }
}
