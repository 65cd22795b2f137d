//! `Max`: the greatest of all inputs; NaN if one of them is.

use super::zip::{Zip, zip_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, Dim, OpDef};
use millstream_simd::{Simd, SimdF32};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Max",
    since: &[6, 8, 12, 13],
    inputs: Arity::at_least(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(Max)),
};

/// The greatest of all inputs.
#[derive(Debug, Clone, Copy)]
pub struct Max;

impl Zip for Max {
    fn real(&self, a: f64, b: f64) -> f64 {
        if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
    }

    fn int(&self, a: i128, b: i128) -> i128 {
        a.max(b)
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, a: S::F32, b: S::F32) -> S::F32 {
        let _ = s;
        // The second operand wins where one is NaN: a NaN on the left must be put back.
        S::F32::select(a.is_nan(), a, a.max(b))
    }

    fn dim(&self, a: &Dim, b: &Dim) -> Option<Dim> {
        let difference = a.sub(b);
        if difference.at_least(0) { Some(a.clone()) } else { difference.at_most(0).then(|| b.clone()) }
    }
}
zip_op!(Max; &[(0, 0)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, spread, t, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        zip(case, None, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
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
        u8s => Case::new([spread(DType::U8, &[5, 9], 50.0, 1), spread(DType::U8, &[9], 50.0, 2)]);
        special => Case::new([t(&[5, 1], &[0.0f32, -0.0, f32::INFINITY, f32::NAN, 1.0]), t(&[4], &[0.0f32, f32::NEG_INFINITY, f32::NAN, 2.0])]);
        one => Case::new([spread(DType::F32, &[4], 4.0, 1)]);
        three => Case::new([spread(DType::F32, &[4, 6], 4.0, 1), spread(DType::F32, &[4, 1], 4.0, 2), spread(DType::F32, &[6], 4.0, 3)]);
    }
}
