//! `ScatterElements`: the data with some elements replaced, or combined with updates: update n goes
//! to its own place but for its index along `axis`.

use super::{
    gather_elements::source,
    index,
    scatter::{self, Reduction},
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ScatterElements",
    since: &[11, 13, 16, 18],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &["axis", "reduction"],
    subgraphs: &[],
    dtypes: "any; reductions: numbers; indices i32, i64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(ScatterElements { axis: cx.attributes.int_or("axis", 0)?, reduction: Reduction::parse(cx)? })),
};

/// Elements replaced along an axis.
#[derive(Debug, Clone, Copy)]
pub struct ScatterElements {
    axis: i64,
    reduction: Reduction,
}

impl ScatterElements {
    /// Replacement without a reduction.
    pub(crate) fn along(axis: i64) -> ScatterElements {
        ScatterElements { axis, reduction: Reduction::None }
    }
}

impl Op for ScatterElements {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, i) = (cx.input(0)?, cx.input(1)?);
        InferCx::axis(self.axis, x.rank())?;
        if i.rank() != x.rank() {
            return Err(InferError::Rank { input: 1, found: i.rank(), wanted: "the rank of the data" });
        }
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
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
        scatter::make(cx, self.reduction, 2, at.len(), 1, |n| source(n, &dims, &strides, axis, at[n]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, i, u) = (case.tensor(0), case.tensor(1), case.tensor(2));
        let axis = case.int_or("axis", 0) as usize;
        let mut out = x.as_slice::<f32>().unwrap().to_vec();
        for (n, &v) in i.as_slice::<i64>().unwrap().iter().enumerate() {
            let (mut rest, mut index) = (n, vec![0; x.shape().rank()]);
            for a in (0..index.len()).rev() {
                index[a] = rest % i.shape()[a];
                rest /= i.shape()[a];
            }
            index[axis] = if v < 0 { v + x.shape()[axis] as i64 } else { v } as usize;
            let (to, new) = (&mut out[x.view().layout().offset(&index).unwrap()], u.as_slice::<f32>().unwrap()[n]);
            *to = match case.attributes.string_or("reduction", "none").unwrap() {
                "add" => *to + new,
                "mul" => *to * new,
                "max" => to.max(new),
                "min" => to.min(new),
                _ => new,
            };
        }
        vec![t(x.shape(), &out)]
    }

    fn case() -> Case {
        Case::new([random(&[4, 5], 1), random_ints(&[3, 4], -4, 4, 2), random(&[3, 4], 3)])
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        rows => case();
        columns => case().int("axis", 1);
        add => case().string("reduction", "add");
        mul => case().string("reduction", "mul");
        max => case().string("reduction", "max");
        min => case().string("reduction", "min");
        empty => Case::new([random(&[4, 5], 1), random_ints(&[0, 4], 0, 1, 2), random(&[0, 4], 3)]);
    }
}
