//! `Flatten`: the axes before `axis` as one, those from `axis` on as another.

use crate::{
    movement::flat,
    shape::{relabel, reshape::relabelled},
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Flatten",
    since: &[1, 9, 11, 13, 21, 23, 24, 25],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["axis"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Flatten { axis: cx.attributes.int_or("axis", 1)? })),
};

/// A matrix of the same elements.
#[derive(Debug, Clone, Copy)]
pub struct Flatten {
    axis: i64,
}

impl Flatten {
    fn dims(&self, x: &[Dim]) -> Result<Vec<Dim>, InferError> {
        let rank = x.len() as i64;
        let axis = if self.axis < 0 { self.axis.saturating_add(rank) } else { self.axis };
        if axis < 0 || axis > rank {
            return Err(InferError::Invalid("the axis is out of range"));
        }
        let (rows, columns) = x.split_at(axis as usize);
        Ok(vec![Dim::product(rows), Dim::product(columns)])
    }
}

impl Op for Flatten {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Ok(vec![Fact::new(x.dtype, self.dims(&x.dims)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dims = relabel::extents(&self.dims(&relabel::dims_of(cx, 0)?)?)?;
        flat::copy(cx, 0, &dims)
    }

    fn is_alias(&self) -> bool {
        true
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        relabelled(cx, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let axis = case.int_or("axis", 1);
        let axis = if axis < 0 { axis + x.shape().rank() as i64 } else { axis } as usize;
        vec![x.reshaped(&[x.shape()[..axis].iter().product(), x.shape()[axis..].iter().product()]).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        image => Case::new([random(&[2, 3, 4, 5], 1)]);
        pooled => Case::new([random(&[2, 30, 1, 1], 1)]);
        front => Case::new([random(&[2, 3, 4], 1)]).int("axis", 0);
        back => Case::new([random(&[2, 3, 4], 1)]).int("axis", 3);
        negative => Case::new([random(&[2, 3, 4], 1)]).int("axis", -1);
        empty => Case::new([random(&[2, 0, 4], 1)]);
    }
}
