//! `Unsqueeze`: the input with axes of extent 1 at the places that `axes` names in the output. An attribute up to opset 12.

use crate::{
    movement::flat,
    shape::{relabel, reshape::relabelled},
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Unsqueeze",
    since: &[1, 11, 13, 21, 23, 24, 25],
    inputs: Arity::range(1, 2),
    outputs: Arity::exactly(1),
    attributes: &["axes"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let axes = cx.attributes.ints("axes")?.cloned();
        if axes.is_none() && cx.inputs < 2 {
            return Err(BuildError::MissingAttribute("axes"));
        }
        Ok(Box::new(Unsqueeze { axes: axes.unwrap_or_default() }))
    },
};

/// The input with more axes.
#[derive(Debug, Clone)]
pub struct Unsqueeze {
    axes: Vec<i64>,
}

fn unsqueezed(x: &[Dim], axes: &[i64]) -> Result<Vec<Dim>, InferError> {
    let rank = x.len() + axes.len();
    let axes = relabel::axes(axes, rank)?;
    let mut rest = x.iter();
    Ok((0..rank).map(|i| if axes.contains(&i) { Dim::from(1) } else { rest.next().cloned().unwrap_or_else(|| Dim::from(1)) }).collect())
}

impl Op for Unsqueeze {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let axes = if cx.optional(1).is_some() { cx.ints(1)? } else { self.axes.clone() };
        Ok(vec![relabel::fact(x, unsqueezed(&x.dims, &axes)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let axes = cx.optional::<i64>(1)?.map_or_else(|| self.axes.clone(), |a| a.to_vec());
        let dims = relabel::extents(&unsqueezed(&relabel::dims_of(cx, 0)?, &axes)?)?;
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
        let mut axes: Vec<i64> =
            case.optional(1).map_or_else(|| case.attributes.ints("axes").unwrap().unwrap().clone(), |a| a.as_slice::<i64>().unwrap().to_vec());
        let rank = (axes.len() + x.shape().rank()) as i64;
        axes.iter_mut().for_each(|a| *a = if *a < 0 { *a + rank } else { *a });
        axes.sort();
        let mut dims = x.shape().to_vec();
        axes.iter().for_each(|&a| dims.insert(a as usize, 1));
        vec![x.reshaped(&dims).unwrap()]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        both_ends => Case::new([random(&[3, 4], 1), t(&[2], &[-1i64, 0])]);
        old => Case::new([random(&[3, 4], 1)]).ints("axes", &[1]).version(11);
        scalar => Case::new([random(&[], 1), t(&[1], &[0i64])]);
        image => Case::new([random(&[2, 3, 4, 5], 1), t(&[1], &[2i64])]);
        empty => Case::new([random(&[0], 1), t(&[1], &[0i64])]);
    }
}
