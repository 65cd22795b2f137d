//! `Squeeze`: the input without some axes of extent 1; without all of them by default. Axes are an attribute up to opset 12.

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
    name: "Squeeze",
    since: &[1, 11, 13, 21, 23, 24, 25],
    inputs: Arity::range(1, 2),
    outputs: Arity::exactly(1),
    attributes: &["axes"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Squeeze { axes: cx.attributes.ints("axes")?.cloned() })),
};

/// The input without some axes of extent 1.
#[derive(Debug, Clone)]
pub struct Squeeze {
    axes: Option<Vec<i64>>,
}

fn squeezed(x: &[Dim], axes: Option<&[i64]>) -> Result<Vec<Dim>, InferError> {
    let Some(axes) = axes else {
        return if x.iter().all(|d| d.as_const().is_some()) { Ok(x.iter().filter(|d| !d.is(1)).cloned().collect()) } else { Err(InferError::NeedsDims(0)) };
    };
    let axes = relabel::axes(axes, x.len())?;
    if axes.iter().any(|&a| x[a].as_const().is_some_and(|d| d != 1)) {
        return Err(InferError::Invalid("an axis to remove has more than one element"));
    }
    Ok(x.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect())
}

impl Op for Squeeze {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let axes = match cx.optional(1) {
            Some(_) => Some(cx.ints(1)?),
            None => self.axes.clone(),
        };
        Ok(vec![relabel::fact(x, squeezed(&x.dims, axes.as_deref())?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let axes = cx.optional::<i64>(1)?.map(|a| a.to_vec()).or_else(|| self.axes.clone());
        let dims = relabel::extents(&squeezed(&relabel::dims_of(cx, 0)?, axes.as_deref())?)?;
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
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let r = x.shape().rank() as i64;
        let axes: Option<Vec<i64>> = case.optional(1).map(|a| a.as_slice::<i64>().unwrap().to_vec()).or(case.attributes.ints("axes").unwrap().cloned());
        let gone = |i: usize| axes.as_ref().map_or(x.shape()[i] == 1, |a| a.iter().any(|&a| (if a < 0 { a + r } else { a }) == i as i64));
        let dims: Vec<usize> = (0..r as usize).filter(|&i| !gone(i)).map(|i| x.shape()[i]).collect();
        vec![x.reshaped(&dims).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        all => Case::new([random(&[1, 3, 1, 4], 1)]);
        some => Case::new([random(&[1, 3, 1, 4], 1), t(&[1], &[-2i64])]);
        old => Case::new([random(&[1, 3, 1, 4], 1)]).ints("axes", &[0, 2]).version(11);
        none => Case::new([random(&[1, 3], 1), t::<i64>(&[0], &[])]);
        empty => Case::new([random(&[1, 0], 1)]);
    }
}
