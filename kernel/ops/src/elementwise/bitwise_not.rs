//! `BitwiseNot`: all bits flipped.

use super::map::{Map, map_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "BitwiseNot",
    since: &[18],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "integers",
    build: |_: &BuildCx<'_>| Ok(Box::new(BitwiseNot)),
};

/// All bits flipped.
#[derive(Debug, Clone, Copy)]
pub struct BitwiseNot;

impl Map for BitwiseNot {
    const TYPES: Types = Types::Ints;

    fn real(&self, x: f64) -> f64 {
        x
    }

    fn int(&self, x: i128) -> i128 {
        !x
    }
}
map_op!(BitwiseNot);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        map(case, |x| -1.0 - x)
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        i32s => Case::new([spread(DType::I32, &[5, 13], 50.0, 6)]);
        i8s => Case::new([spread(DType::I8, &[5, 13], 50.0, 6)]);
        i64s => Case::new([spread(DType::I64, &[5, 13], 50.0, 6)]);
        i16s => Case::new([spread(DType::I16, &[5, 13], 50.0, 6)]);
        empty => Case::new([spread(DType::I32, &[2, 0, 3], 1.0, 7)]);
        scalar => Case::new([spread(DType::I32, &[], 8.0, 8)]);
    }
}
