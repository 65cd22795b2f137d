//! `PRelu`: x, or slope * x below 0; the slopes stretch to the shape of x.

use super::zip::{Zip, zip_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};
use millstream_simd::{Simd, SimdF32};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "PRelu",
    since: &[7, 9, 16],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(PRelu)),
};

/// X, or slope * x below 0.
#[derive(Debug, Clone, Copy)]
pub struct PRelu;

impl Zip for PRelu {
    fn real(&self, a: f64, b: f64) -> f64 {
        if a < 0.0 { a * b } else { a }
    }

    fn int(&self, a: i128, b: i128) -> i128 {
        if a < 0 { a.wrapping_mul(b) } else { a }
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, a: S::F32, b: S::F32) -> S::F32 {
        S::F32::select(a.lt(S::F32::splat(s, 0.0)), a * b, a)
    }
}
zip_op!(PRelu; &[(0, 0)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, spread, t, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        zip(case, None, |a, b| if a < 0.0 { a * b } else { a })
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
        i32s => Case::new([spread(DType::I32, &[5, 9], 50.0, 1), spread(DType::I32, &[9], 50.0, 2)]);
        i64s => Case::new([spread(DType::I64, &[5, 9], 50.0, 1), spread(DType::I64, &[9], 50.0, 2)]);
        special => Case::new([t(&[5, 1], &[0.0f32, -0.0, f32::INFINITY, f32::NAN, 1.0]), t(&[4], &[0.0f32, f32::NEG_INFINITY, f32::NAN, 2.0])]);
    }
}
