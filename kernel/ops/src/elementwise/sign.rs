//! `Sign`: -1, 0 or 1.

use super::map::{Map, map_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Sign",
    since: &[9, 13],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(Sign)),
};

/// -1, 0 or 1.
#[derive(Debug, Clone, Copy)]
pub struct Sign;

impl Map for Sign {
    const TYPES: Types = Types::Numbers;

    fn real(&self, x: f64) -> f64 {
        if x > 0.0 {
            1.0
        } else if x < 0.0 {
            -1.0
        } else {
            x
        }
    }

    fn int(&self, x: i128) -> i128 {
        x.signum()
    }
}
map_op!(Sign);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        map(case, |x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        })
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        f32s => Case::new([spread(DType::F32, &[3, 5, 7, 11], 8.0, 1)]);
        f64s => Case::new([spread(DType::F64, &[4, 33], 8.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[65], 8.0, 3)]);
        bf16s => Case::new([spread(DType::BF16, &[2, 3, 4], 8.0, 4)]);
        many => Case::new([spread(DType::F32, &[70_001], 8.0, 5)]);
        special => Case::new([t(&[7], &[0.0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0])]);
        i32s => Case::new([spread(DType::I32, &[5, 13], 50.0, 6)]);
        u8s => Case::new([spread(DType::U8, &[5, 13], 50.0, 6)]);
        i64s => Case::new([spread(DType::I64, &[5, 13], 50.0, 6)]);
        empty => Case::new([spread(DType::F32, &[2, 0, 3], 1.0, 7)]);
        scalar => Case::new([spread(DType::F32, &[], 8.0, 8)]);
    }
}
