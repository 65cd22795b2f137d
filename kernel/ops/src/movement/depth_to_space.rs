//! `DepthToSpace`: blocks of channels become blocks of pixels. `DCR` takes the block from the outer part of the channels, `CRD` from
//! the inner part.

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
    name: "DepthToSpace",
    since: &[1, 11, 13],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["blocksize", "mode"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let block = match cx.attributes.int("blocksize")? {
            Some(&b) => usize::try_from(b).ok().filter(|&b| b > 0).ok_or(BuildError::UnsupportedAttribute { name: "blocksize", value: b.to_string() })?,
            None => return Err(BuildError::MissingAttribute("blocksize")),
        };
        let depth_first = match cx.attributes.string_or("mode", "DCR")? {
            "DCR" => true,
            "CRD" => false,
            other => return Err(BuildError::UnsupportedAttribute { name: "mode", value: other.to_string() }),
        };
        Ok(Box::new(DepthToSpace { block, depth_first }))
    },
};

/// Channels to pixels.
#[derive(Debug, Clone, Copy)]
pub struct DepthToSpace {
    block: usize,
    depth_first: bool,
}

impl DepthToSpace {
    fn dims(&self, x: &[Dim]) -> Result<Vec<Dim>, InferError> {
        let b = Dim::from(self.block);
        let [n, c, h, w] = x else { return Err(InferError::Rank { input: 0, found: x.len(), wanted: "4" }) };
        let square = b.mul(&b);
        if c.as_const().is_some_and(|c| square.as_const().is_none_or(|s| c % s != 0)) {
            return Err(InferError::Invalid("the channels do not divide into blocks"));
        }
        Ok(vec![n.clone(), c.div_floor(&square), h.mul(&b), w.mul(&b)])
    }
}

impl Op for DepthToSpace {
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
            let (outer, inner) = ((dims[1] * b) as isize * s[1], dims[1] as isize * s[1]);
            let (i, j, c) = if self.depth_first { (outer, inner, s[1]) } else { (b as isize * s[1], s[1], (b * b) as isize * s[1]) };
            let axes = [[(dims[0], s[0]), (1, 0), (1, 0)], [(dims[1], c), (1, 0), (1, 0)], [(x[2], s[2]), (b, i), (1, 0)], [(x[3], s[3]), (b, j), (1, 0)]];
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
        let k = c / b / b;
        let crd = case.attributes.string_or("mode", "DCR").unwrap() == "CRD";
        let mut out = vec![];
        for (n, k1, y, x1) in every(n, k, h * b, w * b) {
            let (i, j) = (y % b, x1 % b);
            let c1 = if crd { (k1 * b + i) * b + j } else { (i * b + j) * k + k1 };
            out.push(x.view().typed::<f32>().unwrap().at(&[n, c1, y / b, x1 / b]).unwrap());
        }
        vec![t(&[n, k, h * b, w * b], &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        depth_first => Case::new([random(&[2, 8, 3, 5], 1)]).int("blocksize", 2);
        columns_first => Case::new([random(&[2, 12, 3, 5], 1)]).int("blocksize", 2).string("mode", "CRD");
        thirds => Case::new([random(&[1, 18, 4, 3], 1)]).int("blocksize", 3);
        empty => Case::new([random(&[0, 4, 3, 5], 1)]).int("blocksize", 2);
    }
}
