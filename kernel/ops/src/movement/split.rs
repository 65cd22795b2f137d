//! `Split`: the input cut along an axis. Sizes are an attribute (versions 2, 11) or input 1 (from 13), or all parts are equal;
//! with `num_outputs` (18) the last one may be smaller.

use crate::movement::{
    index,
    strided::{self, Walk},
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Split",
    since: &[2, 11, 13, 18],
    inputs: Arity::range(1, 2),
    outputs: Arity::at_least(1),
    attributes: &["axis", "split", "num_outputs"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        Ok(Box::new(Split { axis: cx.attributes.int_or("axis", 0)?, sizes: cx.attributes.ints("split")?.cloned(), ragged: cx.version >= 18 }))
    },
};

/// Parts along an axis.
#[derive(Debug, Clone)]
pub struct Split {
    axis: i64,
    sizes: Option<Vec<i64>>,
    ragged: bool,
}

impl Split {
    /// The axis as the model gives it, maybe negative.
    pub fn axis(&self) -> i64 {
        self.axis
    }

    /// The parts' extents along the axis.
    fn parts(&self, dim: &Dim, sizes: Option<&[i64]>, outputs: usize) -> Result<Vec<Dim>, InferError> {
        if let Some(sizes) = sizes {
            let sum = sizes.iter().try_fold(0i64, |a, &b| if b < 0 { None } else { a.checked_add(b) });
            if sizes.len() != outputs || sum.is_none_or(|s| dim.as_const().is_some_and(|d| d != s)) {
                return Err(InferError::Invalid("the sizes of the parts are not those of the input"));
            }
            return Ok(sizes.iter().map(|&s| Dim::from(s)).collect());
        }
        let n = Dim::from(outputs);
        if !self.ragged {
            if dim.as_const().is_some_and(|d| d % outputs as i64 != 0) {
                return Err(InferError::Invalid("the input cannot be cut in equal parts"));
            }
            return Ok(vec![dim.div_floor(&n); outputs]);
        }
        let part = dim.div_ceil(&n);
        let mut out = vec![part.clone(); outputs];
        if let Some(last) = out.last_mut() {
            *last = dim.sub(&part.mul(&Dim::from(outputs - 1)));
        }
        if out.last().and_then(Dim::as_const).is_some_and(|l| l < 0) {
            return Err(InferError::Invalid("there are more parts than elements"));
        }
        Ok(out)
    }
}

impl Op for Split {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let axis = InferCx::axis(self.axis, x.rank())?;
        let dim = x.dims.get(axis).ok_or(InferError::Rank { input: 0, found: 0, wanted: "at least one axis" })?;
        let sizes = if cx.optional(1).is_some() { Some(cx.ints(1)?) } else { self.sizes.clone() };
        let parts = self.parts(dim, sizes.as_deref(), cx.outputs)?;
        Ok(parts
            .into_iter()
            .map(|part| {
                let mut dims = x.dims.clone();
                dims[axis] = part;
                Fact::new(x.dtype, dims)
            })
            .collect())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let shape = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let axis = InferCx::axis(self.axis, shape.rank())?;
        let dim = *shape.get(axis).ok_or(EvalError::Invalid("a scalar cannot be cut"))?;
        let sizes = if cx.has(1) { Some(index::integers(cx, 1)?) } else { self.sizes.clone() };
        let parts = self.parts(&Dim::from(dim), sizes.as_deref(), cx.outputs())?;
        let mut first = 0;
        for (i, part) in parts.iter().enumerate() {
            let part = part.as_extent().ok_or(EvalError::Invalid("a part has a negative size"))?;
            let dims = shape.with(axis, part);
            strided::make(cx, 0, i, &dims, |from, order| {
                let strides = strided::signed(from);
                Walk::over(&dims, &strides, first as isize * strides[axis], order)
            })?;
            first += part;
        }
        Ok(())
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let rows = inputs.iter().skip(1).map(|o| o.map(|o| Order::row_major(o.rank())));
        Some(Permutation { inputs: core::iter::once(Some(order)).chain(rows).collect(), outputs: vec![order; cx.outputs.len()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, random_ints, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let axis = case.int_or("axis", 0);
        let axis = if axis < 0 { axis + x.shape().rank() as i64 } else { axis } as usize;
        let d = x.shape()[axis];
        let sizes: Vec<usize> = match case.optional(1).map(|s| s.as_slice::<i64>().unwrap().to_vec()).or(case.attributes.ints("split").unwrap().cloned()) {
            Some(s) => s.iter().map(|&s| s as usize).collect(),
            None => {
                let p = d.div_ceil(case.outputs);
                (0..case.outputs).map(|i| p.min(d - i * p)).collect()
            }
        };
        let outer: usize = x.shape()[..axis].iter().product();
        let block = x.shape()[axis + 1..].iter().product::<usize>() * x.dtype().size();
        let mut first = 0;
        sizes
            .iter()
            .map(|&s| {
                let bytes: Vec<u8> =
                    (0..outer).flat_map(|o| x.view().bytes().unwrap()[(o * d + first) * block..(o * d + first + s) * block].to_vec()).collect();
                first += s;
                Tensor::from_bytes(x.dtype(), x.shape().with(axis, s).dims(), &bytes).unwrap()
            })
            .collect()
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        equal => Case::new([random(&[2, 6, 4, 5], 1)]).int("axis", 1).outputs(3).int("num_outputs", 3);
        ragged => Case::new([random(&[7], 1)]).outputs(3).int("num_outputs", 3);
        sizes => Case::new([random(&[2, 6], 1), t(&[2], &[2i64, 4])]).int("axis", -1).outputs(2);
        old_sizes => Case::new([random_ints(&[6, 2], 0, 9, 1)]).ints("split", &[1, 0, 5]).outputs(3).version(11);
        old_equal => Case::new([random(&[6, 2], 1)]).outputs(2).version(2);
        gates => Case::new([random(&[40, 4, 600], 1)]).int("axis", 2).outputs(4).version(13);
        empty => Case::new([random(&[0, 2], 1)]).outputs(2).version(13);
    }
}
