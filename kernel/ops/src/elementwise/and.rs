//! `And`: the logical `and` of booleans.

use super::zip::{Zip, zip_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "And",
    since: &[7],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "bool",
    build: |_: &BuildCx<'_>| Ok(Box::new(And)),
};

/// The logical `and` of booleans.
#[derive(Debug, Clone, Copy)]
pub struct And;

impl Zip for And {
    const TYPES: Types = Types::Bools;

    fn real(&self, a: f64, b: f64) -> f64 {
        f64::from(u8::from(a != 0.0 && b != 0.0))
    }

    fn int(&self, a: i128, b: i128) -> i128 {
        a & b
    }
}
zip_op!(And);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, spread, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        zip(case, None, |a, b| f64::from(u8::from(a != 0.0 && b != 0.0)))
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        same => Case::new([spread(DType::Bool, &[2, 3, 5, 7], 1.0, 1), spread(DType::Bool, &[2, 3, 5, 7], 1.0, 2)]);
        row => Case::new([spread(DType::Bool, &[4, 6, 33], 1.0, 1), spread(DType::Bool, &[33], 1.0, 2)]);
        column => Case::new([spread(DType::Bool, &[4, 6, 33], 1.0, 1), spread(DType::Bool, &[6, 1], 1.0, 2)]);
        channels => Case::new([spread(DType::Bool, &[1, 5, 1, 1], 1.0, 1), spread(DType::Bool, &[2, 5, 3, 4], 1.0, 2)]);
        left_scalar => Case::new([spread(DType::Bool, &[], 1.0, 1), spread(DType::Bool, &[3, 9], 1.0, 2)]);
        right_scalar => Case::new([spread(DType::Bool, &[3, 9], 1.0, 1), spread(DType::Bool, &[1, 1], 1.0, 2)]);
        both_stretch => Case::new([spread(DType::Bool, &[3, 1, 5], 1.0, 1), spread(DType::Bool, &[4, 1], 1.0, 2)]);
        empty => Case::new([spread(DType::Bool, &[2, 0], 1.0, 1), spread(DType::Bool, &[1], 1.0, 2)]);
        scalars => Case::new([spread(DType::Bool, &[], 1.0, 1), spread(DType::Bool, &[], 1.0, 2)]);
    }
}
