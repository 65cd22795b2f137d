//! `AffineGrid`: evenly spaced positions in −1..1 under an affine map for each batch row: the grid that GridSample reads at.

use crate::movement::index;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Shape, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "AffineGrid",
    since: &[20],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["align_corners"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| Ok(Box::new(AffineGrid { aligned: cx.attributes.flag_or("align_corners", false)? })),
};

/// Mapped positions.
#[derive(Debug, Clone, Copy)]
pub struct AffineGrid {
    aligned: bool,
}

impl Op for AffineGrid {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let theta = cx.input(0)?;
        if theta.dtype != DType::F32 {
            return Err(InferError::DType { input: 0, found: theta.dtype });
        }
        let size = cx.int_dims(1)?;
        let [n, _, space @ ..] = &size[..] else { return Err(InferError::Invalid("the size has no spatial axes")) };
        let mut dims = vec![n.clone()];
        dims.extend_from_slice(space);
        dims.push(Dim::from(space.len()));
        Ok(vec![Fact::new(theta.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let size: Option<Vec<usize>> = index::integers(cx, 1)?.into_iter().map(|d| usize::try_from(d).ok()).collect();
        let size = size.ok_or(EvalError::Invalid("a dim of the size is negative"))?;
        let [n, _, space @ ..] = &size[..] else { return Err(EvalError::Invalid("the size has no spatial axes")) };
        let axes = space.len();
        let theta = cx.input::<f32>(0)?;
        if !matches!(axes, 2 | 3) || theta.shape().dims() != [*n, axes, axes + 1] {
            return Err(EvalError::Invalid("theta is batch × 2 × 3 or batch × 3 × 4"));
        }
        let theta = theta.to_vec();
        let mut dims = vec![*n];
        dims.extend_from_slice(space);
        dims.push(axes);
        let shape = Shape::new(&dims)?;
        let mut out = Tensor::zeros(DType::F32, &shape)?;
        let mut view = out.view_mut()?.typed::<f32>()?;
        let at = |i: usize, d: usize| {
            let (i, d) = (i as f32, d as f32);
            if self.aligned { if d > 1.0 { 2.0 * i / (d - 1.0) - 1.0 } else { 0.0 } } else { (2.0 * i + 1.0) / d - 1.0 }
        };
        let points: usize = space.iter().product();
        for (p, to) in view.data_mut().chunks_exact_mut(axes).enumerate() {
            let theta = &theta[p / points.max(1) * axes * (axes + 1)..][..axes * (axes + 1)];
            // Positions name the last axis first.
            let mut position = [0.0, 0.0, 0.0];
            let mut rest = p % points.max(1);
            for a in 0..axes {
                let d = space[axes - 1 - a];
                position[a] = at(rest % d, d);
                rest /= d;
            }
            for (to, row) in to.iter_mut().zip(theta.chunks_exact(axes + 1)) {
                *to = row[..axes].iter().zip(&position).map(|(t, x)| t * x).sum::<f32>() + row[axes];
            }
        }
        cx.set_value(0, Value::Tensor(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};

    fn reference(case: &Case) -> Vec<Tensor> {
        let theta = case.tensor(0).as_slice::<f32>().unwrap();
        let size = case.tensor(1).as_slice::<i64>().unwrap();
        let (n, h, w) = (size[0] as usize, size[2] as usize, size[3] as usize);
        let aligned = case.int_or("align_corners", 0) != 0;
        let at = |i: usize, d: usize| if aligned { -1.0 + 2.0 * i as f64 / (d as f64 - 1.0) } else { -1.0 + (2.0 * i as f64 + 1.0) / d as f64 };
        let mut out = vec![];
        for b in 0..n {
            for i in 0..h {
                for j in 0..w {
                    for r in 0..2 {
                        let row = &theta[b * 6 + r * 3..];
                        out.push((f64::from(row[0]) * at(j, w) + f64::from(row[1]) * at(i, h) + f64::from(row[2])) as f32);
                    }
                }
            }
        }
        vec![t(&[n, h, w, 2], &out)]
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 1e-6 };
        edges => Case::new([random(&[2, 2, 3], 1), t(&[4], &[2i64, 1, 3, 4])]);
        centres => Case::new([random(&[2, 2, 3], 1), t(&[4], &[2i64, 1, 3, 4])]).int("align_corners", 1);
        empty => Case::new([random(&[2, 2, 3], 1), t(&[4], &[2i64, 1, 0, 4])]);
    }
}
