//! `BitwiseXor`: the bits of integers combined by `xor`.

use super::zip::{Zip, zip_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "BitwiseXor",
    since: &[18],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(BitwiseXor)),
};

/// The bits of integers combined by `xor`.
#[derive(Debug, Clone, Copy)]
pub struct BitwiseXor;

impl Zip for BitwiseXor {
    const TYPES: Types = Types::Ints;

    fn real(&self, a: f64, b: f64) -> f64 {
        (a as i64 ^ b as i64) as f64
    }

    fn int(&self, a: i128, b: i128) -> i128 {
        a ^ b
    }
}
zip_op!(BitwiseXor);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, spread, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        zip(case, None, |a, b| (a as i64 ^ b as i64) as f64)
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        same => Case::new([spread(DType::U32, &[2, 3, 5, 7], 50.0, 1), spread(DType::U32, &[2, 3, 5, 7], 50.0, 2)]);
        row => Case::new([spread(DType::U32, &[4, 6, 33], 50.0, 1), spread(DType::U32, &[33], 50.0, 2)]);
        column => Case::new([spread(DType::U32, &[4, 6, 33], 50.0, 1), spread(DType::U32, &[6, 1], 50.0, 2)]);
        channels => Case::new([spread(DType::U32, &[1, 5, 1, 1], 50.0, 1), spread(DType::U32, &[2, 5, 3, 4], 50.0, 2)]);
        left_scalar => Case::new([spread(DType::U32, &[], 50.0, 1), spread(DType::U32, &[3, 9], 50.0, 2)]);
        right_scalar => Case::new([spread(DType::U32, &[3, 9], 50.0, 1), spread(DType::U32, &[1, 1], 50.0, 2)]);
        both_stretch => Case::new([spread(DType::U32, &[3, 1, 5], 50.0, 1), spread(DType::U32, &[4, 1], 50.0, 2)]);
        empty => Case::new([spread(DType::U32, &[2, 0], 50.0, 1), spread(DType::U32, &[1], 50.0, 2)]);
        scalars => Case::new([spread(DType::U32, &[], 50.0, 1), spread(DType::U32, &[], 50.0, 2)]);
        i32s => Case::new([spread(DType::I32, &[5, 9], 50.0, 1), spread(DType::I32, &[9], 50.0, 2)]);
        i64s => Case::new([spread(DType::I64, &[5, 9], 50.0, 1), spread(DType::I64, &[9], 50.0, 2)]);
        u8s => Case::new([spread(DType::U8, &[5, 9], 50.0, 1), spread(DType::U8, &[9], 50.0, 2)]);
    }
}
