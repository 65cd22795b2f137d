//! `CenterCropPad`: axes cut or padded with zeros around their middle, to the extents that input 1 gives.

use super::{
    index,
    strided::{self, Walk},
    typed::by_width,
};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{Shape, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "CenterCropPad",
    since: &[18],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["axes"],
    subgraphs: &[],
    dtypes: "any but string",
    build: |cx: &BuildCx<'_>| Ok(Box::new(CenterCropPad { axes: cx.attributes.ints("axes")?.cloned() })),
};

/// Axes of other extents around the same middle.
#[derive(Debug, Clone)]
pub struct CenterCropPad {
    axes: Option<Vec<i64>>,
}

impl CenterCropPad {
    /// The output's dims, where `wanted` gives those of the operator's axes.
    fn dims<D: Clone>(&self, x: &[D], wanted: &[D]) -> Result<Vec<D>, InferError> {
        let axes = self.axes.clone().unwrap_or_else(|| (0..x.len() as i64).collect());
        if axes.len() != wanted.len() {
            return Err(InferError::Invalid("there is not one extent for each axis"));
        }
        let mut dims = x.to_vec();
        for (a, w) in axes.iter().zip(wanted) {
            if let Some(d) = dims.get_mut(InferCx::axis(*a, x.len())?) {
                *d = w.clone();
            }
        }
        Ok(dims)
    }
}

impl Op for CenterCropPad {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        let dims: Vec<Dim> = self.dims(&x.dims, &cx.int_dims(1)?)?;
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        if !cx.wants(0) {
            return Ok(());
        }
        let wanted: Option<Vec<usize>> = index::integers(cx, 1)?.into_iter().map(|d| usize::try_from(d).ok()).collect();
        let x = cx.tensor(0)?;
        let dims = self.dims(x.shape(), &wanted.ok_or(EvalError::Invalid("an extent is negative"))?)?;
        let dims = Shape::new(&dims)?;
        // What both have: it begins at `from` in the input and at `to` in the output.
        let (strides, to_strides) = (strided::signed(x.layout()), dims.row_major());
        let (mut from, mut to, mut common) = (0isize, 0usize, dims);
        for a in 0..dims.rank() {
            let (d, w) = (x.shape()[a], dims[a]);
            common = common.with(a, d.min(w));
            if d > w {
                from += ((d - w) / 2) as isize * strides[a];
            } else {
                to += (w - d) / 2 * to_strides[a];
            }
        }
        let mut out = Tensor::zeros(x.dtype(), &dims)?;
        by_width!(x.dtype(), W => {
            let mut part = vec![W::default(); common.elements()];
            let walk = Walk::over(&common, &strides, from, &millstream_tensor::Order::row_major(dims.rank()));
            strided::copy_words(cx, &walk, x.words::<W>()?, &mut part)?;
            let words = out.view_mut()?.into_words::<W>()?;
            let row = common.last().copied().unwrap_or(1).max(1);
            for (n, line) in part.chunks_exact(row).enumerate() {
                let (mut rest, mut at) = (n, to);
                for a in (0..dims.rank().saturating_sub(1)).rev() {
                    at += rest % common[a] * to_strides[a];
                    rest /= common[a];
                }
                words.get_mut(at..at + row).ok_or(EvalError::Output(0))?.copy_from_slice(line);
            }
        });
        cx.set_value(0, Value::Tensor(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let rank = x.shape().rank() as i64;
        let wanted = case.tensor(1).as_slice::<i64>().unwrap();
        let all: Vec<i64> = (0..rank).collect();
        let mut dims = x.shape().to_vec();
        for (a, w) in case.attributes.ints("axes").unwrap().unwrap_or(&all).iter().zip(wanted) {
            dims[((a + rank) % rank) as usize] = *w as usize;
        }
        let out: Vec<f32> = (0..dims.iter().product())
            .map(|n: usize| {
                let (mut rest, mut index) = (n, vec![0; dims.len()]);
                for a in (0..dims.len()).rev() {
                    let (d, w) = (x.shape()[a] as i64, dims[a] as i64);
                    let i = (rest % dims[a]) as i64 + if d > w { (d - w) / 2 } else { -((w - d) / 2) };
                    index[a] = if i < 0 { usize::MAX } else { i as usize };
                    rest /= dims[a];
                }
                x.view().typed::<f32>().unwrap().at(&index).unwrap_or(0.0)
            })
            .collect();
        vec![t(&dims, &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        crop => Case::new([random(&[20, 10, 3], 1), t(&[3], &[10i64, 7, 3])]);
        pad => Case::new([random(&[10, 7, 3], 1), t(&[3], &[20i64, 10, 3])]);
        both => Case::new([random(&[20, 8, 3], 1), t(&[3], &[10i64, 11, 3])]);
        axes => Case::new([random(&[3, 20, 8], 1), t(&[2], &[10i64, 9])]).ints("axes", &[1, -1]);
        nothing => Case::new([random(&[3, 4], 1), t(&[2], &[0i64, 9])]);
    }
}
