//! `RMSNormalization`: x / √(mean square + ε) * scale, over the axes from `axis` on.
//!
//! f32 is computed in f32, other types in f64; `stash_type` can only ask for f32 statistics.

use super::rows::Rows;
use alloc::{boxed::Box, format, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::Order;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "RMSNormalization",
    since: &[23],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["axis", "epsilon", "stash_type"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |cx: &BuildCx<'_>| {
        let stash = cx.attributes.int_or("stash_type", 1)?;
        if !matches!(stash, 1 | 11) {
            return Err(BuildError::UnsupportedAttribute { name: "stash_type", value: format!("{stash}") });
        }
        Ok(Box::new(RMSNormalization::new(cx.attributes.int_or("axis", -1)?, cx.attributes.float_or("epsilon", 1e-5)?)))
    },
};

/// `x / √(mean square + ε) * scale`, over the axes from `axis` on.
#[derive(Debug, Clone, Copy)]
pub struct RMSNormalization {
    /// The axis and the epsilon.
    pub rows: Rows,
}

impl RMSNormalization {
    /// Normalises over the axes from `axis` on, with `epsilon` added to the mean square.
    pub fn new(axis: i64, epsilon: f32) -> RMSNormalization {
        RMSNormalization { rows: Rows { axis, epsilon, centred: false } }
    }
}

impl Op for RMSNormalization {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        self.rows.infer(cx)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        self.rows.eval(cx)
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        self.rows.permute(cx, inputs)
    }

    fn kernel(&self, _cx: &StepCx<'_>) -> alloc::string::String {
        "rows".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, pairs, reals, spread};
    use alloc::vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let axis = case.int_or("axis", -1).rem_euclid(x.shape().rank() as i64) as usize;
        let n: usize = x.shape()[axis..].iter().product();
        let zero = from_reals(DType::F64, x.shape(), &vec![0.0; x.shape().elements()]);
        let scale: Vec<f64> = pairs(case.tensor(1), &zero).1.into_iter().map(|p| p.0).collect();
        let mut y = reals(x);
        for (r, row) in y.chunks_exact_mut(n.max(1)).enumerate() {
            let square = row.iter().map(|x| x * x).sum::<f64>() / n as f64;
            let inverse = 1.0 / (square + case.float_or("epsilon", 1e-5)).sqrt();
            row.iter_mut().enumerate().for_each(|(i, x)| *x = *x * inverse * scale[r * n + i]);
        }
        vec![from_reals(x.dtype(), x.shape(), &y)]
    }

    fn case(dims: &[usize], last: usize) -> Case {
        Case::new([spread(DType::F32, dims, 3.0, 1), spread(DType::F32, &dims[dims.len() - last..], 1.0, 2)])
    }

    op_tests! { DEF, reference, Tolerance::SUM;
        rows => case(&[2, 33, 384], 1);
        no_bias => case(&[5, 77], 1);
        short => case(&[70, 3], 1).float("epsilon", 1e-3);
        two_axes => case(&[4, 5, 6], 2).int("axis", 1);
        whole => case(&[4, 5], 2).int("axis", 0);
        stretched => Case::new([spread(DType::F32, &[4, 5, 6], 3.0, 1), spread(DType::F32, &[5, 1], 1.0, 2)]).int("axis", 1);
        far_from_zero => Case::new([crate::testing::map(&case(&[3, 40], 1), |x| x + 300.0).remove(0), spread(DType::F32, &[40], 0.1, 2)]);
        f64s => Case::new([spread(DType::F64, &[4, 5], 3.0, 1), spread(DType::F64, &[5], 1.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[4, 5], 3.0, 1), spread(DType::F16, &[5], 1.0, 2)]);
        empty => case(&[0, 5], 1);

    }
}
