//! `GroupNormalization`: (x - mean) / √(variance + ε) * scale + bias, with the mean and variance of each group of channels of each image.
//!
//! Scale and bias have one value a group in opset 18, one a channel from 21 on.

use super::planes;
use alloc::{boxed::Box, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "GroupNormalization",
    since: &[18, 21],
    inputs: Arity::exactly(3),
    outputs: Arity::exactly(1),
    attributes: &["epsilon", "num_groups", "stash_type"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| {
        let groups = *cx.attributes.int("num_groups")?.ok_or(BuildError::MissingAttribute("num_groups"))?;
        let groups = usize::try_from(groups).ok().filter(|&g| g > 0);
        Ok(Box::new(GroupNormalization {
            epsilon: cx.attributes.float_or("epsilon", 1e-5)?,
            groups: groups.ok_or_else(|| BuildError::UnsupportedAttribute { name: "num_groups", value: alloc::format!("{groups:?}") })?,
        }))
    },
};

/// (x - mean) / √(variance + ε) * scale + bias, with the mean and variance of each group of channels of each image.
#[derive(Debug, Clone, Copy)]
pub struct GroupNormalization {
    /// What is added to the variance so that no root is 0.
    pub epsilon: f32,
    /// How many groups there are.
    pub groups: usize,
}

impl Op for GroupNormalization {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        planes::infer(cx)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        planes::eval(cx, Some(self.groups), self.epsilon.into())
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
        image => case(DType::F32, &[2, 6, 5, 7], 6).int("num_groups", 3);
        sequence => case(DType::F32, &[3, 4, 50], 4).float("epsilon", 1e-2).int("num_groups", 2);
        f16s => case(DType::F16, &[2, 4, 5], 4).int("num_groups", 1);
        empty => case(DType::F32, &[0, 4, 5], 4).int("num_groups", 4);
        by_group => case(DType::F32, &[2, 6, 5], 3).int("num_groups", 3).version(18);
    }
}
