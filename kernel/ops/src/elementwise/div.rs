//! `Div`: a / b; quotients of integers truncate, and a zero divisor is an error.

use super::zip::{Zip, zip_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, Dim, OpDef};
use millstream_simd::Simd;

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Div",
    since: &[7, 13, 14],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(Div)),
};

/// A / b.
#[derive(Debug, Clone, Copy)]
pub struct Div;

impl Zip for Div {
    const WORK: usize = 2;
    const DIVIDES: bool = true;

    fn real(&self, a: f64, b: f64) -> f64 {
        a / b
    }

    fn int(&self, a: i128, b: i128) -> i128 {
        a / b
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, a: S::F32, b: S::F32) -> S::F32 {
        let _ = s;
        a / b
    }

    fn dim(&self, a: &Dim, b: &Dim) -> Option<Dim> {
        // Truncation is rounding down as long as nothing is negative.
        (a.at_least(0) && b.at_least(1) || b.as_const().is_some_and(|c| c > 0)).then(|| a.div_floor(b))
    }
}
zip_op!(Div; &[(0, 0)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random_ints, spread, t, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        zip(case, None, |a, b| a / b)
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
        i64s => Case::new([spread(DType::I64, &[5, 9], 50.0, 1), random_ints(&[9], 1, 7, 2)]);
    }
}
