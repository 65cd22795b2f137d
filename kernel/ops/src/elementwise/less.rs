//! `Less`: a < b; false for NaN.

use super::compare::{Compare, compare_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, Dim, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Less",
    since: &[7, 9, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(Less)),
};

/// a < b.
#[derive(Debug, Clone, Copy)]
pub struct Less;

impl Compare for Less {
    fn real(&self, a: f64, b: f64) -> bool {
        a < b
    }

    fn int(&self, a: i128, b: i128) -> bool {
        a < b
    }

    fn dims(&self, d: &Dim) -> Option<bool> {
        if d.at_most(-1) { Some(true) } else { d.at_least(0).then_some(false) }
    }
}
compare_op!(Less);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, spread, t, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        zip(case, Some(DType::Bool), |a, b| f64::from(u8::from(a < b)))
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        same => Case::new([spread(DType::F32, &[2, 3, 5, 7], 1.0, 1), spread(DType::F32, &[2, 3, 5, 7], 1.0, 2)]);
        stretched => Case::new([spread(DType::I64, &[4, 1, 7], 5.0, 1), spread(DType::I64, &[5, 1], 5.0, 2)]);
        scalar => Case::new([spread(DType::U8, &[40], 9.0, 1), t(&[], &[4u8])]);
        equal_and_nan => Case::new([t(&[3], &[1.0f32, f32::NAN, 2.0]), t(&[3], &[1.0f32, f32::NAN, 3.0])]);
        empty => Case::new([spread(DType::F64, &[0, 4], 5.0, 1), spread(DType::F64, &[4], 5.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[9, 4], 5.0, 1), spread(DType::F16, &[4], 5.0, 2)]);
    }
}
