//! `Col2Im`: columns of sliding blocks added back together into an image.

use crate::movement::index;
use alloc::{boxed::Box, format, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, Shape, Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Col2Im",
    since: &[18],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &["dilations", "pads", "strides"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| {
        let list = |name: &'static str, least: i64| match cx.attributes.ints(name)? {
            Some(v) if v.iter().any(|&x| x < least) => Err(BuildError::UnsupportedAttribute { name, value: format!("{v:?}") }),
            other => Ok(other.cloned()),
        };
        Ok(Box::new(Col2Im { dilations: list("dilations", 1)?, pads: list("pads", 0)?, strides: list("strides", 1)? }))
    },
};

/// Blocks added into an image.
#[derive(Debug, Clone)]
pub struct Col2Im {
    dilations: Option<Vec<i64>>,
    pads: Option<Vec<i64>>,
    strides: Option<Vec<i64>>,
}

impl Op for Col2Im {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if x.dtype != DType::F32 {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        let [n, rows, _] = &x.dims[..] else { return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "3" }) };
        let (image, block) = (cx.int_dims(1)?, cx.int_dims(2)?);
        let mut dims = vec![n.clone(), rows.div_floor(&Dim::product(&block))];
        dims.extend(image);
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = cx.input::<f32>(0)?;
        let positive = |v: Vec<i64>| -> Option<Vec<usize>> { v.into_iter().map(|d| usize::try_from(d).ok()).collect() };
        let (image, block) = (positive(index::integers(cx, 1)?), positive(index::integers(cx, 2)?));
        let (Some(image), Some(block)) = (image, block) else { return Err(EvalError::Invalid("a dim of the image or block is negative")) };
        let axes = image.len();
        let list = |v: &Option<Vec<i64>>, n: usize, default: i64| v.clone().unwrap_or_else(|| vec![default; n]);
        let (dilations, pads, strides) = (list(&self.dilations, axes, 1), list(&self.pads, 2 * axes, 0), list(&self.strides, axes, 1));
        let &[n, rows, columns] = x.shape().dims() else { return Err(EvalError::Invalid("the columns have three axes")) };
        let taps = block.iter().fold(1usize, |a, &b| a.saturating_mul(b));
        if block.len() != axes || dilations.len() != axes || pads.len() != 2 * axes || strides.len() != axes || taps == 0 || rows % taps != 0 {
            return Err(EvalError::Invalid("the block does not fit the columns"));
        }
        // Positions of the block along each axis.
        let mut counts = Vec::with_capacity(axes);
        for a in 0..axes {
            let reach = (block[a] as i64 - 1).saturating_mul(dilations[a]).saturating_add(1);
            let room = (image[a] as i64).saturating_add(pads[a]).saturating_add(pads[axes + a]).saturating_sub(reach);
            counts.push(if room < 0 { 0 } else { (room / strides[a] + 1) as usize });
        }
        if counts.iter().fold(1usize, |a, &b| a.saturating_mul(b)) != columns {
            return Err(EvalError::Invalid("the block does not fit the columns"));
        }
        let channels = rows / taps;
        let mut dims = vec![n, channels];
        dims.extend_from_slice(&image);
        let shape = Shape::new(&dims)?;
        let mut out = Tensor::zeros(DType::F32, &shape)?;
        let plane: usize = image.iter().product();
        let mut view = out.view_mut()?.typed::<f32>()?;
        let y = view.data_mut();
        for (row, line) in x.to_vec().chunks_exact(columns.max(1)).enumerate() {
            let (tap, base) = (row % taps, row / taps * plane);
            for (column, v) in line.iter().enumerate() {
                let (mut t, mut c, mut at, mut step) = (tap, column, Some(0), 1);
                for a in (0..axes).rev() {
                    let i = (c % counts[a]) as i64 * strides[a] + (t % block[a]) as i64 * dilations[a] - pads[a];
                    (t, c) = (t / block[a], c / counts[a]);
                    at = at.filter(|_| i >= 0 && i < image[a] as i64).map(|at| at + i as usize * step);
                    step *= image[a];
                }
                if let Some(at) = at
                    && let Some(y) = y.get_mut(base + at)
                {
                    *y += v;
                }
            }
        }
        cx.set_value(0, Value::Tensor(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};

    /// For two spatial axes: every image element sums the blocks that cover it.
    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let ints = |i: usize| case.tensor(i).as_slice::<i64>().unwrap().to_vec();
        let (image, block) = (ints(1), ints(2));
        let list = |name: &str, d: Vec<i64>| case.attributes.ints(name).unwrap().cloned().unwrap_or(d);
        let (dil, pads, str) = (list("dilations", vec![1, 1]), list("pads", vec![0; 4]), list("strides", vec![1, 1]));
        let count = |a: usize| (image[a] + pads[a] + pads[a + 2] - (block[a] - 1) * dil[a] - 1) / str[a] + 1;
        let [n, rows, columns] = x.shape()[..] else { panic!("columns") };
        let taps = (block[0] * block[1]) as usize;
        let data = x.as_slice::<f32>().unwrap();
        let mut out = vec![];
        for plane in 0..n * rows / taps {
            for i in 0..image[0] {
                for j in 0..image[1] {
                    let mut sum = 0.0;
                    for bi in 0..block[0] {
                        for bj in 0..block[1] {
                            for ci in 0..count(0) {
                                for cj in 0..count(1) {
                                    if ci * str[0] + bi * dil[0] - pads[0] == i && cj * str[1] + bj * dil[1] - pads[1] == j {
                                        sum += data[(plane * taps + (bi * block[1] + bj) as usize) * columns + (ci * count(1) + cj) as usize];
                                    }
                                }
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
        vec![t(&[n, rows / taps, image[0] as usize, image[1] as usize], &out)]
    }

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 1e-6 };
        tiles => Case::new([random(&[1, 5, 5], 1), t(&[2], &[5i64, 5]), t(&[2], &[1i64, 5])]);
        overlapping => Case::new([random(&[2, 8, 12], 1), t(&[2], &[4i64, 5]), t(&[2], &[2i64, 2])]);
        padded => Case::new([random(&[1, 4, 42], 1), t(&[2], &[5i64, 6]), t(&[2], &[2i64, 2])]).ints("pads", &[1, 0, 1, 2]);
        strided => Case::new([random(&[1, 9, 4], 1), t(&[2], &[5i64, 5]), t(&[2], &[3i64, 3])]).ints("strides", &[2, 2]);
        dilated => Case::new([random(&[1, 4, 5], 1), t(&[2], &[6i64, 6]), t(&[2], &[2i64, 2])]).ints("dilations", &[1, 5]);
    }
}
