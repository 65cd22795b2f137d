//! `Sum`: the sum of all inputs, added from left to right.

use super::zip::{Zip, zip_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};
use millstream_simd::Simd;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Sum",
    since: &[6, 8, 13],
    inputs: Arity::at_least(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |_: &BuildCx<'_>| Ok(Box::new(Sum)),
};

/// The sum of all inputs.
#[derive(Debug, Clone, Copy)]
pub struct Sum;

impl Zip for Sum {
    const TYPES: Types = Types::Floats;

    fn real(&self, a: f64, b: f64) -> f64 {
        a + b
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, a: S::F32, b: S::F32) -> S::F32 {
        let _ = s;
        a + b
    }
}
zip_op!(Sum; &[(0, 0)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, spread, t, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        zip(case, None, |a, b| a + b)
    }

    op_tests! { DEF, reference, Tolerance::F32;
        same => Case::new([spread(DType::F32, &[2, 3, 5, 7], 4.0, 1), spread(DType::F32, &[2, 3, 5, 7], 4.0, 2)]);
        row => Case::new([spread(DType::F32, &[4, 6, 33], 4.0, 1), spread(DType::F32, &[33], 4.0, 2)]);
        column => Case::new([spread(DType::F32, &[4, 6, 33], 4.0, 1), spread(DType::F32, &[6, 1], 4.0, 2)]);
        channels => Case::new([spread(DType::F32, &[1, 5, 1, 1], 4.0, 1), spread(DType::F32, &[2, 5, 3, 4], 4.0, 2)]);
        left_scalar => Case::new([spread(DType::F32, &[], 4.0, 1), spread(DType::F32, &[3, 9], 4.0, 2)]);
        right_scalar => Case::new([spread(DType::F32, &[3, 9], 4.0, 1), spread(DType::F32, &[1, 1], 4.0, 2)]);
        both_stretch => Case::new([spread(DType::F32, &[3, 1, 5], 4.0, 1), spread(DType::F32, &[4, 1], 4.0, 2)]);
        empty => Case::new([spread(DType::F32, &[2, 0], 4.0, 1), spread(DType::F32, &[1], 4.0, 2)]);
        scalars => Case::new([spread(DType::F32, &[], 4.0, 1), spread(DType::F32, &[], 4.0, 2)]);
        many => Case::new([spread(DType::F32, &[300, 257], 4.0, 1), spread(DType::F32, &[257], 4.0, 2)]);
        f64s => Case::new([spread(DType::F64, &[5, 9], 4.0, 1), spread(DType::F64, &[9], 4.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[5, 9], 4.0, 1), spread(DType::F16, &[5, 1], 4.0, 2)]);
        bf16s => Case::new([spread(DType::BF16, &[5, 9], 4.0, 1), spread(DType::BF16, &[5, 9], 4.0, 2)]);
        special => Case::new([t(&[5, 1], &[0.0f32, -0.0, f32::INFINITY, f32::NAN, 1.0]), t(&[4], &[0.0f32, f32::NEG_INFINITY, f32::NAN, 2.0])]);
        one => Case::new([spread(DType::F32, &[4], 4.0, 1)]);
        three => Case::new([spread(DType::F32, &[4, 6], 4.0, 1), spread(DType::F32, &[4, 1], 4.0, 2), spread(DType::F32, &[6], 4.0, 3)]);
    }
}
