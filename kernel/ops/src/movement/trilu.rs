//! `Trilu`: the upper or lower triangle of matrices, the rest zero. `k` moves the diagonal up.

use super::{index, typed::by_width};
use crate::grains;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::tile::Tiles;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Trilu",
    since: &[14],
    inputs: Arity::range(1, 2),
    outputs: Arity::exactly(1),
    attributes: &["upper"],
    subgraphs: &[],
    dtypes: "any but string",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Trilu { upper: cx.attributes.flag_or("upper", true)? })),
};

/// A triangle of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Trilu {
    upper: bool,
}

impl Op for Trilu {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if x.rank() < 2 {
            return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "at least 2" });
        }
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let k = if cx.has(1) { index::integers(cx, 1)?.first().copied().unwrap_or(0) } else { 0 };
        let x = cx.tensor(0)?;
        let &[.., rows, columns] = x.shape().dims() else { return Err(EvalError::Invalid("a triangle is part of a matrix")) };
        if x.shape().elements() == 0 {
            return Ok(());
        }
        let to = cx.output_tensor(0)?;
        by_width!(x.dtype(), W => {
            let (from, to) = (x.words::<W>()?, to.into_words::<W>()?);
            let per_grain = grains::rows(to.len() / columns, columns, 1);
            let tiles = Tiles::rows(to, columns, per_grain).ok_or(EvalError::Output(0))?;
            cx.parallel(tiles.count(), |grain, _| {
                let mut tile = tiles.claim(grain)?;
                for (i, to) in tile.as_slice()?.chunks_exact_mut(columns).enumerate() {
                    let row = grain * per_grain + i;
                    // The first column of the upper triangle, or one past the last of the lower.
                    let edge = k.saturating_add((row % rows) as i64).saturating_add(i64::from(!self.upper)).clamp(0, columns as i64) as usize;
                    to.fill(W::default());
                    let keep = if self.upper { edge..columns } else { 0..edge };
                    to[keep.clone()].copy_from_slice(from.get(row * columns..)?.get(keep)?);
                }
                Some(())
            })?;
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let [.., r, c] = x.shape()[..] else { panic!("a matrix") };
        let k = case.optional(1).map_or(0, |k| k.as_slice::<i64>().unwrap()[0]);
        let keep = |i: i64, j: i64| if case.int_or("upper", 1) != 0 { j - i >= k } else { j - i <= k };
        let out: Vec<f32> =
            x.as_slice::<f32>().unwrap().iter().enumerate().map(|(n, &v)| if keep((n / c % r) as i64, (n % c) as i64) { v } else { 0.0 }).collect();
        vec![t(x.shape(), &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        upper => Case::new([random(&[2, 4, 5], 1)]);
        lower => Case::new([random(&[5, 4], 1)]).int("upper", 0);
        shifted => Case::new([random(&[4, 5], 1), t(&[], &[2i64])]);
        shifted_back => Case::new([random(&[4, 5], 1), t(&[], &[-2i64])]).int("upper", 0);
        outside => Case::new([random(&[4, 5], 1), t(&[], &[99i64])]).int("upper", 0);
        empty => Case::new([random(&[0, 5], 1)]);
    }
}
