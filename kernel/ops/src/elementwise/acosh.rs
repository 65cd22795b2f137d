//! `Acosh`: the inverse hyperbolic cosine, computed in f64 and rounded once.

use super::map::{Map, map_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Acosh",
    since: &[9, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f16, bf16, f32, f64",
    build: |_: &BuildCx<'_>| Ok(Box::new(Acosh)),
};

/// The inverse hyperbolic cosine.
#[derive(Debug, Clone, Copy)]
pub struct Acosh;

impl Map for Acosh {
    const WORK: usize = 32;

    fn real(&self, x: f64) -> f64 {
        libm::acosh(x)
    }
}
map_op!(Acosh);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        map(case, f64::acosh)
    }

    op_tests! { DEF, reference, Tolerance::F32;
        f32s => Case::new([spread(DType::F32, &[3, 5, 7, 11], 8.0, 1)]);
        f64s => Case::new([spread(DType::F64, &[4, 33], 8.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[65], 8.0, 3)]);
        bf16s => Case::new([spread(DType::BF16, &[2, 3, 4], 8.0, 4)]);
        many => Case::new([spread(DType::F32, &[70_001], 8.0, 5)]);
        special => Case::new([t(&[7], &[0.0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0])]);
        empty => Case::new([spread(DType::F32, &[2, 0, 3], 1.0, 7)]);
        scalar => Case::new([spread(DType::F32, &[], 8.0, 8)]);
    }
}
