//! `SpaceToDepth`: blocks of pixels become channels.

use crate::{
    movement::strided::{self, Walk},
    shape::relabel,
};
use alloc::{boxed::Box, string::ToString, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{Order, Shape};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "SpaceToDepth",
    since: &[1, 13],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["blocksize"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let block = match cx.attributes.int("blocksize")? {
            Some(&b) => usize::try_from(b).ok().filter(|&b| b > 0).ok_or(BuildError::UnsupportedAttribute { name: "blocksize", value: b.to_string() })?,
            None => return Err(BuildError::MissingAttribute("blocksize")),
        };
        Ok(Box::new(SpaceToDepth { block }))
    },
};

/// Pixels to channels.
#[derive(Debug, Clone, Copy)]
pub struct SpaceToDepth {
    block: usize,
}

impl SpaceToDepth {
    fn dims(&self, x: &[Dim]) -> Result<Vec<Dim>, InferError> {
        let b = Dim::from(self.block);
        let [n, c, h, w] = x else { return Err(InferError::Rank { input: 0, found: x.len(), wanted: "4" }) };
        if [h, w].into_iter().any(|d| d.as_const().is_some_and(|d| b.as_const().is_none_or(|b| d % b != 0))) {
            return Err(InferError::Invalid("the pixels do not divide into blocks"));
        }
        Ok(vec![n.clone(), c.mul(&b).mul(&b), h.div_floor(&b), w.div_floor(&b)])
    }
}

impl Op for SpaceToDepth {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Ok(vec![Fact::new(x.dtype, self.dims(&x.dims)?)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let dims = Shape::new(&relabel::extents(&self.dims(&relabel::dims_of(cx, 0)?)?)?)?;
        let b = self.block;
        strided::make(cx, 0, 0, &dims, |layout, order| {
            let s = strided::signed(layout);
            let step = b as isize;
            let axes = [
                [(dims[0], s[0]), (1, 0), (1, 0)],
                [(b, s[2]), (b, s[3]), (x[1], s[1])],
                [(dims[2], s[2] * step), (1, 0), (1, 0)],
                [(dims[3], s[3] * step), (1, 0), (1, 0)],
            ];
            let mut walk = Walk::new(0);
            for axis in order.axes() {
                axes[axis].iter().for_each(|&(dim, stride)| walk.push(dim, stride));
            }
            walk
        })
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        Some(Permutation { inputs: inputs.to_vec(), outputs: vec![(*inputs.first()?)?] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn every(a: usize, b: usize, c: usize, d: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        (0..a * b * c * d).map(move |n| (n / d / c / b, n / d / c % b, n / d % c, n % d))
    }

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let b = case.int_or("blocksize", 1) as usize;
        let [n, c, h, w] = x.shape()[..] else { panic!("four axes") };
        let mut out = vec![];
        for (n, k, y, x1) in every(n, c * b * b, h / b, w / b) {
            out.push(x.view().typed::<f32>().unwrap().at(&[n, k % c, y * b + k / c / b, x1 * b + k / c % b]).unwrap());
        }
        vec![t(&[n, c * b * b, h / b, w / b], &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        halves => Case::new([random(&[2, 3, 4, 6], 1)]).int("blocksize", 2);
        thirds => Case::new([random(&[1, 2, 6, 9], 1)]).int("blocksize", 3);
        empty => Case::new([random(&[0, 4, 4, 4], 1)]).int("blocksize", 2);
    }
}
