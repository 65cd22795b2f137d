//! `Not`: the negation of a boolean.

use super::map::{Map, map_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Not",
    since: &[1],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "bool",
    build: |_: &BuildCx<'_>| Ok(Box::new(Not)),
};

/// The negation of a boolean.
#[derive(Debug, Clone, Copy)]
pub struct Not;

impl Map for Not {
    const TYPES: Types = Types::Bools;

    fn real(&self, x: f64) -> f64 {
        1.0 - x
    }

    fn int(&self, x: i128) -> i128 {
        1 - x
    }
}
map_op!(Not);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        map(case, |x| 1.0 - x)
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        empty => Case::new([spread(DType::Bool, &[2, 0, 3], 1.0, 7)]);
        scalar => Case::new([spread(DType::Bool, &[], 8.0, 8)]);
        some => Case::new([spread(DType::Bool, &[3, 4], 1.0, 1)]);
    }
}
