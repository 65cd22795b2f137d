//! `BitShift`: unsigned integers shifted; bits that leave the type are lost.

use super::zip::{Zip, zip_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, BuildError, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "BitShift",
    since: &[11],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["direction"],
    subgraphs: &[],
    dtypes: "integers",
    build: |cx: &BuildCx<'_>| match cx.attributes.string("direction")?.ok_or(BuildError::MissingAttribute("direction"))?.as_str() {
        "LEFT" => Ok(Box::new(BitShift { left: true })),
        "RIGHT" => Ok(Box::new(BitShift { left: false })),
        other => Err(BuildError::UnsupportedAttribute { name: "direction", value: other.into() }),
    },
};

/// Unsigned integers shifted.
#[derive(Debug, Clone, Copy)]
pub struct BitShift {
    left: bool,
}

impl Zip for BitShift {
    const TYPES: Types = Types::Ints;

    fn real(&self, a: f64, b: f64) -> f64 {
        if self.left { a * libm::exp2(b) } else { libm::floor(a * libm::exp2(-b)) }
    }

    fn int(&self, a: i128, b: i128) -> i128 {
        let by = b.clamp(0, 64) as u32;
        if self.left { a.wrapping_shl(by) } else { a >> by }
    }
}
zip_op!(BitShift; &[(0, 0)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, cast, random_ints, spread, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let left = case.attributes.string("direction").unwrap().unwrap() == "LEFT";
        let bits = 8 * case.tensor(0).dtype().size() as u32;
        zip(case, None, |a, b| {
            let (a, b) = (a as u64, b as u32);
            let y = if b >= bits {
                0
            } else if left {
                a << b
            } else {
                a >> b
            };
            (y & (u64::MAX >> (64 - bits))) as f64
        })
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        same => Case::new([spread(DType::U32, &[2, 3, 5, 7], 50.0, 1), spread(DType::U32, &[2, 3, 5, 7], 50.0, 2)]).string("direction", "LEFT");
        row => Case::new([spread(DType::U32, &[4, 6, 33], 50.0, 1), spread(DType::U32, &[33], 50.0, 2)]).string("direction", "LEFT");
        column => Case::new([spread(DType::U32, &[4, 6, 33], 50.0, 1), spread(DType::U32, &[6, 1], 50.0, 2)]).string("direction", "LEFT");
        channels => Case::new([spread(DType::U32, &[1, 5, 1, 1], 50.0, 1), spread(DType::U32, &[2, 5, 3, 4], 50.0, 2)]).string("direction", "LEFT");
        left_scalar => Case::new([spread(DType::U32, &[], 50.0, 1), spread(DType::U32, &[3, 9], 50.0, 2)]).string("direction", "LEFT");
        right_scalar => Case::new([spread(DType::U32, &[3, 9], 50.0, 1), spread(DType::U32, &[1, 1], 50.0, 2)]).string("direction", "LEFT");
        both_stretch => Case::new([spread(DType::U32, &[3, 1, 5], 50.0, 1), spread(DType::U32, &[4, 1], 50.0, 2)]).string("direction", "LEFT");
        empty => Case::new([spread(DType::U32, &[2, 0], 50.0, 1), spread(DType::U32, &[1], 50.0, 2)]).string("direction", "LEFT");
        scalars => Case::new([spread(DType::U32, &[], 50.0, 1), spread(DType::U32, &[], 50.0, 2)]).string("direction", "LEFT");
        right => Case::new([spread(DType::U8, &[5, 9], 250.0, 1), random_shift()]).string("direction", "RIGHT");
        left => Case::new([spread(DType::U8, &[5, 9], 250.0, 1), random_shift()]).string("direction", "LEFT");
        u64s => Case::new([spread(DType::U64, &[5, 9], 4e9, 1), cast(&random_shift(), DType::U64)]).string("direction", "RIGHT");
    }

    fn random_shift() -> Tensor {
        cast(&random_ints(&[9], 0, 9, 2), DType::U8)
    }
}
