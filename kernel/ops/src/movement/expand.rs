//! `Expand`: the input broadcast (NumPy's rule, both ways) to the shape that input 1 gives.

use crate::{
    movement::strided::{self, Walk},
    shape::relabel,
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{MAX_RANK, Shape, broadcast};
use smallvec::SmallVec;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Expand",
    since: &[8, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "any",
    build: |_: &BuildCx<'_>| Ok(Box::new(Expand)),
};

/// The input broadcast to a shape.
#[derive(Debug, Clone, Copy)]
pub struct Expand;

impl Op for Expand {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let dims = cx.broadcast(&x.dims, &cx.int_dims(1)?)?;
        if let Some([v]) = relabel::small_ints(x).as_deref()
            && let [n] = &dims[..]
            && let Some(n @ 0..64) = n.as_const()
        {
            return Ok(vec![Fact::of_dims(x.dtype, vec![v.clone(); n as usize], false)]);
        }
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let from = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let wanted: Option<SmallVec<[usize; MAX_RANK]>> = cx.input::<i64>(1)?.iter().map(|d| usize::try_from(d).ok()).collect();
        let wanted = wanted.ok_or(EvalError::Invalid("a dim is negative"))?;
        let dims: Shape = broadcast(&from, &wanted)?;
        let layout = cx.tensor(0)?.layout().broadcast_to(dims)?;
        strided::make(cx, 0, 0, &dims, |_, order| Walk::over(&dims, &strided::signed(&layout), 0, order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let wanted: Vec<usize> = case.tensor(1).as_slice::<i64>().unwrap().iter().map(|&d| d as usize).collect();
        let shape = broadcast(x.shape(), &wanted).unwrap();
        let layout = x.view().layout().broadcast_to(shape).unwrap();
        if let Ok(s) = x.as_strings() {
            return vec![Tensor::from_strings(&shape, layout.offsets().map(|o| s[o].clone()).collect()).unwrap()];
        }
        let size = x.dtype().size();
        let bytes = x.view().bytes().unwrap();
        let out: Vec<u8> = layout.offsets().flat_map(|o| bytes[o * size..(o + 1) * size].to_vec()).collect();
        vec![Tensor::from_bytes(x.dtype(), &shape, &out).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        both_ways => Case::new([random(&[3, 1, 4], 1), t(&[3], &[1i64, 5, 1])]);
        more_axes => Case::new([random(&[3, 1], 1), t(&[3], &[2i64, 1, 6])]);
        batch => Case::new([random_ints(&[1, 700], 0, 9, 1), t(&[2], &[60i64, 700])]);
        scalar => Case::new([t(&[], &[7i32]), t(&[2], &[3i64, 3])]);
        empty => Case::new([random(&[3, 1], 1), t(&[2], &[3i64, 0])]);
        strings => Case::new([Tensor::from_strings(&[1], vec!["a".into()]).unwrap(), t(&[1], &[3i64])]);
    }
}
