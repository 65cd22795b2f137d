//! `TensorScatter`: a cache in which each batch row's new steps are written from its own position on, going round if `circular`.

use super::{
    index,
    scatter::{self, Reduction},
};
use alloc::{boxed::Box, string::ToString, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "TensorScatter",
    since: &[24],
    inputs: Arity::range(2, 3),
    outputs: Arity::exactly(1),
    attributes: &["axis", "mode"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let circular = match cx.attributes.string_or("mode", "linear")? {
            "linear" => false,
            "circular" => true,
            other => return Err(BuildError::UnsupportedAttribute { name: "mode", value: other.to_string() }),
        };
        Ok(Box::new(TensorScatter { axis: cx.attributes.int_or("axis", -2)?, circular }))
    },
};

/// A cache with new steps.
#[derive(Debug, Clone, Copy)]
pub struct TensorScatter {
    axis: i64,
    circular: bool,
}

impl TensorScatter {
    /// The axis of steps.
    pub fn axis(&self) -> i64 {
        self.axis
    }

    /// True if steps past the end go to the front.
    pub fn is_circular(&self) -> bool {
        self.circular
    }
}

impl Op for TensorScatter {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        InferCx::axis(self.axis, x.rank())?;
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let new = *cx.spec(1).ok_or(EvalError::MissingInput(1))?.shape();
        let axis = InferCx::axis(self.axis, x.rank())?;
        if x.rank() == 0 || new.rank() != x.rank() || (0..x.rank()).any(|a| a != axis && new[a] != x[a]) || axis == 0 {
            return Err(EvalError::Invalid("the update does not fit the cache"));
        }
        let (dim, steps) = (x[axis], new[axis]);
        let first = if cx.has(2) { index::integers(cx, 2)? } else { vec![0; x[0]] };
        if first.len() != x[0] || steps > dim {
            return Err(EvalError::Invalid("the update does not fit the cache"));
        }
        let row: usize = x[axis + 1..].iter().product();
        let per_batch: usize = x[1..axis].iter().product();
        let mut starts = Vec::with_capacity(x[0] * per_batch * steps);
        for (n, s) in (0..x[0] * per_batch).flat_map(|n| (0..steps).map(move |s| (n, s))) {
            let at = first[n / per_batch.max(1)].saturating_add(s as i64);
            let at = if self.circular { at.rem_euclid(dim.max(1) as i64) } else { at };
            let at = usize::try_from(at).ok().filter(|&a| a < dim).ok_or(EvalError::Element { what: "a position lies outside of the cache", value: at })?;
            starts.push((n * dim + at) * row);
        }
        scatter::make(cx, Reduction::None, 1, starts.len(), row, |n| starts[n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, new) = (case.tensor(0), case.tensor(1));
        let [b, h, d, w] = x.shape()[..] else { panic!("four axes") };
        let steps = new.shape()[2];
        let mut out = x.as_slice::<f32>().unwrap().to_vec();
        for n in 0..b * h {
            let first = case.optional(2).map_or(0, |f| f.as_slice::<i64>().unwrap()[n / h] as usize);
            for s in 0..steps {
                let at = (n * d + (first + s) % d) * w;
                out[at..at + w].copy_from_slice(&new.as_slice::<f32>().unwrap()[(n * steps + s) * w..][..w]);
            }
        }
        vec![t(x.shape(), &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        linear => Case::new([random(&[2, 3, 5, 4], 1), random(&[2, 3, 2, 4], 2), t(&[2], &[1i64, 3])]);
        from_the_start => Case::new([random(&[2, 3, 5, 4], 1), random(&[2, 3, 5, 4], 2)]);
        circular => Case::new([random(&[2, 3, 5, 4], 1), random(&[2, 3, 3, 4], 2), t(&[2], &[4i64, 0])]).string("mode", "circular");
    }
}
