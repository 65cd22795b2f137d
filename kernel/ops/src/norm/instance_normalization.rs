//! `InstanceNormalization`: (x - mean) / √(variance + ε) * scale + bias, with the mean and variance of each channel of each image.

use super::planes;
use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "InstanceNormalization",
    since: &[6, 22],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &["epsilon"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| Ok(Box::new(InstanceNormalization { epsilon: cx.attributes.float_or("epsilon", 1e-5)? })),
};

/// (x - mean) / √(variance + ε) * scale + bias, with the mean and variance of each channel of each image.
#[derive(Debug, Clone, Copy)]
pub struct InstanceNormalization {
    /// What is added to the variance so that no root is 0.
    pub epsilon: f32,
}

impl Op for InstanceNormalization {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        planes::infer(cx)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        planes::eval(cx, None, self.epsilon.into())
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, reals, spread};
    use alloc::vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let (scale, bias) = (reals(case.tensor(1)), reals(case.tensor(2)));
        let channels = x.shape()[1];
        let groups = case.int_or("num_groups", channels as i64) as usize;
        let plane: usize = x.shape()[2..].iter().product();
        let n = channels / groups * plane;
        let mut y = reals(x);
        for (r, part) in y.chunks_exact_mut(n).enumerate() {
            let mean = part.iter().sum::<f64>() / n as f64;
            let variance = part.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
            for (i, v) in part.iter_mut().enumerate() {
                let c = r % groups * (channels / groups) + i / plane;
                let at = if scale.len() == channels { c } else { r % groups };
                *v = (*v - mean) / (variance + case.float_or("epsilon", 1e-5)).sqrt() * scale[at] + bias[at];
            }
        }
        vec![from_reals(x.dtype(), x.shape(), &y)]
    }

    fn case(dtype: DType, dims: &[usize], values: usize) -> Case {
        Case::new([spread(dtype, dims, 3.0, 1), spread(dtype, &[values], 1.0, 2), spread(dtype, &[values], 1.0, 3)])
    }

    op_tests! { DEF, reference, Tolerance::SUM;
        image => case(DType::F32, &[2, 6, 5, 7], 6);
        sequence => case(DType::F32, &[3, 4, 50], 4).float("epsilon", 1e-2);
        f16s => case(DType::F16, &[2, 4, 5], 4);
        empty => case(DType::F32, &[0, 4, 5], 4);
    }
}
